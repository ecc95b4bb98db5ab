"""Scores as programs: the products over the parameters that a formula needs, and what follows from them.

Rows (`u[q,p]`, `v[n,p]`, and what is made of them) are never held for all examples: a sum over `p` becomes a
`Product` of a part for the queries and a part for the training examples, and all else is arithmetic of numbers
for each query, each training example, or each pair.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from curvlang.diagnostics.source import NOWHERE, Span
from curvlang.ir import expr as ir
from curvlang.ir.indices import free_indices, names, walk

QUERY_GRADIENT, TRAINING_GRADIENT = "u", "v"
"""Leaves over the parameters: gradients of the queries' metric, and of the training losses."""
PARAMETER, QUERY, EXAMPLE = "p", "q", "n"
"""Letters of the spaces of a score."""
CONTEXTS = ("e", "h", "c")
"""Letters of models, their checkpoints, and models around a checkpoint: all of a product is taken at one of each."""
RATE, TIME = "rate", "time"
"""The learning rate at each checkpoint, and the sum of learning rates of the steps that it stands for."""
DOUBTS = ("doubt", "query_doubt")
"""1 − p of the label of a training example, and of a query."""
MOMENTS = ("moment", "second")
"""Adam's running means of gradients and of their squares."""
SOLVE = "solve"
"""The inverse of the curvature, applied to rows."""
APPLY, CARRY = "apply", "carry"
"""A function of the curvature's spectrum, applied to rows: at each place, or one checkpoint after the other."""
SOLVED = "@"
"""Between a leaf and how often the inverse is applied to it: `v@1`."""


@dataclass(frozen=True, slots=True)
class Product:
    """A sum over the parameters: `left` times `right`; the entries of `left` alone where there is no `right`.

    Args:
        name: What other expressions call it.
        indices: What it has a number for.
        left: Rows; of queries where there are any.
        right: Rows of the same or of other examples; None where `left` alone is summed.
        index: The index that is summed over.
        span: Where it stands.
    """

    name: str
    indices: tuple[ir.Index, ...]
    left: ir.Expr
    right: ir.Expr | None
    index: ir.Index
    span: Span = field(default=NOWHERE, compare=False, repr=False)

    @property
    def reads(self) -> tuple[ir.Expr, ...]:
        """Expressions that it is computed from."""
        return (self.left,) if self.right is None else (self.left, self.right)


@dataclass(frozen=True, slots=True)
class ExampleSum:
    """A sum or mean over all training examples, or all queries: known after a pass over them.

    Args:
        name: What other expressions call it.
        indices: What it has a number for.
        kind: Sum or mean.
        bound: The indices that it runs over.
        terms: Numbers times rows, added up; rows are 1 where it has no parameters.
        span: Where it stands.
    """

    name: str
    indices: tuple[ir.Index, ...]
    kind: ir.ReductionKind
    bound: tuple[ir.Index, ...]
    terms: tuple[tuple[ir.Expr, ir.Expr], ...]
    span: Span = field(default=NOWHERE, compare=False, repr=False)

    @property
    def reads(self) -> tuple[ir.Expr, ...]:
        """Expressions that it is computed from."""
        return tuple(x for pair in self.terms for x in pair)


@dataclass(frozen=True, slots=True)
class Solution:
    """A matrix applied to rows: the inverse where rows are more than a gradient times numbers, or a function of the spectrum.

    Args:
        name: What other expressions call it.
        indices: What it has a row for.
        rows: What the matrix is applied to.
        at: Models and checkpoints whose curvature the matrix is of.
        function: A function of the spectrum with its arguments; the inverse where not given.
        carried: Whether rows go from the end of the training back to each checkpoint, through the matrix of
            every later one.
        span: Where it stands.
    """

    name: str
    indices: tuple[ir.Index, ...]
    rows: ir.Expr
    at: tuple[ir.Index, ...] = ()
    function: ir.Call | None = None
    carried: bool = False
    span: Span = field(default=NOWHERE, compare=False, repr=False)

    @property
    def reads(self) -> tuple[ir.Expr, ...]:
        """Expressions that it is computed from."""
        return (self.rows, *(() if self.function is None else self.function.arguments))


@dataclass(frozen=True, slots=True)
class Formula:
    """Arithmetic of what is known."""

    name: str
    indices: tuple[ir.Index, ...]
    value: ir.Expr
    span: Span = field(default=NOWHERE, compare=False, repr=False)

    @property
    def reads(self) -> tuple[ir.Expr, ...]:
        """Expressions that it is computed from."""
        return (self.value,)


