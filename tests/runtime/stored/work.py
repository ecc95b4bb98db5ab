"""Tasks of the tests of stores, and a fit that another process is killed in."""

from __future__ import annotations

import itertools

import torch

import curvlang as cv


def task(N=60, width=6, layers=2, shift=0.0, model=0, weight_decay=None):
    """A small network, the same in every process."""
    g = torch.Generator().manual_seed(model)
    sizes = [7, *[width] * (layers - 1), 3]
    parts = []
    for inputs, outputs in itertools.pairwise(sizes):
        layer = torch.nn.Linear(inputs, outputs, dtype=torch.float64)
        with torch.no_grad():
            for p in layer.parameters():
                p.copy_(torch.randn(p.shape, generator=g, dtype=torch.float64) / inputs**0.5)
        parts += [layer, torch.nn.Tanh()]
    g = torch.Generator().manual_seed(100)
    X = torch.randn(N, 7, generator=g, dtype=torch.float64) + shift
    y = torch.randint(0, 3, (N,), generator=g)
    net = torch.nn.Sequential(*parts[:-1])
    return cv.Task(net, "cross_entropy", (X, y), (X[:4], y[:4]), weight_decay=weight_decay)


def slow(store):
    """A fit whose beginning is told."""
    torch.set_num_threads(1)
    given = task(N=4000)
    print("begins", flush=True)
    cv.fit("ekfac", given, store=store, progress=False)
