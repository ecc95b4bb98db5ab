"""Retraining many models: ours, the plain loop on some of them, and a stack written for one case."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from curvlang.costs.rates import Watch
from curvlang.language import task_text
from curvlang.models.builtin import task_from
from curvlang.training.orders import Orders, learning_rate
from curvlang.training.retrain import retrain
from curvlang.training.subsets import draw_subsets
from curvlang.training.training import Training
from tests.bench.contest import Results, Sizes, Turn
from tests.training.test_retrain import reference_loop

TIMED = 3
"""Models that the loop trains; all models cost the same."""


class _Case:
    """A task, a subset for every model, and the recipe of the workload."""

    def __init__(self, sizes: Sizes) -> None:
        depth, epochs = sizes["depth"], sizes["epochs"]
        text = f"digits(hidden = [16] * {depth}, epochs = {epochs}, lr = 0.02, momentum = 0.9, batch = 32, bias = true)"
        self.task = task_from(task_text(text, "bench"))
        self.models = sizes["models"]
        self.kept = draw_subsets(self.task.N, -(-self.models // 5), 0.5, 0).repeat(5, 1)
        self.kept = self.kept[: self.models]
        self.seeds = list(range(self.models))

    def results(self, curve: Tensor) -> Results:
        """The loss of the first epoch: later ones repeat every rounding many times over."""
        return {"first epoch": curve[:TIMED, 0]}


def ours(sizes: Sizes) -> Turn:
    case = _Case(sizes)
    task = case.task

    def turn(watch: Watch) -> Results:
        found = retrain(Training(task.build, "cross_entropy", task.train, task.query, case.kept, task.recipe, case.seeds, case.seeds))  # fmt: skip
        watch("training")
        return case.results(found.curve)

    return turn


def loop(sizes: Sizes) -> Turn:
    case = _Case(sizes)
    task = case.task

    def turn(watch: Watch) -> Results:
        curves = []
        for m in range(TIMED):
            curve, _ = reference_loop(
                task.build, "cross_entropy", task.train, case.kept[m], task.recipe, m, m
            )
            curves.append(curve)
        watch("training")
        watch.seconds["training"] *= case.models / TIMED
        return case.results(torch.stack(curves))

    return turn


def by_hand(sizes: Sizes) -> Turn:
    """Features first, the bias as a column of the weights, all parameters in one flat tensor."""
    case = _Case(sizes)
    task = case.task

    def turn(watch: Watch) -> Results:
        curves = []
        with torch.inference_mode():
            for rows in torch.arange(case.models).split(125):
                models = [task.build(m) for m in rows.tolist()]
                curves.append(_trained(models, task, case.kept[rows], rows.tolist()))
        watch("training")
        return case.results(torch.cat(curves))

    return turn


def _trained(models, task, kept: Tensor, seeds: list[int]) -> Tensor:
    """Losses [M, epochs] of one stack."""
    recipe, (X, y) = task.recipe, task.train
    linears = [[x for x in m if isinstance(x, nn.Linear)] for m in models]
    shapes = [(x.out_features, x.in_features + 1) for x in linears[0]]
    M, B = len(models), recipe.batch
    flat = torch.cat(
        [torch.stack([torch.cat([m[k].weight, m[k].bias[:, None]], 1) for m in linears]).flatten()
         for k in range(len(shapes))]
    ).detach()  # fmt: skip
    velocity = torch.zeros_like(flat)
    sizes = [M * o * i for o, i in shapes]

    def views(whole: Tensor) -> list[Tensor]:
        parts = whole.split(sizes)
        return [p.view(M, o, i) for p, (o, i) in zip(parts, shapes, strict=True)]

    weights, speeds = views(flat), views(velocity)
    # Every layer's input has a row of ones below its features; example, feature for the first.
    inputs = [X.new_ones(M, i, B) for _, i in shapes]
    X = torch.cat([X, X.new_ones(len(X), 1)], 1)
    deltas = [X.new_empty(M, i, B) for _, i in shapes]
    places = torch.stack([row.nonzero()[:, 0] for row in kept])
    orders = Orders(places, seeds, B)
    curve = torch.zeros(M, recipe.epochs)
    steps = orders.steps * recipe.epochs
    value = torch.empty(M, 1, B)
    minus = torch.full((M, 1, B), -1 / B)
    last = len(shapes) - 1
    for epoch in range(recipe.epochs):
        drawn = orders.epoch()
        for k in range(orders.steps):
            rows = drawn[k].flatten()
            x = X.index_select(0, rows).view(M, B, -1).mT
            labels = y.index_select(0, rows).view(M, 1, B)
            for j in range(last):
                h = inputs[j + 1]
                z = torch.bmm(weights[j], x if j == 0 else inputs[j])
                torch.tanh(z, out=z)
                h[:, :-1].copy_(z)
            z = torch.bmm(weights[last], inputs[last] if last else x)
            chosen = z.gather(1, labels)
            z.exp_()
            total = z.sum(1, keepdim=True)
            torch.log(total, out=value)
            curve[:, epoch] += (value - chosen).mean((1, 2)) / orders.steps
            z.mul_(total.reciprocal_().mul_(1 / B)).scatter_add_(1, labels, minus)
            velocity.mul_(recipe.momentum)
            for j in range(last, -1, -1):
                h = inputs[j] if j else x
                speeds[j].baddbmm_(z, h.mT)
                if j:
                    torch.bmm(weights[j].mT, z, out=deltas[j])
                    z = deltas[j][:, :-1]
                    part = h[:, :-1]
                    z.addcmul_(z * part, part, value=-1)
            lr = learning_rate(recipe, epoch * orders.steps + k, steps)
            flat.add_(velocity, alpha=-lr)
    return curve
