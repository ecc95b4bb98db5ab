"""Scores on their own: their leaves, their statements, and what needs more numbers than a score may hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, assert_never

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import Diagnostic, Label
from curvlang.diagnostics.record import Repair
from curvlang.diagnostics.source import Span
from curvlang.diagnostics.suggestion import suggestion
from curvlang.ir import expr as ir
from curvlang.ir.functions import FUNCTIONS, MAKERS
from curvlang.ir.row_terms import TooManyTermsError
from curvlang.ir.score_lowering import NotScoredError, score_program
from curvlang.ir.score_program import APPLY, CARRY, CONTEXTS, SOLVE
from curvlang.language.bodies.letters import letters
from curvlang.language.bodies.tensors import TensorChecker
from curvlang.language.bodies.transforms import (
    numbers_of,
    parameter_of,
    readings,
    specialise,
    written,
)
from curvlang.language.chain import ScoreFormula, Value
from curvlang.language.registry.entry import Entry
from curvlang.language.syntax import nodes as s
from curvlang.language.syntax.problems import Problems

APPLICATIONS = (APPLY, CARRY)
"""Functions of a score that apply one of the spectrum."""
SCORE_LETTERS: Mapping[str, str] = {
    "q": "query",
    "n": "training example",
    "p": "parameter",
    "h": "checkpoint of the training",
    "c": "model around a checkpoint",
    "e": "model, the evaluated one the first",
}


@dataclass(frozen=True, slots=True)
class ScoreLeaf:
    """What a score may need: its indices, and what it is."""

    indices: tuple[str, ...]
    doc: str

    def fits(self, spaces: tuple[str, ...]) -> bool:
        """Whether a leaf may be needed so: models and checkpoints precede its own indices."""
        own = len(self.indices)
        front = spaces[:-own]
        places = [CONTEXTS.index(x) for x in front if x in CONTEXTS]
        fine = len(places) == len(front) and places == sorted(set(places))
        fine = fine and ("h" in spaces or "c" not in front)
        return spaces[-own:] == self.indices and fine and not set(front) & set(self.indices)

    def written(self, name: str) -> str:
        """`u[q,p]`."""
        return f"{name}[{','.join(self.indices)}]"


SCORE_LEAVES: Mapping[str, ScoreLeaf] = {
    "u": ScoreLeaf(("q", "p"), "the gradient of a query's metric"),
    "v": ScoreLeaf(("n", "p"), "the gradient of a training example's loss"),
    "rate": ScoreLeaf(("h",), "the learning rate at a checkpoint"),
    "time": ScoreLeaf(
        ("h",), "the sum of the learning rates of the steps that a checkpoint stands for"
    ),
    "doubt": ScoreLeaf(("n",), "1 − p of a training example's label, of models with classes"),
    "query_doubt": ScoreLeaf(("q",), "1 − p of a query's label"),
    "moment": ScoreLeaf(("p",), "Adam's running mean of gradients, as the training has it"),
    "second": ScoreLeaf(("p",), "Adam's running mean of squared gradients"),
}
YIELDS = ((ir.Index("q"), ir.Index("n")), (ir.Index("n"),))
"""A score of every query with every training example, or of every training example alone."""


def check_score(definition: s.ScoreDef, inverses: Mapping[str, s.InverseDef]) -> list[Diagnostic]:
    """Everything that can be wrong inside one score.

    Args:
        definition: The score.
        inverses: Functions of the spectrum that it may apply.
    """
    problems = Problems()
    bodies = list(readings(definition, problems))
    seen = set(problems)
    for body in bodies:
        for problem in _checked(definition, body, inverses):
            if problem not in seen:
                seen.add(problem)
                problems.append(problem)
    return problems


def score_entry(definition: s.ScoreDef) -> Entry:
    """The parameters of a score."""
    return Entry(definition.doc, {p.name: parameter_of(p) for p in definition.parameters})


def score_formula(
    definition: s.ScoreDef, given: Mapping[str, Value], span: Span, doc: str
) -> ScoreFormula:
    """A score with its parameters written in, without the functions of the spectrum that it applies.

    Args:
        definition: Without problems.
        given: Values of all its parameters.
        span: Where it is named.
        doc: One line about it.
    """
    body = specialise(definition.body, given, needs=definition.needs)
    statements = tuple(x for x in body if not isinstance(x, ir.Project))
    text = definition.span.text
    return ScoreFormula(
        definition.name, given, definition.needs, statements, doc, text=text, span=span
    )


def applied_functions(body: Sequence[ir.Statement]) -> Iterator[ir.Call]:
    """Functions of the spectrum that the statements of a score apply, with their arguments."""
    for statement in body:
        if isinstance(statement, ir.Define) and isinstance(statement.value, ir.Call):
            call = statement.value
            if call.function in APPLICATIONS and isinstance(call.arguments[0], ir.Call):
                yield call.arguments[0]


def of_queries(formula: ScoreFormula) -> bool:
    """Whether a score has a number for every query."""
    (result,) = (x.target.indices for x in formula.body if isinstance(x, ir.Yield))
    return result == YIELDS[0]


def _checked(
    definition: s.ScoreDef,
    body: Sequence[ir.BodyStatement],
    inverses: Mapping[str, s.InverseDef],
) -> list[Diagnostic]:
    checker = ScoreChecker(definition.needs, numbers_of(definition), inverses)
    yields = 0
    for statement in body:
        match statement:
            case ir.Define():
                checker.define(statement)
            case ir.Space():
                checker.space(statement)
            case ir.Project():
                checker.problems.say(
                    Code.E0242,
                    "a score does not project the curvature",
                    statement.span,
                    "write the projected gradients: `f[n,k] = sum[p] P[p,k] * v[n,p]`",
                )
            case ir.Yield():
                yields += 1
                checker.yields(statement)
            case _:
                assert_never(statement)
    if yields != 1:
        what = "never yields" if yields == 0 else f"yields {yields} times"
        checker.problems.say(
            Code.E0241,
            f"the score `{definition.name}` {what}",
            definition.name_span,
            "a score yields once: `yield s[q,n] = …`",
        )
    if not checker.problems:
        checker.problems += _needed(definition, body)
    return checker.problems


def _needed(definition: s.ScoreDef, body: Sequence[ir.BodyStatement]) -> list[Diagnostic]:
    """What the formula needs, if that is more than a score may hold."""
    statements = [x for x in body if not isinstance(x, ir.Project)]
    try:
        score_program(definition.needs, statements)
    except NotScoredError as error:
        return [_refused(error)]
    except TooManyTermsError as error:
        return [
            Diagnostic(
                Code.E0355,
                "a sum over the parameters has too many products when it is multiplied out",
                (Label(error.span, "a product of sums"),),
                ("lower the powers, or leave terms out",),
            )
        ]
    return []


class _Reason(NamedTuple):
    """A code, and what can be written instead."""

    code: Code
    repair: str


_KINDS = {
    "parameters": _Reason(
        Code.E0350,
        "write it as products of a part with `q` and a part with `n`, each summed over `p`: "
        "`sum[p] (u[q,p] - v[n,p])^2` is taken apart, `sum[p] abs(u[q,p] - v[n,p])` cannot be",
    ),
    "examples": _Reason(
        Code.E0351,
        "sum over one of the two first: `m[p] = mean[n] v[n,p]`, then `sum[p] v[n,p] * m[p]`",
    ),
    "matrix": _Reason(
        Code.E0351,
        "rows meet in `sum[p] u[q,p] * v[n,p]`; the curvature's inverse is applied by "
        "`z[n,p] = solve(v)`",
    ),
}


_KERNEL = (
    "ridge regression on the kernel of gradients, uᵀVᵀ(VVᵀ + NλI)⁻¹, is uᵀ(C + λI)⁻¹v / N under `empirical_fisher`: "
    "`solve` with `tikhonov(damping = λ)`"
)


def _refused(error: NotScoredError) -> Diagnostic:
    code, help_ = _KINDS[error.kind]
    nouns = [f"{SCORE_LETTERS.get(x.space, f'`{x.space}`')}" for x in error.indices]
    if len(set(nouns)) < len(nouns):
        what = f"a number for every two {nouns[0]}s"
    else:
        what = f"a number for every {', '.join(nouns[:-1])} and {nouns[-1]}"
    return Diagnostic(
        code,
        f"this needs {what}, which no score holds",
        (Label(error.expr.span, "of all these at once"),),
        (help_,),
    )


def _without(target: ir.Target, outer: tuple[str, ...]) -> ir.Target | None:
    """A target without its leading indices of models and checkpoints; None where they are others."""
    front = target.indices[: len(outer)]
    if tuple(map(str, front)) != outer:
        return None
    return replace(target, indices=target.indices[len(outer) :])


class ScoreChecker(TensorChecker):
    """Checks the statements of one score in order, from the leaves that its `needs` names."""

    examples = ("n", "q")

    def __init__(
        self,
        needs: Sequence[ir.Target],
        scalars: frozenset[str],
        inverses: Mapping[str, s.InverseDef],
    ) -> None:
        super().__init__(needs, scalars)
        self.inverses = inverses
        self.spaces = set(SCORE_LETTERS)
        self.made = {}
        for target in needs:
            self._leaf(target)

    def _leaf(self, target: ir.Target) -> None:
        leaf = SCORE_LEAVES.get(target.name)
        if leaf is None:
            self.problems.say(
                Code.E0354,
                f"a score has no leaf `{target.name}`",
                target.span,
                "leaves are " + ", ".join(f"`{x.written(n)}`" for n, x in SCORE_LEAVES.items()),
            )
        elif not leaf.fits(letters(target)) or any(x.primes for x in target.indices):
            right = leaf.written(target.name)
            self.problems.say(
                Code.E0353,
                f"`{written(target)}` has other indices than the leaf `{right}`",
                Label(target.span, leaf.doc),
                Repair(f"write `{right}`", right),
            )

    def define(self, statement: ir.Define) -> None:
        """A definition, or rows that the inverse is applied to."""
        value = statement.value
        if not isinstance(value, ir.Call) or value.function not in (SOLVE, *APPLICATIONS):
            super().define(statement)
            return
        if value.function == SOLVE:
            self._solve(statement, value)
        else:
            self._apply(statement, value)
        for target in statement.targets:
            self._twice(target.indices, target.span)
            self._bind(target)

    def _solve(self, statement: ir.Define, call: ir.Call) -> None:
        given = call.arguments[0] if len(call.arguments) == 1 else None
        if not isinstance(given, ir.Ref) or given.indices or call.indices:
            self.problems.say(
                Code.E0352,
                "`solve` takes the name of one tensor",
                Label(call.span, "the whole tensor is solved, row by row"),
                "write `z[n,p] = solve(v)`; what is more than a name gets a name first",
            )
            return
        self._rows(statement, call, given)

    def _rows(self, statement: ir.Define, call: ir.Call, given: ir.Ref) -> None:
        """What a matrix is applied to: rows, to rows with the same indices."""
        if given.name not in self.scope:
            self._unknown(given.name, given.span)
            return
        (target, *more) = statement.targets
        spaces = self.scope[given.name]
        own, name = letters(target), call.function
        if name == CARRY and own.count("h") == 1:
            own = tuple(x for x in own if x != "h")
        if spaces.count("p") != 1:
            shown = f"`{given.name}[{','.join(spaces)}]`"
            self.problems.say(
                Code.E0352,
                f"`{name}` is applied to rows over the parameters, and {shown} is not",
                Label(given.span, "one index `p`, and no second one"),
                "for a matrix of another space write `inv(K)`",
            )
        elif name == CARRY and ("h" in spaces or "h" not in letters(target)):
            rows = ",".join(x for x in spaces if x != "h")
            self.problems.say(
                Code.E0246,
                f"`carry` takes rows at the end of the training to every checkpoint, and "
                f"`{given.name}[{','.join(spaces)}]` are not",
                Label(statement.span, "`h` stands on the left alone"),
                f"write `w[h,{rows}] = carry(f(…), {given.name})` of `{given.name}[{rows}]`, at the evaluated model",
            )
        elif more or own != spaces:
            front = [x for x in spaces if x in CONTEXTS]
            wanted = [*front, *(["h"] if name == CARRY else []), *spaces[len(front) :]]
            self.problems.say(
                Code.E0305,
                f"the result of `{name}` has the indices of `{given.name}`"
                + (", and `h`" if name == CARRY else ""),
                Label(statement.span, f"expected `{target.name}[{','.join(wanted)}]`"),
            )

    def _apply(self, statement: ir.Define, call: ir.Call) -> None:
        """`z[h,n,p] = apply(flowed(time[h]), v)`: a function of the spectrum with its arguments, and rows."""
        function, given = call.arguments if len(call.arguments) == 2 else (None, None)
        named = isinstance(function, ir.Call) and not function.indices
        if not named or not isinstance(given, ir.Ref) or given.indices or call.indices:
            self.problems.say(
                Code.E0246,
                f"`{call.function}` takes a function of the spectrum, and the name of one tensor",
                Label(call.span, "the whole tensor is taken, row by row"),
                f"write `{call.function}(tikhonov(0.1), v)`, with the arguments in the order in which "
                "the `inverse` declares them",
            )
            return
        assert isinstance(function, ir.Call)
        self._rows(statement, call, given)
        self._spectral(statement, function)

    def _spectral(self, statement: ir.Define, function: ir.Call) -> None:
        """A function of the spectrum: declared, with numbers for its parameters."""
        definition = self.inverses.get(function.function)
        if definition is None:
            self.problems.unknown(
                Code.E0712, "inverse", function.function, function.span, self.inverses
            )
            return
        self._values(definition, function)
        own = {x for x in statement.targets[0].indices if x.space in CONTEXTS}
        for argument in function.arguments:
            self._visit(argument)
            beyond = [x for x in self.free(argument) if x not in own]
            if beyond:
                self.problems.say(
                    Code.E0247,
                    f"a parameter of `{definition.name}` is a number for each model and checkpoint, and "
                    f"this has the index `{beyond[0]}`",
                    Label(argument.span, "more than one number"),
                    "give a number, or one with the indices `e` and `h` of the result: `time[h]`",
                )

    def _values(self, definition: s.InverseDef, function: ir.Call) -> None:
        """A number for every parameter without a default."""
        names, given = [x.name for x in definition.parameters], len(function.arguments)
        open_ = [x.name for x in definition.parameters[given:] if x.value is None]
        short = f"no value for `{open_[0]}`" if open_ else ""
        if given > len(names):
            short = f"{given} given"
        if short:
            self.problems.say(
                Code.E0247,
                f"`{definition.name}` is written with its parameters in their order: "
                f"`{definition.name}({', '.join(names)})`",
                Label(function.span, short),
                "give a number for each that has no default",
            )

    def _call(self, call: ir.Call) -> None:
        if call.function in (SOLVE, *APPLICATIONS):
            self.problems.say(
                Code.E0352,
                f"`{call.function}` stands alone on the right of a definition",
                Label(call.span, "inside an expression"),
                f"give its result a name: `z[n,p] = {call.function}({'f(…), ' * (call.function != SOLVE)}v)`",
            )
            return
        if call.function in MAKERS and {x.space for x in call.indices} & {"n", "q"}:
            self.problems.say(
                Code.E0351,
                f"`{call.function}` would draw numbers for every example",
                Label(call.span, "which depend on how examples are read"),
                "draw them for parameters or a space of your own: `random_normal[p,k](0)`",
            )
        super()._call(call)

    def _binary(self, expr: ir.Binary) -> None:
        # A number of a query and one of a training example add up to one of the pair.
        if expr.operator in (ir.BinaryOperator.ADD, ir.BinaryOperator.SUBTRACT):
            self._visit(expr.left)
            self._visit(expr.right)
        else:
            super()._binary(expr)

    def _matrix(self, call: ir.Call, function: object) -> dict[str, tuple[str, ...]] | None:
        groups = super()._matrix(call, FUNCTIONS[call.function])
        if groups is None:
            return None
        found = {x for group in groups.values() for x in group} & {"n", "p"}
        if found:
            letter = min(found)
            self.problems.say(
                Code.E0351,
                f"`{call.function}` reads a tensor over `{letter}` as a whole, which no score holds",
                Label(call.span, SCORE_LETTERS[letter]),
                "sum over it first; the curvature's inverse is applied by `z[n,p] = solve(v)`",
                *([_KERNEL] if letter == "n" else []),
            )
        return groups

    def _function(self, statement: ir.Define, call: ir.Call) -> None:
        """A function of a matrix; of one for every model and checkpoint, of each by itself."""
        given = call.arguments[0] if call.arguments else None
        if isinstance(given, ir.Ref) and not given.cut and given.name in self.scope:
            whole = self.scope[given.name]
            outer = tuple(x for x in whole if x in CONTEXTS)
            inner = tuple(x for x in whole if x not in CONTEXTS)
            targets = [_without(x, outer) for x in statement.targets]
            if outer and whole == (*outer, *inner) and None not in targets:
                self.scope[given.name] = inner
                kept = tuple(x for x in targets if x is not None)
                super()._function(replace(statement, targets=kept), call)
                self.scope[given.name] = whole
                return
        super()._function(statement, call)

    def _unknown(self, name: str, span: Span) -> None:
        help_: tuple[str, ...] = suggestion(name, (*self.scope, *self.scalars))
        if name in SCORE_LEAVES:
            help_ = (f"add it to `needs`: `needs {SCORE_LEAVES[name].written(name)}`",)
        self.problems.say(
            Code.E0319,
            f"unknown tensor `{name}`",
            Label(span, "not in `needs`, not defined"),
            *help_,
        )

    def yields(self, statement: ir.Yield) -> None:
        """A yield: `s[q,n]`, or `s[n]` for a score of a training example alone."""
        target = statement.target
        if target.indices not in YIELDS:
            self.problems.say(
                Code.E0241,
                "a score has a number for every query and training example, or for every training "
                "example",
                Label(target.span, "other indices"),
                "write `yield s[q,n] = …`, or `yield s[n] = …`",
            )
        self._sides(target, statement.value)
