"""What is wrong with a command line is a diagnostic; completion; `python -m curvlang`."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

import pytest
from curvlang.cli.main import run
from curvlang.cli.values import specs_from, tasks_from

import curvlang as cv


@pytest.mark.parametrize(
    ("given", "code", "words"),
    [
        (["eval"], "E0780", "missing argument `SPEC...`"),
        (["eval", "ekfac", "--nolds"], "E0780", "did you mean `--no-lds`?"),
        (["eval", "ekfac", "--out"], "E0780", "`--out` requires an argument"),
        (["evil"], "E0780", "did you mean `eval`?"),
        (["bench", "ekfac", "--dtype", "int3"], "E0708", "use one of float32, float64"),
        (["bench", "ekfac", "--seed", "1.5"], "E0708", "neither a whole number"),
        (["study", "depth", "--format", "md,png"], "E0708", "png is not one of md, csv, pdf, gz"),
        (["study", "depth", "--report", "--shard", "1/2"], "E0708", "leave `--shard` out"),
        (["influence", "kfac", "--damping", "0"], "E0708", "must be a positive number (got 0)"),
        (["influence", "kfac", "--damping", "nan"], "E0708", "must be a positive number (got nan)"),
        (["influence", "kfac", "--compress", "1"], "E0708", "must be between 0 and 1"),
        (["influence", "kfac", "--top", "-1"], "E0708", "`--top`"),
        (["influence", "kfac", "--queries", "3"], "E0708", "add `--top 5`"),
        (["influence", "kfac", "--self", "--group", "all"], "E0708", "leave `--group` out"),
        (["influence", "kfac", "--metric", "accuracy"], "E0590", "use one of loss, margin, logit"),
        (["check", "ekfac", "--json", "--task", "digits"], "E0708", "leave `--task` out"),
        (["explain", "ekfac", "--latex", "--no-code"], "E0708", "leave `--no-code` out"),
        (["cache", "shrink"], "E0708", "use one of show, clear"),
        (["completion", "tcsh"], "E0708", "use one of bash, zsh, fish"),
    ],
)
def test_a_command_line_that_is_refused(given, code, words, capsys):
    assert run(given) == 2
    shown = capsys.readouterr()
    assert f"error[{code}]" in shown.err
    assert words in shown.err
    assert "= help:" in shown.err
    assert shown.out == ""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell(shell, capsys):
    assert run(["completion", shell]) == 0
    assert "_CURVLANG_COMPLETE" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "found"), [("curvlang ch", "check"), ("curvlang eval --no-", "--no-lds")]
)
def test_a_shell_asks_for_completions(line, found):
    words = line.split(" ")
    asked = {
        **os.environ,
        "_CURVLANG_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    done = subprocess.run(
        [sys.executable, "-m", "curvlang"], env=asked, capture_output=True, text=True, check=True
    )
    assert found in done.stdout.split()


def test_a_module_of_python():
    done = subprocess.run(
        [sys.executable, "-m", "curvlang", "check", "ekfac"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "ekfac: 1 curvature, no errors\n")
    done = subprocess.run([sys.executable, "-m", "curvlang"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "Examples:" in done.stdout


def test_values_are_completed_from_what_ships_and_what_lies_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    for name in ("mine.cv", "mine.txt", ".mine.cv", "mine/inner.cv"):
        (tmp_path / name).touch()
    kinds = {"curvature", "score", "study"}
    found = set(specs_from("")) - {"mine.cv", "mine/"}
    # A file whose name none of its definitions has is loaded by its own name.
    for name in found - {x.name for x in cv.search([]) if x.kind in kinds}:
        assert not cv.check(name).failed
    assert {"ekfac", "trak", "depth"} <= found
    assert specs_from("mi") == ["mine/", "mine.cv"]
    assert specs_from("mine/") == ["mine/inner.cv"]
    assert specs_from("nowhere/") == []
    assert set(tasks_from("")) == {x.name for x in cv.search([]) if x.kind == "task"}
    assert "digits_cnn" in tasks_from("digits_")


def test_completing_imports_no_torch_and_reads_no_spec():
    code = "import sys, curvlang.cli.values as v; v.specs_from(''); v.tasks_from(''); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "curvlang.cli.values" in loaded
    assert not loaded & {"torch", "lark", "numpy", "rich"}


def test_completion_is_added_to_a_shell(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run(["--install-completion", "bash"]) == 0
    written = list(tmp_path.rglob("*curvlang*"))
    assert any(str(x) in capsys.readouterr().out for x in written)
    assert any("_CURVLANG_COMPLETE" in x.read_text() for x in written if x.is_file())


def test_verbose_shows_what_the_library_logs(tmp_path, capsys):
    logger = logging.getLogger("curvlang")
    before = logger.handlers, logger.level, logger.propagate
    small = ["--task", "digits(hidden = [2], epochs = 1)", "--store", str(tmp_path / "fit"), "-q"]
    try:
        assert run(["fit", "kfac", *small]) == 0
        assert "curvlang.runtime" not in capsys.readouterr().err
        assert run(["fit", "kfac", *small, "--verbose"]) == 0
        assert "curvlang.runtime.stored.session: store" in capsys.readouterr().err
        assert run(["fit", "kfac", *small]) == 0
        assert "curvlang.runtime" not in capsys.readouterr().err
    finally:
        logger.handlers, logger.level, logger.propagate = before
