"""Kronecker approximations of one layer's block from their definitions, in numpy, one example at a time.

Everything starts from the layer's gradient matrices: `M[n][r]` of shape [O, I] (the bias is the last
input column), column r of the loss-curvature factor of example n pulled back to the layer by plain
automatic differentiation. Nothing here comes from `curvlang`.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from tests.oracles import dense

Columns = list[list[np.ndarray]]


def places(model: nn.Module, layer: str) -> np.ndarray:
    """Positions in θ of a linear layer's entries as a matrix [O, I], the bias as its last column."""
    start, where = 0, {}
    for name, p in dense.trainable(model).items():
        where[name] = np.arange(start, start + p.numel()).reshape(tuple(p.shape))
        start += p.numel()
    weight = where[f"{layer}.weight"]
    bias = where.get(f"{layer}.bias")
    return weight if bias is None else np.concatenate([weight, bias[:, None]], axis=1)


def columns(model: nn.Module, loss: str, X, y, layer: str, empirical: bool = False) -> Columns:
    """`M[n][r]`: exact columns from any factor S Sᵀ = Λ, or the gradient at the true label."""
    at = places(model, layer)
    if empirical:
        rows = dense.per_example_gradients(model, loss, X, y).numpy()
        return [[row[at]] for row in rows]
    J = dense.jacobian(model, X).numpy()
    f = torch.stack([dense.output(model, dense.flat(model), x) for x in X])
    out = []
    for jacobian, curvature in zip(J, dense.loss_hessian(loss, f, y).numpy(), strict=True):
        values, vectors = np.linalg.eigh(curvature)
        factor = vectors * np.sqrt(np.clip(values, 0, None))
        out.append([(jacobian.T @ factor[:, r])[at] for r in range(factor.shape[1])])
    return out


def inputs(model: nn.Module, X, layer: str) -> list[np.ndarray]:
    """The layer's inputs of each example, [T, I], the bias's 1 included."""
    seen: list[torch.Tensor] = []
    module = model.get_submodule(layer)
    handle = module.register_forward_hook(lambda _, given, __: seen.append(given[0].detach()))
    for x in X:
        model(x[None])
    handle.remove()
    out = []
    for x in seen:
        rows = x.reshape(-1, x.shape[-1]).numpy()
        ones = np.ones((len(rows), 1))
        out.append(rows if module.bias is None else np.concatenate([rows, ones], axis=1))
    return out


def mean_over_examples(M: Columns, function):
    total = 0.0
    for example in M:
        for column in example:
            total = total + function(column)
    return total / len(M)


def block(M: Columns) -> np.ndarray:
    """The Gauss–Newton block (1/N) Σ vec(M) vec(M)ᵀ, row-major over (o, i)."""
    return mean_over_examples(M, lambda m: np.outer(m.reshape(-1), m.reshape(-1)))


def moments(M: Columns) -> tuple[np.ndarray, np.ndarray]:
    """E[M Mᵀ] over outputs and E[Mᵀ M] over inputs."""
    return mean_over_examples(M, lambda m: m @ m.T), mean_over_examples(M, lambda m: m.T @ m)


def trace_restricted(M: Columns) -> np.ndarray:
    """δ (Ψ ⊗ Φ) with unit-trace factors and δ the block's trace."""
    left, right = moments(M)
    delta = np.trace(block(M))
    return delta * np.kron(left / np.trace(left), right / np.trace(right))


def root(matrix: np.ndarray, exponent: float) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    kept = values > 1e-13 * values.max()
    powers = np.where(kept, np.where(kept, values, 1.0) ** exponent, 0.0)
    return (vectors * powers) @ vectors.T


def second_moment_roots(M: Columns, exponent: float = 0.5) -> np.ndarray:
    """E[M Mᵀ]^p ⊗ E[Mᵀ M]^p, brought to the block's scale by its trace."""
    left, right = moments(M)
    return np.kron(root(left, exponent), root(right, exponent)) * np.trace(left) ** (
        1 - 2 * exponent
    )


def corrected(M: Columns) -> np.ndarray:
    """Second moments in the eigenbasis of E[M Mᵀ] and E[Mᵀ M]."""
    left, right = moments(M)
    U, V = np.linalg.eigh(left)[1], np.linalg.eigh(right)[1]
    S = mean_over_examples(M, lambda m: (U.T @ m @ V) ** 2)
    basis = np.kron(U, V)
    return (basis * S.reshape(-1)) @ basis.T


def inputs_alone(a: list[np.ndarray], outputs: int, reduce: bool = False) -> np.ndarray:
    """I ⊗ A."""
    if reduce:
        a = [x.mean(0, keepdims=True) for x in a]
    A = sum(np.outer(row, row) for x in a for row in x) / sum(len(x) for x in a)
    return np.kron(np.eye(outputs), A)


def per_output(M: Columns) -> np.ndarray:
    """The block without its entries between different outputs."""
    outputs = M[0][0].shape[0]
    tied = np.kron(np.eye(outputs), np.ones((M[0][0].shape[1],) * 2))
    return block(M) * tied


def rearranged(matrix: np.ndarray, outputs: int) -> np.ndarray:
    """Van Loan & Pitsianis: rows (o, o'), columns (i, i')."""
    size = len(matrix) // outputs
    return (
        matrix.reshape(outputs, size, outputs, size)
        .transpose(0, 2, 1, 3)
        .reshape(outputs**2, size**2)
    )


def nearest(matrix: np.ndarray, outputs: int) -> np.ndarray:
    """The Frobenius-nearest Kronecker product, from the first singular pair of the rearrangement."""
    size = len(matrix) // outputs
    left, values, right = np.linalg.svd(rearranged(matrix, outputs))
    return values[0] * np.kron(left[:, 0].reshape(outputs, outputs), right[0].reshape(size, size))
