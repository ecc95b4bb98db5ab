"""Transformations on their own: choices, checks of every variant, what a body defines and yields."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias, assert_never

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import Diagnostic, Label
from curvlang.diagnostics.suggestion import suggestion
from curvlang.ir.expr import BodyStatement, Define, Expr, Number, Project, Space, Target, Yield
from curvlang.ir.indices import substitute, walk
from curvlang.language.bodies.choices import choices
from curvlang.language.bodies.coefficients import check_coefficients
from curvlang.language.bodies.fold_numbers import check_numbers
from curvlang.language.bodies.repeats import CHECKED_ROUNDS, MOST_ROUNDS, check_repeats, rounds
from curvlang.language.bodies.tensors import TensorChecker
from curvlang.language.bodies.values import value
from curvlang.language.chain import Value
from curvlang.language.registry import Parameter
from curvlang.language.registry.kinds import Anything, Choice, Integer, Kind, Real, Truth
from curvlang.language.syntax import nodes as s
from curvlang.language.syntax.problems import Problems

_TYPES = ("int", "float", "bool", "list", "word")


def flat(body: Sequence[s.BodySyntax]) -> list[BodyStatement]:
    """Every statement of a body, those of both branches of a choice and of one round included."""
    found: list[BodyStatement] = []
    for statement in body:
        if isinstance(statement, s.When):
            found += flat((*statement.then, *statement.otherwise))
        elif isinstance(statement, s.Repeat):
            found += flat(statement.body)
        else:
            found.append(statement)
    return found


def written(target: Target) -> str:
    """The tensor as the language writes it: `A[i,i']`."""
    return f"{target.name}[{','.join(map(str, target.indices))}]"


def body_defines(body: Sequence[s.BodySyntax], name: str) -> bool:
    """Whether any branch of a body defines a name."""
    return any(isinstance(x, Define) and any(t.name == name for t in x.targets) for x in flat(body))


def yields_model(body: Sequence[s.BodySyntax]) -> bool | None:
    """Whether a body yields for the whole model; None where it yields nothing at all."""
    found = (len(x.target.indices) == 2 for x in flat(body) if isinstance(x, Yield))
    return next(found, None)


def parameter_of(declared: s.ParameterSyntax) -> Parameter:
    """What a value of a transform's parameter has to be."""
    default = None if declared.default is None else value(declared.default, {}, Problems())
    kinds: Mapping[str, Kind] = {
        "int": Integer(),
        "float": Real(),
        "bool": Truth(),
        "word": Choice(declared.words),
    }
    if declared.type == "float" and isinstance(default, int):
        default = float(default)
    return Parameter(kinds.get(declared.type, Anything()), default)


def specialise(
    body: Sequence[s.BodySyntax],
    given: Mapping[str, Value],
    most: int = MOST_ROUNDS,
    needs: Sequence[Target] = (),
) -> tuple[BodyStatement, ...]:
    """The body with `when` decided, `repeat` unrolled and number parameters written in.

    Args:
        body: Statements of a transform.
        given: Values of its parameters.
        most: Rounds of a repetition whose count is unknown; those inside its later rounds are
            read once.
        needs: Tensors of the stages before, for which no number is written in.
    """
    tensors = _tensor_names(body) | {t.name for t in needs}
    numbers: Numbers = {
        name: ((), Number(float(v)))
        for name, v in given.items()
        if isinstance(v, int | float) and not isinstance(v, bool) and name not in tensors
    }
    return tuple(_specialised(body, given, numbers, most))


Numbers: TypeAlias = dict[str, tuple[tuple[()], Expr]]


def _specialised(
    body: Sequence[s.BodySyntax], given: Mapping[str, Value], numbers: Numbers, most: int
) -> Iterator[BodyStatement]:
    for statement in body:
        match statement:
            case s.When():
                branch = statement.then if decides(statement, given) else statement.otherwise
                yield from _specialised(branch, given, numbers, most)
            case s.Repeat():
                count = rounds(statement, given, most)
                if most < MOST_ROUNDS and count > 1:
                    # Two rounds inside two rounds, and so on, would double with every level.
                    yield from _specialised(statement.body, given, numbers, most)
                    yield from _specialised(statement.body, given, numbers, 1)
                else:
                    yield from tuple(_specialised(statement.body, given, numbers, most)) * count
            case Define(value=value) | Yield(value=value) if numbers:
                yield replace(statement, value=substitute(value, numbers))
            case Space(length=length) if numbers:
                yield replace(statement, length=substitute(length, numbers))
            case Define() | Yield() | Space() | Project():
                yield statement
            case _:
                assert_never(statement)


