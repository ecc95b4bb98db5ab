"""The typed chain: what checking makes of a curvature, and all that the compiler reads.

Names are resolved, arguments have their values, `when` has chosen its branch, and scalar
parameters inside bodies are numbers. Nothing here refers back to the syntax tree but spans.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from math import prod
from typing import TypeAlias

from curvlang.diagnostics.notebook import Display
from curvlang.diagnostics.source import NOWHERE, Source, Span
from curvlang.ir.expr import BodyStatement, Expr, Statement, Target

Value: TypeAlias = "float | int | bool | str | tuple[Value, ...]"
"""A parameter's value: a number, a boolean, a word (`layer`, `cosine`), text, or a list."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of a chain, ready to be derived.

    `body` is empty for built-in stages (`hessian`, `drop_residual`, `block_diagonal`); the
    compiler knows those by name. `others` is the clause for parameters that the stage does not
    fit: the word `ignore` (they are left out of the problem) or `keep` (they stay as they are before
    the stage), or the stages to use there instead (as a one-stage tuple).
    """

    name: str
    arguments: Mapping[str, Value]
    needs: tuple[Target, ...] = ()
    body: tuple[BodyStatement, ...] = ()
    others: str | tuple[Stage, ...] | None = None
    doc: str = ""
    span: Span = field(default=NOWHERE, compare=False, repr=False)

    @property
    def builtin(self) -> bool:
        """Whether the compiler itself knows the stage."""
        return not self.body

    @property
    def key(self) -> tuple[object, ...]:
        """What makes two stages the same: name, arguments, body, clause for other layers."""
        others = self.others
        clause = tuple(x.key for x in others) if isinstance(others, tuple) else others
        return (*self.step, clause)

    @property
    def step(self) -> tuple[object, ...]:
        """What the stage does to the layers that it fits: name, arguments, body."""
        return (self.name, tuple(sorted(self.arguments.items())), self.body)


@dataclass(frozen=True, slots=True)
class Chain:
    """A source and its transformations, flattened: `stages[0]` is always a source.

    `labels[k]` names the prefix that ends with stage k: a curvature's name when the prefix is one
    that this file or the shipped ones define, else the stage's own name.
    """

    name: str
    stages: tuple[Stage, ...]
    labels: tuple[str, ...]
    doc: str = ""
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Weight:
    """What a curvature is multiplied with: a number, times values of the task by name."""

    number: float = 1.0
    names: tuple[str, ...] = ()

    def __mul__(self, other: Weight) -> Weight:
        return Weight(self.number * other.number, tuple(sorted((*self.names, *other.names))))

    def __str__(self) -> str:
        shown = [] if self.names and self.number == 1.0 else [f"{self.number:g}"]
        return " * ".join([*shown, *self.names])

    def value(self, values: Mapping[str, float]) -> float:
        """The number, with the task's values for the names."""
        return prod((values[name] for name in self.names), start=self.number)


@dataclass(frozen=True, slots=True)
class Combination:
    """`0.9 * first + 0.1 * second`: a linear combination of curvatures.

    Terms stand for the curvature of the mean loss; the task's L2 term is added once, by the runtime,
    unless a term with the weight `weight_decay` is a multiple of the identity and so states it.
    """

    name: str
    terms: tuple[tuple[Weight, Curvature], ...]
    doc: str = ""
    span: Span = field(default=NOWHERE, compare=False, repr=False)


Curvature: TypeAlias = Chain | Combination


@dataclass(frozen=True, slots=True)
class Gram:
    """`mean[n] w[n] * v[n,p] * v[n,p']`, or the sum: v are gradients of examples, w a formula in n."""

    weight: Expr
    mean: bool


@dataclass(frozen=True, slots=True)
class Matrix:
    """A matrix by its name: `C`, the curvature."""

    name: str


@dataclass(frozen=True, slots=True)
class Rows:
    """`identity[p,p'] * left[p]`, formulas in p; with another row the outer product `left[p] * right[p']`."""

    left: Expr
    right: Expr | None = None


@dataclass(frozen=True, slots=True)
class EntryChain:
    """A number times a product of matrices; of none, the identity."""

    coefficient: Expr
    nodes: tuple[Gram | Matrix | Rows, ...] = ()


@dataclass(frozen=True, slots=True)
class Statistic:
    """What one pass over the examples gives, a number or a row: a reduction over n of a formula in `v[n,p]`."""

    name: str
    value: Expr


@dataclass(frozen=True, slots=True)
class Entries:
    """An inverse by its entries: the sum of its chains, and the numbers that they read."""

    chains: tuple[EntryChain, ...]
    statistics: tuple[Statistic, ...] = ()