@dataclass(frozen=True, slots=True)
class Matrix:
    """A tensor function of a whole tensor: `K⁻¹ = inv(K)`; `position` is that of the result."""

    name: str
    indices: tuple[ir.Index, ...]
    call: ir.Call
    position: int = 0
    span: Span = field(default=NOWHERE, compare=False, repr=False)

    @property
    def reads(self) -> tuple[ir.Expr, ...]:
        """Expressions that it is computed from."""
        return self.call.arguments


Assignment: TypeAlias = Product | ExampleSum | Solution | Formula | Matrix


@dataclass(frozen=True, slots=True)
class ScoreProgram:
    """What a score is computed by.

    Args:
        leaves: What it needs, by name, with the indices that it is declared with.
        spaces: Lengths of the spaces that it declares.
        assignments: By name, each after those that it reads.
        result: The indices of the scores.
        value: The scores.
    """

    leaves: Mapping[str, tuple[ir.Index, ...]]
    spaces: tuple[ir.Space, ...]
    assignments: Mapping[str, Assignment]
    result: tuple[ir.Index, ...]
    value: ir.Expr

    @property
    def products(self) -> tuple[Product, ...]:
        """Every sum over the parameters."""
        return tuple(x for x in self.assignments.values() if isinstance(x, Product))

    @property
    def by_products(self) -> bool:
        """Whether products of gradients and of solved gradients are all that is needed of the parameters.

        Then no gradient over all parameters is formed of a training example.
        """
        return all(_plain(x, self) for x in self.assignments.values())

    @property
    def pairs(self) -> bool:
        """Whether there is a score for every query, not only for every training example."""
        return any(x.space == QUERY for x in self.result)

    @property
    def all_queries(self) -> bool:
        """Whether something runs over all queries, so that they cannot take turns."""
        collected = (x for x in self.assignments.values() if isinstance(x, ExampleSum))
        rows = (x.space == QUERY for c in collected for x in c.bound)
        twice = (sum(x.space == QUERY for x in a.indices) > 1 for a in self.assignments.values())
        return not self.pairs or any(rows) or any(twice)

    @property
    def checkpoints(self) -> bool:
        """Whether it reads models along the training."""
        return any(x.space == "h" for indices in self.leaves.values() for x in indices)

    @property
    def solved_at(self) -> frozenset[tuple[str, ...]]:
        """At which models the inverse is applied: `()` for the evaluated one, `("e", "h")` for all checkpoints."""
        return frozenset(map(_letters, _solved_rows(self)))

    @property
    def applied_at(self) -> frozenset[tuple[str, ...]]:
        """At which models functions of the curvature's spectrum are applied, likewise."""
        return frozenset(_letters(x.at) for x in _solutions(self) if x.function is not None)

    @property
    def times(self) -> bool:
        """Whether it reads how long the training was at each checkpoint."""
        return TIME in self.leaves

    @property
    def doubts(self) -> bool:
        """Whether it reads probabilities of labels."""
        return any(name in DOUBTS for name in self.leaves)

    @property
    def moments(self) -> bool:
        """Whether it reads Adam's running means."""
        return any(name in MOMENTS for name in self.leaves)

    @property
    def moments_at_ends(self) -> bool:
        """Whether it reads them at the ends of trainings, not at checkpoints alone."""
        rows = (x for name, x in self.leaves.items() if name in MOMENTS)
        return not all(any(i.space == "h" for i in indices) for indices in rows)

    @property
    def models(self) -> bool:
        """Whether it reads several models."""
        return any(x.space == "e" for indices in self.leaves.values() for x in indices)


def in_segments(leaf: ir.Target) -> bool:
    """Whether a leaf is of segments of the training: their length, or the models of each."""
    return leaf.name == TIME or any(x.space == CONTEXTS[-1] for x in leaf.indices)


def _solved_rows(program: ScoreProgram) -> Iterator[tuple[ir.Index, ...]]:
    """The indices of everything that the inverse is applied to."""
    exprs = [program.value, *(x for a in program.assignments.values() for x in a.reads)]
    for expr in exprs:
        for node in walk(expr):
            own = gradient_of(node)
            if own is not None and own[1] and isinstance(node, ir.Ref):
                yield node.indices
    yield from (x.at for x in _solutions(program) if x.function is None)


