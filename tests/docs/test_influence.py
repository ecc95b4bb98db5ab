"""What docs/influence.md shows is run, and what comes out is compared with autodiff."""

from __future__ import annotations

import importlib
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from curvlang.cli.main import run
from safetensors import safe_open

import curvlang as cv

TEXT = (Path(__file__).parents[2] / "docs/influence.md").read_text()
LARGE = 1e6
"""A damping beyond all eigenvalues: λ · score is the product of two gradients."""
CLOSE = 1e-4
"""Float32 models: gradients summed in another order."""

pytestmark = pytest.mark.filterwarnings("ignore:.*batching rule:UserWarning")


def blocks(title, language):
    """The blocks of a language under a heading."""
    section = TEXT.split(f"## {title}\n")[1].split("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder whose modules can be imported, and are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in ("letters", "resnet"):
        sys.modules.pop(name, None)


def run_command(title):
    """The command under a heading, run as a shell would."""
    (line,) = blocks(title, "sh")
    program, *arguments = shlex.split(line)
    assert program == "curvlang"
    assert run(arguments) == 0


@pytest.fixture
def transformers(monkeypatch):
    """`transformers` reads torchvision where it is there, also one made for another torch."""
    try:
        importlib.import_module("torchvision")
    except (RuntimeError, ModuleNotFoundError):
        from transformers import utils

        for module in (utils, utils.import_utils):
            monkeypatch.setattr(module, "is_torchvision_available", lambda: False)


def gradients(task, pair):
    """∇ of the summed cross-entropy of one example at a time, tied parameters once."""
    parameters = [p for p in task.model.parameters() if p.requires_grad]
    rows = []
    for x, y in zip(*pair, strict=True):
        f = task.model(x[None])
        loss = torch.nn.functional.cross_entropy(f.flatten(0, -2), y.reshape(-1), reduction="sum")
        found = torch.autograd.grad(loss, parameters)
        rows.append(torch.cat([g.flatten() for g in found]))
    return torch.stack(rows)


def assert_scores_are_of_autodiffs_gradients(scope):
    task, op = scope["task"], scope["op"]
    expected = gradients(task, task.query) @ gradients(task, task.train).T
    found = LARGE * cv.influence(op, task, damping=LARGE)
    assert float((found - expected).abs().max()) <= CLOSE * float(expected.abs().max())


def test_the_query_types_run(capsys):
    scope: dict[str, object] = {}
    (code,) = blocks("The metric of a query", "python")
    exec(code, scope)
    assert scope["classes"].shape[1] == 40
    assert scope["own"].shape == (40,)
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_the_language_model_runs(capsys, transformers, folder):
    title = "A language model from `transformers`"
    module, code = blocks(title, "python")
    Path("letters.py").write_text(module)
    Path("letters.cv").write_text(blocks(title, "cv")[0])
    scope: dict[str, object] = {}
    exec(code, scope)
    lines = [x for x in capsys.readouterr().out.splitlines() if "<-" in x]
    assert len(lines) == 4
    assert blocks(title, "text")[0][:8] == lines[0][:8]
    for line in lines:
        query, helpful = line.split(" <- ")
        for neighbour in re.findall(r"'(.*?)'", helpful):
            assert neighbour[1] == query[1]
    assert_scores_are_of_autodiffs_gradients(scope)
    run_command(title)
    with safe_open("letters.safetensors", "np") as file:
        assert_same(file.get_tensor("scores"), scope["scores"])
    assert "query 0, labels [" in capsys.readouterr().out
    assert run(["influence", "letters.cv"]) == 2
    assert "error[E0550]" in capsys.readouterr().err


def test_the_residual_network_runs(capsys, folder):
    title = "A residual network"
    module, code = blocks(title, "python")
    Path("resnet.py").write_text(module)
    Path("resnet.cv").write_text(blocks(title, "cv")[0])
    scope: dict[str, object] = {}
    exec(code, scope)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[0].startswith(blocks(title, "text")[0].split(" against")[0])
    assert_scores_are_of_autodiffs_gradients(scope)
    run_command(title)
    assert_same(np.load("resnet.npy"), scope["scores"])
    assert "█" in capsys.readouterr().out


def assert_same(found, expected):
    """Float32, in the order of two programs."""
    expected = expected.detach().numpy()
    assert np.abs(found - expected).max() <= CLOSE * np.abs(expected).max()


def test_the_options_exist(capsys):
    assert run(["influence", "--help"]) == 0
    help_ = capsys.readouterr().out
    for option in set(re.findall(r"`(--[\w-]+)", TEXT)):
        assert option in help_
