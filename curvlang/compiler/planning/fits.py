"""Which stages fit parameters outside any layer's weight matrix: scales and shifts, tied and bare ones.

Of such a parameter the layer gradient is known, Σ_t g[n,r,t,o] a[n,t,i], and nothing else: `a` and `g`
by themselves, and what is an input and what an output, have no meaning. A stage fits where it reads
that sum alone and yields a matrix over the block's entries as one index.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import assert_never

from curvlang.compiler.algebra import shapes
from curvlang.compiler.derive.derive import derive
from curvlang.compiler.derive.program import Partition, Program
from curvlang.compiler.planning.plan import Geometry, Limits
from curvlang.compiler.planning.planner import plan
from curvlang.ir import expr as ir
from curvlang.ir.indices import children
from curvlang.language.chain import Chain

LAYER = {"t": 4, "r": 4, "o": 512, "i": 512}
"""A layer to find structures on: large enough for any space that a stage declares."""
EXAMPLES = 4
UNLIMITED = 2**62

INPUTS, COLUMNS = "a", ("g", "e")


@dataclass(frozen=True, slots=True)
class Unfit:
    """The first stage of a chain that does not fit, and what the chain is beside it.

    `beside` is None where the stage has no clause, or takes the parameters out (`ignored`).
    """

    chain: Chain
    number: int
    beside: Chain | None

    @property
    def ignored(self) -> bool:
        """Whether the clause takes the parameters out of the problem."""
        return self.chain.stages[self.number].others == "ignore"


def unfit(chain: Chain) -> Unfit | None:
    """The first stage that does not fit; None where all do."""
    number = first_unfit(chain)
    if number is None:
        return None
    match chain.stages[number].others:
        case None | "ignore":
            return Unfit(chain, number, None)
        case tuple(stages):
            made = (*chain.stages[:number], *stages)
            labels = (*chain.labels[:number], *(stage.name for stage in stages))
            return Unfit(chain, number, replace(chain, stages=made, labels=labels))
        case _:
            kept = replace(chain, stages=chain.stages[:number], labels=chain.labels[:number])
            return Unfit(chain, number, kept)


def first_unfit(chain: Chain) -> int | None:
    """Number of the first stage that does not fit; None where all do."""
    programs, (results,) = derive([chain])
    limits = Limits(batch=2, dense=UNLIMITED)
    plans = {
        p.key: plan(p, [Geometry("layer", _layer(p))], EXAMPLES, memory=UNLIMITED, limits=limits)
        for p in programs
        if p.partition != Partition.MODEL
    }
    for number, (stage, result) in enumerate(zip(chain.stages, results, strict=True)):
        if stage.builtin:
            continue
        projects = any(isinstance(x, ir.Project) and x.old != "p" for x in stage.body)
        if result.partition == Partition.MODEL and not projects:
            continue
        shape = plans[result.key].blocks[0].results[result.value].shape
        if projects or not one_index(shape) or not gradient_only(stage.body):
            return number
    return None


def _layer(program: Program) -> Mapping[str, int]:
    """The layer to find structures on, of lengths that the splits of a program divide."""
    sizes = dict(LAYER)
    lengths = {x.letter: x.length for x in program.definitions if isinstance(x, ir.Space)}
    for split in (x for x in program.definitions if isinstance(x, ir.Space) and x.parts):
        old, *parts = split.parts
        given = [lengths[x] for x in parts]
        known = prod(int(x.value) for x in given if isinstance(x, ir.Number))
        if old in sizes and known > 0:
            whole = all(isinstance(x, ir.Number) for x in given)
            sizes[old] = known if whole else known * max(1, sizes[old] // known)
    return sizes


def one_index(shape: shapes.Shape) -> bool:
    """Whether a structure treats the entries of a block as one index."""
    match shape:
        case (
            shapes.DiagonalShape()
            | shapes.IdentityShape()
            | shapes.GramShape()
            | shapes.DenseShape()
            | shapes.LowRankShape()
        ):
            return True
        case shapes.LeafShape() | shapes.ProductShape():
            return True
        case (
            shapes.KroneckerShape()
            | shapes.EigenBasisShape()
            | shapes.BlocksShape()
            | shapes.ProjectedShape()
        ):
            return False
        case shapes.SumShape(terms=terms):
            return all(map(one_index, terms))
        case _:
            assert_never(shape)


def gradient_only(body: Sequence[ir.BodyStatement]) -> bool:
    """Whether `a` and the columns stand nowhere but in Σ_t g[n,r,t,o] a[n,t,i]."""
    for statement in body:
        match statement:
            case ir.Define(value=value) | ir.Yield(value=value):
                if not _reads_gradients(value):
                    return False
            case ir.Space() | ir.Project():
                pass
            case _:
                assert_never(statement)
    return True


def _reads_gradients(expr: ir.Expr) -> bool:
    match expr:
        case ir.Reduce(indices=bound, body=inner) if any(x.space == "t" for x in bound):
            factors = _factors(inner)
            leaves = [x for x in factors if isinstance(x, ir.Ref) and _leaf(x)]
            rest = [x for x in factors if x not in leaves]
            return _gradient(leaves, bound) and all(map(_reads_gradients, rest))
        case ir.Ref():
            return not _leaf(expr)
        case _:
            return all(map(_reads_gradients, children(expr)))


def _gradient(leaves: Sequence[ir.Ref], bound: tuple[ir.Index, ...]) -> bool:
    """Whether the leaves are one input and one column, of one example at one summed position."""
    if [x.name == INPUTS for x in leaves] not in ([True, False], [False, True]):
        return False
    (n, t), (n2, t2) = (_example_and_position(x) for x in leaves)
    return n == n2 and t == t2 and t in bound


def _example_and_position(leaf: ir.Ref) -> tuple[ir.Index, ir.Index]:
    n, t = (next(x for x in leaf.indices if x.space == space) for space in "nt")
    return n, t


def _leaf(ref: ir.Ref) -> bool:
    return ref.name == INPUTS or ref.name in COLUMNS


def _factors(expr: ir.Expr) -> Sequence[ir.Expr]:
    """The factors of a product; a sum inside it is one factor."""
    match expr:
        case ir.Binary(operator=ir.BinaryOperator.MULTIPLY, left=left, right=right):
            return [*_factors(left), *_factors(right)]
        case ir.Reduce(indices=bound, body=inner) if not any(x.space == "t" for x in bound):
            return _factors(inner)
        case _:
            return [expr]