def _solutions(program: ScoreProgram) -> Iterator[Solution]:
    return (x for x in program.assignments.values() if isinstance(x, Solution))


def _letters(indices: tuple[ir.Index, ...]) -> tuple[str, ...]:
    """The letters of models and checkpoints among indices, in their order."""
    spaces = {x.space for x in indices}
    return tuple(x for x in CONTEXTS if x in spaces)


def gradient_of(row: ir.Expr) -> tuple[str, int] | None:
    """The leaf and how often it is solved, where rows are gradients alone: `v@1` is `("v", 1)`."""
    if not isinstance(row, ir.Ref):
        return None
    leaf, _, solves = row.name.partition(SOLVED)
    if leaf not in (QUERY_GRADIENT, TRAINING_GRADIENT):
        return None
    return leaf, int(solves or 0)


def _plain(assignment: Assignment, program: ScoreProgram) -> bool:
    match assignment:
        case Product(left=left, right=right):
            if right is None:
                return False
            first, second = gradient_of(left), gradient_of(right)
            if second is None:
                return False
            if first is None:
                return asks_by_rows(assignment) and not _after_a_pass(assignment, program)
            pair = first[0] != second[0]
            return contexts(left) == contexts(right) or (pair and 0 in (first[1], second[1]))
        case ExampleSum(terms=terms):
            return not any(_parametric(row) for _, row in terms)
        case Solution(indices=indices):
            return not any(x.space == EXAMPLE for x in indices)
        case Formula() | Matrix():
            return not any(x.space == PARAMETER for x in assignment.indices)


def asks_by_rows(one: Product) -> bool:
    """Whether rows of queries that are more than gradients meet gradients of training examples."""
    right = None if one.right is None else gradient_of(one.right)
    if right is None or right[0] != TRAINING_GRADIENT or gradient_of(one.left) is not None:
        return False
    own = {x.space for x in free_indices(one.left)}
    return EXAMPLE not in own and QUERY in own


def _after_a_pass(one: Assignment, program: ScoreProgram) -> bool:
    """Whether something rests on sums over all training examples."""
    behind = (program.assignments[x] for x in _behind(one, program))
    sums = (x for x in behind if isinstance(x, ExampleSum))
    return any(i.space == EXAMPLE for x in sums for i in x.bound)


def contexts(row: ir.Expr) -> tuple[ir.Index, ...]:
    """The indices of models and checkpoints that rows have."""
    return tuple(x for x in free_indices(row) if x.space in CONTEXTS)


def _parametric(expr: ir.Expr) -> bool:
    return any(x.space == PARAMETER for x in free_indices(expr))


def reads_of(program: ScoreProgram) -> frozenset[str]:
    """Every name that the program reads: leaves, solved leaves, assignments."""
    exprs = [program.value, *(x for a in program.assignments.values() for x in a.reads)]
    return frozenset(x for expr in exprs for x in names(expr))


def reads_curvature(program: ScoreProgram) -> bool:
    """Whether the curvature has a part in it, by its inverse or by another function of its spectrum."""
    return bool(program.solved_at or program.applied_at)


def solves_of(program: ScoreProgram) -> bool:
    """Whether the curvature's inverse is applied to anything."""
    return any(True for _ in _solved_rows(program))


def passes_of(program: ScoreProgram) -> list[tuple[ExampleSum, ...]]:
    """Sums over all training examples, those that share a pass together, in their order."""
    wanted = [
        x
        for x in program.assignments.values()
        if isinstance(x, ExampleSum) and any(i.space == EXAMPLE for i in x.bound)
    ]
    behind = {x.name: _behind(x, program) & {y.name for y in wanted} for x in wanted}
    found: list[tuple[ExampleSum, ...]] = []
    done: set[str] = set()
    while len(done) < len(wanted):
        ready = tuple(x for x in wanted if x.name not in done and behind[x.name] <= done)
        found.append(ready)
        done |= {x.name for x in ready}
    return found


def _behind(one: Assignment, program: ScoreProgram) -> set[str]:
    """The assignments that one rests on."""
    found: set[str] = set()
    waiting = [one]
    while waiting:
        for expr in waiting.pop().reads:
            for name in names(expr) & program.assignments.keys():
                if name not in found:
                    found.add(name)
                    waiting.append(program.assignments[name])
    return found
