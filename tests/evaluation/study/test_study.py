"""A study from spec to report: resumed, split, merged, reported in part; all on a tiny task."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import curvlang as cv
from curvlang.diagnostics.diagnostic import Interrupted, SpecError
from curvlang.evaluation.question import Run
from curvlang.evaluation.study import execution as study_run
from curvlang.evaluation.study.execution import run_missing
from curvlang.evaluation.study.files import CellFolder
from curvlang.evaluation.study.merge import merge
from curvlang.evaluation.study.run import Shard, gather, part, quick, work_of
from curvlang.language import load_studies, loads
from curvlang.reporting.study.cells import errors as error_table
from curvlang.reporting.study.findings import heading
from curvlang.storage.cache import Cache

SPEC = """
task tiny(hidden = [3], epochs = 3) {
  data    random(examples = 40, inputs = 4, outputs = 3)
  model   mlp(hidden = hidden, activation = tanh, bias = false)
  loss    cross_entropy
  train   sgd(lr = 0.1, batch = 8, epochs = epochs)
}

study tiny_depth {
  task       tiny(hidden = [3] * depth) for depth in [1, 2]
  path       hessian > ggn > block_ggn > kfac
  curvatures diagonal
  seeds      2
  inverses   tikhonov, pseudo(rtol = 1e-4)
  damping    [1e-2, 1]
  protocol   subsets = 12, retrains = 2, bootstrap = 50
}
"""


@pytest.fixture(scope="module")
def study():
    return loads(SPEC).studies["tiny_depth"]


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    cache = Cache(tmp_path_factory.mktemp("cache"))
    return Run(cache=cache)


@pytest.fixture(scope="module")
def whole(study, machine, tmp_path_factory):
    store = CellFolder(tmp_path_factory.mktemp("whole"))
    work = work_of(study, machine)
    assert run_missing(work, store, machine) == 4
    return store, work


def test_the_result_has_a_group_for_each_place_and_inverse(study, whole):
    store, work = whole
    result = gather(study, work, store)
    assert (result.done, result.cells) == (4, 4)
    assert [(g.values["depth"], len(g.sweep)) for g in result.groups] == [
        (1, 2), (1, 0), (2, 2), (2, 0)
    ]  # fmt: skip
    group = result.groups[0]
    assert group.seeds == (0, 1)
    assert [r.label for r in group.rows] == ["hessian", "ggn", "block_ggn", "kfac", "diagonal"]
    assert group.rows[0].forward == 0
    assert [s.label for s in group.shares] == ["ggn", "block_ggn", "kfac"]
    assert abs(sum(s.forward or 0 for s in group.shares) - 1) < 1e-9
    assert len(group.pairs) == len(group.best_pairs) == 10
    assert all(r.flops and r.flops > 0 for r in group.rows)
    for row in group.rows:
        for spot in row.spots:
            assert spot.lds is not None
            assert abs(np.mean(spot.per_seed) - spot.lds.estimate) < 1e-9
            assert spot.lds.low <= spot.lds.high


def test_intervals_of_the_lds_end_where_correlations_do(study, whole):
    store, work = whole
    cells = []
    for k, item in enumerate(work[:2]):
        cell, values = store.get(item.key)
        held = dict(values)
        held["both-0"] = np.full_like(values["both-0"], 0.9 if k else -0.9)
        cells.append((cell, held))
    spots = [s for row in merge(cells, len(study.path), 0).rows for s in row.spots]
    assert all(-1 <= s.lds.low <= s.lds.high <= 1 for s in spots)
    # Two models that far apart widen the interval beyond what is possible, on both sides.
    assert any(s.lds.low == -1 for s in spots)
    assert any(s.lds.high == 1 for s in spots)


def test_models_of_a_cell_share_the_ground_truth(whole):
    store, work = whole
    cells = [store.get(w.key)[0] for w in work]
    assert [(c.trained, c.reused) for c in cells] == [(24, 0), (0, 24), (24, 0), (0, 24)]


def test_a_second_run_does_nothing_and_gives_the_same(study, whole, machine):
    store, work = whole
    again = CellFolder(store.folder.parent)
    assert run_missing(work, again, machine) == 0
    first, second = (gather(study, work, s).to_json() for s in (store, again))
    assert json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)


def test_shards_make_the_whole(study, whole, machine, tmp_path):
    store, work = whole
    parts = [part(work, Shard(k, 2)) for k in (1, 2)]
    assert sorted(w.key for p in parts for w in p) == sorted(w.key for w in work)
    assert not {w.truth for w in parts[0]} & {w.truth for w in parts[1]}
    folder = CellFolder(tmp_path)
    for piece in parts:
        run_missing(piece, folder, machine)
    merged = CellFolder(tmp_path)
    assert run_missing(work, merged, machine) == 0
    one, other = (gather(study, work, s) for s in (store, merged))
    assert [g.pairs for g in one.groups] == [g.pairs for g in other.groups]


def test_a_killed_study_keeps_what_is_done(study, whole, machine, tmp_path, monkeypatch):
    _, work = whole
    calls = []

    def stops(*args, **options):
        if len(calls) == 1:
            raise KeyboardInterrupt
        calls.append(1)
        return original(*args, **options)

    original = study_run.run_cell
    monkeypatch.setattr(study_run, "run_cell", stops)
    store = CellFolder(tmp_path)
    with pytest.raises(Interrupted, match="1 of 4 cells"):
        run_missing(work, store, machine)
    partial = gather(study, work, CellFolder(tmp_path))
    assert (partial.done, partial.cells, len(partial.groups)) == (1, 4, 2)
    monkeypatch.setattr(study_run, "run_cell", original)
    assert run_missing(work, CellFolder(tmp_path), machine) == 3


def test_damaged_cells_are_run_again(study, whole, machine, tmp_path):
    store, work = whole
    found = store.get(work[0].key)
    folder = CellFolder(tmp_path)
    folder.put(work[0].key, *found)
    path = tmp_path / "cells" / f"{work[0].key}.npz"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    again = CellFolder(tmp_path)
    assert again.get(work[0].key) is None
    assert len(again.damaged) == 1


def test_keys_name_what_decides_the_numbers(study, machine):
    keys = {w.key for w in work_of(study, machine)}
    assert len(keys) == 4
    assert {w.key for w in work_of(quick(study), machine)} < keys
    other = loads(SPEC.replace("damping    [1e-2, 1]", "damping [1e-2]")).studies["tiny_depth"]
    assert not keys & {w.key for w in work_of(other, machine)}
    more = loads(SPEC.replace("seeds      2", "seeds 3")).studies["tiny_depth"]
    assert keys < {w.key for w in work_of(more, machine)}


def test_a_study_without_protocol_measures_errors_alone(machine, tmp_path):
    text = SPEC.replace("protocol   subsets = 12, retrains = 2, bootstrap = 50", "protocol none")
    study = loads(text.replace("seeds      2", "seeds 1")).studies["tiny_depth"]
    store, work = CellFolder(tmp_path), work_of(study, machine)
    run_missing(work, store, machine)
    group = gather(study, work, store).groups[0]
    assert group.protocol is None
    assert group.pairs == ()
    assert group.rows[1].forward is not None


def test_without_inverses_nothing_is_decomposed(machine, tmp_path, monkeypatch):
    silent = SPEC.replace("protocol   subsets = 12, retrains = 2, bootstrap = 50", "protocol none")
    text = silent.replace("damping    [1e-2, 1]\n", "").replace("seeds      2", "seeds 1")
    with_inverses = loads(text).studies["tiny_depth"]
    without = loads(text.replace("tikhonov, pseudo(rtol = 1e-4)", "none")).studies["tiny_depth"]
    found = []
    for study, folder in ((with_inverses, "with"), (without, "without")):
        store, work = CellFolder(tmp_path / folder), work_of(study, machine)
        run_missing(work, store, machine)
        found.append(gather(study, work, store))
        monkeypatch.setattr(torch.linalg, "eigh", _no_decomposition)
        monkeypatch.setattr(torch.linalg, "eigvalsh", _no_decomposition)
    errors = [[r.forward for r in x.groups[0].rows] for x in found]
    assert errors[0] == errors[1]
    assert [g.inverse for g in found[1].groups] == ["none", "none"]
    assert all(s.inverse is None for r in found[1].groups[0].rows for s in r.spots)
    assert [c.head for c in error_table(found[1].groups[0]).columns] == ["forward", "share"]
    assert heading(found[1].groups[0]) == "depth = 1"


def _no_decomposition(*_):
    raise AssertionError("a matrix was decomposed")


def test_a_changed_file_is_another_cell(machine, tmp_path):
    path = tmp_path / "x.csv"
    spec = tmp_path / "mine.cv"
    spec.write_text(
        SPEC.replace(
            "random(examples = 40, inputs = 4, outputs = 3)", 'file("x.csv", target = label)'
        )
    )

    def keys(shift):
        rows = [f"{k % 7 + shift},{k % 5},{k % 3}" for k in range(40)]
        path.write_text("a,b,label\n" + "\n".join(rows) + "\n")
        _, (study,) = load_studies(str(spec))
        return [w.key for w in work_of(study, machine)]

    assert keys(0) == keys(0)
    assert not set(keys(0)) & set(keys(1))


def test_from_python(tmp_path, machine):
    spec = tmp_path / "mine.cv"
    spec.write_text(SPEC.replace("seeds      2", "seeds 1").replace("[1, 2]", "[1]"))
    found = cv.study(spec, tmp_path / "run", cache=machine.cache)
    assert found.done == 1
    assert (tmp_path / "run/report.html").exists()
    again = cv.study(f"{spec}:tiny_depth", cache=machine.cache)
    assert again.groups[0].pairs == found.groups[0].pairs
    with pytest.raises(SpecError, match="E0919"):
        cv.study("residual")


@pytest.mark.parametrize("text", ["0/2", "3/2", "2", "a/b", "1/0"])
def test_shards_are_checked(text):
    with pytest.raises(SpecError, match="E0918"):
        Shard.read(text)
