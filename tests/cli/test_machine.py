"""What the machine refuses: run folders, disks, caches, memory; and runs beside each other."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from curvlang.cli import main
from curvlang.cli.main import run

from curvlang.training.one_by_one import OneByOne

TASK = "digits(hidden = [2], epochs = 2)"
SMALL = f"""curvature mine = block_ggn |> kronecker_factor
evaluate mine on {TASK} {{ lds subsets = 27, retrains = 2, bootstrap = 20 }}
"""
COMMAND = [sys.executable, "-c", "from curvlang.cli.main import main; main()"]


@pytest.fixture
def spec(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.cv").write_text(SMALL)
    return "mine.cv"


def left(folder):
    return sorted(p.name for p in folder.iterdir() if p.name != "mine.cv")


@pytest.fixture
def untrained(monkeypatch):
    """Fails where any model is trained: a refusal must come first."""
    from curvlang.training import baseline

    def never(*args, **options):
        raise AssertionError("a model was trained")

    monkeypatch.setattr(baseline, "train_baseline", never)


def test_a_folder_that_cannot_be_written_is_refused_before_the_work(
    spec, untrained, tmp_path, capsys
):
    Path("file").write_text("mine")
    Path("other").mkdir()
    Path("other/thesis.tex").write_text("mine")
    for out, code in (
        ("file", "E0903"), ("file/run", "E0905"), ("/proc/run", "E0905"), ("other", "E0903"),
    ):  # fmt: skip
        assert run(["eval", spec, "--out", out]) == 2
        assert f"error[{code}]" in capsys.readouterr().err
    assert left(tmp_path) == ["file", "other"]
    assert Path("other/thesis.tex").read_text() == "mine"


def test_a_cache_that_cannot_be_used_is_the_machines(spec, tmp_path, capsys, monkeypatch):
    Path("file").write_text("mine")
    for root in (tmp_path / "file", Path("/proc/cache")):
        monkeypatch.setenv("CURVLANG_CACHE", str(root))
        assert run(["eval", spec]) == 3
        assert "error[E0803]" in capsys.readouterr().err
    assert left(tmp_path) == ["file"]


def test_a_full_disk_says_what_was_needed(spec, tmp_path, capsys, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert run(["eval", spec]) == 3
    shown = capsys.readouterr().err
    assert "error[E0802]: the disk is full: the cache" in shown
    assert "are free" in shown
    assert run(["eval", spec, "--no-lds", "--out", "run"]) == 3
    assert "error[E0802]: the disk is full" in capsys.readouterr().err
    assert left(tmp_path) == []
    assert not list(Path(os.environ["CURVLANG_CACHE"]).rglob("*.part"))


def test_memory_that_runs_out(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    task = "digits(hidden = [10000000000000])"
    assert run(["eval", "kfac", "--no-lds", "--task", task]) == 3
    shown = capsys.readouterr().err
    assert "error[E0801]: out of memory" in shown
    assert "GiB were requested at once" in shown


def test_a_damaged_entry_is_said_and_changes_nothing(spec, capsys):
    assert run(["eval", spec, "--out", "a"]) == 0
    found = sorted(Path(os.environ["CURVLANG_CACHE"]).rglob("*.bin"))
    found[0].write_bytes(found[0].read_bytes()[:-1] + b"!")
    found[1].write_bytes(b"")
    capsys.readouterr()
    assert run(["eval", spec, "--out", "b"]) == 0
    shown = capsys.readouterr().err
    assert "damaged files of the cache, not used: 2; their models were trained again" in shown
    assert Path("a/result.json").read_bytes() == Path("b/result.json").read_bytes()
    assert run(["eval", spec, "--out", "c"]) == 0
    assert "retrained 0 models, 54 from the cache" in capsys.readouterr().err


def test_two_runs_at_once_share_a_cache_and_a_folder(spec):
    both = [
        subprocess.Popen([*COMMAND, "eval", spec, "--out", "run"], stdout=subprocess.DEVNULL)
        for _ in range(2)
    ]
    assert [p.wait() for p in both] == [0, 0]
    assert np.load("run/scores.npy").shape == (180, 1617)
    assert not list(Path().glob(".*partial"))


def test_clearing_leaves_what_is_not_ours(tmp_path, monkeypatch, capsys, spec):
    monkeypatch.setenv("CURVLANG_CACHE", str(tmp_path))
    (tmp_path / "photos" / "2024").mkdir(parents=True)
    (tmp_path / "photos" / "2024" / "a.bin").write_text("mine")
    assert run(["eval", spec, "--out", "run", "-q"]) == 0
    assert run(["cache", "clear"]) == 0
    assert left(tmp_path) == ["photos", "run"]
    assert (tmp_path / "photos" / "2024" / "a.bin").exists()
    assert "0 files" in (run(["cache"]), capsys.readouterr().out)[1]


def test_a_run_is_repeated_from_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("base.cv").write_text("curvature base = ggn |> block_diagonal(by = parameter)")
    Path("top.cv").write_text(
        'use "base.cv"\ncurvature first = base\ncurvature top = base |> diagonal'
    )
    task = "digits(hidden = [2] * 2, epochs = 2)"
    given = ["--task", task, "--seed", "3", "--dtype", "float32", "--no-lds", "--out", "run"]
    assert run(["eval", "top.cv:top", *given]) == 0
    kept = json.loads(Path("run/provenance.json").read_text())
    assert kept["used files"] == {"base.cv": Path("base.cv").read_text()}
    monkeypatch.chdir("run")
    Path("base.cv").write_text(kept["used files"]["base.cv"])
    assert run([*kept["repeat"][1:], "--out", "../again"]) == 0
    for name in ("result.json", "scores.npy", "spec.cv"):
        assert Path("../again", name).read_bytes() == Path(name).read_bytes()


def test_several_specs_of_one_name_have_their_own_folders(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("a.cv").write_text("curvature mine = identity")
    Path("b.cv").write_text("curvature mine = ggn |> flat")
    given = ["--no-lds", "--task", TASK, "--out", "runs", "--json"]
    assert run(["eval", "a.cv", "b.cv", "identity", *given]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [r["name"] for r in shown] == ["mine", "mine", "identity"]
    folders = sorted(p.name for p in Path("runs").iterdir())
    assert len(folders) == 3
    assert folders[0] == "identity"


def test_a_named_curvature_names_its_row(spec, tmp_path):
    assert run(["eval", spec, "--no-lds", "--out", "run", "-q"]) == 0
    labels = [s["label"] for s in json.loads(Path("run/result.json").read_text())["steps"]]
    assert labels == ["hessian", "ggn", "block_ggn", "mine"]


def test_help_and_the_language_commands_import_no_torch(tmp_path):
    (tmp_path / "x.cv").write_text("curvature x = hessian\n")
    code = """
