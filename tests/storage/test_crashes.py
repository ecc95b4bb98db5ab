"""Killed at every operation on files, what is written is the old or the new, and the next run clears up."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from curvlang.diagnostics.diagnostic import SpecError
from curvlang.evaluation.study.files import write_file
from curvlang.operators import Diagonal
from curvlang.operators.files import load_operator, save
from curvlang.reporting.runfolder import FILES, Record, check_folder, write_run
from curvlang.reporting.study import folder as study_folder
from curvlang.reporting.study.folder import check_study_folder, write_study
from curvlang.storage import swap
from curvlang.storage.cache import Cache
from curvlang.storage.leftovers import locked
from curvlang.storage.score_file import Scores, check_score_file, write_scores
from tests.reporting.example import digits
from tests.storage.crashes import assert_whole_at_every_crash, content

SCORES = np.arange(180.0 * 1617, dtype=np.float32).reshape(180, 1617)
CELLS = {f"cells/{k}{suffix}": b"x" * k for k in range(3) for suffix in (".json", ".npz")}


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Writes a study's folder of three cells with one report or another."""
    folder = tmp_path / "runs" / "study"
    reports = {"study.json", "report.html", "spec.cv", "figures/a.svg", "figures/b.svg"}

    def contents(result, text, formats):
        assert set(formats) <= {"md", "csv", "pdf", "gz"}
        return {name: f"{name} {result}".encode() for name in reports}

    monkeypatch.setattr(study_folder, "_contents", contents)
    for name, cell in CELLS.items():
        write_file(folder / name, cell)

    def write(new):
        check_study_folder(folder)
        write_study(folder, new, "")

    return folder, write


def test_a_study_folder(study, monkeypatch):
    folder, write = study
    assert assert_whole_at_every_crash(monkeypatch, write, folder, []) > 40
    assert CELLS.items() <= content(folder).items()


def test_a_study_folder_where_names_cannot_be_exchanged(study, monkeypatch):
    folder, write = study
    monkeypatch.setattr(swap, "_exchange", lambda one, other: False)
    # Between two renames there is no folder; the next run finds the old one again.
    assert_whole_at_every_crash(monkeypatch, write, folder, [None])
    assert CELLS.items() <= content(folder).items()


def test_a_study_folder_where_there_are_no_links(study, monkeypatch):
    folder, write = study

    def refuse(*args, **options):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(swap.os, "link", refuse)
    assert_whole_at_every_crash(monkeypatch, write, folder, [])
    assert CELLS.items() <= content(folder).items()


def test_a_cell_that_another_process_writes_meanwhile_is_kept(study, monkeypatch):
    folder, write = study
    write(False)
    swap_in = swap.swap_in

    def late(new, target):
        write_file(folder / "cells/late.json", b"late")
        swap_in(new, target)

    monkeypatch.setattr(swap, "swap_in", late)
    write(True)
    assert (folder / "cells/late.json").read_bytes() == b"late"
    assert [p.name for p in folder.parent.iterdir()] == ["study"]


def test_cells_of_a_folder_that_a_kill_has_left_come_back(study):
    folder, write = study
    write(False)
    folder.rename(folder.with_name(".study.0123abcd.partial.old"))
    write(True)
    assert CELLS.items() <= content(folder).items()
    assert [p.name for p in folder.parent.iterdir()] == ["study"]


def test_unfinished_files_of_killed_runs_are_removed_and_foreign_ones_refused(study):
    folder, write = study
    write(False)
    for place in (folder, folder / "cells", folder / "figures"):
        (place / ".abcd.partial").write_text("half")
        (place / ".held.partial").write_text("half")
    with locked(folder / "cells/.held.partial"):
        check_study_folder(folder)
        assert (folder / "cells/.held.partial").exists()
    write(True)
    assert not [*folder.rglob(".*.partial")]
    (folder / "figures/mine.png").write_text("mine")
    for refused in (lambda: check_study_folder(folder), lambda: write(True)):
        with pytest.raises(SpecError, match=r"holds what no study wrote: `figures/mine\.png`"):
            refused()


def test_formats_of_an_earlier_report_are_renewed(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        study_folder,
        "_contents",
        lambda r, t, formats: asked.append(set(formats)) or {"report.md": b"x"},
    )
    write_study(tmp_path / "a", None, "", ["md"])
    write_study(tmp_path / "a", None, "", ["csv"])
    write_study(tmp_path / "a", None, "", [])
    assert asked == [{"md"}, {"md", "csv"}, {"md"}]


def test_a_run_folder(tmp_path, monkeypatch):
    folder = tmp_path / "runs" / "run"

    def write(new):
        check_folder(folder)
        write_run(folder, digits(), Record(SCORES + new, {"kfac": SCORES}))

    monkeypatch.setattr("curvlang.reporting.runfolder.to_html", lambda *args, **options: "page")
    assert assert_whole_at_every_crash(monkeypatch, write, folder, []) > 20
    assert set(content(folder)) == FILES


@pytest.mark.parametrize("suffix", [".npy", ".safetensors", ".csv"])
def test_a_score_file(suffix, tmp_path, monkeypatch):
    path = tmp_path / "out" / f"scores{suffix}"

    def write(new):
        check_score_file(path)
        write_scores(path, Scores({"scores": SCORES[:3, :4] + new}, ("query", "train"), {}, {}))

    assert assert_whole_at_every_crash(monkeypatch, write, path, []) > 5


def test_a_kept_result(tmp_path, monkeypatch):
    cache = Cache(tmp_path)
    path = cache._path("abcd", "x")

    def write(new):
        cache.probe()
        cache.put("abcd", "x", np.full(3, float(new)))

    assert assert_whole_at_every_crash(monkeypatch, write, path, []) > 5
    assert [p.name for p in tmp_path.iterdir()] == ["ab"]
    assert cache.get("abcd", "x").tolist() == [1, 1, 1]


def test_an_operator_file(tmp_path, monkeypatch):
    path = tmp_path / "fitted.safetensors"

    def write(new):
        save(Diagonal(torch.full((3,), float(new))), path)

    def read(place):
        return load_operator(place)[0].dense().diagonal().tolist()

    assert assert_whole_at_every_crash(monkeypatch, write, path, [], read) > 2
