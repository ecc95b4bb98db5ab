"""Tensor functions and their index signatures: adding one is one entry here and its code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

ELEMENTWISE = ("sqrt", "exp", "log", "abs", "max", "min")
"""Functions of numbers, applied to every entry."""

SPECTRUM = ("mean", "max", "min")
"""Reductions over a spectrum inside an inverse."""


@dataclass(frozen=True, slots=True)
class Signature:
    """What a tensor function takes and gives.

    `argument` and the `results` are strings of letters that stand for spaces: equal letters are
    equal spaces, `k` is the space the function makes. `numbers` is how many numbers follow the
    tensor. A function without results gives a scalar.
    """

    argument: str
    results: tuple[str, ...]
    numbers: int = 0
    doc: str = ""


FUNCTIONS: Mapping[str, Signature] = {
    "eigh": Signature("xx", ("xk", "k"), 0, "eigenvectors and eigenvalues of a symmetric matrix"),
    "svd": Signature("xy", ("xk", "k", "yk"), 0, "thin singular value decomposition"),
    "inv": Signature("xx", ("xx",), 0, "inverse of a matrix"),
    "power": Signature("xx", ("xx",), 1, "power of a symmetric positive semidefinite matrix"),
    "cholesky": Signature("xx", ("xx",), 0, "lower triangular factor"),
    "trace": Signature("xx", (), 0, "sum of the diagonal"),
    "norm": Signature("*", (), 0, "Frobenius norm"),
}

MAKERS: Mapping[str, str] = {
    "random_normal": "independent standard normal entries, from a seed",
    "random_sign": "independent entries of 1 and -1, from a seed",
}
"""Functions that make a tensor from a seed: `random_normal[k,i](seed)`."""
