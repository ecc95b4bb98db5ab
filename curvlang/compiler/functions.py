"""Tensor functions as torch: what `eigh`, `svd`, `inv`, `power` mean in a compiled program."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from curvlang.diagnostics.diagnostic import Diagnostic, SpecError
from curvlang.ir.interpreter import seeded_normal, seeded_sign

SYMMETRY = 1e-4
"""Relative asymmetry above which a matrix is not what rounding makes of a symmetric one."""


def _check(matrix: Tensor, function: str) -> Tensor:
    """Refuse what no decomposition survives; return the symmetric part."""
    if not bool(torch.isfinite(matrix).all()):
        raise SpecError(
            Diagnostic(
                "E0312",
                f"`{function}` met a matrix with entries that are not finite",
                help=("look for overflow in the statistics, or compute with `--dtype float64`",),
            )
        )
    transposed = matrix.T
    if float((matrix - transposed).abs().max()) > SYMMETRY * float(matrix.abs().max()):
        raise SpecError(
            Diagnostic(
                "E0313",
                f"`{function}` needs a symmetric matrix, and this one is not",
                help=("write the matrix as a sum of outer products, as in `x[i] * x[i']`",),
            )
        )
    return (matrix + transposed) / 2


def eigh(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvectors (columns) and eigenvalues, ascending."""
    values, vectors = torch.linalg.eigh(_check(matrix, "eigh"))
    return vectors.contiguous(), values


def svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Thin singular value decomposition: `U`, `s`, `V` with the matrix `U diag(s) Vᵀ`."""
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    return left.contiguous(), values, right.T.contiguous()


def inv(matrix: Tensor) -> tuple[Tensor]:
    """The inverse."""
    return (torch.linalg.inv(matrix),)


def power(matrix: Tensor, exponent: float) -> tuple[Tensor]:
    """Power of a symmetric positive semidefinite matrix; its null space stays null."""
    vectors, values = eigh(matrix)
    floor = float(values.max().clamp(min=0)) * len(values) * torch.finfo(values.dtype).eps
    kept = values > floor
    powers = torch.where(kept, torch.where(kept, values, 1.0) ** exponent, 0.0)
    return ((vectors * powers) @ vectors.T,)


def cholesky(matrix: Tensor) -> tuple[Tensor]:
    """Lower triangular factor."""
    return (torch.linalg.cholesky(_check(matrix, "cholesky")),)


def namespace(dtype: torch.dtype, device: torch.device) -> Mapping[str, Any]:
    """What compiled code may name, with constants made in one dtype on one device."""

    def make(function: Callable[[tuple[int, ...], float], Any]) -> Callable[..., Tensor]:
        return lambda shape, seed: torch.as_tensor(function(shape, seed)).to(device, dtype)

    return {
        "torch": torch,
        # A bare number in the precision of the tensors it meets: torch's own default is float32.
        "number": lambda value: torch.as_tensor(value, dtype=dtype, device=device),
        "eigh": eigh,
        "svd": svd,
        "inv": inv,
        "power": power,
        "cholesky": cholesky,
        "trace": torch.trace,
        "norm": torch.linalg.norm,
        "eye": lambda n: torch.eye(n, dtype=dtype, device=device),
        "random_normal": make(seeded_normal),
        "random_sign": make(seeded_sign),
    }
