"""EK-FAC by hand in torch, as one would write it for these models alone: the practical limit.

Hooks keep inputs and output gradients of Linear and Conv2d layers; the second pass and the scores
use those kept as long as they fit; layers with one input (queries, keys, values) share its factor.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.bench.contestants.inputs import summed_loss

BATCH = 512
KEPT = 2**29
"""Bytes of inputs and output gradients that are kept from the first pass."""

Pair = tuple[Tensor, Tensor]


@dataclass
class Fitted:
    """Bases and spectrum of every layer, and what was kept."""

    left: list[Tensor]
    right: list[Tensor]
    spectrum: list[Tensor]
    kept: list[list[Pair]] | None


def layers(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]


def captured(model: nn.Module, X: Tensor, y: Tensor) -> list[Pair]:
    """Inputs [B, T, I] with a column of ones, and output gradients [B, T, O]."""
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []

    def keep(module, given, output):
        inputs.append(given[0].detach())
        outputs.append(output)

    found = layers(model)
    handles = [m.register_forward_hook(keep) for m in found]
    with torch.enable_grad():
        loss = summed_loss(model, X, y)
    for handle in handles:
        handle.remove()
    gradients = torch.autograd.grad(loss, outputs)
    seen: dict[int, Tensor] = {}
    pairs = []
    for module, given, gradient in zip(found, inputs, gradients, strict=True):
        if id(given) not in seen:
            seen[id(given)] = _rows(module, given)
        pairs.append((seen[id(given)], _positions(gradient)))
    return pairs


def _rows(module: nn.Module, x: Tensor) -> Tensor:
    if isinstance(module, nn.Conv2d):
        x = functional.unfold(
            x, module.kernel_size, module.dilation, module.padding, module.stride
        ).mT
    x = x if x.ndim == 3 else x.unsqueeze(1)
    return x if module.bias is None else functional.pad(x, (0, 1), value=1.0)


def _positions(e: Tensor) -> Tensor:
    match e.ndim:
        case 4:
            return e.flatten(2).mT
        case 2:
            return e.unsqueeze(1)
    return e


def batches(model: nn.Module, X: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor]]:
    size = BATCH if X.ndim == 2 and X.is_floating_point() else 32
    return list(zip(X.split(size), y.split(size), strict=True))


def fit(model: nn.Module, X: Tensor, y: Tensor) -> Fitted:
    count = len(layers(model))
    A: list[Tensor | None] = [None] * count
    G: list[Tensor | None] = [None] * count
    kept: list[list[Pair]] | None = []
    held = 0
    for batch in batches(model, X, y):
        found = captured(model, *batch)
        sums: dict[int, Tensor] = {}
        for k, (a, e) in enumerate(found):
            if id(a) not in sums:
                sums[id(a)] = _gram(a)
            A[k] = _added(A[k], sums[id(a)])
            G[k] = _added(G[k], _gram(e))
        held += sum(a.nbytes + e.nbytes for a, e in found)
        if kept is not None and held <= KEPT:
            kept.append(found)
        else:
            kept = None
    known: dict[int, Tensor] = {}
    right = []
    for k, matrix in enumerate(A):
        same = next((j for j in known if torch.equal(A[j], matrix)), None)
        known[k] = known[same] if same is not None else torch.linalg.eigh(matrix)[1].float()
        right.append(known[k])
    left = [torch.linalg.eigh(g)[1].float() for g in G]
    fitted = Fitted(left, right, [], kept)
    spectrum = [torch.zeros(len(u), len(v)) for u, v in zip(left, right, strict=True)]
    for found in _leaves(fitted, model, X, y):
        for k, (a, e) in enumerate(_rotated(fitted, found)):
            if a.shape[1] == 1:
                spectrum[k].addmm_(e[:, 0].square().T, a[:, 0].square())
            else:
                spectrum[k] += (e.mT @ a).square_().sum(0)
    fitted.spectrum = [s / len(X) for s in spectrum]
    return fitted


def _gram(a: Tensor) -> Tensor:
    rows = a.flatten(0, 1)
    return (rows.T @ rows).double()


def _added(total: Tensor | None, more: Tensor) -> Tensor:
    return more.clone() if total is None else total.add_(more)


def _leaves(fitted: Fitted, model: nn.Module, X: Tensor, y: Tensor):
    if fitted.kept is not None:
        yield from fitted.kept
        return
    for batch in batches(model, X, y):
        yield captured(model, *batch)


def _rotated(fitted: Fitted, found: list[Pair]):
    for (a, e), u, v in zip(found, fitted.left, fitted.right, strict=True):
        yield a @ v, e @ u


def scores(fitted: Fitted, model: nn.Module, train: Pair, query: Pair, damping: float) -> Tensor:
    """[Q, N]"""
    parts: list[list[Tensor]] = [[] for _ in fitted.left]
    for batch in batches(model, *query):
        for k, (a, e) in enumerate(_rotated(fitted, captured(model, *batch))):
            parts[k].append(e.mT @ a)
    moved = [torch.cat(p) / (s + damping) for p, s in zip(parts, fitted.spectrum, strict=True)]
    found = []
    for leaves in _leaves(fitted, model, *train):
        total = 0
        for u, (a, e) in zip(moved, _rotated(fitted, leaves), strict=True):
            total = total + _products(u, a, e)
        found.append(total)
    return torch.cat(found).T


def _products(u: Tensor, a: Tensor, e: Tensor) -> Tensor:
    """[B, Q]"""
    Q, O, I = u.shape
    if a.shape[1] > 1:
        return (e.mT @ a).flatten(1) @ u.flatten(1).T
    B = len(a)
    if O <= I:
        inner = (a[:, 0] @ u.reshape(Q * O, I).T).reshape(B, Q, O)
        return (inner @ e[:, 0].unsqueeze(2)).squeeze(2)
    inner = (e[:, 0] @ u.transpose(0, 1).reshape(O, Q * I)).reshape(B, Q, I)
    return (inner @ a[:, 0].unsqueeze(2)).squeeze(2)
