"""The coordinates outside which a curvature's inverse is zero, and gradients of examples in them.

With C⁻¹ = B M Bᵀ and BᵀB = I, products of solved gradients are those of Bᵀ∇ and M: `∇m_qᵀ C⁻¹ ∇ℓ_n = (Bᵀ∇m_q)ᵀ M (Bᵀ∇ℓ_n)`.
For a layer with B = R ⊗ P, Bᵀ∇ℓ_n = Σ_t (Rᵀe[n,t]) (Pᵀa[n,t])ᵀ: the layer's gradient is never formed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from curvlang.attribution.blocks import ScoredBlock, scored_blocks
from curvlang.attribution.gradients import gradient_batches
from curvlang.attribution.passes import BatchLoad, leaf_batches
from curvlang.attribution.score_orders import formed_gradients
from curvlang.models.layers import Input
from curvlang.models.losses.loss import Loss
from curvlang.models.padding.spans import in_order
from curvlang.models.task import Task
from curvlang.operators import BlockDiagonal, Diagonal, LowRank, Operator, Projected
from curvlang.operators.places import Places


@dataclass(frozen=True, slots=True, eq=False)
class Projection:
    """Gradients in the coordinates of C⁻¹: all parameters where it has no others.

    Args:
        operator: C⁻¹, whose parts are zero outside their coordinates.
        inverse: M, C⁻¹ of the coordinates.
        layers: The parts with their layers; None where C⁻¹ is not of blocks by layer.
    """

    operator: Operator
    inverse: Operator
    layers: tuple[ScoredBlock, ...] | None

    @property
    def whole(self) -> bool:
        """Whether the coordinates are all parameters."""
        return not has_coordinates(self.operator)

    @property
    def size(self) -> int:
        """How many coordinates there are."""
        return self.inverse.size

    def rows(self, task: Task, loss: Loss, part: str, within: range | None = None) -> Tensor:
        """Gradients of a loss on some examples of a part, [B, K].

        Args:
            task: The examples.
            loss: Of which gradients are taken.
            part: `train` or `query`.
            within: Which examples; all where not given.
        """
        if self.layers is None:
            found = gradient_batches(task, loss, part, within)
            return torch.cat([_into(self.operator, v) for v in found])
        places: list[slice | Tensor] = []
        rows: list[Tensor] = []
        load = BatchLoad(max(_formed(x) for x in self.layers))
        shown = leaf_batches(task, loss, [x.layer for x in self.layers], part, load, within)
        for own, leaves in shown:
            places.append(own)
            rows.append(torch.cat([_shown(x, *leaves[x.layer.name]) for x in self.layers], 1))
        return in_order(places, rows)


def projection_of(inverse: Operator, task: Task) -> Projection | None:
    """The coordinates of C⁻¹; None where it has some and is not zero outside them.

    Args:
        inverse: C⁻¹.
        task: The model.
    """
    if not all(map(_bounded, _units(inverse))):
        return None
    layers = scored_blocks(inverse, task)
    units = [x for own in layers for x in own.operator.units()] if layers else [*_units(inverse)]
    parts = tuple(map(_inner, units))
    ends = torch.tensor([x.size for x in parts]).cumsum(0).tolist()
    device = inverse.device
    places = [torch.arange(e - x.size, e, device=device) for e, x in zip(ends, parts, strict=True)]
    names = tuple(f"part {k}" for k in range(len(parts)))
    small = (
        parts[0] if len(parts) == 1 else BlockDiagonal(names, parts, tuple(map(Places.of, places)))
    )
    return Projection(inverse, small, layers)


def has_coordinates(planned: Operator) -> bool:
    """Whether an operator has coordinates by its structure, which is known before a fit."""
    return any(map(_narrow, _units(planned)))


def _units(operator: Operator) -> Iterator[Operator]:
    """The blocks of an operator, each by itself."""
    yield from operator.blocks if isinstance(operator, BlockDiagonal) else operator.units()


def _narrow(unit: Operator) -> bool:
    """Whether a block has coordinates of its own."""
    return isinstance(unit, Projected | LowRank)


def _bounded(unit: Operator) -> bool:
    """Whether a block is zero outside its coordinates; one without coordinates has nothing outside."""
    return not isinstance(unit, Projected | LowRank) or not bool(unit.complement.any())


def _inner(unit: Operator) -> Operator:
    match unit:
        case Projected(inner=inner):
            return inner
        case LowRank(values=values):
            return Diagonal(values)
        case _:
            return unit


def _into(unit: Operator, v: Tensor) -> Tensor:
    """Gradients [B, O·I] in the coordinates of a block, [B, K]; or of all blocks, one behind the other."""
    match unit:
        case Projected():
            return unit.into(v.to(unit.dtype).T).T
        case LowRank(basis=basis):
            return v.to(unit.dtype) @ basis
        case BlockDiagonal(blocks=blocks, index=index):
            pairs = zip(blocks, index, strict=True)
            return torch.cat([_into(x, v[:, own]) for x, own in pairs], 1)
        case _:
            return v.to(unit.dtype)


def _shown(x: ScoredBlock, a: Input, e: Tensor) -> Tensor:
    """Gradients in a layer's coordinates, from its inputs and output gradients, [B, K]."""
    own = x.operator
    if isinstance(own, Projected) and x.layer.count == 1:
        left, right = (None if s is None else s.to(e.dtype) for s in (own.left, own.right))
        seen = ScoredBlock(x.layer, left, right, None, own)
        return formed_gradients(*seen.rotated(a, e)).flatten(1)
    found = formed_gradients(a, e)
    by_unit = found.flatten(1).reshape(len(found), own.count, -1)
    return torch.cat([_into(u, by_unit[:, k]) for k, u in enumerate(own.units())], 1)


def _formed(x: ScoredBlock) -> int:
    """Numbers of an example that are formed at once of a layer."""
    own = x.operator
    if isinstance(own, Projected) and x.layer.count == 1:
        return max(own.inner.size, x.layer.positions * sum(n for _, n in own.shapes))
    return x.layer.size
