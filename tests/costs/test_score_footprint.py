"""Predicted memory of inverses and scores is what torch allocates."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import curvlang as cv
from curvlang.attribution.blocks import scored_blocks
from curvlang.attribution.scorer import scored_by
from curvlang.attribution.streams.request import Request
from curvlang.attribution.streams.score_stream import ScoreStream
from curvlang.costs.predicted import inverted_matrices
from curvlang.costs.score_footprint import inverse_phase, scores_phase, streamed_phase
from curvlang.language import task_text
from curvlang.models.builtin import task_from
from curvlang.operators import held_bytes
from curvlang.runtime.limits.memory import limited
from tests.oracles.allocations import peak_bytes

WITHIN = 0.3
"""Small matrices that live for a line are not counted."""


def compared(spec, task):
    """Predicted and measured bytes beyond what is held: of the inverse, and of the scores."""
    fitted = cv.fit(spec, task)
    made = []
    first = peak_bytes(lambda: made.append(fitted.inverse(0.01).operator))
    op, inverted = fitted.operator, made[0]
    foretold = inverse_phase(op, inverted, inverted_matrices(op, inverted)).bytes
    second = peak_bytes(lambda: scored_by(inverted, task, task.loss))
    scores = scores_phase(op, inverted, scored_blocks(inverted, task), task).bytes
    return (
        (foretold - held_bytes(op), first),
        (scores - held_bytes(op, inverted), second),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("spec", ["ggn", "block_ggn", "ekfac", "kfac", "diagonal", "identity"])
def test_one_position(spec, dtype):
    task = task_from(task_text("digits(hidden = [24])", "<test>"), dtype=dtype)
    for foretold, measured in compared(spec, task):
        if measured > 2**20:
            assert foretold == pytest.approx(measured, rel=WITHIN)


def test_several_positions():
    """Two positions: preconditioned queries are most of it."""

    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.outer = nn.Linear(48, 64), nn.Linear(64, 4)

        def forward(self, x):
            return self.outer(torch.tanh(self.inner(x)).mean(1))

    model = Wide()
    X, y = torch.randn(232, 2, 48), torch.randint(0, 4, (232,))
    task = cv.Task(model, "cross_entropy", (X[:32], y[:32]), (X[32:], y[32:]))
    _, (foretold, measured) = compared("ekfac_empirical", task)
    assert foretold == pytest.approx(measured, rel=WITHIN)


def test_scores_are_added_up_and_not_held_by_block():
    """Twelve layers: one matrix of scores, not twelve."""
    layers = [m for _ in range(12) for m in (nn.Linear(6, 6), nn.Tanh())]
    X, y = torch.randn(3000, 6), torch.randint(0, 6, (3000,))
    task = cv.Task(
        nn.Sequential(*layers), "cross_entropy", (X[:2000], y[:2000]), (X[2000:], y[2000:])
    )
    inverse = cv.fit("kfac", task).inverse(0.01).operator
    matrix = 8 * task.Q * task.N
    whole = peak_bytes(lambda: scored_by(inverse, task, task.loss))
    apart = peak_bytes(lambda: scored_by(inverse, task, task.loss, Request(per_layer=True)))
    assert whole < 8 * matrix
    assert apart > whole + 10 * matrix


def streamed(spec, task, memory, **wanted):
    """Predicted and measured bytes of a stream under a limit, and its matrix of scores."""
    op = cv.fit(spec, task, progress=False)
    inverse = op.inverse(0.01).operator
    with limited(memory):
        stream = ScoreStream(inverse, task, task.loss, Request(**wanted))
        predicted = streamed_phase(op.operator, stream).bytes - held_bytes(op.operator, inverse)

        def run():
            for _ in stream.batches():
                pass

        return predicted, peak_bytes(run)


def narrow(positions=(), n=4000, q=600):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 3)).double()
    X, y = torch.randn(n + q, *positions, 8).double(), torch.randint(0, 3, (n + q, *positions))
    return cv.Task(model, cv.CrossEntropy(), (X[q:], y[q:]), (X[:q], y[:q]))


@pytest.mark.parametrize(
    ("spec", "positions", "wanted"),
    [
        ("kfac", (), {}),
        ("ekfac", (3,), {}),
        ("ggn", (), {}),
        ("kfac", (), {"per_layer": True}),
        ("kfac", (3,), {"per_position": True}),
        ("kfac", (), {"groups": [[0, 1], [2]]}),
    ],
)
def test_streamed_scores_stay_within_what_is_predicted(spec, positions, wanted):
    """The matrix of scores is four times larger than the limit; the peak is below both."""
    task = narrow(positions, n=1000 if "per_position" in wanted else 4000)
    matrix = 8 * task.Q * task.N
    predicted, measured = streamed(spec, task, matrix // 4, **wanted)
    assert measured <= 1.2 * predicted
    assert max(measured, predicted) <= matrix // 4
