"""How many queries fit is one estimate, whatever asks for it."""

from __future__ import annotations

import pytest
import torch

import curvlang as cv
from curvlang.attribution.blocks import scored_blocks
from curvlang.attribution.formulas.formula_scores import InverseRequest, formula_points, program_of
from curvlang.attribution.formulas.formula_stream import FormulaStream
from curvlang.attribution.scorer import Scorer
from curvlang.attribution.streams.fitting import (
    CHUNK_SHARE,
    QUERIES_SHARE,
    queries_at_once,
    query_bytes,
    score_bytes,
)
from curvlang.attribution.streams.request import Request
from curvlang.attribution.streams.score_stream import ScoreStream
from curvlang.language import score_text
from curvlang.runtime.limits.memory import limited
from tests.small import network, task


@pytest.fixture(scope="module")
def given():
    return task(network([3, 60, 3]), "cross_entropy", n=20, positions=3).replaced(
        query=(torch.randn(40, 3, 3).double(), torch.randint(0, 3, (40, 3)))
    )


@pytest.mark.parametrize("spec", ["ekfac", "ggn"])
def test_a_stream_and_the_formula_of_it_take_the_same_turns(spec, given):
    op = cv.fit(spec, given, progress=False)
    inverse = op.inverse(0.1).operator
    each = query_bytes(given, scored_blocks(inverse, given))
    formula = score_text("influence", "<score>")
    for rows in (1, 7, 13):
        with limited(QUERIES_SHARE * each * rows):
            stream = ScoreStream(inverse, given, given.loss, Request())
            points = formula_points(formula, op, given, InverseRequest(damping=0.1))
            other = FormulaStream(program_of(formula), points, given.loss, Request())
        assert stream.turn == other.turn == rows


def test_several_inverses_share_what_queries_may_take(given):
    inverses = [cv.fit(x, given, progress=False).operator.inverse(0.1) for x in ("ekfac", "ggn")]
    each = [2 * query_bytes(given, scored_blocks(x, given)) + 8 * given.N for x in inverses]
    with limited(QUERIES_SHARE * sum(each) * 9):
        rows = [len(scores[0]) for scores in Scorer(given, given.loss, inverses)]
    assert rows == [9, 9, 9, 9, 4]


def test_scores_of_a_chunk_limit_queries_too(given):
    scores = score_bytes(given, numbers=4)
    assert scores == 8 * 4 * given.N
    with limited(CHUNK_SHARE * scores * 5):
        assert queries_at_once(given, 1, scores) == 5
        assert queries_at_once(given, 1) == CHUNK_SHARE * scores * 5 // QUERIES_SHARE
    with limited(1):
        assert queries_at_once(given, 1000, scores) == 1