@dataclass(frozen=True, slots=True)
class Inverse:
    """`inverse tikhonov(damping = 0.1 * mean(s)): s -> 1 / (s + damping)`.

    `body` is an elementwise expression in the arguments, the parameters and the `bindings` after
    `where`, all as `Ref`s; a binding may name those before it. One argument is an eigenvalue of the curvature; two are the
    eigenvalues of the factors G and A of a Kronecker product. `mean(x)`, `max(x)`, `min(x)` are
    `Call`s over the spectrum: of the whole curvature, or of the block where `per_block` says so
    (functions of two factors are always read per block). A parameter is one number; one without a
    default has `None`. Conditions are `Call("where", (condition, yes, no))` with conditions
    `Call("less"|"less_equal", (x, y))`. With `entries` the matrix itself is stated, block by block, without
    eigenvalues: `inverse mine(damping = 0.01) { needs v[n,p] … yield K[p,p'] = … }`.
    """

    name: str
    arguments: tuple[str, ...]
    parameters: Mapping[str, Expr | None]
    body: Expr
    per_block: bool = False
    bindings: tuple[tuple[str, Expr], ...] = ()
    entries: Entries | None = None
    doc: str = ""
    span: Span = field(default=NOWHERE, compare=False, repr=False)


DAMPING = "damping"
"""The parameter of inverses that an evaluation sweeps."""


@dataclass(frozen=True, slots=True)
class InverseUse:
    """An inverse with the arguments an evaluation gives it."""

    inverse: Inverse
    arguments: Mapping[str, Expr]
    span: Span = field(default=NOWHERE, compare=False, repr=False)

    @property
    def damping_open(self) -> bool:
        """Whether it has a `damping` without a value: evaluations sweep it."""
        return DAMPING in self.inverse.parameters and DAMPING not in self.arguments


@dataclass(frozen=True, slots=True)
class ScoreFormula:
    """`score relatif { … }` with its parameters written in.

    Args:
        name: Its name.
        arguments: Values of its parameters.
        needs: Its leaves: `u[q,p]`, `v[n,p]`.
        body: Its definitions, and its yield.
        doc: One line.
        functions: Functions of the spectrum that it applies, by name.
        text: Its definition; with those of its functions it is complete in itself.
        span: Where it is named.
    """

    name: str
    arguments: Mapping[str, Value]
    needs: tuple[Target, ...]
    body: tuple[Statement, ...]
    doc: str = ""
    functions: Mapping[str, Inverse] = field(default_factory=dict)
    text: str = field(default="", compare=False, repr=False)
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Solver:
    """`solve cg(preconditioner = mine, tolerance = 1e-6)`, every argument with its value."""

    name: str
    arguments: Mapping[str, Value]
    preconditioner: Curvature | None = None
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Part:
    """One line of a task, a baseline or a measure: `mlp(hidden = [16], activation = tanh)`.

    `score` is the formula of a baseline that is one, `curvature` the one that it solves with, `inverse` its own
    inverse where it states one.
    """

    name: str
    arguments: Mapping[str, Value]
    span: Span = field(default=NOWHERE, compare=False, repr=False)
    curvature: Curvature | None = None
    score: ScoreFormula | None = field(default=None, repr=False)
    inverse: InverseUse | None = None


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """A task with every parameter known: its data, model, loss and training recipe.

    `checkpoints` and `models` are other models that scores may read, where it states any.
    """

    name: str
    arguments: Mapping[str, Value]
    data: Part
    model: Part
    loss: Part
    train: Part
    doc: str = ""
    span: Span = field(default=NOWHERE, compare=False, repr=False)
    checkpoints: Part | None = None
    models: Part | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """`evaluate relatif of mine with tikhonov(damping = 1e-3) on digits { … }`.

    `score` is `None` for plain influence, `inverse` is `None` for the default: tikhonov over a grid of λ. Defaults are filled in by
    `evaluation.protocol`; here stands only what the spec says.
    """

    curvature: str
    task: TaskSpec
    inverse: InverseUse | None = None
    error_against: str | None = None
    influence: bool | None = None
    lds: Mapping[str, Value] | None = None
    solver: Solver | None = None
    score: ScoreFormula | None = None
    span: Span = field(default=NOWHERE, compare=False, repr=False)


class Relation(StrEnum):
    """How two sides compare."""

    EQUALS = "equals"
    DIFFERS_FROM = "differs_from"
    AVERAGES_TO = "averages_to"


@dataclass(frozen=True, slots=True)
class Quantity:
    """A curvature, a measure of it, its inverse by a declaration or a solver, or scores under it, as the law writes it."""

    name: str
    curvature: Curvature
    measure: str | None = None
    inverse: InverseUse | None = None
    score: ScoreFormula | None = None
    solver: Solver | None = None

    def __str__(self) -> str:
        return f"{self.measure}({self.name})" if self.measure else self.name


