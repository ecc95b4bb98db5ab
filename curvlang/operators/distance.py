"""‖C − D‖_F for every pair of structures, with differences taken before products.

Expanding ‖X‖² − 2⟨X,Y⟩ + ‖Y‖² loses everything to rounding where X and Y are close.
"""

from __future__ import annotations

import torch
from torch import Tensor

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal
from curvlang.diagnostics.values import another_type
from curvlang.operators.basic import Diagonal, Identity
from curvlang.operators.combined import BlockDiagonal, aligned
from curvlang.operators.kronecker import EigenBasis, Kronecker, PerOutput
from curvlang.operators.operator import Operator, check_dense
from curvlang.operators.projected import Projected
from curvlang.operators.stacked import Stacked, mapped


def distance(a: Operator, b: Operator) -> Tensor:
    """The Frobenius norm of the difference of two operators of one size."""
    if not isinstance(b, Operator):
        raise another_type("other", b, "an operator", "another fitted curvature")
    if a.size != b.size:
        raise refusal(
            Code.E0606,
            f"operators of size {a.size} and {b.size} cannot be compared",
            "fit both on the same parameters",
        )
    match a, b:
        case Kronecker(), Kronecker() if a.left.shape == b.left.shape:
            return kronecker_distance(a, b)
        case EigenBasis(), EigenBasis() if a.left is b.left and a.right is b.right:
            return (a.spectrum - b.spectrum).norm()
        case EigenBasis(), Kronecker():
            return rotated_distance(a, b)
        case Kronecker(), EigenBasis():
            return rotated_distance(b, a)
        case PerOutput(), PerOutput() if a.axis == b.axis and a.blocks.shape == b.blocks.shape:
            return (a.blocks - b.blocks).norm()
        case Projected(), Projected() if a.same_space(b):
            rest = (a.complement - b.complement).square() * (a.size - a.inner.size)
            return (distance(a.inner, b.inner).square() + rest).sqrt()
        case ((Diagonal() | Identity()), (Diagonal() | Identity())):
            return (a.diagonal() - b.diagonal()).norm()
        case BlockDiagonal(), BlockDiagonal() if a.same_blocks(b):
            one, other = aligned([a, b])
            parts = [distance(x, y) for x, y in zip(one.parts, other.parts, strict=True)]
            return torch.stack(parts).norm()
        case Stacked(), Stacked() if a.count == b.count:
            return mapped(distance, (a.stack, b.stack)).norm()
        case _:
            check_dense(a.size)
            return (a.dense() - b.dense()).norm()


def kronecker_distance(a: Kronecker, b: Kronecker) -> Tensor:
    """‖A⊗B − C⊗D‖² = ‖E‖²‖B‖² + ‖C‖²‖(B−D) + αB‖², with A − C = αC + E and ⟨E, C⟩ = 0.

    Both terms are squares, so that nothing cancels also where a factor moved from one side to the
    other (A = cC, D = cB are the same matrix): the cross term of the expansion without α would.
    """
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
