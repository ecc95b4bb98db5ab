"""Argument values: expressions of constants become numbers, words stay words, lists become tuples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from math import isfinite

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import Diagnostic, Label
from curvlang.diagnostics.source import Span
from curvlang.diagnostics.suggestion import suggestion
from curvlang.ir.constants import ARITHMETIC
from curvlang.ir.expr import Binary, BinaryOperator, Expr, Negate, Number, Ref
from curvlang.language.chain import Value
from curvlang.language.registry import Entry, Rule
from curvlang.language.syntax.nodes import Argument, ListValue, Text, ValueSyntax

Problems = list[Diagnostic]
_SHOWN = 8
"""Entries of a list that a message shows."""
LONGEST_LIST = 10_000
"""Entries a list may have that are written out."""
LONGEST_REPEATED = 1_000
"""Entries a list may have that `[16] * 8` makes: a slip such as `[16] * 1e9` is a diagnostic."""


def value(syntax: ValueSyntax, scope: Mapping[str, Value], problems: Problems) -> Value | None:
    """The value that an argument states; None (and a diagnostic) where it has none.

    Args:
        syntax: What stands behind the `=`.
        scope: Parameters of the surrounding definition, by name.
        problems: Collects diagnostics.
    """
    match syntax:
        case Text(value=text):
            return text
        case ListValue():
            return _list(syntax, scope, problems)
        case _:
            return _scalar(syntax, scope, problems)


def _list(syntax: ListValue, scope: Mapping[str, Value], problems: Problems) -> Value | None:
    items = [value(x, scope, problems) for x in syntax.items]
    if any(x is None for x in items):
        return None
    times: Value | None = 1
    if syntax.times is not None:
        times = _scalar(syntax.times, scope, problems)
    if times is None:
        return None
    if (
        isinstance(times, bool)
        or not isinstance(times, int | float)
        or not float(times).is_integer()
        or times < 0
    ):
        problems.append(_wrong("a list is repeated a whole number of times", syntax.span))
        return None
    longest, how = (
        (LONGEST_LIST, "") if syntax.times is None else (LONGEST_REPEATED, " that `*` makes")
    )
    entries = int(times) * sum(len(x) if isinstance(x, tuple) else 1 for x in items)
    if max(entries, int(times) * len(items)) > longest:
        headline = f"a list{how} has at most {longest} entries"
        problems.append(_wrong(headline, syntax.span))
        return None
    return tuple(x for x in items if x is not None) * int(times)


def _scalar(expr: Expr, scope: Mapping[str, Value], problems: Problems) -> Value | None:
    match expr:
        case Number(value=number):
            return int(number) if number.is_integer() and abs(number) < 2**53 else number
        case Ref(name=name, indices=()):
            if name in scope:
                return scope[name]
            return {"true": True, "false": False}.get(name, name)
        case Negate(operand=operand):
            inner = _scalar(operand, scope, problems)
            return -inner if isinstance(inner, int | float) else _not_constant(expr, problems)
        case Binary(operator=operator, left=left, right=right):
            x, y = _scalar(left, scope, problems), _scalar(right, scope, problems)
            return _arithmetic(operator, x, y, expr, problems)
        case _:
            return _not_constant(expr, problems)


def _arithmetic(
    operator: BinaryOperator, x: Value | None, y: Value | None, expr: Expr, problems: Problems
) -> Value | None:
    if isinstance(x, tuple) and operator is BinaryOperator.MULTIPLY and isinstance(y, int):
        return x * y if len(x) * y <= LONGEST_REPEATED else _not_constant(expr, problems)
    if not isinstance(x, int | float) or not isinstance(y, int | float):
        return None if x is None or y is None else _not_constant(expr, problems)
    try:
        found = ARITHMETIC[operator](float(x), float(y))
    except (ZeroDivisionError, OverflowError):
        return _not_constant(expr, problems)
    if isinstance(found, complex) or not isfinite(found):
        return _not_constant(expr, problems)
    return int(found) if found.is_integer() and abs(found) < 2**53 else found


def _not_constant(expr: Expr, problems: Problems) -> Value | None:
    problems.append(
        Diagnostic(
            Code.E0701,
            "this is not a value",
            (Label(expr.span, "expected a number, a word, a list or a text"),),
            ("a value is made of numbers, words and parameters in scope",),
        )
    )
    return None


def _wrong(headline: str, span: Span) -> Diagnostic:
    return Diagnostic(Code.E0701, headline, (Label(span),))


def arguments(
    given: tuple[Argument, ...],
    entry: Entry,
    owner: str,
    scope: Mapping[str, Value],
    problems: Problems,
) -> dict[str, Value]:
    """Check arguments against an entry's parameters; defaults fill what is not given."""
    found: dict[str, Value] = {
        k: r.default for k, r in entry.parameters.items() if r.default is not None
    }
    seen: dict[str, Span] = {}
    for written in given:
        # A text in front stands for the parameter that the entry names.
        argument = written if written.name else replace(written, name=entry.first)
        if argument.name in seen:
            problems.append(
                Diagnostic(
                    Code.E0702,
                    f"`{argument.name}` is given twice",
                    (Label(argument.span, "again here"), Label(seen[argument.name], "first here")),
                    ("leave one out",),
                )
            )
            continue
        seen[argument.name] = argument.span
        rule = entry.parameters.get(argument.name)
        if rule is None and entry.open and argument.name:
            made = value(argument.value, scope, problems)
            if made is not None:
                found[argument.name] = made
            continue
        if rule is None:
            help_ = suggestion(argument.name, entry.parameters) or (
                f"`{owner}` takes no arguments",
            )
            problems.append(
                Diagnostic(
                    Code.E0703,
                    f"`{owner}` has no parameter `{argument.name}`"
                    if argument.name
                    else f"`{owner}` takes no text without a name",
                    (Label(argument.span),),
                    help_,
                )
            )
            continue
        made = value(argument.value, scope, problems)
        if made is not None:
            problem = check(made, rule, argument.name, argument.span)
            if problem is not None:
                problems.append(problem)
            else:
                found[argument.name] = _as(made, rule)
    for name, rule in entry.parameters.items():
        if rule.default is None and name not in seen:
            problems.append(
                Diagnostic(
                    Code.E0704,
                    f"`{owner}` needs a value for `{name}`",
                    (),
                    (f"write `{owner}({name} = …)`",),
                )
            )
    return found


