"""Typical mistakes and the message each deserves: the parser's help."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import Diagnostic
from curvlang.diagnostics.record import Repair
from curvlang.diagnostics.source import Span
from curvlang.language.syntax.unexpected import KEYWORDS, Unexpected


@dataclass(frozen=True, slots=True)
class Mistake:
    """A typical mistake: its name, a malformed snippet that shows it, and what is said of it.

    The snippet is the parser's help and its test at once: it is read in the tests, and this
    rule, none before it, has to be the one that answers.
    """

    name: str
    example: str
    rule: Callable[[Unexpected], Diagnostic | None]


def explain(found: Unexpected) -> Diagnostic:
    """The diagnostic of the first mistake in the table that this looks like."""
    return next((d for d in (m.rule(found) for m in MISTAKES) if d is not None), _plain(found))


def _plain(found: Unexpected) -> Diagnostic:
    return found.say(Code.E0101, f"`{found.text}` cannot stand here", found.wanted)


def _end(found: Unexpected) -> Diagnostic | None:
    if found.kind != "end":
        return None
    headline = "the file ends in the middle of a definition"
    return found.say(Code.E0103, headline, found.wanted)


def _open_block(found: Unexpected) -> Diagnostic | None:
    if found.kind != "end" or "RBRACE" not in found.expected:
        return None
    return found.say(
        Code.E0103,
        "the file ends inside `{ … }`",
        (Repair("close the block with `}`", "\n}\n", span=found.end),),
    )


def _sign(
    signs: str, code: Code, headline: str, help_: str, instead: str | None = None
) -> Callable[[Unexpected], Diagnostic | None]:
    """A rule for a mark of other languages, alone or with the mark before it; `instead` is written for it."""
    wanted = tuple(signs.split())

    def rule(found: Unexpected) -> Diagnostic | None:
        shown = next((x for x in found.marks if x in wanted), None)
        if shown is None:
            return None
        span = None if instead is None else found.place(shown)
        repair = help_ if instead is None or span is None else Repair(help_, instead, span=span)
        return found.say(code, headline.format(shown), (repair,))

    return rule


def _word(
    words: str, code: Code, headline: str, help_: str, instead: str | None = None
) -> Callable[[Unexpected], Diagnostic | None]:
    """A rule for a word of other languages, standing here or just before; `instead` is written for it."""
    wanted = tuple(words.split())

    def rule(found: Unexpected) -> Diagnostic | None:
        if found.kind != "token":
            return None
        at = len(found.before) - len(found.last)
        before = Unexpected("token", found.last, found.expected, found.source, at)
        place = next((x for x in (found, before) if x.text in wanted), None)
        if place is None:
            return None
        repair = help_ if instead is None else Repair(help_, instead, old=place.text)
        return place.say(code, headline.format(place.text), (repair,))

    return rule


def _open_text(found: Unexpected) -> Diagnostic | None:
    if found.text != '"' or found.kind != "character":
        return None
    return found.say(Code.E0102, "a text is not closed on its line", ('end it with `"`',))


def _character(found: Unexpected) -> Diagnostic | None:
    if found.kind != "character":
        return None
    headline = f"`{found.text}` (U+{ord(found.text):04X}) has no meaning here"
    return found.say(Code.E0102, headline, found.wanted)


def _index(found: Unexpected) -> Diagnostic | None:
    if "INDEX" not in found.expected:
        return None
    headline = f"`{found.text}` is not an index: an index is one letter, with primes"
    return found.say(Code.E0105, headline, found.wanted)


_NEAR = 80
"""Characters before a place that are looked at for what was meant."""


def _product(found: Unexpected) -> Diagnostic | None:
    """`2 a[i]`: the tensor after the gap was taken for the next definition."""
    if "EQUAL" not in found.expected:
        return None
    line = re.split(r"[\n\r]", found.before)[-1]
    near = line[-_NEAR:]
    gap = re.search(r"([\w'\])]+)[ \t]+((?:[^\W\d]\w*)(?:\[[^\]]*\])?)$", near)
    if gap is not None and "=" in line:
        first, second = gap.group(1), gap.group(2)
        start = len(found.before) - len(near) + gap.start(2)
        at = Unexpected("token", second, found.expected, found.source, start)
        headline = f"`{second}` follows `{first}` with nothing between them"
        sentence = "multiplication is always written: put `*` there"
        repair = Repair(sentence, "* ", span=Span(found.source, start, start))
        return at.say(Code.E0104, headline, (repair,))
    return None


def _unclosed(found: Unexpected) -> Diagnostic | None:
    if found.text not in KEYWORDS:
        return None
    for terminal, bracket in (("RBRACE", "}"), ("RPAR", ")"), ("RSQB", "]")):
        if terminal in found.expected:
            headline = f"`{found.text}` starts a definition inside a bracket that is still open"
            return found.say(Code.E0109, headline, (f"close the one before with `{bracket}`",))
    return None


def _unnamed_definition(found: Unexpected) -> Diagnostic | None:
    if found.last not in ("curvature", "transform", "score", "inverse", "task", "study"):
        return None
    return found.say(Code.E0101, f"`{found.last}` needs a name", found.wanted)


def _unnamed_argument(found: Unexpected) -> Diagnostic | None:
    if found.expected != {"EQUAL"} or found.text not in (")", ","):
        return None
    headline = "an argument has a name and a value"
    return found.say(Code.E0101, headline, (f"write `name = {found.last}`",))


def _uncounted(found: Unexpected) -> Diagnostic | None:
    if found.last != "repeat":
        return None
    help_ = ("write `repeat 10 { … }`, or an `int` parameter of the transform in place of 10",)
    return found.say(Code.E0101, "`repeat` needs its number of rounds", help_)


def _keyword(found: Unexpected) -> Diagnostic | None:
    if "CURVATURE" not in found.expected:
        return None
    near = get_close_matches(found.text, KEYWORDS, 1, 0.7)
    if not near:
        return None
    return found.say(
        Code.E0101,
        f"`{found.text}` does not start a definition",
        (Repair(f"did you mean `{near[0]}`?", near[0]),),
    )


def _chosen_values(found: Unexpected) -> Diagnostic | None:
    """`where(x, 1, 2)`: what chooses between values in other languages."""
    if found.text != "," or not re.search(r"\bwhere\s*\([^()]*$", found.before[-_NEAR:]):
        return None
    headline = "`where` compares the places of two indices, and chooses no values"
    return found.say(Code.E0316, headline, ("write `if x < y then 1 else 2` in an inverse",))


_BODY = "transform x {\n  needs a[n,t,i]\n  "
MISTAKES: tuple[Mistake, ...] = (
    Mistake("open block", _BODY + "s = 1", _open_block),
    Mistake("unfinished definition", "curvature x = ggn |>", _end),
    Mistake(
        "pipe",
        "curvature x = hessian | ggn",
        _sign("| |>", Code.E0102, "`{}` is not an operator", "join stages by `|>`", "|>"),
    ),
    Mistake(
        "arrow",
        "curvature x = hessian => drop_residual",
        _sign("=> >> ->", Code.E0102, "`{}` does not join stages", "join stages by `|>`", "|>"),
    ),
    Mistake(
        "power",
        _BODY + "s = 2 ** 3",
        _sign("**", Code.E0104, "`{}` is not an operator", "write powers with `^`", "^"),
    ),
    Mistake(
        "comparison",
        _BODY + "s == 2",
        _sign(
            "==",
            Code.E0104,
            "`{}` compares, and this is a definition",
            "define with a single `=`",
            "=",
        ),
    ),
    Mistake(
        "walrus",
        _BODY + "s := 2",
        _sign(
            ":=", Code.E0104, "`{}` is not how a name is defined", "define with a single `=`", "="
        ),
    ),
    Mistake(
        "typographic quote",
        "transform x {\n  “doc”\n}",
        _sign(
            "“ ” „ ‘",
            Code.E0102,
            "`{}` is a typographic quote",
            'texts stand between straight quotes, `"…"`',
            '"',
        ),
    ),
    Mistake("open text", 'transform x {\n  "doc\n}', _open_text),
    Mistake(
        "prime of a tensor",
        _BODY + "s' = 2",
        _sign("' ’ ′", Code.E0102, "a prime belongs to an index letter", "write `i'` in `[…]`"),
    ),
    Mistake(
        "sum sign",
        _BODY + "s = ∑ a[n,t,i]",
        _sign("∑ Σ", Code.E0102, "`{}` is written as a word", "write `sum[n,t,i] …`"),
    ),
    Mistake(
        "Kronecker sign",
        "curvature x = ggn ⊗ ggn",
        _sign(
            "⊗",
            Code.E0102,
            "`{}` is written with indices",
            "write the entries: `yield C[o,i,o',i'] = G[o,o'] * A[i,i']`",
        ),
    ),
    Mistake(
        "product sign",
        _BODY + "s = 2 · 3",
        _sign("· × ⋅", Code.E0102, "`{}` is not an operator", "multiply with `*`", "*"),
    ),
    Mistake(
        "matrix product",
        _BODY + "B[i,i'] = A @ A",
        _sign(
            "@",
            Code.E0102,
            "`{}` is not an operator",
            "write the sum: `sum[i''] A[i,i''] * A[i'',i']`",
        ),
    ),
    Mistake(
        "semicolon",
        _BODY + "s = 2;",
        _sign(
            ";",
            Code.E0102,
            "`{}` is not needed between statements",
            "statements need no separator: leave it out",
            "",
        ),
    ),
    Mistake(
        "comment",
        "// my approximation\ncurvature x = ggn",
        _sign(
            "// % /*", Code.E0102, "`{}` does not start a comment", "comments start with `#`", "#"
        ),
    ),
    Mistake(
        "subscript of LaTeX",
        _BODY + "s = a_{nti}",
        _sign(
            "_{ \\", Code.E0102, "`{}` is LaTeX notation", "indices stand in brackets: `a[n,t,i]`"
        ),
    ),
    Mistake("where with values", "inverse x: s -> where(s > 0, 1 / s, 0)", _chosen_values),
    Mistake("character", "curvature x = hessian ? ggn", _character),
    Mistake(
        "definition word",
        _BODY + "let s = 2",
        _word(
            "let var def const",
            Code.E0101,
            "`{}` is not needed",
            "a definition is its name, `=`, and the right side",
            "",
        ),
    ),
    Mistake(
        "return",
        _BODY + "return C[o,i,o',i'] = identity[o,o'] * identity[i,i']",
        _word(
            "return",
            Code.E0101,
            "a transform does not `{}`, it yields",
            "write `yield C[o,i,o',i'] = …`",
            "yield",
        ),
    ),
    Mistake(
        "evaluate at",
        "evaluate ggn at digits",
        _word(
            "at over using for",
            Code.E0101,
            "`{}` is not part of an evaluation",
            "write `evaluate NAME with INVERSE on TASK`",
        ),
    ),
    Mistake("index", _BODY + "s = sum[nt] a[nt,i]", _index),
    Mistake("implicit product", _BODY + "B[n,t,i] = 2 a[n,t,i]\n}", _product),
    Mistake("open bracket", _BODY + "s = (2\ncurvature x = ggn", _unclosed),
    Mistake("definition without a name", "curvature = ggn", _unnamed_definition),
    Mistake(
        "argument without a name", "curvature x = hessian |> drop_residual(mc)", _unnamed_argument
    ),
    Mistake("rounds without a count", _BODY + "repeat { s = 2 }", _uncounted),
    Mistake("misspelt keyword", "curvatur x = ggn", _keyword),
)
