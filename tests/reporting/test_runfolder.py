"""The run folder: whole or not at all, what is not ours is left alone."""

from __future__ import annotations

import errno
import json
import os

import numpy as np
import pytest

from curvlang.diagnostics.diagnostic import MachineError, SpecError
from curvlang.reporting.runfolder import FILES, Record, check_folder, read_result, write_run
from curvlang.storage.leftovers import locked
from tests.reporting.example import digits

SCORES = np.arange(180.0 * 1617).reshape(180, 1617)


def write(folder, result=None, **extra):
    run = Record(SCORES, spec_text="curvature x = hessian\n", provenance={"seed": 0}, **extra)
    return write_run(folder, result or digits(), run)


def test_what_is_in_it(tmp_path):
    folder = write(tmp_path / "a" / "run", step_scores={"kfac": SCORES, "ekfac": SCORES})
    assert {p.name for p in folder.iterdir()} == FILES
    assert read_result(folder) == read_result(folder / "result.json")
    assert json.loads((folder / "provenance.json").read_text()) == {"seed": 0}
    assert np.array_equal(np.load(folder / "scores.npy"), SCORES)
    assert sorted(np.load(folder / "step_scores.npz")) == ["ekfac", "kfac"]
    assert (folder / "spec.cv").read_text() == "curvature x = hessian\n"


def test_the_same_run_gives_the_same_bytes(tmp_path):
    a, b = write(tmp_path / "a", step_scores={"kfac": SCORES}), tmp_path / "b"
    write(b, step_scores={"kfac": SCORES})
    for name in FILES:
        assert (a / name).read_bytes() == (b / name).read_bytes()


def test_an_interruption_at_any_write_leaves_the_earlier_run(tmp_path, monkeypatch):
    folder = write(tmp_path / "run")
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    sync, left = os.fsync, [0]

    def interrupted(handle):
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        sync(handle)

    monkeypatch.setattr(os, "fsync", interrupted)
    for at in range(1, 6):
        left[0] = at
        with pytest.raises(KeyboardInterrupt):
            write(folder)
        assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
        assert [p.name for p in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(
    ("number", "kind", "code"),
    [
        (errno.ENOSPC, MachineError, "E0802"),
        (errno.EDQUOT, MachineError, "E0802"),
        (errno.EACCES, SpecError, "E0905"),
    ],
)
def test_what_the_system_refuses(number, kind, code, tmp_path, monkeypatch):
    def refuse(handle):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(kind) as caught:
        write(tmp_path / "run")
    assert caught.value.diagnostics[0].code == code
    assert list(tmp_path.iterdir()) == []


def test_foreign_files_are_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    for refused in (check_folder, write):
        with pytest.raises(SpecError, match="holds what no run wrote"):
            refused(tmp_path)
        with pytest.raises(SpecError, match="is a file"):
            refused(tmp_path / "thesis.tex")
        with pytest.raises(SpecError, match="cannot be written"):
            refused(tmp_path / "thesis.tex" / "run")
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_looking_first_leaves_nothing(tmp_path):
    check_folder(tmp_path / "a" / "b" / "run")
    assert list(tmp_path.iterdir()) == []


def test_scores_that_do_not_fit_are_refused(tmp_path):
    for wrong in (SCORES.T, SCORES[0], SCORES[:, :-1]):
        with pytest.raises(SpecError, match="has shape"):
            write_run(tmp_path / "run", digits(), Record(wrong))
    with pytest.raises(SpecError, match="is not a step"):
        write(tmp_path / "run", step_scores={"kfak": SCORES})
    assert list(tmp_path.iterdir()) == []


def test_reading_what_is_not_there(tmp_path):
    with pytest.raises(SpecError, match="cannot be read"):
        read_result(tmp_path / "none")
    (tmp_path / "result.json").write_bytes(b"\xff")
    with pytest.raises(SpecError, match="not text in UTF-8"):
        read_result(tmp_path)


def test_an_unfinished_folder_is_removed_unless_a_living_process_writes_it(tmp_path):
    for name in (".run.00000000.partial", ".run.00000001.partial", ".running.00000000.partial"):
        (tmp_path / name).mkdir()
    with locked(tmp_path / ".run.00000001.partial"):
        write(tmp_path / "run")
    left = {".run.00000001.partial", ".running.00000000.partial", "run"}
    assert {p.name for p in tmp_path.iterdir()} == left
