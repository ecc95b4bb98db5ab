"""What every shipped score costs beside what its plan says: `python -m tests.bench.formulas`.

On a perceptron 64–24–10 of the digits under `ekfac` (`relatif` and `trackstar` also under `block_ggn`), curvature and other models
given. A run on a few examples says what a chunk takes however few they are. Written: the table of docs/benchmarks.md.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

import curvlang as cv
from curvlang.attribution.formulas.formula_scores import (
    InverseRequest,
    formula_of,
    formula_points,
    formula_scores,
)
from curvlang.attribution.formulas.formula_stream import FormulaStream
from curvlang.attribution.formulas.points import Point, Points, StretchPoints
from curvlang.attribution.streams.request import Request
from curvlang.costs.benchmark import WARM
from curvlang.costs.formulas import form_of, predicted_formula
from curvlang.costs.rates import Rates, fastest, measured_rates
from curvlang.ir.score_lowering import score_program
from curvlang.language.chain import ScoreFormula
from curvlang.language.checking.shipped import shipped
from curvlang.models.task import Task
from tests.bench.clock import processor_clock

TASK = "digits(hidden = [24], epochs = 6)"
ALONG = {"epochs": 2}
OTHERS = {"trak": {"models": 2}, "mean_influence": {"models": 2}, "source": {"segments": 2}}
ADAM = {"less"}
DENSE = {"relatif", "trackstar"}
"""Scores that are also taken under a matrix for every layer."""


def task_of(name: str) -> Task:
    """The task of a score, with the models that it may read."""
    given = cv.task(TASK, train=True)
    if name in ADAM:
        given = given.replaced(recipe=cv.Recipe(optimiser="adam", lr=0.01, batch=64, epochs=6))
    return given.replaced(trajectory=cv.Trajectory(**OTHERS.get(name, ALONG)))


def few(points: Points) -> Points:
    """The same with a few training examples and queries."""

    def cut(x: Point) -> Point:
        return replace(x, task=x.task.examples(slice(WARM)).queries(slice(WARM)))

    def stretch(x: StretchPoints) -> StretchPoints:
        return replace(x, whole=cut(x.whole), models=[cut(m) for m in x.models])

    return replace(
        points,
        final=cut(points.final),
        checkpoints=[[stretch(x) for x in row] for row in points.checkpoints],
        models=[cut(x) for x in points.models],
    )


def both(formula: ScoreFormula, points: Points, rates: Rates) -> tuple[float, float, int]:
    """Seconds predicted and measured, and how many chunks there are."""
    program, cost = score_program(formula.needs, formula.body), points.final.task.loss
    stream = FormulaStream(program, points, cost, Request())
    form = form_of(stream.inverse, stream.task)
    told = min(predicted_formula(stream, form, rates).seconds or 0.0 for _ in range(2))
    device = points.final.task.device
    took = fastest(lambda: formula_scores(program, points, cost, Request()), device)
    return told, took, stream.turns * stream.cut.count


def row(name: str, curvature: str, rates: Rates) -> tuple[float, float]:
    """Seconds of one score, predicted and measured."""
    task = task_of(name)
    operator = cv.fit(curvature, task)
    formula = formula_of(operator, name)
    assert formula is not None
    points = formula_points(formula, operator, task, InverseRequest())
    try:
        told, took, chunks = both(formula, few(points), rates)
        beyond = max(0.0, took - told) / chunks
    except cv.SpecError:
        # Moments of a few projected gradients have no inverse.
        beyond = 0.0
    told, took, chunks = both(formula, points, rates)
    return told + beyond * chunks, took


def lines(names: Sequence[str]) -> Iterator[str]:
    """Rows of the table in Markdown, with the columns of that of curvatures."""
    rates = measured_rates(torch.device("cpu"))
    for name in names:
        for curvature in ("ekfac", *(["block_ggn"] if name in DENSE else [])):
            told, took = row(name, curvature, rates)
            yield f"| `{name}` under `{curvature}` | | {told:.3f} | {took:.3f} | {took / told:.2f} | | |"


def shipped_formulas() -> list[str]:
    """Every score that ships, but plain influence."""
    return [x.name for x in shipped() if x.kind == "score" and x.name != "influence"]


def main(names: Sequence[str]) -> None:
    """All shipped scores, or those that are named."""
    torch.set_num_threads(1)
    with processor_clock():
        for line in lines(names or shipped_formulas()):
            print(line, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