import sys
from curvlang.cli.main import COMMANDS, run
for name in COMMANDS:
    assert run([name, "--help"]) == 0
for given in (["--help"], ["check", "ekfac"], ["list"], ["fmt", "--check", "x.cv"], ["--version"]):
    assert run(given) == 0
assert run(["check", "none.cv"]) == 2
assert run(["eval", "none.cv", "--nothing"]) == 2
loaded = {"torch", "numpy", "scipy", "sklearn", "matplotlib"} & set(sys.modules)
assert not loaded, loaded
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_our_warnings_are_a_line_and_others_say_where_they_come_from(monkeypatch, capsys):
    def warns(name, rest):
        warnings.warn("models are retrained one by one", OneByOne, stacklevel=1)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
        return 0

    monkeypatch.setattr(main, "_invoke", warns)
    before = warnings.formatwarning
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "showwarning", _to_stderr)
        assert main.run(["list"]) == 0
    said = capsys.readouterr().err
    assert "warning: models are retrained one by one\n" in said
    assert "DeprecationWarning: old" in said
    assert warnings.formatwarning is before


def _to_stderr(message, category, filename, lineno, file=None, line=None):
    """As outside of a test runner, which collects warnings itself."""
    sys.stderr.write(warnings.formatwarning(message, category, filename, lineno, line))
