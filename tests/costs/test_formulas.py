"""The predicted cost of a formula's scores grows with what they are of."""

from __future__ import annotations

import pytest
import torch

import curvlang as cv
from curvlang.attribution.formulas.formula_scores import (
    InverseRequest,
    formula_of,
    formula_points,
    program_of,
)
from curvlang.attribution.formulas.formula_stream import FormulaStream
from curvlang.attribution.streams.request import Request
from curvlang.costs.formulas import form_of, predicted_formula
from curvlang.costs.rates import Rates

FLAT = ((1.0, 1e-9), (1e9, 1.0))
RATES = Rates(
    dict.fromkeys((torch.float32, torch.float64), FLAT),
    dict.fromkeys((torch.float32, torch.float64), ((1.0, 1000000000.0), (64.0, 1000000000.0))),
    FLAT,
    FLAT,
    FLAT,
    0.0,
)
CENTRED = """score centred {
  needs u[q,p], v[n,p]
  m[p] = mean[n] v[n,p]
  yield s[q,n] = sum[p] u[q,p] * (v[n,p] - m[p])
}"""


def operations(score, count):
    generator = torch.Generator().manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
    X = torch.randn(count + 4, 6, generator=generator)
    y = torch.randint(0, 3, (count + 4,), generator=generator)
    task = cv.Task(model, "cross_entropy", (X[4:], y[4:]), (X[:4], y[:4]))
    operator = cv.fit("block_ggn", task)
    formula = formula_of(operator, score)
    points = formula_points(formula, operator, task, InverseRequest())
    stream = FormulaStream(program_of(formula), points, task.loss, Request())
    return predicted_formula(stream, form_of(stream.inverse, task), RATES).cost.flops, task


@pytest.mark.parametrize("score", ["gradient_cosine", "relatif", "own_influence"])
def test_operations_grow_with_the_training_examples(score):
    few, many = (operations(score, n)[0] for n in (16, 160))
    assert 5 * few < many < 10.5 * few


def test_rows_are_multiplied_out_in_every_pass():
    found, task = operations(cv.loads(CENTRED).scores["centred"], 32)
    products = 2 * task.Q * task.N * task.P
    assert products < found < 10 * products