@dataclass(frozen=True, slots=True)
class Property:
    """A curvature has a property; negated: some task shows that it has not."""

    subject: Quantity
    word: str
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two sides are equal, differ on some task, or are equal in the mean over drawn labels."""

    left: Quantity
    relation: Relation
    right: Quantity


@dataclass(frozen=True, slots=True)
class Nearness:
    """The subject is at least as close to the target as the other, in Frobenius norm."""

    subject: Quantity
    target: Quantity
    other: Quantity
    negated: bool = False


LawStatement: TypeAlias = Property | Comparison | Nearness


Counts = tuple[int, ...]
Words = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Space:
    """The small tasks that a law may draw: values, the simplest first, towards which failures shrink."""

    examples: Counts = ()
    positions: Counts = ()
    inputs: Counts = ()
    outputs: Counts = ()
    layers: Counts = ()
    activations: Words = ()
    losses: Words = ()
    biases: tuple[bool, ...] = ()
    pooling: Words = ()

    @property
    def empty(self) -> str:
        """The first thing of which no value is left; empty text where there is none."""
        for name in self.__slots__:
            if not getattr(self, name):
                return name
        return ""


@dataclass(frozen=True, slots=True)
class Law:
    """A law about drawn tasks.

    Args:
        statement: What must hold.
        space: The tasks it is about.
        text: The law as its spec writes it, on one line.
        bound: Tolerance of a law for all tasks, threshold of one that some task must show.
        blocks: Whether curvatures of the whole model are compared on each layer's block alone.
        columns: The kind of columns it is stated for, which replaces the kind of the chains.
        universal: Whether it holds for every curvature without being written.
        span: Where it stands.
    """

    statement: LawStatement
    space: Space
    text: str
    bound: float = 0.0
    blocks: bool = False
    columns: str | None = None
    universal: bool = False
    span: Span = field(default=NOWHERE, compare=False, repr=False)

    @property
    def exists(self) -> bool:
        """Whether one task that shows it is enough (a negative twin)."""
        match self.statement:
            case Property(negated=negated) | Nearness(negated=negated):
                return negated
            case Comparison(relation=relation):
                return relation is Relation.DIFFERS_FROM

    @property
    def quantities(self) -> tuple[Quantity, ...]:
        """Every curvature it names."""
        match self.statement:
            case Property(subject=subject):
                return (subject,)
            case Comparison(left=left, right=right):
                return left, right
            case Nearness(subject=subject, target=target, other=other):
                return subject, target, other


@dataclass(frozen=True, slots=True)
class StudyCell:
    """One point of the sweep, for every model seed.

    Args:
        values: The swept parameters, in the order of their `for` clauses.
        task: The task with these values written into it.
        lds: The protocol's arguments; None where the study says `protocol none`.
    """

    values: Mapping[str, Value]
    task: TaskSpec
    lds: Mapping[str, Value] | None


@dataclass(frozen=True, slots=True)
class Study:
    """A checked `study`.

    Args:
        name: Of the study.
        doc: The question that it asks, where the spec states one.
        cells: Every combination of the swept values.
        axes: The swept values by name.
        path: Curvatures of `path`, each a step from the one before it.
        others: Curvatures of `curvatures`, compared but on no path.
        inverses: What C⁻¹ means, one after the other; empty for the default inverse, None for none.
        damping: λ grid of inverses that leave their `damping` open; None for the default grid.
        seeds: Of the model's initialisation, one trained model each.
        baselines: Scores of other kinds, compared beside the curvatures.
        measures: Ground truths beyond the LDS.
        span: Where it stands.
    """

    name: str
    doc: str
    cells: tuple[StudyCell, ...]
    axes: Mapping[str, tuple[Value, ...]]
    path: tuple[Curvature, ...]
    others: tuple[Curvature, ...]
    inverses: tuple[InverseUse, ...] | None
    damping: tuple[float, ...] | None
    seeds: tuple[int, ...]
    baselines: tuple[Part, ...] = ()
    measures: tuple[Part, ...] = ()
    span: Span = field(default=NOWHERE, compare=False, repr=False)

    @property
    def curvatures(self) -> tuple[Curvature, ...]:
        """All that is compared, the path first."""
        return (*self.path, *self.others)


@dataclass(frozen=True, slots=True, repr=False)
class Spec(Display):
    """A checked file: everything it defines, by name, in the order of the text.

    Args:
        source: The text.
        curvatures: Chains and sums of them.
        inverses: Declared in the file.
        evaluations: What `evaluate … on …` asks for.
        others: Curvatures that its evaluations name and another file defines.
        laws: What the file claims.
        studies: Sweeps over tasks.
        scores: Formulas of scores.
    """

    source: Source
    curvatures: Mapping[str, Curvature]
    inverses: Mapping[str, Inverse]
    evaluations: tuple[Evaluation, ...]
    others: Mapping[str, Curvature] = field(default_factory=dict)
    laws: tuple[Law, ...] = ()
    studies: Mapping[str, Study] = field(default_factory=dict)
    scores: Mapping[str, ScoreFormula] = field(default_factory=dict)

    def _summary(self) -> str:
        names = [*self.curvatures, *self.scores, *self.studies]
        return f"{self.source.name}: {', '.join(names) or 'defines nothing'}"

    def __str__(self) -> str:
        return self.source.text
