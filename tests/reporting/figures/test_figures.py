"""Step names along an axis never run into each other."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from curvlang.reporting.figures.figures import _name_steps
from curvlang.reporting.figures.scatter import round_ticks
from curvlang.reporting.figures.style import settings
from tests.reporting.example import digits

CHAINS = [
    (["hessian", "ggn", "block_ggn", "kfac", "ekfac"], False),
    (["hessian", "ggn", "block_ggn", "nearest_kronecker"], True),
    (["hessian", "ggn"], False),
    (["hessian", "ggn", "block_ggn", "narrow", "kronecker_factor", "eigen_correct"], True),
]
"""Names of steps, and whether they have to be written aslant."""


@pytest.mark.parametrize(("labels", "aslant"), CHAINS)
def test_names_do_not_overlap(labels, aslant):
    steps = digits().steps
    named = [replace(steps[min(k, len(steps) - 1)], label=x) for k, x in enumerate(labels)]
    result = replace(digits(), steps=tuple(named))
    with settings("test"):
        figure = Figure((5.0, 2.4), layout="constrained")
        axes = figure.subplots()
        axes.bar(range(len(labels)), range(len(labels)))
        _name_steps(axes, result)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        ticks = axes.get_xticklabels()
        boxes = [t.get_window_extent(canvas.get_renderer()) for t in ticks]
    assert bool(ticks[0].get_rotation()) is aslant
    if not aslant:
        assert all(a.x1 < b.x0 for a, b in pairwise(boxes))


def test_an_axis_between_two_near_numbers_has_no_round_ticks():
    assert round_ticks(0.614, 0.845) == []
    assert len(round_ticks(0.01, 10.0)) >= 3
