"""Every structure, small, in float64: what every verb's test runs over."""

from __future__ import annotations

import torch
from torch import Tensor

from curvlang.operators import (
    BlockDiagonal,
    CholeskyInverse,
    Dense,
    Diagonal,
    Eigen,
    EigenBasis,
    Gram,
    Identity,
    Kronecker,
    LowRank,
    MatrixFree,
    Operator,
    PerOutput,
    PerOutputEigen,
    Projected,
    Scaled,
    Sum,
    low_rank,
)


def spd(n: int, generator: torch.Generator, condition: float = 1e3) -> Tensor:
    """A symmetric positive definite matrix with a given condition number."""
    q = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64)).Q
    s = torch.logspace(0, -torch.log10(torch.tensor(condition)).item(), n, dtype=torch.float64)
    return (q * s) @ q.T


def zoo(seed: int, o: int = 3, i: int = 4, condition: float = 1e3) -> dict[str, Operator]:
    """One operator per structure, all of size o·i."""
    g = torch.Generator().manual_seed(seed)
    randn = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    p = o * i
    u, v = (torch.linalg.qr(randn(n, n)).Q.contiguous() for n in (o, i))
    spectrum = randn(o, i).abs() + 0.1
    indefinite = randn(p, p)
    blocks_i = torch.stack([spd(i, g, condition) for _ in range(o)])
    blocks_o = torch.stack([spd(o, g, condition) for _ in range(i)])
    kron = Kronecker(spd(o, g, condition), spd(i, g, condition))
    perm = torch.randperm(p, generator=g)
    cut = max(1, p // 2)
    parts: list[Operator] = [Dense(spd(cut, g, condition))]
    if p > cut:
        parts.append(Diagonal(randn(p - cut).abs() + 0.1))
    index = tuple(t for t in (perm[:cut], perm[cut:]) if len(t))
    one = torch.tensor(0.7, dtype=torch.float64)
    eigen = torch.linalg.eigh(indefinite + indefinite.T)
    peig = torch.linalg.eigh(blocks_i)
    return {
        "Dense": Dense((indefinite + indefinite.T) / 2),
        "Eigen": Eigen(eigen.eigenvectors, eigen.eigenvalues),
        "CholeskyInverse": CholeskyInverse(torch.linalg.cholesky(condition * spd(p, g, condition))),
        "Diagonal": Diagonal(randn(p)),
        "Identity": Identity(one, p),
        "Kronecker": kron,
        "Kronecker singular": Kronecker(torch.outer(u[0], u[0]), spd(i, g, condition)),
        "EigenBasis": EigenBasis(u, v, spectrum),
        "EigenBasis left": EigenBasis(u, None, spectrum),
        "EigenBasis right": EigenBasis(None, v, spectrum),
        "PerOutput": PerOutput(blocks_i),
        "PerInput": PerOutput(blocks_o, "input"),
        "PerOutputEigen": PerOutputEigen(peig.eigenvectors, peig.eigenvalues),
        "LowRank": low_rank(randn(p, max(1, p // 3)), randn(max(1, p // 3))),
        "LowRank complement": LowRank(torch.linalg.qr(randn(p, 1)).Q, randn(1), one),
        "Gram wide": Gram(randn(p, p + 3)),
        "Gram thin": Gram(randn(p, max(1, p - 2))),
        **_projections(o, i, g, condition),
        "Scaled": Scaled(-0.3, kron),
        "Sum shifted": Sum((kron, Identity(one, p))),
        "Sum shared": Sum((EigenBasis(u, v, spectrum), EigenBasis(u, v, 2 * spectrum))),
        "Sum shared shifted": Sum(
            (EigenBasis(u, v, spectrum), Identity(one, p), EigenBasis(u, v, 2 * spectrum))
        ),
        "Sum mixed": Sum((Scaled(0.9, kron), Scaled(0.1, Diagonal(randn(p).abs())))),
        "Sum diagonal": Sum((Diagonal(randn(p)), Diagonal(randn(p)), Identity(one, p))),
        "BlockDiagonal": BlockDiagonal(("x", "y")[: len(parts)], tuple(parts), index),
        "Sum blocks": Sum(
            (
                BlockDiagonal(("x", "y")[: len(parts)], tuple(parts), index),
                BlockDiagonal(("x", "y")[: len(parts)], tuple(parts), index),
                Identity(one, p),
            )
        ),
        "MatrixFree": MatrixFree(kron.apply, p, torch.float64, torch.device("cpu")),
    }


def _projections(o: int, i: int, g: torch.Generator, condition: float) -> dict[str, Operator]:
    """Projected structures of size o·i: each inner structure, each side, with and without c."""
    randn = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    m, k = max(1, o - 1), max(1, i - 2)
    left, right = (torch.linalg.qr(randn(a, b)).Q.contiguous() for a, b in ((o, m), (i, k)))
    zero, one = torch.zeros((), dtype=torch.float64), torch.tensor(0.7, dtype=torch.float64)
    kron = Kronecker(spd(m, g, condition), spd(k, g, condition))
    dense = Dense(spd(m * k, g, condition))
    u = torch.linalg.qr(randn(m, m)).Q.contiguous()
    blocks = torch.stack([spd(k, g, condition) for _ in range(m)])
    return {
        "Projected": Projected(kron, left, right, zero),
        "Projected complement": Projected(kron, left, right, one),
        "Projected left": Projected(Dense(spd(m * i, g, condition)), left, None, one),
        "Projected right": Projected(Dense(spd(o * k, g, condition)), None, right, zero),
        "Projected dense": Projected(dense, left, right, zero),
        "Projected eigenbasis": Projected(EigenBasis(u, None, randn(m, k)), left, right, one),
        "Projected diagonal": Projected(Diagonal(randn(m * k)), left, right, zero),
        "Projected blocks": Projected(PerOutput(blocks), left, right, one),
    }


NAMES = tuple(zoo(0))
MATRIX_FREE = "MatrixFree"
