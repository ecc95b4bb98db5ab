"""Operators as a plan predicts them: the right structure, no numbers; what an inverse is tried on before a fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import assert_never

import torch

from curvlang.compiler.algebra import shapes
from curvlang.compiler.derive.program import Partition, Result
from curvlang.compiler.planning.plan import BlockPlan
from curvlang.language.chain import Chain, Combination, Curvature, Solver
from curvlang.language.sums import DECAY, states_decay, weighted_chains
from curvlang.models.task import Task
from curvlang.operators import (
    BlockDiagonal,
    Dense,
    Diagonal,
    EigenBasis,
    Identity,
    Kronecker,
    MatrixFree,
    Operator,
    PerOutput,
    Sum,
    added,
    projected,
    scaled,
    stacked,
)
from curvlang.operators.low_rank import LowRank
from curvlang.runtime.prepare import Preparation, prepare
from curvlang.runtime.solver import FittedSolver
from curvlang.runtime.static import regularised

VALUE = 0.7316
"""The one eigenvalue of what has numbers: none that a formula would single out."""


def planned(curvatures: Sequence[Curvature], task: Task) -> tuple[Operator, ...]:
    """Every curvature with the structure that it will have, each block as small as it can be.

    What is known by its products alone has its true number of rows. The plans are those of the fit:
    what the model's layers or the memory rule out is refused here.

    Args:
        curvatures: Chains, planned as one run, and combinations.
        task: Model and data; its model need not be trained.

    Raises:
        SpecError: Where the model is not covered or a plan is refused.
        MachineError: Where a plan's memory is more than the machine has.
    """
    chains = [c for c in curvatures if isinstance(c, Chain)]
    together = iter(_chains(chains, task))
    return tuple(
        regularised(next(together), task) if isinstance(c, Chain) else _combination(c, task)
        for c in curvatures
    )


def planned_solver(solver: Solver | None, task: Task) -> FittedSolver | None:
    """A solver whose preconditioner has its structure and no numbers."""
    if solver is None or solver.preconditioner is None:
        return None if solver is None else FittedSolver(solver)
    return FittedSolver(solver, planned((solver.preconditioner,), task)[0])


def _chains(chains: Sequence[Chain], task: Task) -> list[Operator]:
    if not chains:
        return []
    prepared = task.retried(lambda: prepare(chains, task, last=True))
    return [_whole(results[-1], prepared, task) for results in prepared.chains]


def _combination(curvature: Combination, task: Task) -> Operator:
    terms = list(weighted_chains(curvature))
    weights = [weight.value({DECAY: task.weight_decay}) for weight, _ in terms]
    found = _chains([chain for _, chain in terms], task)
    whole = added([scaled(w, x) for w, x in zip(weights, found, strict=True)])
    return whole if states_decay(curvature) else regularised(whole, task)


def _whole(result: Result, prepared: Preparation, task: Task) -> Operator:
    """The operator of a result, the blocks of other parameters beside it."""
    made = {
        block.geometry.name: list(_blocks(part, block, task))
        for part in result.parts
        for block in prepared.plan_of(part).blocks
    }
    if result.partition == Partition.MODEL:
        return made["model"][0]
    layers = prepared.blocks[result.partition]
    names = tuple(name for layer in layers for name in layer.names)
    blocks = tuple(x for layer in layers for x in made[layer.name])
    places = torch.arange(sum(x.size for x in blocks)).split([x.size for x in blocks])
    return BlockDiagonal(names, blocks, tuple(places))


def _blocks(result: Result, block: BlockPlan, task: Task) -> Iterator[Operator]:
    """The operator of a block; blocks of one shape as one where their structure stacks."""
    shape, rows = block.results[result.value].shape, block.geometry.rows
    made = [_operator(shape, rows, task) for _ in range(block.count)]
    together = stacked(made)
    yield from made if together is None else [together]


def _operator(shape: shapes.Shape, size: int, task: Task) -> Operator:
    one = torch.full((1, 1), VALUE, dtype=torch.float64)
    match shape:
        case shapes.IdentityShape():
            return Identity(one[0, 0], 1)
        case shapes.DiagonalShape():
            return Diagonal(one[0])
        case shapes.KroneckerShape():
            return Kronecker(one, one)
        case shapes.EigenBasisShape():
            return EigenBasis(None, None, one)
        case shapes.BlocksShape(unit=unit):
            return PerOutput(one[None], unit)
        case shapes.LowRankShape():
            return LowRank(torch.ones_like(one), one[0], one.new_zeros(()))
        case shapes.LeafShape() | shapes.GramShape() | shapes.DenseShape():
            return Dense(one)
        case shapes.ProductShape():
            return MatrixFree(torch.clone, size, torch.float64, task.device)
        case shapes.SumShape(terms=terms):
            return Sum(tuple(_operator(term, size, task) for term in terms))
        case shapes.ProjectedShape(inner=inner, bases=bases):
            known = [None if basis is None else torch.ones_like(one) for basis in bases]
            left, right = (*known, None)[:2]
            return projected(_operator(inner, size, task), left, right)
        case _:
            assert_never(shape)
