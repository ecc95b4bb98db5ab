"""Tensor functions: what they take and give, what they cost, and their code. One entry adds one.

The code of an entry is written against the names that numpy and torch share, so that the
interpreter and the compiled programs need no second entry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

ELEMENTWISE = ("sqrt", "exp", "log", "abs", "max", "min")
"""Functions of numbers, applied to every entry."""

SPECTRUM = ("mean", "max", "min")
"""Reductions over a spectrum inside an inverse."""

MAKERS: Mapping[str, str] = {
    "random_normal": "independent standard normal entries, from a seed",
    "random_sign": "independent entries of 1 and -1, from a seed",
}
"""Functions that make a tensor from a seed: `random_normal[k,i](seed)`."""


@dataclass(frozen=True, slots=True)
class TensorFunction:
    """A function of a matrix; a tensor with more indices is read as one: `Y[o,i | k]`.

    Args:
        argument: `xx` for a matrix whose rows and columns run over the same spaces, `xy` for any
            matrix, `*` for a tensor as a whole. A letter stands for a group of indices.
        results: The same letters, and `k` for the space that the function makes. A function
            without results gives a number.
        apply: The code: the module (numpy or torch), the matrix, then the numbers.
        flops: Floating-point operations for a number of rows and of columns.
        doc: One line.
        numbers: How many numbers follow the matrix.
        symmetric: Whether the matrix must be symmetric. The code of such a function takes axes in
            front of the matrix, a stack of them, as they are.
        largest: Which end of the made space holds the largest values: `last` or `first`. They are
            what is kept where the space was declared shorter.
        orthonormal: Positions of the results whose columns are orthonormal.
        tall: Whether the matrix must have at least as many rows as columns.
    """

    argument: str
    results: tuple[str, ...]
    apply: Callable[..., Any]
    flops: Callable[[int, int], float]
    doc: str
    numbers: int = 0
    symmetric: bool = False
    largest: str = ""
    orthonormal: tuple[int, ...] = ()
    tall: bool = False


def _eigh(xp: ModuleType, matrix: Any) -> tuple[Any, ...]:
    values, vectors = xp.linalg.eigh(matrix)
    return vectors, values


def _svd(xp: ModuleType, matrix: Any) -> tuple[Any, ...]:
    left, values, right = xp.linalg.svd(matrix, full_matrices=False)
    return left, values, right.T


def _power(xp: ModuleType, matrix: Any, exponent: float) -> tuple[Any, ...]:
    """Power of a PSD matrix: rounding below zero is zero, the null space stays null."""
    values, vectors = xp.linalg.eigh(matrix)
    largest = xp.clip(values[..., -1:], 0.0, None)
    kept = values > largest * values.shape[-1] * xp.finfo(values.dtype).eps
    powers = xp.where(kept, xp.where(kept, values, 1.0) ** exponent, 0.0)
    return ((vectors * powers[..., None, :]) @ xp.swapaxes(vectors, -1, -2),)


def _norm(xp: ModuleType, tensor: Any) -> Any:
    """√Σx², of entries whose squares overflow or vanish too.

    Scaled by a power of two, which changes no digit of what plain squares would give.
    """
    flat = tensor.reshape(-1)
    exponent = xp.frexp(abs(flat).max() if flat.shape[0] else xp.asarray(0.0))[1]
    return xp.ldexp(xp.linalg.norm(xp.ldexp(flat, -exponent)), exponent)


def _cube(factor: float) -> Callable[[int, int], float]:
    return lambda rows, columns: factor * max(rows, columns) * min(rows, columns) ** 2


FUNCTIONS: Mapping[str, TensorFunction] = {
    "eigh": TensorFunction(
        "xx",
        ("xk", "k"),
        _eigh,
        _cube(9),
        "eigenvectors and eigenvalues of a symmetric matrix, ascending",
        symmetric=True,
        largest="last",
        orthonormal=(0,),
    ),
    "svd": TensorFunction(
        "xy",
        ("xk", "k", "yk"),
        _svd,
        _cube(22),
        "thin singular value decomposition, descending",
        largest="first",
        orthonormal=(0, 2),
    ),
    "orthonormal": TensorFunction(
        "xy",
        ("xy",),
        lambda xp, matrix: (xp.linalg.qr(matrix)[0],),
        _cube(4),
        "orthonormal columns that span the columns of a matrix (QR)",
        orthonormal=(0,),
        tall=True,
    ),
    "inv": TensorFunction(
        "xx",
        ("xx",),
        lambda xp, matrix: (xp.linalg.inv(matrix),),
        _cube(2),
        "inverse of a matrix",
    ),
    "power": TensorFunction(
        "xx",
        ("xx",),
        _power,
        _cube(11),
        "power of a symmetric positive semidefinite matrix",
        numbers=1,
        symmetric=True,
    ),
    "cholesky": TensorFunction(
        "xx",
        ("xx",),
        lambda xp, matrix: (xp.linalg.cholesky(matrix),),
        _cube(1 / 3),
        "lower triangular factor",
        symmetric=True,
    ),
    "trace": TensorFunction(
        "xx",
        (),
        lambda xp, matrix: xp.trace(matrix),
        lambda rows, _: rows,
        "sum of the diagonal",
    ),
    "norm": TensorFunction(
        "*",
        (),
        _norm,
        lambda rows, columns: 2 * rows * columns,
        "Frobenius norm",
    ),
}
