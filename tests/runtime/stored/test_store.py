"""The store of a fit: the same numbers, nothing twice, kills at any moment, other fits refused by name."""

from __future__ import annotations

import subprocess
import sys
import time
import warnings
from functools import partial
from pathlib import Path

import pytest
import torch

import curvlang as cv
from curvlang.fits import disk_bytes
from curvlang.language.selection import chains_of, chosen
from curvlang.runtime.execute import Execution
from curvlang.runtime.limits.disk import FILE
from curvlang.runtime.limits.footprint import largest
from curvlang.runtime.limits.memory import limited
from curvlang.runtime.prepare import prepare
from curvlang.runtime.progress.log import RankLog
from curvlang.runtime.stored.session import StoreDamaged
from curvlang.storage.fits.lock import StoreBusy, at_work
from tests.runtime.stored.work import task

SPECS = ("ekfac", "etkfac", "kfac", "diagonal", "hessian", "per_output", "low_rank", "ekfac_mc")


@pytest.fixture
def fed(monkeypatch):
    """How many batches were added up."""
    calls = []
    feed = Execution.feed

    def counted(self, number, leaves):
        calls.append(number)
        return feed(self, number, leaves)

    monkeypatch.setattr(Execution, "feed", counted)
    return calls


@pytest.mark.parametrize("decay", [None, 0.01])
@pytest.mark.parametrize("spec", SPECS)
def test_a_kept_fit_is_the_fit(spec, decay, tmp_path, fed):
    given = task(weight_decay=decay)
    plain = cv.fit(spec, given, progress=False)
    v = torch.randn(given.P, 3, dtype=torch.float64)
    made = cv.fit(spec, given, store=tmp_path / "s", progress=False)
    fed.clear()
    again = cv.fit(spec, given, store=tmp_path / "s", progress=False)
    assert fed == []
    alone = cv.load_operator(tmp_path / "s")
    for op in (made, again, alone):
        assert torch.equal(op @ v, plain @ v)
        assert torch.equal(op.inverse(0.1) @ v, plain.inverse(0.1) @ v)
    assert alone.shape == plain.shape
    assert {k: x.describe() for k, x in alone.blocks.items()} == {
        k: x.describe() for k, x in plain.blocks.items()
    }
    assert not (tmp_path / "s/work").exists() or not any((tmp_path / "s/work").iterdir())


def test_of_a_stored_operator_nothing_is_read_before_it_is_asked_for(tmp_path):
    cv.fit("kfac", task(), store=tmp_path / "s", progress=False)
    op = cv.load_operator(tmp_path / "s")
    files = sorted((tmp_path / "s/results").rglob("*.safetensors"))
    first, *others = op.blocks
    for file in files[1:]:
        file.unlink()
    assert op.blocks[first].size
    with pytest.raises(cv.SpecError, match="E0837"):
        _ = op.blocks[others[0]]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"spec": "ekfac"}, "another spec"),
        ({"seed": 3}, "another seed"),
        ({"dtype": torch.float32}, "another precision"),
        ({"task": {"shift": 1.0}}, "other data"),
        ({"task": {"model": 1}}, "another model"),
        ({"task": {"weight_decay": 0.1}}, "another loss or weight decay"),
    ],
)
def test_a_store_of_something_else_is_refused_by_name(change, said, tmp_path):
    cv.fit("kfac", task(), store=tmp_path / "s", progress=False)
    other = {"spec": "kfac", "task": {}, **change}
    spec, made = other.pop("spec"), task(**other.pop("task"))
    with pytest.raises(cv.SpecError, match="E0835") as caught:
        cv.fit(spec, made, store=tmp_path / "s", progress=False, **other)
    assert said in str(caught.value)


def test_queries_are_not_part_of_it(tmp_path, fed):
    given = task()
    cv.fit("kfac", given, store=tmp_path / "s", progress=False)
    fed.clear()
    X, y = given.query
    cv.fit("kfac", given.replaced(query=(X[:2], y[:2])), store=tmp_path / "s", progress=False)
    assert fed == []


