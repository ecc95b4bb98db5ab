"""The dense GGN and Hessian of small networks, their inverse and scores: ours, curvlinops, by hand."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vmap
from torch.nn import functional

import curvlang as cv
from curvlang.costs.rates import Watch
from curvlang.models.task import Task
from tests.bench.contest import Results, Sizes, Turn
from tests.bench.contestants.inputs import DAMPING, task

AT_ONCE = 500
"""Columns that curvlinops multiplies at once."""


def ours(sizes: Sizes) -> Turn:
    made = task(sizes)

    def turn(watch: Watch) -> Results:
        ggn = cv.fit("ggn", made)
        watch("GGN")
        hessian = cv.fit("hessian", made)
        watch("Hessian")
        scores = cv.influence(ggn, made, damping=DAMPING)
        watch("scores")
        assert isinstance(scores, Tensor)
        return {"ggn": ggn.dense(), "hessian": hessian.dense(), "scores": scores}

    return turn


def curvlinops(sizes: Sizes) -> Turn:
    """Its matrices; it has no scorer."""
    from curvlinops import GGNLinearOperator, HessianLinearOperator

    made = task(sizes)
    parameters = list(made.model.parameters())
    given = (made.model, nn.CrossEntropyLoss(reduction="mean"), parameters, [made.train])

    def turn(watch: Watch) -> Results:
        ggn = _all_columns(GGNLinearOperator(*given, check_deterministic=False), made)
        watch("GGN")
        hessian = _all_columns(HessianLinearOperator(*given, check_deterministic=False), made)
        watch("Hessian")
        return {"ggn": ggn.detach(), "hessian": hessian.detach()}

    return turn


def _all_columns(operator: Any, made: Task) -> Tensor:
    """All columns, some at a time: the model runs once for each, and 3000 of them take 7 GiB."""
    eye = torch.eye(made.P, dtype=made.dtype)
    return torch.cat([operator @ part.contiguous() for part in eye.split(AT_ONCE, dim=1)], 1)


def by_hand(sizes: Sizes) -> Turn:
    """Tanh perceptrons: Jacobians in closed form and one product; vectorised tangents; Cholesky."""
    made = task(sizes)
    linears = [m for m in made.model if isinstance(m, nn.Linear)]
    X, y = made.train

    def turn(watch: Watch) -> Results:
        with torch.no_grad():
            ggn = X.new_zeros(made.P, made.P)
            for x in X.split(256):
                rows = _columns(linears, x, _factor)
                ggn.addmm_(rows.T, rows)
            ggn /= len(X)
            watch("GGN")
        hessian = _hessian(made.model, X, y)
        watch("Hessian")
        with torch.no_grad():
            train, query = (_columns(linears, x, _gradient(t)) for x, t in (made.train, made.query))
            root = torch.linalg.cholesky(ggn + DAMPING * torch.eye(made.P, dtype=ggn.dtype))
            scores = torch.cholesky_solve(query.T, root).T @ train.T
            watch("scores")
        return {"ggn": ggn, "hessian": hessian, "scores": scores}

    return turn


def _factor(f: Tensor) -> Tensor:
    p = f.softmax(1)
    return (torch.diag_embed(p.sqrt()) - p.unsqueeze(2) * p.sqrt().unsqueeze(1)).mT


def _gradient(y: Tensor):
    return lambda f: (f.softmax(1) - functional.one_hot(y, f.shape[1])).unsqueeze(1)


def _columns(linears, x: Tensor, at_output) -> Tensor:
    """Columns at the output pulled back to the parameters, [B·R, P]."""
    inputs = []
    for k, linear in enumerate(linears):
        x = torch.tanh(x) if k else x
        inputs.append(x)
        x = linear(x)
    g = at_output(x)
    parts = []
    for k in range(len(linears) - 1, -1, -1):
        weight = g.unsqueeze(3) * inputs[k][:, None, None]
        parts += [g.flatten(0, 1), weight.flatten(2).flatten(0, 1)]
        if k:
            g = (g @ linears[k].weight) * (1 - inputs[k].square()).unsqueeze(1)
    return torch.cat(parts[::-1], 1)


def _hessian(model: nn.Module, X: Tensor, y: Tensor) -> Tensor:
    theta = {name: p.detach() for name, p in model.named_parameters()}
    shapes = {name: p.shape for name, p in theta.items()}
    sizes = [p.numel() for p in theta.values()]

    def product(v: Tensor) -> Tensor:
        pieces = dict(zip(theta, v.split(sizes), strict=True))
        tangent = {name: pieces[name].reshape(shapes[name]) for name in theta}

        def loss(point):
            return functional.cross_entropy(functional_call(model, point, (X,)), y)

        moved = jvp(grad(loss), (theta,), (tangent,))[1]
        return torch.cat([moved[name].flatten() for name in theta])

    P = sum(sizes)
    return vmap(product, chunk_size=32)(torch.eye(P, dtype=X.dtype))
