"""K-FAC and EK-FAC of the exact Gauss-Newton matrix, all columns: ours, curvlinops, by hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import curvlang as cv
from curvlang.costs.rates import Watch
from tests.bench.contest import Results, Sizes, Turn
from tests.bench.contestants.inputs import direction, task


def ours(sizes: Sizes) -> Turn:
    made = task(sizes)

    def turn(watch: Watch) -> Results:
        kfac = cv.fit("kfac", made)
        watch("K-FAC")
        ekfac = cv.fit("ekfac", made)
        watch("EK-FAC")
        v = direction(made)
        return {"kfac": kfac @ v, "ekfac": ekfac @ v}

    return turn


def curvlinops(sizes: Sizes) -> Turn:
    from curvlinops import EKFACLinearOperator, KFACLinearOperator
    from curvlinops.kfac import FisherType, KFACType

    made = task(sizes)
    parameters = list(made.model.parameters())
    X, y = made.train
    batches = list(zip(X.split(512), y.split(512), strict=True))
    loss = nn.CrossEntropyLoss(reduction="mean")
    v = direction(made).to(made.dtype)

    def turn(watch: Watch) -> Results:
        found = {}
        for name, kind, stage in (
            ("kfac", KFACLinearOperator, "K-FAC"),
            ("ekfac", EKFACLinearOperator, "EK-FAC"),
        ):
            op = kind(
                made.model, loss, parameters, batches, fisher_type=FisherType.TYPE2,
                kfac_approx=KFACType.EXPAND, separate_weight_and_bias=False,
                check_deterministic=False,
            )  # fmt: skip
            found[name] = (op @ v).detach()
            watch(stage)
        return found

    return turn


def by_hand(sizes: Sizes) -> Turn:
    """ReLU perceptrons: columns go back through the layers as products, squares are summed over
    columns before they meet the inputs."""
    made = task(sizes)
    linears = [m for m in made.model if isinstance(m, nn.Linear)]
    X = made.train[0]

    def turn(watch: Watch) -> Results:
        with torch.no_grad():
            A, G, _ = _statistics(linears, X)
            watch("K-FAC")
            pairs = [(g / len(X), a / len(X)) for g, a in zip(G, A, strict=True)]
            found = {"kfac": _joined(linears, direction(made), [lambda m, g=g, a=a: g @ m @ a for g, a in pairs])}  # fmt: skip
            watch.restart()
            A, G, kept = _statistics(linears, X)
            applied = []
            for k, (a, g) in enumerate(zip(A, G, strict=True)):
                v, u = (torch.linalg.eigh(x)[1] for x in (a, g))
                spectrum = _spectrum([batch[k] for batch in kept], u.float(), v.float()) / len(X)
                applied.append(lambda m, u=u, v=v, s=spectrum: u @ ((u.T @ m @ v) * s) @ v.T)
            watch("EK-FAC")
            return found | {"ekfac": _joined(linears, direction(made), applied)}

    return turn


def _statistics(linears, X):
    A = [torch.zeros(x.in_features + 1, x.in_features + 1, dtype=torch.float64) for x in linears]
    G = [torch.zeros(x.out_features, x.out_features, dtype=torch.float64) for x in linears]
    kept = []
    for x in X.split(512):
        pairs = _columns(linears, x)
        kept.append(pairs)
        for k, (a, g) in enumerate(pairs):
            rows = g.flatten(0, 1)
            A[k] += a.T @ a
            G[k] += rows.T @ rows
    return A, G, kept


def _columns(linears, x: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Inputs [B, I] with a one, and columns [B, R, O] of every layer."""
    inputs = []
    for k, linear in enumerate(linears):
        x = torch.relu(x) if k else x
        inputs.append(torch.cat([x, x.new_ones(len(x), 1)], 1))
        x = linear(x)
    p = x.softmax(1)
    root = p.sqrt()
    # Λ = diag(p) − p pᵀ = L Lᵀ with L = diag(√p) − p √pᵀ.
    g = (torch.diag_embed(root) - p.unsqueeze(2) * root.unsqueeze(1)).mT
    columns = [g]
    for k in range(len(linears) - 1, 0, -1):
        g = (g @ linears[k].weight) * (inputs[k][:, :-1] > 0).unsqueeze(1)
        columns.append(g)
    return list(zip(inputs, reversed(columns), strict=True))


def _spectrum(pairs, u: Tensor, v: Tensor) -> Tensor:
    total = torch.zeros(len(u), len(v), dtype=torch.float64)
    for a, g in pairs:
        total += (g @ u).square().sum(1).T @ (a @ v).square()
    return total


def _joined(linears, vector: Tensor, applied) -> Tensor:
    """Products of every block with its part of a vector, in the order of the parameters."""
    found, start = [], 0
    for linear, apply in zip(linears, applied, strict=True):
        o, i = linear.weight.shape
        w = vector[start : start + o * i].reshape(o, i)
        b = vector[start + o * i : start + o * (i + 1)].unsqueeze(1)
        start += o * (i + 1)
        moved = apply(torch.cat([w, b], 1))
        found += [moved[:, :-1].flatten(), moved[:, -1]]
    return torch.cat(found)
