"""Dense curvature by plain automatic differentiation, for comparisons in float64.

Written from the definitions with plain backward passes, one example at a time: nothing here
comes from `curvlang.models`, so that a mistake there cannot agree with itself. All matrices are
[P, P] in the order of `named_parameters()` (trainable ones), each tensor row-major.

Not `torch.func.hessian`: it is `jacfwd(jacrev)`, and torch 2.13's second derivative of LayerNorm
under an inner `vmap` is wrong (it is not even symmetric).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.autograd.functional import hessian as second
from torch.autograd.functional import jacobian as first
from torch.func import functional_call
from torch.nn import functional

LossFunction = Callable[[Tensor, Tensor], Tensor]


def _cross_entropy(f: Tensor, y: Tensor) -> Tensor:
    """One example: f [C] and y [], or f [T, C] and y [T], summed over positions."""
    return functional.cross_entropy(f.reshape(-1, f.shape[-1]), y.reshape(-1), reduction="sum")


LOSSES: dict[str, LossFunction] = {
    "cross_entropy": _cross_entropy,
    "mse": lambda f, y: functional.mse_loss(f, y),
    "bce_with_logits": lambda f, y: functional.binary_cross_entropy_with_logits(f, y),
}


def trainable(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that are differentiated, in order."""
    return {k: p.detach() for k, p in model.named_parameters() if p.requires_grad}


def flat(model: nn.Module) -> Tensor:
    """θ as one vector."""
    return torch.cat([p.reshape(-1) for p in trainable(model).values()])


def _unflat(model: nn.Module, theta: Tensor) -> dict[str, Tensor]:
    pieces: dict[str, Tensor] = {}
    start = 0
    for name, p in trainable(model).items():
        pieces[name] = theta[start : start + p.numel()].reshape(p.shape)
        start += p.numel()
    return pieces


def output(model: nn.Module, theta: Tensor, x: Tensor) -> Tensor:
    """f of one example as a function of θ."""
    return functional_call(model, _unflat(model, theta), (x.unsqueeze(0),), strict=False)[0]


def example_loss(
    model: nn.Module, loss_name: str, x: Tensor, y: Tensor
) -> Callable[[Tensor], Tensor]:
    """ℓ(θ) of one example."""
    return lambda theta: LOSSES[loss_name](output(model, theta, x), y)


def hessian(model: nn.Module, loss_name: str, X: Tensor, y: Tensor) -> Tensor:
    """(1/N) Σ ∇²ℓ_n, [P, P]."""
    theta = flat(model)
    each = [second(example_loss(model, loss_name, X[n], y[n]), theta) for n in range(len(X))]
    return torch.stack(each).mean(0)


def jacobian(model: nn.Module, X: Tensor) -> Tensor:
    """∂f/∂θ, [N, F, P]."""
    theta = flat(model)
    return torch.stack([first(lambda z, x=x: output(model, z, x).reshape(-1), theta) for x in X])


def loss_hessian(loss_name: str, f: Tensor, y: Tensor) -> Tensor:
    """∇²_f ℓ for every example, [N, F, F]."""

    def one(z: Tensor, target: Tensor, shape: torch.Size) -> Tensor:
        return LOSSES[loss_name](z.reshape(shape), target)

    return torch.stack(
        [second(lambda z, n=n: one(z, y[n], f[n].shape), f[n].reshape(-1)) for n in range(len(f))]
    )


def ggn(model: nn.Module, loss_name: str, X: Tensor, y: Tensor) -> Tensor:
    """(1/N) Σ Jᵀ Λ J, [P, P]."""
    J = jacobian(model, X)
    f = torch.stack([output(model, flat(model), x) for x in X])
    return torch.einsum("ncp,ncd,ndq->pq", J, loss_hessian(loss_name, f, y), J) / len(X)


def per_example_gradients(model: nn.Module, loss_name: str, X: Tensor, y: Tensor) -> Tensor:
    """∇ℓ_n, [N, P]."""
    theta = flat(model)
    return torch.stack(
        [first(example_loss(model, loss_name, X[n], y[n]), theta) for n in range(len(X))]
    )


def empirical_fisher(model: nn.Module, loss_name: str, X: Tensor, y: Tensor) -> Tensor:
    """(1/N) Σ ∇ℓ_n ∇ℓ_nᵀ, [P, P]."""
    G = per_example_gradients(model, loss_name, X, y)
    return G.T @ G / len(G)


def layer_index(model: nn.Module, names: list[str]) -> Tensor:
    """Positions in θ of the given parameters, one after the other: for cutting out blocks."""
    start, where = 0, {}
    for name, p in trainable(model).items():
        where[name] = torch.arange(start, start + p.numel())
        start += p.numel()
    return torch.cat([where[name] for name in names])
