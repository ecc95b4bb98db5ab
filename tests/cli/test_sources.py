"""`--data`, `--model`, `--allow-python` and `check --task` as a user meets them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from curvlang.cli.main import run
from safetensors.torch import save_file

SPEC = """
task mine {
  data file("x.csv", target = kind)
  model mlp(hidden = [3], bias = true)
  loss cross_entropy
  train sgd(epochs = 1)
}
curvature rough = ggn
evaluate rough on mine { lds subsets = 4, retrains = 2 }
"""
CODE = SPEC.replace('file("x.csv", target = kind)', 'python("their_part:data")')


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    X = np.random.default_rng(0).normal(size=(30, 2))
    rows = [f"{a},{b},{'xyz'[k % 3]}" for k, (a, b) in enumerate(X)]
    Path("x.csv").write_text("\n".join(["a,b,kind", *rows, ""]))
    np.savez("x.npz", X=X, y=np.arange(30) % 3)
    Path("mine.cv").write_text(SPEC)
    Path("theirs.cv").write_text(CODE)
    Path("their_part.py").write_text(
        "import torch\nprint('imported')\n"
        "def data():\n    X = torch.randn(8, 2)\n    y = torch.arange(8) % 3\n    return (X, y), (X, y)\n"
        "def make(width):\n    return torch.nn.Sequential(torch.nn.Linear(2, width), torch.nn.Linear(width, 3))\n"
    )
    yield tmp_path
    sys.modules.pop("their_part", None)


def evaluated(*options):
    assert run(["eval", *options, "-q", "--out", "run"]) == 0
    return json.loads(Path("run/result.json").read_text())


def test_a_spec_with_a_file_is_evaluated_and_repeated_from_its_folder(monkeypatch):
    first = evaluated("mine.cv")
    assert first["task"]["train_examples"] == 27
    again = json.loads(Path("run/provenance.json").read_text())["repeat"]
    monkeypatch.chdir("run")
    assert run([*again[1:], "-q", "--out", "../again"]) == 0
    second = json.loads(Path("../again/result.json").read_text())
    assert second["steps"] == first["steps"]


def test_data_and_weights_of_the_command_line():
    result = evaluated("mine.cv", "--data", "x.npz", "--no-lds")
    assert result["task"]["train_examples"] == 27
    assert result["task"]["name"] == "x.npz"
    trained = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 3))
    save_file(trained.state_dict(), "w.safetensors")
    kept = evaluated("mine.cv", "--model", "w.safetensors", "--no-lds")
    assert kept["task"]["name"] == "mine"
    assert kept["task"]["train_loss"] != result["task"]["train_loss"]
    other = evaluated("mine.cv", "--model", "mlp(hidden = [])", "--no-lds")
    assert other["task"]["parameters"] == 6
    assert run(["influence", "mine.cv", "--model", "w.safetensors", "--data", "x.npz", "-q"]) == 0
    assert np.load("scores.npy").shape == (3, 27)
    assert run(["explain", "mine.cv", "--data", "x.npz"]) == 0


@pytest.mark.parametrize("command", ["check", "eval", "influence", "explain"])
def test_no_code_of_a_spec_runs_unasked(command, capsys):
    assert run([command, "theirs.cv"]) == 2
    shown = capsys.readouterr()
    assert "E0550" in shown.err
    assert "theirs.cv:3:" in shown.err
    assert "--allow-python" in shown.err
    assert "imported" not in shown.out
    assert "their_part" not in sys.modules


def test_code_runs_where_it_is_allowed(capsys):
    assert run(["check", "theirs.cv", "--allow-python"]) == 0
    result = evaluated(
        "theirs.cv", "--allow-python", "--no-lds",
        "--model", 'python("their_part:make", width = 4)',
    )  # fmt: skip
    assert result["task"]["train_examples"] == 8
    assert result["task"]["parameters"] == 2 * 4 + 4 + 4 * 3 + 3


def test_check_shows_what_is_covered(capsys):
    assert run(["check", "mine.cv", "--task", "mine"]) == 0
    shown = capsys.readouterr().out
    assert "21 of 21 parameters covered" in shown
    assert "100.0%" in shown
    lines = shown.splitlines()
    head = next(k for k, line in enumerate(lines) if line.startswith("layer type"))
    assert lines[head + 1].split()[:4] == ["Linear", "covered", "4", "21"]
    assert run(["check", "ggn", "--task", "digits(hidden = [2])"]) == 0
    assert run(["check", "ggn", "--task", "nothing"]) == 2


@pytest.mark.parametrize(
    ("option", "code"),
    [
        (["--data", "no.csv"], "E0552"),
        (["--data", 'file("x.csv")'], "E0553"),
        (["--data", "fiel(1)"], "E0101"),
        (["--data", 'fiel("x.csv")'], "E0715"),
        (["--model", "no.pt"], "E0555"),
        (["--model", "mlp(hiden = [3])"], "E0703"),
        (["--model", "x.npz"], "E0555"),
        (["--model", "./no/folder"], "E0891"),
        (["--data", "no/rows"], "E0552"),
    ],
)
@pytest.mark.parametrize("command", ["eval", "influence"])
def test_wrong_options_are_refused(command, option, code, capsys):
    assert run([command, "mine.cv", *option]) == 2
    assert code in capsys.readouterr().err


def test_weights_of_another_model(capsys):
    torch.save(torch.nn.Linear(2, 3).state_dict(), "w.pt")
    assert run(["eval", "mine.cv", "--model", "w.pt"]) == 2
    shown = capsys.readouterr().err
    assert "E0556" in shown
    assert "missing: `0.weight`" in shown


def test_a_stage_that_does_not_fit_is_said_before_any_work(capsys):
    task = ["--task", "characters(width = 4, heads = 1)"]
    assert run(["check", "ekfac", *task]) == 2
    shown = capsys.readouterr()
    assert "LayerNorm" in shown.out
    assert "error[E0401]: `kronecker_factor` does not fit `blocks.0.norm1`" in shown.err
    assert "kronecker_factor(others = diagonal) |> eigen_correct" in shown.err
    assert run(["check", "ggn", "diagonal", *task]) == 0