def test_what_is_damaged_is_made_again_and_the_rest_is_kept(tmp_path):
    plain = cv.fit("ekfac", task(), store=tmp_path / "s", progress=False).dense()
    file = next((tmp_path / "s/results").rglob("*.safetensors"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.warns(StoreDamaged, match="computed again"):
        again = cv.fit("ekfac", task(), store=tmp_path / "s", progress=False)
    assert torch.equal(again.dense(), plain)


def test_a_run_waits_for_the_one_that_works_and_says_so(tmp_path):
    (tmp_path / "s").mkdir()
    code = (
        "import sys, time; from pathlib import Path\n"
        "from curvlang.storage.fits.lock import at_work\n"
        "with at_work(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "s")], stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout.readline() == "held\n"
        time_of_kill = []

        def kill(message, *rest, **named):
            time_of_kill.append(str(message))
            other.kill()

        with warnings.catch_warnings():
            warnings.simplefilter("always", StoreBusy)
            warnings.showwarning = kill
            cv.fit("kfac", task(), store=tmp_path / "s", progress=False)
        assert f"process {other.pid}" in time_of_kill[0]
    finally:
        other.kill()
        other.wait()
    # The lock of a dead process holds nobody back.
    with at_work(tmp_path / "s"):
        pass


@pytest.mark.parametrize("place", ["file", "foreign", "inside a file", "nul"])
def test_a_place_that_cannot_be_used_is_refused_before_the_work(place, tmp_path, fed):
    (tmp_path / "file").write_text("")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign/mine.txt").write_text("")
    path = {"inside a file": tmp_path / "file/s", "nul": "x\0y"}.get(place, tmp_path / place)
    with pytest.raises((cv.SpecError, cv.MachineError), match="E0838"):
        cv.fit("kfac", task(), store=path, progress=False)
    assert fed == []


@pytest.mark.parametrize("spec", ["ekfac", "etkfac"])
def test_blocks_in_turns_are_the_same_blocks(spec, tmp_path):
    given = task(width=40, layers=4)
    plain = cv.fit(spec, given, progress=False)
    chains = chains_of(chosen(cv.load(spec)))
    needed = largest(prepare(chains, given, last=True).phases).bytes
    shares = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.38, 0.36, 0.34, 0.32)
    limit = next(m for x in shares if _turns(spec, given, m := int(needed * x)))
    v = torch.randn(given.P, dtype=torch.float64)
    for store in (None, tmp_path / "s"):
        taken = cv.fit(spec, given, memory=limit, store=store, progress=False)
        assert torch.allclose(taken @ v, plain @ v, rtol=1e-10, atol=1e-12)


def _turns(spec, given, memory):
    try:
        return "take turns" in cv.explain(spec, given, memory=memory).text(code=False)
    except cv.MachineError:
        return False


@pytest.mark.parametrize("delay", [0.0, 0.15, 0.4])
def test_a_killed_fit_goes_on_and_ends_as_one_that_was_not(delay, tmp_path):
    store = tmp_path / "s"
    code = "import sys; from tests.runtime.stored.work import slow; slow(sys.argv[1])"
    run = subprocess.Popen(
        [sys.executable, "-c", code, str(store)], stdout=subprocess.PIPE, text=True
    )
    assert run.stdout.readline() == "begins\n"
    time.sleep(delay)
    run.kill()
    run.wait()
    again = cv.fit("ekfac", task(N=4000), store=store, progress=False)
    plain = cv.fit("ekfac", task(N=4000), progress=False)
    assert torch.equal(again.dense(), plain.dense())


def test_passes_and_decompositions_that_are_there_are_not_computed_again(
    tmp_path, monkeypatch, fed
):
    given, store = task(N=4000), tmp_path / "s"
    close, ended = Execution.close, []

    def stop(self, *given):
        close(self, *given)
        ended.append(given[0])
        if len(ended) == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Execution, "close", stop)
        with pytest.raises(KeyboardInterrupt):
            cv.fit("ekfac", given, store=store, progress=False)
    fed.clear()
    again = cv.fit("ekfac", given, store=store, progress=False)
    assert set(fed) == {2}
    assert torch.equal(again.dense(), cv.fit("ekfac", given, progress=False).dense())


def test_predicted_bytes_are_those_on_the_disk(tmp_path):
    given = task(width=40, layers=3)
    cv.fit("ekfac", given, store=tmp_path / "s", progress=False)
    found = sum(p.stat().st_size for p in (tmp_path / "s/results").rglob("*.safetensors"))
    predicted = disk_bytes(chosen(cv.load("ekfac")), given)
    assert found <= predicted <= found + FILE * 3


def test_the_log_of_a_process_is_in_the_store(tmp_path):
    cv.fit("kfac", task(), store=tmp_path / "s", progress=False)
    assert RankLog(tmp_path / "s", 0).path.is_file()
    assert Path(tmp_path / "s/log/rank-0.log").read_text()


def test_a_store_of_the_first_format_is_refused_as_such(tmp_path):
    """Its manifest was sealed in another way: it is not damaged."""
    (tmp_path / "store.json").write_text('{"curvlang": "0.9", "format": 1, "sha256": "00"}')
    with pytest.raises(cv.SpecError, match="E0836") as caught:
        cv.fit("kfac", task(), store=tmp_path, progress=False)
    assert "format 1" in str(caught.value)


def test_a_store_of_the_format_before_is_read(tmp_path, monkeypatch):
    given = task()
    monkeypatch.setattr("curvlang.storage.fits.store.FORMAT", 2)
    before = cv.fit("kfac", given, store=tmp_path / "s", progress=False).dense()
    monkeypatch.undo()
    monkeypatch.setattr(Execution, "feed", None)
    assert torch.equal(cv.fit("kfac", given, store=tmp_path / "s", progress=False).dense(), before)


@pytest.mark.parametrize("request_of", [cv.fit_request, cv.score_request])
def test_a_model_of_another_recipe_is_refused_before_it_is_trained(request_of, tmp_path):
    setup = cv.Setup(store=tmp_path / "s")
    one, other = (cv.TaskSource(f"digits(hidden = [4], epochs = {n})") for n in (1, 2))
    cv.fit_request("kfac", one, setup).run(False)
    given = {"setup": setup}
    with pytest.raises(cv.SpecError, match="another model") as caught:
        request_of("kfac", other, **given)
    assert "epochs = 1" in str(caught.value)
    assert len(list((tmp_path / "s/model").iterdir())) == 1
    request_of("kfac", one, **given)


class Recorded(cv.StoredRows):
    """Rows in memory that tell which of them are read."""

    def __init__(self, rows, seen):
        super().__init__(rows.shape, rows.dtype)
        self.rows, self.seen = rows, seen

    def read(self, places):
        numbers = torch.as_tensor(list(places)) if isinstance(places, range) else places
        self.seen += numbers.tolist()
        return self.rows[numbers]


@pytest.mark.parametrize("batches", [1, 3, 5])
def test_batches_that_are_added_up_are_not_read_again(batches, tmp_path, monkeypatch):
    """Killed inside a chunk: the next run reads from the first batch on that is missing."""
    seen, whole = [], task(N=61)
    stored = Recorded(whole.train[0], seen), Recorded(whole.train[1], [])
    given = cv.Task(whole.model, "cross_entropy", stored, whole.query)
    monkeypatch.setattr("curvlang.runtime.stored.run_state.SHARE", 0)
    fit = partial(cv.fit, "kfac", progress=False)
    feed, fed = Execution.feed, []

    def stop(self, number, leaves):
        if len(fed) == batches:
            raise KeyboardInterrupt
        fed.append(number)
        return feed(self, number, leaves)

    with limited("16 KiB"):
        (plan,) = prepare(chains_of(chosen(cv.load("kfac"))), given, last=True).plans
        assert plan.batch < plan.cut.longest
        plain = fit(given)
        with monkeypatch.context() as patch:
            patch.setattr(Execution, "feed", stop)
            with pytest.raises(KeyboardInterrupt):
                fit(given, store=tmp_path / "s")
        seen.clear()
        again = fit(given, store=tmp_path / "s")
    assert torch.equal(again.dense(), plain.dense())
    passed = sorted(set(range(61)) - set(seen))
    assert passed, "rows that were added up"
