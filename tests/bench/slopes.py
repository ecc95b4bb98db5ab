"""How cost grows: the slope of seconds over sizes on logarithmic axes, fastest of three turns each.

Small sizes are overhead alone; the sizes here are those at which the work itself dominates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

import curvlang as cv
from curvlang.costs.rates import Watch
from tests.bench.contestants import attribution, training
from tests.bench.contestants.inputs import DAMPING, task

TURNS = 3


def slopes(quick: bool) -> list[dict[str, Any]]:
    """A row for each law."""
    few = 8 if quick else 1
    counts = [n // few for n in (1024, 2048, 4096)]
    many = [16 * n for n in counts]
    widths = [n // few for n in (512, 1024, 2048)]
    models = [n // few for n in (125, 250, 500)]
    return [
        _law("EK-FAC fit", "N", many, 1, lambda n: _stage(_perceptron([256, 256, 10], n), "fit")),
        _law("covariance of inputs", "d", widths, 2, lambda d: _covariance(d, 8192 // few)),
        _law("eigendecomposition", "d", widths, 3, _decomposition),
        _law("scores", "N", counts, 1, lambda n: _scores(n, 64)),
        _law("scores", "Q", [32, 64, 128], 1, lambda q: _scores(1024 // few, q)),
        _law("retraining", "models", models, 1, _retraining),
    ]


def _law(
    what: str, variable: str, sizes: Sequence[int], expected: float, seconds: Callable[[int], float]
) -> dict[str, Any]:
    taken = [seconds(size) for size in sizes]
    measured = float(np.polyfit(np.log(sizes), np.log(taken), 1)[0])
    return {
        "what": what, "with": variable, "sizes": list(sizes), "seconds": taken,
        "expected": expected, "measured": measured,
    }  # fmt: skip


def _perceptron(widths: list[int], n: int) -> dict[str, Any]:
    return {"kind": "mlp", "widths": widths, "N": n, "Q": 1}


def _fastest(turn: Callable[[Watch], object], stage: str) -> float:
    found = []
    for _ in range(TURNS):
        watch = Watch(torch.device("cpu"))
        turn(watch)
        found.append(watch.seconds[stage])
    return min(found)


def _stage(sizes: dict[str, Any], stage: str) -> float:
    return _fastest(attribution.ours(sizes), stage)


def _covariance(d: int, n: int) -> float:
    """The input factor of one layer alone: d² for each example."""
    made = task(_perceptron([d, 2], n))

    def turn(watch: Watch) -> None:
        cv.fit("foof", made)
        watch("fit")

    return _fastest(turn, "fit")


def _decomposition(d: int) -> float:
    root = torch.randn(d, d, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    matrix = root @ root.T

    def turn(watch: Watch) -> None:
        torch.linalg.eigh(matrix)
        watch("eigh")

    return _fastest(turn, "eigh")


def _scores(n: int, q: int) -> float:
    made = task({**_perceptron([256, 256, 10], n), "Q": q})
    op = cv.fit("ekfac_empirical", made)

    def turn(watch: Watch) -> None:
        cv.influence(op, made, damping=DAMPING)
        watch("scores")

    return _fastest(turn, "scores")


def _retraining(models: int) -> float:
    return _fastest(training.ours({"depth": 1, "epochs": 5, "models": models}), "training")
