"""Space on the disk: predicted, asked for before the work, and a disk that fills up all the same loses nothing."""

from __future__ import annotations

import errno
import itertools
from collections import namedtuple

import pytest
import torch

import curvlang as cv
from curvlang.language.selection import chains_of, chosen
from curvlang.runtime.execute import Execution
from curvlang.runtime.limits import disk
from curvlang.runtime.limits.disk import FILE, disk_use
from curvlang.runtime.prepare import prepare
from curvlang.runtime.stored import work
from curvlang.storage import mapped
from tests.runtime.stored.work import task

STUDY = """
study small {
  "Does it fit?"
  task     digits(hidden = [4], epochs = 1)
  path     ekfac > kfac
  seeds    3
  protocol subsets = 4, keep = 0.5, retrains = 1
}
"""
Usage = namedtuple("Usage", ("total", "used", "free"))


def held(folder):
    """Bytes of all files of a folder, unfinished ones too."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def convolution():
    """Two groups of one shape and several positions: blocks that are held as one."""
    g = torch.Generator().manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(2, 4, 2, groups=2, bias=False), torch.nn.Flatten(), torch.nn.Linear(16, 3)
    ).double()
    X = torch.randn(30, 2, 3, 3, generator=g, dtype=torch.float64)
    y = torch.randint(0, 3, (30,), generator=g)
    return cv.Task(net, "cross_entropy", (X, y), (X[:2], y[:2]))


@pytest.mark.parametrize(
    "spec", ["hessian", "ekfac", "per_output", "kfac_by_unit", "low_rank", "ekfac_projected"]
)
@pytest.mark.parametrize("made", [lambda: task(width=40, layers=3, N=200), convolution])
def test_what_a_fit_writes_is_predicted(spec, made, tmp_path, monkeypatch):
    given, most = made(), []

    def written(destination, *arguments):
        before(destination, *arguments)
        most.append(held(tmp_path))

    before = mapped.write_file
    monkeypatch.setattr(mapped, "write_file", written)
    cv.fit(spec, given, store=tmp_path / "s", progress=False)
    found = disk_use(prepare(chains_of(chosen(cv.load(spec))), given, last=True))
    results = [p.stat().st_size for p in (tmp_path / "s/results").rglob("*.safetensors")]
    assert sum(results) <= found.results <= 1.02 * sum(results) + FILE * len(results)
    assert max(most) <= found.peak + 2 * FILE


@pytest.mark.parametrize("spec", ["ekfac", "hessian"])
def test_too_little_space_is_refused_before_the_data_is_read(spec, tmp_path, monkeypatch):
    given = task()
    need = disk_use(prepare(chains_of(chosen(cv.load(spec))), given, last=True)).peak
    fed = []
    monkeypatch.setattr(Execution, "feed", lambda *a: fed.append(1))
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: Usage(0, 0, need - 1000))
    with pytest.raises(cv.MachineError, match="E0841"):
        cv.fit(spec, given, store=tmp_path / "s", progress=False)
    assert fed == []


@pytest.mark.parametrize("request_of", [cv.fit_request, cv.score_request])
def test_it_is_refused_before_a_model_is_trained(request_of, tmp_path, monkeypatch):
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: Usage(0, 0, 1000))
    setup = cv.Setup(store=tmp_path / "s")
    given = {"setup": setup} if request_of is cv.fit_request else {"scoring": None, "setup": setup}
    with pytest.raises(cv.MachineError, match="E0841"):
        request_of("kfac", cv.TaskSource("digits(hidden = [8], epochs = 1)"), **given)
    assert not (tmp_path / "s/model").exists()


def test_a_finished_store_is_read_on_a_full_disk(tmp_path, monkeypatch):
    made = cv.fit("kfac", task(), store=tmp_path / "s", progress=False)
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: Usage(0, 0, 0))
    again = cv.fit("kfac", task(), store=tmp_path / "s", progress=False)
    assert torch.equal(again.dense(), made.dense())


def _fills_up(store):
    """Whether a fit has ended on a full disk."""
    try:
        cv.fit("ekfac", task(), store=store, progress=False)
    except cv.MachineError as error:
        return [d.code for d in error.diagnostics] == ["E0802"]
    return False


def test_a_disk_that_fills_up_at_any_file_loses_nothing(tmp_path, monkeypatch):
    plain = cv.fit("ekfac", task(), progress=False).dense()
    real, left = mapped.write_file, []

    def write(*arguments):
        if not left:
            with arguments[0].refusals(1):
                raise OSError(next(codes), "no space")
        left.pop()
        real(*arguments)

    monkeypatch.setattr(mapped, "write_file", write)
    failed, codes = 0, itertools.cycle((errno.ENOSPC, errno.EDQUOT))
    for count in range(20):
        left[:] = [0] * count
        store = tmp_path / str(count)
        failed += _fills_up(store)
        left[:] = [0] * 100
        assert torch.equal(cv.fit("ekfac", task(), store=store, progress=False).dense(), plain)
    assert 5 < failed < 20


def test_what_is_there_already_is_not_asked_for_again(tmp_path, monkeypatch):
    given = task(N=4000)
    close = Execution.close

    def stop(self, *arguments):
        close(self, *arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Execution, "close", stop)
        with pytest.raises(KeyboardInterrupt):
            cv.fit("ekfac", given, store=tmp_path / "s", progress=False)
    left = held(tmp_path / "s/work")
    with monkeypatch.context() as patch:
        patch.setattr(disk.shutil, "disk_usage", lambda _: Usage(0, 0, 0))
        with pytest.raises(cv.MachineError, match="E0841"):
            cv.fit("ekfac", given, store=tmp_path / "s", progress=False)
    assert held(tmp_path / "s/work") == left
    asked = []
    monkeypatch.setattr(work, "require_space", lambda claim: asked.append(claim.there))
    cv.fit("ekfac", given, store=tmp_path / "s", progress=False)
    assert asked[0] > 1000


@pytest.mark.parametrize("out", ["x.zarr", "x.npy"])
def test_scores_are_refused_before_a_model_is_trained(out, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    described = cv.TaskSource("digits(hidden = [8], epochs = 1)")
    asked = cv.score_request("kfac", described, out=out)
    need = 8 * asked.task.N * asked.task.Q
    for free, enough in ((need, True), (need - 1, False)):
        monkeypatch.setattr(disk.shutil, "disk_usage", lambda _, free=free: Usage(0, 0, free))
        if enough:
            cv.score_request("kfac", described, out=out)
            continue
        with pytest.raises(cv.MachineError, match=f"E0841.*{out}"):
            cv.score_request("kfac", described, out=out)


def test_a_store_and_scores_on_one_disk_are_counted_together(tmp_path, monkeypatch):
    """Either alone would fit; what the fit needs while it runs is free again when scores are written."""
    described = cv.TaskSource("digits(hidden = [8], epochs = 1)")
    scoring, setup = cv.Scoring(damping=0.1), cv.Setup(store=tmp_path / "s")
    out = tmp_path / "x.npy"
    made = cv.score_request("kfac", described, scoring)
    use = disk_use(prepare(chains_of(made.curvature), made.task, last=True))
    model = sum(p.nbytes for p in made.task.model.parameters())
    scores = 8 * made.task.N * made.task.Q
    assert use.results < use.peak < scores
    need = model + use.results + scores
    for free, enough in ((need, True), (need - 1, False)):
        monkeypatch.setattr(disk.shutil, "disk_usage", lambda _, free=free: Usage(0, 0, free))
        if enough:
            cv.score_request("kfac", described, scoring, setup, out=out)
            continue
        with pytest.raises(cv.MachineError, match="E0841") as found:
            cv.score_request("kfac", described, scoring, setup, out=out)
        assert f"the store `{tmp_path}/s` and the file `{out}` need together" in str(found.value)


def test_a_study_asks_after_its_first_cell_for_space_for_the_others(tmp_path, monkeypatch):
    spec, run = tmp_path / "small.cv", tmp_path / "run"
    spec.write_text(STUDY)
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: Usage(0, 0, 3000))
    with pytest.raises(cv.MachineError, match=r"E0841.*the folder"):
        cv.study(spec, run, progress=False)
    assert len(list(run.glob("cells/*.json"))) == 1
    monkeypatch.undo()
    cv.study(spec, run, progress=False)
    assert len(list(run.glob("cells/*.json"))) == 3


@pytest.mark.parametrize("fitted", [False, True])
@pytest.mark.parametrize("keep", [None, "float32"])
def test_an_index_is_refused_before_its_fit(fitted, keep, tmp_path, monkeypatch):
    given, fed, store = task(), [], tmp_path / "s"
    spec = cv.load("logra")
    if fitted:
        cv.fit(spec, given, store=store, progress=False)
    cv.index(spec, given, store=tmp_path / "t", keep=keep, progress=False)
    real = sum(p.stat().st_size for p in (tmp_path / "t/index").rglob("chunk-*"))
    use = disk_use(prepare(chains_of(chosen(spec)), given, last=True))
    need = real - FILE * 2 if fitted else use.results + real
    monkeypatch.setattr(Execution, "feed", lambda *a: fed.append(1))
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: Usage(0, 0, need - FILE * 2))
    with pytest.raises(cv.MachineError, match="E0841"):
        cv.index(spec, given, store=store, keep=keep, progress=False)
    assert fed == []
    assert not (store / "index").exists()
