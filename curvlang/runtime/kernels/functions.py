"""Tensor functions as torch: what `eigh`, `svd`, `inv`, `power` mean in a compiled program."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.ir.functions import FUNCTIONS, TensorFunction
from curvlang.ir.interpreter import seeded_normal, seeded_sign
from curvlang.ir.places import entries
from curvlang.operators.validation import SYMMETRY, all_finite, readable
from curvlang.runtime.kernels.einsums import gram, rotate, square_sum


def _check(matrix: Tensor, function: str) -> Tensor:
    """Refuse what no decomposition survives; return the symmetric part, of each of a stack."""
    if not all_finite(matrix):
        raise refusal(
            Code.E0312,
            f"`{function}` met a matrix with entries that are not finite",
            "look for a division by zero or an overflow in the formula"
            + (", or compute in float64" if matrix.dtype != torch.float64 else ""),
        )
    transposed = matrix.mT
    if torch.equal(matrix, transposed):
        return matrix
    if float((matrix - transposed).abs().max()) > SYMMETRY * float(matrix.abs().max()):
        raise refusal(
            Code.E0313,
            f"`{function}` needs a symmetric matrix, and this one is not",
            "write its symmetric part, `(M[i,i'] + M[i',i]) / 2`, or make it of products of one "
            "factor with itself, as in `x[i] * x[i']`; `svd` takes any matrix",
        )
    return (matrix + transposed) / 2


def _compiled(name: str, function: TensorFunction) -> Callable[..., Any]:
    """A tensor function on torch tensors: checked, and contiguous where it gives tensors."""

    def call(matrix: Tensor, *numbers: float) -> Any:
        given = _check(matrix, name) if function.symmetric else matrix
        try:
            found = function.apply(torch, given, *numbers)
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
            raise _singular(name, str(error).partition("\n")[0]) from error
        if name == "inv":
            _check_inverse(given, found[0])
        return tuple(x.contiguous() for x in found) if function.results else found

    return call


def _check_inverse(matrix: Tensor, inverse: Tensor) -> None:
    """Refuse an inverse without one right digit: the condition number in the 1-norm tells."""
    if not readable(matrix) or not matrix.numel():
        return
    condition = torch.linalg.matrix_norm(matrix, 1) * torch.linalg.matrix_norm(inverse, 1)
    worst, eps = float(condition.max()), torch.finfo(matrix.dtype).eps
    if not worst * eps < 1:
        raise _singular("inv", f"it is singular to rounding: its condition number is {worst:.1e}")


def _singular(function: str, reason: str) -> SpecError:
    return refusal(
        Code.E0344,
        f"`{function}` is not defined for this matrix",
        "add a multiple of the identity, as in `A[i,i'] + 0.01 * identity[i,i']`",
        notes=(reason,),
    )


def namespace(dtype: torch.dtype, device: torch.device) -> Mapping[str, Any]:
    """What compiled code may name, with constants made in one dtype on one device."""

    def make(function: Callable[[tuple[int, ...], float], Any]) -> Callable[..., Tensor]:
        return lambda shape, seed: torch.as_tensor(function(shape, seed)).to(device, dtype)

    return {
        "torch": torch,
        "gram": gram,
        "rotate": rotate,
        "square_sum": square_sum,
        # A bare number in the precision of the tensors it meets: torch's own default is float32.
        "number": lambda value: torch.as_tensor(value, dtype=dtype, device=device),
        **{name: _compiled(name, function) for name, function in FUNCTIONS.items()},
        "eye": lambda n: torch.eye(n, dtype=dtype, device=device),
        "random_normal": make(seeded_normal),
        "random_sign": make(seeded_sign),
        "mask": lambda name, shape, numbers: torch.as_tensor(
            entries(name, shape, numbers), dtype=dtype, device=device
        ),
    }
