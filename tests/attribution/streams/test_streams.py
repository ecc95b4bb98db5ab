"""Streams of scores: chunks, processes and extremes give what the whole matrix gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import zarr

import curvlang as cv
from curvlang.attribution.scorer import Scorer
from curvlang.attribution.streams import cut as cuts
from curvlang.attribution.streams import fitting
from curvlang.attribution.streams.cut import score_cut
from curvlang.attribution.streams.request import Request
from curvlang.attribution.streams.running_top import RunningTop
from curvlang.attribution.streams.score_stream import ScoreStream
from tests.processes import together
from tests.small import gradients, network, task

CLOSE = 1e-12
"""Of the largest score, in float64: sums in another order."""


@pytest.mark.parametrize("total", [1, 2, 7, 767, 768, 1000, 1617, 5000, 100_003])
@pytest.mark.parametrize("most", [1, 3, 250, 1024])
@pytest.mark.parametrize("queries", [1, 1000])
def test_chunks_are_all_examples_once_and_of_one_size(total, most, queries):
    found = score_cut(total, most, queries)
    chunks = [found.chunk(k) for k in range(found.count)]
    assert [n for chunk in chunks for n in chunk] == list(range(total))
    assert {len(chunk) for chunk in chunks[:-1]} <= {found.size}
    assert found.span(range(found.count)) == slice(0, total)
    assert found.span(range(found.count, found.count + 3)) == slice(total, total)


def small(positions=None, n=23):
    return task(network([3, 5, 4]), "mse", n=n, positions=positions)


@pytest.fixture
def chunked(monkeypatch):
    """Chunks of a few examples each."""
    monkeypatch.setattr(cuts, "PAIRS", 2)


def wanted(given, spec, damping=0.1):
    dense = cv.fit(spec, given, progress=False).inverse(damping).dense()
    return gradients(given, "query") @ dense @ gradients(given, "train").T


@pytest.mark.parametrize("spec", ["ekfac", "ggn", "diagonal", "block_ggn"])
@pytest.mark.parametrize("positions", [None, 3])
def test_a_stream_gives_every_pair_once(chunked, spec, positions):
    given = small(positions)
    inverse = cv.fit(spec, given, progress=False).inverse(0.1).operator
    stream = ScoreStream(inverse, given, given.loss, Request(), turn=2, size=5)
    found = torch.full(stream.shape, torch.nan, dtype=torch.float64)
    for batch in stream.batches():
        assert found[batch.place].isnan().all()
        found[batch.place] = batch.scores[""]
    scores = wanted(given, spec)
    assert (found - scores).abs().max() <= CLOSE * scores.abs().max()
    some = list(stream.batches([(1, 2), (0, 4)]))
    assert [b.place for b in some] == [
        (slice(0, 2), slice(20, 23)),
        (slice(2, 3), slice(10, 15)),
    ]


def test_extremes_do_not_depend_on_how_scores_come():
    scores = torch.tensor([[1.0, 3.0, 3.0, -2.0, 0.0, 3.0, -2.0], [0.0] * 7]).double()
    for size in (1, 2, 3, 7):
        for order in (1, -1):
            found = RunningTop(2)
            for start in list(range(0, 7, size))[::order]:
                found.add(slice(0, 2), start, scores[:, start : start + size])
            values, places = found.table(largest=True)
            assert values.tolist() == [[3.0, 3.0], [0.0, 0.0]]
            assert places.tolist() == [[1, 2], [0, 1]]
            values, places = found.table(largest=False)
            assert values.tolist() == [[-2.0, -2.0], [0.0, 0.0]]
            assert places.tolist() == [[3, 6], [0, 1]]


def test_top_examples_are_those_of_the_matrix(chunked):
    given = small()
    op = cv.fit("ekfac", given, progress=False)
    scores = cv.influence(op, given, damping=0.1, progress=False)
    for k in (1, 4, 40):
        matrix = cv.top(scores, k, given, queries=[2, 0])
        found = cv.top_examples(op, given, k, queries=[2, 0], damping=0.1, progress=False)
        for one, other in zip(found, matrix, strict=True):
            assert one.query == other.query
            assert torch.equal(one.x, other.x)
            for own, its in ((one.helpful, other.helpful), (one.harmful, other.harmful)):
                assert [x.index for x in own] == [x.index for x in its]
                assert [x.score for x in own] == pytest.approx([x.score for x in its], rel=1e-9)
    with pytest.raises(cv.SpecError, match="there is no query 3"):
        cv.top_examples(op, given, queries=[3], progress=False)
    with pytest.raises(cv.SpecError, match="E0593"):
        cv.top_examples(op, given, 0, progress=False)


def computed(n, pairs):
    cuts.PAIRS = pairs
    given = small(n=n)
    op = cv.fit("ekfac", given, progress=False)
    top = cv.top_examples(op, given, 3, damping=0.1, progress=False)
    return [
        cv.influence(op, given, damping=0.1, progress=False),
        cv.influence(op, given, damping=0.1, per_layer=True, progress=False)["0"],
        cv.self_influence(op, given, damping=0.1, progress=False),
        [[(x.index, x.score) for x in (*one.helpful, *one.harmful)] for one in top],
    ]


@pytest.mark.parametrize("n", [1, 23])
def test_every_process_has_the_scores_of_one(n):
    """Bit for bit; with one example the second process has no chunk."""
    (alone,) = together(computed, 1, n, 2)
    for found in together(computed, 2, n, 2):
        for one, other in zip(found[:3], alone[:3], strict=True):
            assert torch.equal(one, other)
        assert found[3] == alone[3]


def with_less_memory(folder):
    """Process 1 has room for two queries at a time, the others for all."""
    cuts.PAIRS = 2
    if cv.world().rank == 1:
        fitting.available = lambda device: 4 * 2 * 8 * 23
    given = small()
    op = cv.fit("ekfac", given, progress=False)
    dense = cv.fit("ggn", given, progress=False)
    scoring = cv.Scoring(damping=0.1)
    for out in ("x.npy", "x.zarr"):
        cv.score_request("ekfac", given, scoring, out=f"{folder}/{out}").run(progress=False)
    kept = zarr.open_group(f"{folder}/x.zarr", mode="r")
    inverses = [x.inverse(0.1).operator for x in (op, dense)]
    turns = [scores for scores, _ in Scorer(given, given.loss, inverses)]
    return [
        cv.influence(op, given, damping=0.1, progress=False),
        cv.influence(dense, given, damping=0.1, progress=False),
        torch.cat(turns),
        torch.from_numpy(np.load(f"{folder}/x.npy")),
        torch.from_numpy(kept["scores"][:]),
    ], [len(turns), kept["written"].shape[0]]


def test_processes_with_different_memory_agree_on_turns(tmp_path):
    """Every process takes the queries that the one with the least memory can hold."""
    wanted = cv.influence(cv.fit("ekfac", small(), progress=False), small(), damping=0.1)
    for found, turns in together(with_less_memory, 2, str(tmp_path)):
        assert min(turns) > 1
        for k, scores in enumerate(found):
            if k != 1:
                assert (scores - wanted).abs().max() <= CLOSE * wanted.abs().max()
