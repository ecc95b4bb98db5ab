"""Small models and data in float64 that the tests of several rooms draw from."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

import curvlang as cv
from curvlang.attribution.gradients import gradient_batches

ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU, "sigmoid": nn.Sigmoid, "identity": nn.Identity}


class Tied(nn.Module):
    """Two layers of one weight, each with its own bias."""

    def __init__(self, width):
        super().__init__()
        self.first, self.last = nn.Linear(width, width), nn.Linear(width, width)
        self.last.weight = self.first.weight

    def forward(self, x):
        return self.last(torch.tanh(self.first(x)))


def network(widths, activation="tanh", bias=True, seed=0):
    torch.manual_seed(seed)
    layers = []
    for d_in, d_out in pairwise(widths):
        layers += [nn.Linear(d_in, d_out, bias=bias), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers[:-1]).double().eval()


def targets(loss, shape, generator):
    if loss == "cross_entropy":
        return torch.randint(0, shape[-1], shape[:-1], generator=generator)
    y = torch.randn(shape, generator=generator, dtype=torch.float64)
    return y.sigmoid() if loss == "bce_with_logits" else y


def task(model, loss, n=7, positions=None, d_in=3, seed=0, reduce=None):
    g = torch.Generator().manual_seed(seed)
    shape = (n, d_in) if positions is None else (n, positions, d_in)
    X = torch.randn(shape, generator=g, dtype=torch.float64)
    with torch.no_grad():
        out = model(X)
    y = targets(loss, out.shape, g)
    return cv.Task(model, loss=loss, train=(X, y), query=(X[:3], y[:3]))


def gradients(task, part):
    """Gradients of every example's loss, `[n, P]`: small enough to hold at once."""
    return torch.cat(list(gradient_batches(task, task.loss, part)))


def layer_block(matrix, op, name):
    """The dense block of a layer, rows and columns in the block's order."""
    index = dict(zip(op.operator.names, op.operator.index, strict=True))[name]
    return matrix[index][:, index]
