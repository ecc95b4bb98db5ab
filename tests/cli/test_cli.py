"""The command line as a person uses it: exit codes, files, messages."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from curvlang.cli.main import COMMANDS, run

TASK = "digits(hidden = [4], epochs = 2)"
SMALL = f"""curvature mine = hessian |> drop_residual |> block_diagonal |> kronecker_factor
evaluate mine on {TASK} {{ lds subsets = 100, retrains = 6, bootstrap = 20 }}
"""


def curvlang(*arguments, cwd, **extra):
    command = [sys.executable, "-c", "from curvlang.cli.main import main; main()", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, **extra)


def test_eval_writes_a_run_folder_and_reuses_ground_truth(tmp_path):
    (tmp_path / "mine.cv").write_text(SMALL)
    first = curvlang("eval", "mine.cv", "--out", "run", "--json", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    result = json.loads(first.stdout)
    assert [s["label"] for s in result["steps"]] == ["hessian", "ggn", "block_ggn", "mine"]
    folder = tmp_path / "run"
    assert {p.name for p in folder.iterdir()} >= {
        "result.json", "scores.npy", "spec.cv", "provenance.json", "report.html",
    }  # fmt: skip
    assert np.load(folder / "scores.npy").shape == (180, 1617)
    assert "<svg" in (folder / "report.html").read_text()
    before = json.loads((folder / "result.json").read_text())
    second = curvlang("eval", "mine.cv", "--out", "run", cwd=tmp_path)
    assert "retrained 0 models, 600 from the cache" in second.stderr
    assert json.loads((folder / "result.json").read_text()) == before


def test_a_killed_run_ends_with_the_same_result(tmp_path):
    (tmp_path / "mine.cv").write_text(SMALL.replace("epochs = 2", "epochs = 60"))
    environment = {**os.environ, "CURVLANG_CACHE": str(tmp_path / "cut")}
    command = [sys.executable, "-c", "from curvlang.cli.main import main; main()"]

    def kept():
        return len(list((tmp_path / "cut").rglob("*.bin")))

    def stop(sign, files):
        # Files of this run, not of the one before: a signal before the first would meet no count.
        wanted = kept() + files
        process = subprocess.Popen(
            [*command, "eval", "mine.cv", "--out", "a"],
            cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        deadline = time.monotonic() + 120
        while kept() < wanted and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(sign)
        said = process.communicate()[1]
        assert not (tmp_path / "a").exists()
        return process.returncode, said

    assert stop(signal.SIGKILL, 1)[0] == -signal.SIGKILL
    code, said = stop(signal.SIGINT, 8)
    assert code == 130
    assert re.search(r"interrupted: \d+ of 600 models are retrained and kept in `", said)
    assert "run the same command to go on" in said
    again = curvlang("eval", "mine.cv", "--out", "a", cwd=tmp_path, env=environment)
    assert again.returncode == 0, again.stderr
    assert "retrained 600 models" not in again.stderr
    whole = curvlang(
        "eval", "mine.cv", "--out", "b", cwd=tmp_path,
        env={**os.environ, "CURVLANG_CACHE": str(tmp_path / "whole")},
    )  # fmt: skip
    assert whole.returncode == 0
    first, second = (json.loads((tmp_path / x / "result.json").read_text()) for x in "ab")
    assert first["steps"] == second["steps"]
    assert first["ceiling"] == second["ceiling"]


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("digits(lr = 1e30)", "diverged"),
        ("digits(hidden = [0])", "out of range"),
        ("digits(activation = tahn)", "did you mean `tanh`"),
        ("nothing", "unknown task"),
    ],
)
def test_bad_tasks(task, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["eval", "kfac", "--no-lds", "--task", task]) == 2
    assert words in capsys.readouterr().err
    assert not Path("runs").exists()


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_every_command(name, capsys):
    assert run([name, "--help"]) == 0
    assert "Usage" in capsys.readouterr().out


def test_eval_says_the_warnings_of_check(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("x.cv").write_text("curvature kfac = ggn |> flat")
    given = ["eval", "x.cv", "--no-lds", "--task", TASK, "--out", "run"]
    assert run(given) == 0
    assert "warning[E0202]" in capsys.readouterr().err
    assert run([*given, "-q"]) == 0
    assert capsys.readouterr().err == ""


def test_unknown_words(capsys):
    assert run(["evil", "kfac"]) == 2
    assert run(["check"]) == 2
    assert run(["eval", "kfac", "--device", "nothing"]) == 2
    assert run(["eval", "kfac", "--dtype", "int3"]) == 2
    assert "did you mean `eval`" in capsys.readouterr().err


def test_explain_runs_nothing_and_prints_the_code(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(["explain", "ekfac"]) == 0
    shown = capsys.readouterr().out
    for words in ("2 passes", "def pass_2", "EigenBasis", "torch.einsum", "FLOP", "← peak"):
        assert words in shown
    assert list(tmp_path.iterdir()) == []


def test_explain_takes_every_curvature_and_those_that_are_evaluated(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = "evaluate {} on digits(hidden = [2], epochs = 1)\n"
    Path("two.cv").write_text(
        "curvature one = hessian\ncurvature two = ggn\n" + small.format("one") + small.format("two")
    )
    Path("evaluated.cv").write_text(small.format("kfac"))
    Path("none.cv").write_text("transform x {\n  yield C[p,p'] = identity[p,p']\n}\n")
    assert run(["explain", "two.cv", "--no-code"]) == 0
    assert "\n\ntwo on Task(" in capsys.readouterr().out
    assert run(["explain", "evaluated.cv", "--no-code"]) == 0
    assert capsys.readouterr().out.startswith("kfac on Task(")
    assert run(["explain", "none.cv"]) == 2
    assert "E0206" in capsys.readouterr().err


def test_explain_prints_the_page_of_a_diagnostic(capsys):
    assert run(["explain", "e0207"]) == 0
    assert capsys.readouterr().out.startswith("# E0207: a stage needs what no stage")
    assert run(["explain", "E9999"]) == 2


def test_fmt_and_list(capsys, tmp_path):
    path = tmp_path / "x.cv"
    path.write_text("curvature   x=hessian # why\n|>drop_residual\n")
    assert run(["fmt", "--check", str(path)]) == 1
    assert run(["fmt", str(path)]) == 0
    assert path.read_text() == "curvature x = hessian  # why\n  |> drop_residual\n"
    assert run(["fmt", "--check", str(path)]) == 0
    assert run(["list", "ekfac"]) == 0
    assert "ekfac" in capsys.readouterr().out
    assert run(["cache", "clear"]) == 0