def decides(statement: s.When, given: Mapping[str, Value]) -> bool:
    """Whether the first branch of a choice is taken."""
    shown = {True: "true", False: "false"}.get(given.get(statement.parameter))  # type: ignore[call-overload]
    return bool((shown or str(given.get(statement.parameter))) == statement.word)


def _tensor_names(body: Sequence[s.BodySyntax]) -> set[str]:
    """Names that a body defines."""
    return {t.name for x in flat(body) if isinstance(x, Define) for t in x.targets}


def check_transform(definition: s.TransformDef) -> list[Diagnostic]:
    """Everything that can be wrong inside one transform, wherever it will stand."""
    problems = Problems()
    bodies = list(readings(definition, problems))
    seen = set(problems)
    for body in bodies:
        checker = TensorChecker(definition.needs, numbers_of(definition))
        _check_body(definition, body, checker)
        for problem in (*checker.problems, *check_numbers(body), *check_coefficients(body)):
            if problem not in seen:
                seen.add(problem)
                problems.append(problem)
    return problems


def numbers_of(definition: s.TransformDef | s.ScoreDef) -> frozenset[str]:
    """Parameters that are numbers, which its formulas may name."""
    return frozenset(p.name for p in definition.parameters if p.type in ("int", "float"))


def readings(
    definition: s.TransformDef | s.ScoreDef, problems: Problems
) -> Iterator[tuple[BodyStatement, ...]]:
    """The bodies that the choices of a definition lead to, each once.

    Args:
        definition: A transform or a score.
        problems: Collects what is wrong with its parameters, choices and rounds.
    """
    for parameter in definition.parameters:
        if parameter.type not in _TYPES:
            problems.say(
                Code.E0217,
                f"unknown type `{parameter.type}`",
                parameter.span,
                "types are `int`, `float`, `bool`, or words such as `{expand, reduce}`",
            )
        if parameter.words and parameter.default is not None:
            default = value(parameter.default, {}, problems)
            if default not in parameter.words:
                problems.say(
                    Code.E0706,
                    f"`{parameter.name} = {default}` is not one of its own words",
                    parameter.span,
                    *suggestion(str(default), parameter.words),
                )
    problems += _twofold(definition)
    wrong = check_repeats(definition)
    problems += wrong
    # What may not stand in rounds would be wrong once more in the second one.
    most = 1 if wrong else CHECKED_ROUNDS
    size = sum(1 + sum(1 for _ in walk(e)) for x in flat(definition.body) for e in _read(x))
    words = choices(definition, size, problems)
    yield from dict.fromkeys(specialise(definition.body, dict(x), most) for x in words)


def _read(statement: BodyStatement) -> tuple[Expr, ...]:
    match statement:
        case Define(value=value) | Yield(value=value) | Space(length=value):
            return (value,)
        case Project():
            return ()
        case _:
            assert_never(statement)


def _twofold(definition: s.TransformDef | s.ScoreDef) -> list[Diagnostic]:
    """Parameters whose name a tensor of the body, or of its needs, has too."""
    needs = {t.name: t.span for t in definition.needs}
    bodies = (x for x in flat(definition.body) if isinstance(x, Define))
    places = {t.name: t.span for x in bodies for t in x.targets} | needs
    return [
        Diagnostic(
            Code.E0343,
            f"`{p.name}` names a parameter and a tensor",
            (Label(places[p.name], "the tensor"), Label(p.span, "the parameter")),
            ("give one of them another name",),
        )
        for p in definition.parameters
        if p.name in places
    ]


def _check_body(
    definition: s.TransformDef, body: Sequence[BodyStatement], checker: TensorChecker
) -> None:
    yields = 0
    for statement in body:
        match statement:
            case Define():
                checker.define(statement)
            case Space():
                checker.space(statement)
            case Project():
                checker.project(statement)
            case Yield():
                yields += 1
                checker.yields(statement)
            case _:
                assert_never(statement)
    projection = next((x for x in body if isinstance(x, Project)), None)
    if yields and projection is not None:
        checker.problems.say(
            Code.E0221,
            f"`{definition.name}` projects and yields",
            Label(projection.span, "its curvature is the one before it, projected"),
            "leave the yield out, or put it into a transform that stands after this one",
        )
        return
    defines_leaf = any(
        isinstance(x, Define) and any(t.name in ("a", "g") for t in x.targets) for x in body
    )
    if yields != 1 and not (yields == 0 and (defines_leaf or projection is not None)):
        what = "never yields" if yields == 0 else f"yields {yields} times"
        checker.problems.say(
            Code.E0219,
            f"`{definition.name}` {what}",
            definition.name_span,
            "a transform yields the entries of the block once: `yield C[o,i,o',i'] = …`",
        )
