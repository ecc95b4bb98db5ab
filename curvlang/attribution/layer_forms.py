"""C⁻¹ cut into its layers' blocks, and what of a block is diagonal in which basis.

A multiple of the identity and a diagonal of the whole matrix are direct sums of those of the layers, whatever
else the chain says of blocks; sums and multiples are cut term by term.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from curvlang.attribution.score_orders import one_number
from curvlang.models.tracing.blocks import LayerBlock, apart
from curvlang.operators import (
    BlockDiagonal,
    Diagonal,
    EigenBasis,
    Identity,
    MatrixFree,
    Operator,
    Scaled,
    Spectral,
    Stacked,
    Sum,
)
from curvlang.storage.repeated import of_once


def splits(operator: Operator) -> bool:
    """Whether an operator may be a direct sum over layers or parameters, each of which has its own products."""
    match operator:
        case BlockDiagonal(parts=parts):
            return not all(isinstance(x, MatrixFree) and x.block is not None for x in parts)
        case Identity() | Diagonal():
            return True
        case Scaled(operator=inner):
            return splits(inner)
        case Sum(terms=terms):
            return all(map(splits, terms))
        case _:
            return False


def layers_for(operator: Operator, layers: Sequence[LayerBlock]) -> tuple[LayerBlock, ...] | None:
    """The layers' blocks, as many of them as one as in the operator; None where they are others."""
    match operator:
        case BlockDiagonal():
            return _of_parts(operator, layers)
        case Scaled(operator=inner):
            return layers_for(inner, layers)
        case Sum(terms=terms):
            found: tuple[LayerBlock, ...] | None = tuple(layers)
            for term in terms:
                found = None if found is None else layers_for(term, found)
            return found
        case _:
            return tuple(layers)


def _of_parts(
    operator: BlockDiagonal, layers: Sequence[LayerBlock]
) -> tuple[LayerBlock, ...] | None:
    """The blocks of the parts.

    A layer's weight that was a block of its own where it was fitted may have its entries in another order.
    """
    if {name for layer in layers for name in layer.names} != set(operator.names):
        return None
    together = {layer.names: layer for layer in layers}
    places = {names: index for names, _, index in operator.named_parts()}
    left = [layer for layer in layers if layer.names not in places]
    found = together | {own.names: own for layer in left for own in apart(layer)}
    if not set(places) <= set(found):
        return None
    same = all(found[names].where.same(own) for names, own in places.items())
    return tuple(found[names] for names in places) if same else None


def split(operator: Operator, layers: Sequence[LayerBlock]) -> list[Operator] | None:
    """The part of an operator on every layer's block; None where it is not a direct sum over them.

    Args:
        operator: On all parameters.
        layers: Blocks that hold every parameter once, of `layers_for`.
    """
    match operator:
        case BlockDiagonal():
            known = {names: part for names, part, _ in operator.named_parts()}
            names = [b.names for b in layers]
            return [known[x] for x in names] if set(names) == set(known) else None
        case Identity(scale=scale):
            return [Identity(scale, b.size) for b in layers]
        case Diagonal(entries=entries):
            return [Diagonal(entries[b.index]) for b in layers]
        case Scaled(factor=factor, operator=inner):
            found = split(inner, layers)
            return None if found is None else [Scaled(factor, x) for x in found]
        case Sum(terms=terms):
            parts = [split(term, layers) for term in terms]
            cut = [x for x in parts if x is not None]
            if len(cut) < len(parts):
                return None
            return [Sum(tuple(column)) for column in zip(*cut, strict=True)]
        case _:
            return None


def block_shape(layer: LayerBlock) -> tuple[int, ...]:
    """Of a gradient of the layer's block: [O, I], or [G, O, I] of G blocks of one shape."""
    own = layer.d_out, layer.d_in
    return own if layer.count == 1 else (layer.count, *own)


@dataclass(frozen=True, slots=True, eq=False)
class Form:
    """`(U ⊗ V) diag(S) (U ⊗ V)ᵀ`.

    Args:
        left: U over outputs; None for the identity.
        right: V over inputs; None for the identity.
        spectrum: S [O, I], or [G, O, I]; a view of one number where all its entries are the same one.
    """

    left: Tensor | None
    right: Tensor | None
    spectrum: Tensor

    @property
    def constant(self) -> bool:
        """Whether it is a multiple of the identity, which is that in every basis."""
        return self.left is None and self.right is None and one_number(self.spectrum)

    def to(self, dtype: torch.dtype) -> Form:
        """In another precision."""

        def there(x: Tensor) -> Tensor:
            return x.to(dtype)

        left, right = (None if x is None else of_once(there, x) for x in (self.left, self.right))
        return Form(left, right, self.mapped(there).spectrum)

    def mapped(self, function: Spectral) -> Form:
        """A function of the entries; one number stays one, however large the layer."""
        S = self.spectrum
        if self.constant:
            one = S[(slice(1),) * S.ndim]
            return Form(None, None, function(one).expand(S.shape))
        return Form(self.left, self.right, function(S))


def form_of(part: Operator, shape: tuple[int, ...]) -> Form | None:
    """A block in the Kronecker basis in which it is diagonal; None where there is none at hand.

    Args:
        part: The block, or several of one shape.
        shape: Of a gradient, [O, I] or [G, O, I].
    """
    match part:
        case Stacked(stack=stack):
            return form_of(stack, shape)
        case EigenBasis(left=left, right=right, spectrum=spectrum):
            return Form(left, right, spectrum)
        case Identity(scale=scale):
            return Form(None, None, scale.reshape(-1, *[1] * (len(shape) - 1)).expand(shape))
        case Diagonal(entries=entries):
            return Form(None, None, entries.reshape(shape))
        case Scaled(factor=factor, operator=inner):
            found = form_of(inner, shape)
            return None if found is None else found.mapped(lambda s: factor * s)
        case Sum(terms=terms):
            forms = [form_of(term, shape) for term in terms]
            known = [x for x in forms if x is not None]
            return _added(known) if len(known) == len(forms) else None
        case _:
            return None


def _added(forms: Sequence[Form]) -> Form | None:
    """Spectra of one basis added up; None where the bases differ."""
    based = [x for x in forms if not x.constant] or forms[:1]
    left, right = based[0].left, based[0].right
    if any(x.left is not left or x.right is not right for x in based):
        return None
    total = forms[0].spectrum
    for x in forms[1:]:
        total = total + x.spectrum
    return Form(left, right, total)
