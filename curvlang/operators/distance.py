"""‖C − D‖_F for pairs of structures, with differences taken before products.

Expanding ‖X‖² − 2⟨X,Y⟩ + ‖Y‖² loses everything to rounding where X and Y are close. The rules fill
the table that `Operator.distance` reads; a rule gives None where a pair has too little in common.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from curvlang.operators.basic import Diagonal, Identity
from curvlang.operators.block_diagonal import BlockDiagonal, aligned
from curvlang.operators.kronecker import EigenBasis, Kronecker, PerOutput
from curvlang.operators.operator import DistanceRule, Operator
from curvlang.operators.projected import Projected
from curvlang.operators.stacked import Stacked, mapped


def kronecker_distance(a: Kronecker, b: Kronecker) -> Tensor | None:
    """‖A⊗B − C⊗D‖² = ‖E‖²‖B‖² + ‖C‖²‖(B−D) + αB‖², with A − C = αC + E and ⟨E, C⟩ = 0.

    Both terms are squares, so that nothing cancels also where a factor moved from one side to the
    other (A = cC, D = cB are the same matrix): the cross term of the expansion without α would.
    """
    if a.left.shape != b.left.shape:
        return None
    first, second = a.left - b.left, a.right - b.right
    size = b.left.square().sum()
    alpha = torch.where(size > 0, (first * b.left).sum() / size, 0.0)
    rest = (first - alpha * b.left).norm() * a.right.norm()
    return torch.hypot(rest, b.left.norm() * (second + alpha * a.right).norm())


def rotated_distance(a: EigenBasis, b: Kronecker) -> Tensor:
    """‖(U⊗V) diag(S) (U⊗V)ᵀ − A⊗B‖² = ‖S − α βᵀ‖² + ‖A′⊗B′‖² off the diagonal, A′ = UᵀAU, B′ = VᵀBV.

    α, β are the diagonals of A′ and B′; what is off the diagonal of their product is
    ‖A′ off‖²‖B′‖² + ‖α‖²‖B′ off‖², sums of squares again.
    """
    left, right = _rotated(b.left, a.left), _rotated(b.right, a.right)
    alpha, beta = left.diagonal(), right.diagonal()
    off = torch.hypot(
        (left - torch.diag(alpha)).norm() * right.norm(),
        alpha.norm() * (right - torch.diag(beta)).norm(),
    )
    return torch.hypot((a.spectrum - torch.outer(alpha, beta)).norm(), off)


def _rotated(matrix: Tensor, basis: Tensor | None) -> Tensor:
    return matrix if basis is None else basis.T @ matrix @ basis


def spectra_distance(a: EigenBasis, b: EigenBasis) -> Tensor | None:
    """‖S − T‖ in one eigenbasis."""
    if a.left is not b.left or a.right is not b.right:
        return None
    return (a.spectrum - b.spectrum).norm()


def per_output_distance(a: PerOutput, b: PerOutput) -> Tensor | None:
    """(Σ_o ‖A_o − B_o‖²)^½."""
    if a.axis != b.axis or a.blocks.shape != b.blocks.shape:
        return None
    return (a.blocks - b.blocks).norm()


def projected_distance(a: Projected, b: Projected) -> Tensor | None:
    """‖A − B‖² inside the common space, (c − d)² for every direction outside it."""
    if not a.same_space(b):
        return None
    outside = (a.complement - b.complement).square() * (a.size - a.inner.size)
    return (a.inner.distance(b.inner).square() + outside).sqrt()


def diagonal_distance(a: Operator, b: Operator) -> Tensor:
    """‖diag A − diag B‖."""
    return (a.diagonal() - b.diagonal()).norm()


def block_distance(a: BlockDiagonal, b: BlockDiagonal) -> Tensor | None:
    """(Σ_b ‖A_b − B_b‖²)^½ over the blocks."""
    if not a.same_blocks(b):
        return None
    one, other = aligned([a, b])
    parts = [x.distance(y) for x, y in zip(one.parts, other.parts, strict=True)]
    return torch.stack(parts).norm()


def stacked_distance(a: Stacked, b: Stacked) -> Tensor | None:
    """(Σ_g ‖A_g − B_g‖²)^½ over the blocks held as one."""
    if a.count != b.count:
        return None
    return mapped(Operator.distance, (a.stack, b.stack), a.groups).norm()


RULES: Mapping[tuple[type[Operator], type[Operator]], DistanceRule] = {
    (Kronecker, Kronecker): kronecker_distance,
    (EigenBasis, EigenBasis): spectra_distance,
    (EigenBasis, Kronecker): rotated_distance,
    (Kronecker, EigenBasis): lambda a, b: rotated_distance(b, a),
    (PerOutput, PerOutput): per_output_distance,
    (Projected, Projected): projected_distance,
    (Diagonal, Diagonal): diagonal_distance,
    (Diagonal, Identity): diagonal_distance,
    (Identity, Diagonal): diagonal_distance,
    (Identity, Identity): diagonal_distance,
    (BlockDiagonal, BlockDiagonal): block_distance,
    (Stacked, Stacked): stacked_distance,
}
"""The rule of each pair of structures; all other pairs are compared entry by entry."""
