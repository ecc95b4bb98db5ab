"""Scores that are written while they are computed: the numbers of the matrix, once, however often a run is stopped."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr

import curvlang as cv
from curvlang.attribution import passes
from curvlang.attribution.streams import cut as cuts
from curvlang.attribution.streams import score_stream
from curvlang.storage.score_address import refusals
from curvlang.storage.score_store import ScoreStore
from tests.processes import Failed, together
from tests.small import network, task
from tests.storage.crashes import dies_at

SCORING = cv.Scoring(damping=0.1)


@pytest.fixture
def chunked(monkeypatch, tmp_path):
    """Several chunks of a small task, in a folder of its own."""
    monkeypatch.setattr(cuts, "PAIRS", 2)
    monkeypatch.setattr("curvlang.attribution.passes.MOST", 4)
    monkeypatch.chdir(tmp_path)


def small(n=23, positions=None, seed=0):
    return task(network([3, 5, 4], seed=seed), "mse", n=n, positions=positions)


def request(given=None, scoring=SCORING, spec="kfac", out="x.zarr", **setup):
    return cv.score_request(spec, given or small(), scoring, cv.Setup(**setup), out=out)


@pytest.mark.parametrize(
    ("scoring", "positions"),
    [
        (SCORING, None),
        (cv.Scoring(damping=0.1, own=True), None),
        (cv.Scoring(damping=0.1, group="all"), None),
        (cv.Scoring(damping=0.1, per_position=True), 3),
        (cv.Scoring(damping=0.1, metric="loss", reduce="mean", group="all"), 3),
    ],
)
@pytest.mark.parametrize("out", ["x.zarr", "x.npy", "memory://streams/x.zarr"])
def test_the_numbers_are_those_of_the_matrix(chunked, tmp_path, scoring, positions, out):
    given = small(positions=positions)
    if "://" in out:
        out = f"memory://{tmp_path.name}/x.zarr"
    held = cv.score_request("kfac", given, scoring).run(progress=False)
    found = request(given, scoring, out=out).run(progress=False)
    scores = held.arrays["scores"]
    assert found.shape == list(scores.shape)
    assert found.axes == held.axes
    rows = list(range(len(scores)))
    assert torch.equal(found.arrays["scores"][rows], scores)
    assert [str(x) for x in found.top(2)] == [str(x) for x in held.top(2)]
    assert {k: v for k, v in found.notes.items() if k in held.notes} == held.notes


def test_layers_are_arrays_of_a_group(chunked):
    scoring = cv.Scoring(damping=0.1, per_layer=True)
    held = cv.score_request("kfac", small(), scoring).run(progress=False)
    found = request(scoring=scoring).run(progress=False)
    stored = zarr.open_group("x.zarr", mode="r")["scores"]
    assert set(found.arrays) == set(held.arrays) == {name for name, _ in stored.members()}
    for name, scores in held.arrays.items():
        assert np.array_equal(stored[name][:], scores.numpy())
    assert str(found.top(2)) == str(held.top(2))


class Stop(BaseException):
    """The process is killed."""


def gone_on(asked, monkeypatch, after, inside):
    """A run that was killed at a chunk and its repetition: the report, and the chunks that each has written."""
    write, written = ScoreStore.write, []

    def killed(self, chunk, arrays):
        if len(written) == after:
            if inside:
                next(iter(self._arrays.values()))[self.layout.place(chunk)] = arrays["scores"] * 2
            raise Stop
        written.append(chunk)
        write(self, chunk, arrays)

    with monkeypatch.context() as patch:
        patch.setattr(ScoreStore, "write", killed)
        with pytest.raises(Stop):
            asked().run(progress=False)
    before = set(written)
    written.clear()
    monkeypatch.setattr(ScoreStore, "write", lambda s, c, a: (written.append(c), write(s, c, a)))
    return asked().run(progress=False), before, written


DENSE = "curvature own = ggn |> block_diagonal(by = layer)"
LOW_RANK = DENSE + " |> low_rank(rank = 3)"
SPECS = {"kfac": "kfac", "ggn": "ggn", "dense": cv.loads(DENSE), "low rank": cv.loads(LOW_RANK)}


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("after", [0, 1, 3])
@pytest.mark.parametrize("inside", [False, True])
def test_a_stopped_run_goes_on_and_computes_nothing_twice(
    chunked, monkeypatch, spec, after, inside
):
    """Killed before a chunk is written, or between its numbers and its entry."""
    spec = SPECS[spec]
    whole = cv.score_request(spec, small(), SCORING).run(progress=False).arrays["scores"]
    report, before, written = gone_on(lambda: request(spec=spec), monkeypatch, after, inside)
    chunks = report.arrays["scores"].store.layout.all
    assert len(chunks) > 4
    assert report.found == (after, len(chunks))
    assert sorted(before | set(written)) == chunks
    assert not before & set(written)
    assert torch.equal(report.arrays["scores"][[0, 1, 2]], whole)


def test_of_a_finished_store_nothing_is_computed(chunked, monkeypatch):
    request().run(progress=False)

    def never(*args, **options):
        raise AssertionError("something was fitted")

    monkeypatch.setattr("curvlang.scoring.fit", never)
    report = request().run(progress=False)
    there, chunks = report.found
    assert there == chunks
    assert f"{chunks} of {chunks} chunks were there, nothing was computed" in str(report)
    assert report.notes["convention"].startswith("score[q,n]")


def test_other_scores_are_refused_before_the_work(chunked):
    request().run(progress=False)
    moved = small(seed=1)
    X, y = small().query
    asked = small().replaced(query=(X + 1, y))
    for word, other in (
        ("damping: 0.1, not 0.2", {"scoring": cv.Scoring(damping=0.2)}),
        ("kind: plain, not queries by all", {"scoring": cv.Scoring(damping=0.1, group="all")}),
        ("kind: plain, not self-influence", {"scoring": cv.Scoring(damping=0.1, own=True)}),
        ("another spec", {"spec": "ekfac"}),
        ("another model", {"given": moved}),
        ("another training data", {"given": small(n=22)}),
        ("another queries", {"given": asked}),
        ("precision: float64, not float32", {"dtype": torch.float32}),
        ("seed: 0, not 1", {"seed": 1}),
    ):
        with pytest.raises(cv.SpecError, match="E0881") as caught:
            request(**other)
        assert word in str(caught.value)


def test_another_limit_of_memory_goes_on_with_the_same_chunks(chunked, monkeypatch):
    """A store keeps its turns of queries and its chunks: a later run takes them as they are."""
    whole = cv.score_request("kfac", small(), SCORING).run(progress=False).arrays["scores"]

    with monkeypatch.context() as patch:
        patch.setattr(score_stream, "queries_at_once", lambda *_: 2)
        first = request().run(progress=False)
    layout = first.arrays["scores"].store.layout
    assert layout.chunks[0] == 2
    store = zarr.open_group("x.zarr")
    store["written"][1, 1] = 0
    report = request().run(progress=False)
    assert report.found == (len(layout.all) - 1, len(layout.all))
    assert report.arrays["scores"].store.layout.chunks == layout.chunks
    found = report.arrays["scores"][[0, 1, 2]]
    assert (found - whole).abs().max() <= 1e-10 * whole.abs().max()


def in_processes(folder, scoring):
    cuts.PAIRS = 2
    for out in (f"{folder}/w.zarr", f"{folder}/w.npy"):
        request(scoring=scoring, out=out).run(progress=False)


@pytest.mark.parametrize("own", [False, True])
def test_two_processes_write_what_one_writes(tmp_path, own):
    scoring = cv.Scoring(damping=0.1, own=own)
    alone, both = tmp_path / "1", tmp_path / "2"
    for folder, size in ((alone, 1), (both, 2)):
        folder.mkdir()
        together(in_processes, size, str(folder), scoring)
    assert (alone / "w.npy").read_bytes() == (both / "w.npy").read_bytes()
    one, two = (zarr.open_group(x / "w.zarr", mode="r") for x in (alone, both))
    assert one["written"].shape[-1] > 1
    assert np.array_equal(one["written"][:], two["written"][:])
    assert np.array_equal(one["scores"][:], two["scores"][:])
    assert np.array_equal(one["scores"][:], np.load(alone / "w.npy"))


def noted(folder, spec, after=None):
    """Scores in a store; every chunk that is written is noted, and with `after` the process is killed at the next."""
    cuts.PAIRS, passes.MOST = 2, 4
    write, log = ScoreStore.write, Path(folder) / f"{cv.world().rank}.log"
    log.touch()
    there = len(log.read_text().splitlines())

    def told(self, chunk, arrays):
        if after is not None and len(log.read_text().splitlines()) - there == after:
            os.kill(os.getpid(), signal.SIGKILL)
        write(self, chunk, arrays)
        with log.open("a") as file:
            file.write(f"{chunk}\n")

    if after is not None:
        os.environ["CURVLANG_PATIENCE"] = "4"
    ScoreStore.write = told
    report = request(spec=SPECS[spec], out=f"{folder}/x.zarr").run(progress=False)
    return [*report.found]


@pytest.mark.parametrize(
    ("spec", "after", "then"), [("ggn", 1, 1), ("dense", 0, 2), ("low rank", 2, 1)]
)
def test_two_killed_processes_are_gone_on_with_by_one_or_two(tmp_path, spec, after, then):
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    folder.mkdir()
    ((_, chunks),) = together(noted, 1, str(whole), spec)
    assert chunks >= 8
    for end in together(noted, 2, str(folder), spec, after, failing=True):
        assert isinstance(end, Failed)
    left = [line for path in folder.glob("*.log") for line in path.read_text().splitlines()]
    found = together(noted, then, str(folder), spec)
    assert found[0] == [len(left), chunks]
    wrote = [line for path in folder.glob("*.log") for line in path.read_text().splitlines()]
    assert len(wrote) == len(set(wrote)) == chunks, "no chunk is computed twice"
    one, two = (zarr.open_group(x / "x.zarr", mode="r") for x in (whole, folder))
    assert np.array_equal(one["scores"][:], two["scores"][:])


@pytest.mark.parametrize("spec", ["ggn", "dense", "low rank"])
def test_killed_at_an_operation_on_files_the_next_run_has_the_same_numbers(
    chunked, monkeypatch, spec
):
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    given, spec = small(), SPECS[spec]
    whole = cv.score_request(spec, given, SCORING).run(progress=False).arrays["scores"]
    died, k = True, 0
    while died:
        out = f"{k}.zarr"
        died = dies_at(
            monkeypatch, k, lambda at=out: request(given, spec=spec, out=at).run(progress=False)
        )
        report = request(given, spec=spec, out=out).run(progress=False)
        assert torch.equal(report.arrays["scores"][[0, 1, 2]], whole), k
        k += 17
    assert k > 100


@pytest.mark.parametrize("spec", ["ggn", "low rank"])
def test_a_disk_that_fills_up_keeps_the_chunks_that_are_there(chunked, monkeypatch, spec):
    spec, write, done = SPECS[spec], ScoreStore.write, []
    whole = cv.score_request(spec, small(), SCORING).run(progress=False).arrays["scores"]

    def full(self, chunk, arrays):
        if len(done) == 3:
            with refusals(self.address):
                raise OSError(errno.ENOSPC, "No space left on device")
        write(self, chunk, arrays)
        done.append(chunk)

    with monkeypatch.context() as patch:
        patch.setattr(ScoreStore, "write", full)
        with pytest.raises(cv.MachineError, match="E0802"):
            request(spec=spec).run(progress=False)
    report = request(spec=spec).run(progress=False)
    assert report.found[0] == 3
    assert torch.equal(report.arrays["scores"][[0, 1, 2]], whole)


def test_a_format_in_one_piece_is_not_written_in_parts(chunked):
    with pytest.raises(cv.SpecError, match="E0583"):
        request(out="x.csv")
    report = cv.score_request("kfac", small(), SCORING).run(progress=False)
    with pytest.raises(cv.SpecError, match="E0583"):
        report.save("y.zarr")


def test_a_limited_run_says_what_memory_was_predicted(chunked):
    report = request(memory="1MB").run(progress=False)
    assert any(line.startswith("memory: ") and "predicted" in line for line in report.header())
    assert not any(x.startswith("memory: ") for x in request(out="y.npy").run().header())


def test_a_disk_with_too_little_space_is_known_before_scores(chunked, monkeypatch):
    """What a store has already is not asked for again."""
    request().run(progress=False)
    store = zarr.open_group("x.zarr")
    store["written"][0, 0] = 0
    each = store["scores"].nbytes // store["written"].size
    for free, enough in ((each // 2, False), (2 * each, True)):
        monkeypatch.setattr(
            "curvlang.runtime.limits.disk.shutil.disk_usage",
            lambda path, free=free: shutil._ntuple_diskusage(2 * free, free, free),
        )
        if not enough:
            with pytest.raises(cv.MachineError, match="E0841"):
                request().run(progress=False)
            continue
        assert request().run(progress=False).found is not None


@pytest.mark.parametrize("after", [0, 1, 2])
@pytest.mark.parametrize("inside", [False, True])
def test_scores_of_tokens_go_on_where_they_were_stopped(tmp_path, monkeypatch, after, inside):
    """Chunks begin inside an example's tokens too."""
    monkeypatch.setattr("curvlang.attribution.streams.by_token.LEAST", 1)
    monkeypatch.setattr("curvlang.attribution.streams.by_token.MOST", 4)
    monkeypatch.chdir(tmp_path)
    scoring = cv.Scoring(damping=0.1, per_token=True)
    whole = request(small(n=10, positions=3), scoring, out="whole.zarr").run(progress=False)
    report, before, written = gone_on(
        lambda: request(small(n=10, positions=3), scoring), monkeypatch, after, inside
    )
    store = report.arrays["scores"].store
    assert len(store.layout.all) > 3
    assert sorted(before | set(written)) == store.layout.all
    assert not before & set(written)
    assert store.offsets.tolist() == list(range(0, 31, 3))
    rows = list(range(store.layout.shape[0]))
    assert torch.equal(report.arrays["scores"][rows], whole.arrays["scores"][rows])


def test_a_finished_store_in_a_folder_that_cannot_be_written_is_read(chunked, monkeypatch):
    first = request().run(progress=False)

    def refused(self, *args, **options):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "touch", refused)
    again = request().run(progress=False)
    assert torch.equal(again.arrays["scores"][[0, 1, 2]], first.arrays["scores"][[0, 1, 2]])
    assert [str(x) for x in again.top(2)] == [str(x) for x in first.top(2)]
    with pytest.raises(cv.SpecError, match="E0585"):
        request(out="other.zarr")


def test_a_store_that_is_not_finished_is_not_begun_where_nothing_can_be_written(
    chunked, monkeypatch
):
    request().run(progress=False)
    zarr.open_group("x.zarr", mode="r+")["written"][0] = 0
    monkeypatch.setattr(
        Path, "touch", lambda *given, **named: (_ for _ in ()).throw(OSError(30, "no"))
    )
    with pytest.raises(cv.SpecError, match="E0585"):
        request()
