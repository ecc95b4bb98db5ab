"""An index whose writing is killed, shared, refused by the disk, or asked for once more."""

from __future__ import annotations

import errno
import io
import itertools
import os
import shutil
import signal
import warnings
from pathlib import Path

import pytest
import torch

import curvlang as cv
from curvlang.attribution.indexed import writing
from curvlang.attribution.streams.cut import ScoreCut
from curvlang.diagnostics.codes import Code
from curvlang.runtime.stored.session import StoreDamaged
from curvlang.storage import mapped
from curvlang.storage.fits.lock import HOLDER
from curvlang.storage.fits.store import Folder
from tests.attribution.formulas.test_formula_scores import TASKS
from tests.attribution.formulas.test_trajectories import made
from tests.attribution.indexed.test_gradient_index import ALONG, COORDINATES, PROJECTED
from tests.models.support import assert_refused
from tests.processes import started, together
from tests.small import network
from tests.small import task as small
from tests.storage.crashes import content, dies_at


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of four examples: N = 11 makes three, the last one shorter."""
    monkeypatch.setattr(writing, "score_cut", lambda total, *_: ScoreCut(total, 4))


def written(text, task, store, **options):
    return cv.index(cv.loads(text), task, store=store, progress=False, **options)


@pytest.fixture
def fitted(tmp_path):
    """A fit that each index is written beside, copied for each of them."""
    task = TASKS["dense"]()
    for name, text in (("a", COORDINATES), ("b", PROJECTED)):
        cv.fit(cv.loads(text), task, store=tmp_path / name, progress=False)
    numbers = itertools.count()

    def copy(name):
        place = tmp_path / f"{name}-{next(numbers)}"
        shutil.copytree(tmp_path / name, place)
        return place

    return task, copy


@pytest.mark.parametrize(
    ("name", "text", "keep"), [("a", COORDINATES, "float32"), ("b", PROJECTED, None)]
)
def test_killed_at_an_operation_on_files_it_is_whole_after_the_next_run(
    name, text, keep, fitted, monkeypatch, small_chunks
):
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    task, copy = fitted
    whole = copy(name)
    wanted = cv.influence(written(text, task, whole, keep=keep), task, progress=False)
    died, k = True, 0
    while died:
        store = copy(name)
        died = dies_at(monkeypatch, k, lambda at=store: written(text, task, at, keep=keep))
        with warnings.catch_warnings():
            warnings.simplefilter("error", StoreDamaged)
            index = written(text, task, store, keep=keep)
        assert torch.equal(cv.influence(index, task, progress=False), wanted), k
        # Who held the lock stays where the kill came just before that file was removed.
        assert content(store).keys() - {HOLDER} == content(whole).keys(), k
        k += 11
    assert k > 100


def at_work(folder, kill=None):
    """An index and the names of the chunks that this process wrote; killed before one of them."""
    writing.score_cut = lambda total, *_: ScoreCut(total, 8)
    put, wrote = Folder.put, []

    def noted(self, name, *rest):
        if name == kill:
            os.kill(os.getpid(), signal.SIGKILL)
        wrote.append(name)
        return put(self, name, *rest)

    if kill is not None:
        os.environ["CURVLANG_PATIENCE"] = "4"
    Folder.put = noted
    task = small(network([3, 4, 3]), "cross_entropy", n=60)
    index = written(COORDINATES, task, Path(folder))
    chunks = [x for x in wrote if x.startswith("chunk")]
    return [cv.influence(index, task, progress=False), *chunks]


def test_killed_and_gone_on_with_by_another_number_of_processes(tmp_path):
    ((wanted, *names),) = together(at_work, 1, str(tmp_path / "whole"))
    assert len(names) == 8
    for first, then in ((1, 2), (2, 1)):
        store = tmp_path / str(first)
        # Of two processes the second one dies, and the first one hears of it.
        killed = together(at_work, first, str(store), "chunk-00005", failing=True)
        assert "ended with -9" in killed[-1].text
        assert first == 1 or killed[0].codes == ("E0832",)
        there = [p.stem for p in store.rglob("chunk-*")]
        assert there
        found = together(at_work, then, str(store))
        assert all(torch.equal(scores, wanted) for scores, *_ in found)
        again = [x for _, *own in found for x in own]
        assert sorted([*there, *again]) == names


def test_of_two_runs_at_once_one_writes_and_the_other_waits(tmp_path):
    store = str(tmp_path / "s")
    with started(at_work, 1, store) as (_, one), started(at_work, 1, store) as (_, other):
        found = [_read(end) for end in (*one, *other)]
    assert torch.equal(found[0][0], found[1][0])
    names = [x for _, *own in found for x in own]
    assert sorted(names) == [f"chunk-{k:05d}" for k in range(8)]


def _read(end):
    assert end.poll(60)
    kind, value = torch.load(io.BytesIO(end.recv_bytes()), weights_only=True)
    assert kind == "result", value
    return value


def test_a_disk_that_fills_up_at_any_file_loses_nothing(fitted, monkeypatch, small_chunks):
    task, copy = fitted
    wanted = cv.influence(written(COORDINATES, task, copy("a")), task, progress=False)
    real, left = mapped.write_file, []

    def write(*arguments):
        if not left:
            with arguments[0].refusals(1):
                raise OSError(errno.ENOSPC, "no space")
        left.pop()
        real(*arguments)

    monkeypatch.setattr(mapped, "write_file", write)
    for count in range(3):
        store = copy("a")
        left[:] = [0] * count
        with pytest.raises(cv.MachineError, match="finished work is kept") as full:
            written(COORDINATES, task, store)
        assert full.value.diagnostics[0].code == Code.E0802
        left[:] = [0] * (3 - count)
        # What was written is not written again: the disk has space for the rest alone.
        written(COORDINATES, task, store)
        assert torch.equal(cv.influence(cv.load_index(store), task, progress=False), wanted)


@pytest.fixture
def read_only(monkeypatch):
    """Makes every file system refuse to be written."""
    opened, made = os.open, os.mkdir

    def refuse():
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    def start():
        monkeypatch.setattr(
            os,
            "open",
            lambda path, flags, *rest, **more: (
                refuse()
                if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
                else opened(path, flags, *rest, **more)
            ),
        )
        monkeypatch.setattr(
            os, "mkdir", lambda path, *rest: refuse() if not os.path.isdir(path) else made(path)
        )

    return start


def test_a_finished_index_is_asked_for_again_where_nothing_can_be_written(
    fitted, read_only, small_chunks
):
    task, copy = fitted
    store = copy("a")
    wanted = cv.influence(written(COORDINATES, task, store), task, progress=False)
    read_only()
    again = written(COORDINATES, task, store)
    assert torch.equal(cv.influence(again, task, progress=False), wanted)


def test_what_cannot_be_written_is_refused_before_models_are_trained(
    tmp_path, monkeypatch, read_only
):
    task = made(trajectory=cv.Trajectory(epochs=1, models=2))
    cv.fit(cv.loads(ALONG), task, store=tmp_path / "s", progress=False)
    monkeypatch.setattr("curvlang.attribution.formulas.surroundings.training_points", None)
    read_only()
    with pytest.raises(cv.MachineError, match="Read-only file system") as caught:
        written(ALONG, task, tmp_path / "s")
    assert caught.value.diagnostics[0].code == Code.E0838


def test_an_index_that_is_there_trains_no_model_once_more(tmp_path, monkeypatch):
    task = made(trajectory=cv.Trajectory(epochs=1, models=2))
    index = written(ALONG, task, tmp_path / "s")
    wanted = cv.influence(index, task, progress=False)
    monkeypatch.setattr("curvlang.attribution.formulas.surroundings.training_points", None)
    again = written(ALONG, task, tmp_path / "s")
    assert torch.equal(cv.influence(again, task, progress=False), wanted)


@pytest.mark.parametrize("other", [{"epochs": 2, "models": 2}, {"epochs": 1, "models": 3}])
def test_other_checkpoints_and_other_models_are_refused(other, tmp_path):
    task = made(trajectory=cv.Trajectory(epochs=1, models=2))
    index = written(ALONG, task, tmp_path / "s")
    later = task.replaced(trajectory=cv.Trajectory(**other))
    assert_refused(Code.E0835, lambda: cv.influence(index, later, progress=False))
    assert_refused(Code.E0835, lambda: written(ALONG, later, tmp_path / "s"))
    # Where none are stated those of the index are meant.
    unsaid = task.replaced(trajectory=None)
    wanted = cv.influence(index, task, progress=False)
    assert torch.equal(cv.influence(index, unsaid, progress=False), wanted)


def test_checkpoints_in_files_are_known_by_their_content(tmp_path):
    task = made()
    states = [{k: x + n for k, x in task.model.state_dict().items()} for n in range(3)]
    given = [task.replaced(trajectory=cv.Trajectory(files=states[k : k + 2])) for k in (0, 1)]
    index = written(ALONG, given[0], tmp_path / "s")
    assert cv.influence(index, given[0], progress=False).isfinite().all()
    assert_refused(Code.E0835, lambda: cv.influence(index, given[1], progress=False))


def test_a_damaged_chunk_is_named_where_it_is_written_again(fitted, small_chunks):
    task, copy = fitted
    store = copy("a")
    written(COORDINATES, task, store)
    (path,) = (store / "index").glob("*/chunk-00002.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.warns(StoreDamaged, match=r"chunk-00002.*computed again"):
        written(COORDINATES, task, store)
