"""Blocks of C⁻¹ with the layers they belong to, and what of a layer meets them in which basis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from curvlang.attribution.layer_forms import block_shape, form_of, layers_for, split, splits
from curvlang.attribution.score_orders import formed_gradients, rotates_back
from curvlang.models.layers import Input, OneHot
from curvlang.models.partitions.of_operator import candidates
from curvlang.models.task import Task
from curvlang.models.tracing.blocks import LayerBlock
from curvlang.operators import Operator
from curvlang.storage.repeated import again, once, repeats


@dataclass(frozen=True, slots=True, eq=False)
class ScoredBlock:
    """A block of C⁻¹ with the layer that it belongs to.

    Args:
        layer: The layer's block.
        left: U over outputs; None for the identity.
        right: V over inputs; None for the identity.
        spectrum: S [O, I], or [G, O, I]; None where C⁻¹ has another structure.
        operator: C⁻¹ of the block.
        operands: What changes of basis take their operands in, where that is less than they come in.
    """

    layer: LayerBlock
    left: Tensor | None
    right: Tensor | None
    spectrum: Tensor | None
    operator: Operator
    operands: torch.dtype | None = None

    @property
    def by_leaves(self) -> bool:
        """Whether inputs and output gradients are less than the gradient, and scores follow from them."""
        return self.spectrum is not None and self.layer.positions == self.layer.count == 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a gradient: [O, I], or [G, O, I]."""
        return block_shape(self.layer)

    def seen(self, a: Input, e: Tensor, in_basis: bool) -> tuple[Input, Tensor]:
        """Inputs and output gradients as queries want them."""
        if in_basis:
            return self.rotated(a, e)
        return a, e

    def rotated(self, a: Input, e: Tensor) -> tuple[Input, Tensor]:
        """Inputs [B, T, I] and output gradients [B, T, O] in the basis."""
        if self.layer.count > 1:
            assert isinstance(a, Tensor)
            a = a if self.right is None else self._of_groups(a, self.right)
            return a, e if self.left is None else self._of_groups(e, self.left)
        if self.right is not None:
            if self.operands is None or isinstance(a, OneHot):
                a = torch.einsum("nti,ik->ntk", a, self.right)
            else:
                a = self._product(a, self.right)
        # With one position inputs and output gradients are kept as they are, and indices written out.
        if isinstance(a, OneHot) and self.layer.positions == 1:
            a = a.dense()
        return a, e if self.left is None else self._product(e, self.left)

    def _of_groups(self, x: Tensor, basis: Tensor) -> Tensor:
        """[G, B, T, I] in the basis [G, I, K] of each group: one product a group, with a copy of no basis.

        Where both are the same for all groups, it is one product.
        """
        if repeats(x) and repeats(basis):
            return again(self._of_groups(once(x), once(basis)), len(x))
        return self._product(x.flatten(1, 2), basis).unflatten(1, x.shape[1:3])

    def _product(self, x: Tensor, basis: Tensor) -> Tensor:
        """In the precision of the operands, as wide as before."""
        if self.operands is None:
            return x @ basis
        return (x.to(self.operands) @ basis.to(self.operands)).to(x.dtype)

    def formed(self, a: Input, e: Tensor) -> Tensor:
        """Gradients of inputs and output gradients in the basis, as wide as these or as the operands."""
        if self.operands is None or isinstance(a, OneHot):
            return formed_gradients(a, e)
        return formed_gradients(a.to(self.operands), e.to(self.operands))

    def rotates_back(self, queries: int, examples: int) -> bool:
        """Whether queries leave the basis, by `score_orders.rotates_back`."""
        if self.left is None or self.right is None:
            return False
        sizes = self.left.shape[-1], self.right.shape[-1]
        return rotates_back(queries, examples, self.layer.positions, *sizes)

    def back(self, gradients: Tensor) -> Tensor:
        """Gradients [Q, *shape] of the basis as the layer has them, in their place."""
        assert self.left is not None
        assert self.right is not None
        kind = self.operands or gradients.dtype
        left, right = self.left.to(kind), self.right.mT.to(kind)
        for g in gradients:
            g.copy_(left @ g.to(kind) @ right)
        return gradients

    def preconditioned(self, gradients: Tensor) -> Tensor:
        """C⁻¹ in the basis applied to gradients [Q, *shape]; in their place where it is diagonal."""
        if self.spectrum is not None:
            return gradients.mul_(self.spectrum)
        flat = gradients.flatten(1).to(self.operator.dtype)
        return (self.operator @ flat.T).T.reshape(gradients.shape).to(gradients.dtype)


def scored_blocks(operator: Operator, task: Task) -> tuple[ScoredBlock, ...] | None:
    """The blocks of C⁻¹ with their layers; None where C⁻¹ does not split over blocks of the model."""
    for blocks in candidates(operator, task) if splits(operator) else ():
        layers = layers_for(operator, blocks)
        parts = None if layers is None else split(operator, layers)
        if layers is not None and parts is not None:
            pairs = zip(layers, parts, strict=True)
            return tuple(_scored(layer, part, task) for layer, part in pairs)
    return None


def _scored(layer: LayerBlock, part: Operator, task: Task) -> ScoredBlock:
    found = form_of(part, block_shape(layer))
    if found is None or not _fits(layer, found.left, found.right):
        return ScoredBlock(layer, None, None, None, part)
    found = found.to(task.precision)
    return ScoredBlock(layer, found.left, found.right, found.spectrum, part, basis_operands(task))


def scored_in(task: Task) -> torch.dtype:
    """What a task says of the products of queries with training examples, or what both come in."""
    return task.precision if task.policy is None else task.policy.scored


def basis_operands(task: Task) -> torch.dtype | None:
    """In what changes of basis are computed: narrow where passes and products both are."""
    policy = task.policy
    if policy is None or policy.operands != policy.scored:
        return None
    return policy.operands


def _fits(layer: LayerBlock, left: Tensor | None, right: Tensor | None) -> bool:
    """Whether bases are those of the layer's sides.

    They are not where queries have shown, after the fit, that the layer does not read every batch as one
    layer: its gradient is then a row over its parameters, and C⁻¹ is applied to it as it is.
    """
    *_, outputs, inputs = block_shape(layer)
    sides = ((left, outputs), (right, inputs))
    return all(x is None or x.shape[-2] == count for x, count in sides)


def whole_blocks(inverse: Operator, task: Task) -> tuple[ScoredBlock, ...]:
    """The layers under a C⁻¹ that is one matrix: a score is the sum of their products all the same."""
    return tuple(ScoredBlock(b, None, None, None, inverse) for b in task.blocks())


def largest_gradient(given: Sequence[ScoredBlock]) -> int:
    """Numbers in the largest gradient of the blocks whose gradients are formed."""
    return max((x.layer.size for x in given if not x.by_leaves), default=0)
