"""Step names along an axis never run into each other; an SVG is small."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from curvlang.reporting.figures.figures import _name_steps
from curvlang.reporting.figures.scatter import round_ticks
from curvlang.reporting.figures.style import settings, svg_text
from curvlang.reporting.figures.svg import SVG
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


def test_an_svg_is_small_and_its_text_is_text():
    rows = drawing_of(range(40))
    root = ElementTree.fromstring(rows)
    assert {"a & b", "‖R‖"} <= {x.text for x in root.iter(f"{{{SVG}}}text")}
    assert len(rows) < 10_000
    assert not re.search(r"\d\.\d{3}", re.sub(r'"[^"]*scale[^"]*"', "", rows))


def test_every_reference_of_an_svg_leads_to_one_of_its_ids():
    rows = drawing_of([1, 2, 4])
    ids = re.findall(r' id="([^"]+)"', rows)
    named = set(re.findall(r'(?:href="|url\()#([^")]+)', rows))
    assert named == set(ids)
    assert len(ids) == len(set(ids))
    assert all(x.startswith("sweep-") for x in ids)


def drawing_of(values) -> str:
    """A figure with a line of markers, hatched bars, an image and texts that XML escapes."""
    with settings("test"):
        figure = Figure((5.0, 2.4), layout="constrained")
        left, right = figure.subplots(1, 2)
        left.plot(values, values, "-o")
        left.set_ylabel("‖R‖")
        left.imshow([[0, 1], [1, 0]])
        right.bar([0, 1], [2, 3], hatch="//")
        right.set_title("a & b")
        return svg_text(figure, "sweep")