def _as(made: Value, rule: Rule) -> Value:
    if rule.type in ("float", "number") and isinstance(made, int) and not isinstance(made, bool):
        return float(made)
    if rule.type in ("ints", "floats", "names") and not isinstance(made, tuple):
        return (made,)
    return made


def check(made: Value, rule: Rule, name: str, span: Span) -> Diagnostic | None:
    """Whether a value fits its rule; the diagnostic where it does not."""
    shown = f"`{name} = {show(made)}`"
    fits = {
        "int": isinstance(made, int) and not isinstance(made, bool),
        "float": isinstance(made, int | float) and not isinstance(made, bool),
        "bool": isinstance(made, bool),
        "word": isinstance(made, str),
        "text": isinstance(made, str),
        "names": isinstance(made, str)
        or (isinstance(made, tuple) and bool(made) and all(isinstance(x, str) for x in made)),
        "count": made == "all" or (isinstance(made, int) and not isinstance(made, bool)),
        "ints": isinstance(made, int)
        or (isinstance(made, tuple) and all(isinstance(x, int) for x in made)),
        "floats": all(
            isinstance(x, int | float) and not isinstance(x, bool)
            for x in (made if isinstance(made, tuple) else (made,))
        ),
        "number": made in rule.words
        or (isinstance(made, int | float) and not isinstance(made, bool)),
        "curvature": isinstance(made, str),
        "any": True,
    }[rule.type]
    nouns = {
        "int": "a whole number",
        "float": "a number",
        "bool": "`true` or `false`",
        "word": "a word",
        "count": "`all` or a whole number",
        "ints": "a list of whole numbers",
        "floats": "a list of numbers",
        "text": "a text",
        "names": "a name or a list of names",
        "number": f"a number or {' or '.join(f'`{w}`' for w in rule.words)}",
        "curvature": "the name of a curvature"
        + (f", or `{show(rule.default)}`" if rule.default is not None else ""),
        "any": "a value",
    }
    if not fits:
        return Diagnostic(
            Code.E0705,
            f"{shown} is not {nouns[rule.type]}",
            (Label(span, f"expected {nouns[rule.type]}"),),
            (f"for example `{name} = {show(rule.default)}`",) if rule.default is not None else (),
            (rule.note,) if rule.note else (),
        )
    if rule.type == "word" and rule.words and made not in rule.words:
        return Diagnostic(
            Code.E0706,
            f"{shown} is not one of {', '.join(f'`{w}`' for w in rule.words)}",
            (Label(span),),
            suggestion(str(made), rule.words),
            (rule.note,) if rule.note else (),
        )
    if isinstance(made, float) and not math.isfinite(made):
        return Diagnostic(Code.E0707, f"{shown} is out of range", (Label(span, "must be finite"),))
    numbers = made if isinstance(made, tuple) else (made,)
    if rule.check is not None and not all(
        rule.check(float(x)) for x in numbers if isinstance(x, int | float)
    ):
        return Diagnostic(
            Code.E0707,
            f"{shown} is out of range",
            (Label(span, f"must be {rule.must}"),),
            (f"the default is `{name} = {show(rule.default)}`",)
            if rule.default is not None
            else (),
        )
    return None


def show(made: Value | None) -> str:
    """A value as the language writes it."""
    match made:
        case bool():
            return "true" if made else "false"
        case float():
            return f"{made:g}"
        case tuple():
            shown = [*map(show, made[:_SHOWN]), *(["…"] if len(made) > _SHOWN else [])]
            return "[" + ", ".join(shown) + "]"
        case _:
            return str(made)
