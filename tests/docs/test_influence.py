"""What docs/influence.md shows is run, and what comes out is compared with autodiff."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
import torch
from curvlang.cli.main import run

import curvlang as cv

TEXT = (Path(__file__).parents[2] / "docs/influence.md").read_text()
LARGE = 1e6
"""A damping beyond all eigenvalues: λ · score is the product of two gradients."""
CLOSE = 1e-4
"""Float32 models: gradients summed in another order."""

pytestmark = pytest.mark.filterwarnings("ignore:.*batching rule:UserWarning")


def python(title):
    """The example under a heading."""
    section = TEXT.split(f"## {title}\n")[1].split("\n## ")[0]
    return re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]


def shown(title):
    section = TEXT.split(f"## {title}\n")[1].split("\n## ")[0]
    return re.search(r"```text\n(.*?)\n```", section, re.DOTALL)[1]


@pytest.fixture
def transformers(monkeypatch):
    """`transformers` reads torchvision where it is there, also one made for another torch."""
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
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
    exec(python("What is asked of a query"), scope)
    assert scope["classes"].shape[1] == 40
    assert scope["own"].shape == (40,)
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_the_language_model_runs(capsys, transformers):
    scope: dict[str, object] = {}
    exec(python("A language model from `transformers`"), scope)
    lines = [x for x in capsys.readouterr().out.splitlines() if "<-" in x]
    assert len(lines) == 4
    assert shown("A language model from `transformers`")[:8] == lines[0][:8]
    for line in lines:
        query, helpful = line.split(" <- ")
        for neighbour in re.findall(r"'(.*?)'", helpful):
            assert neighbour[1] == query[1]
    assert_scores_are_of_autodiffs_gradients(scope)


def test_the_residual_network_runs(capsys):
    scope: dict[str, object] = {}
    exec(python("A residual network"), scope)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[0].startswith(shown("A residual network").split(" against")[0])
    assert_scores_are_of_autodiffs_gradients(scope)


def test_the_options_exist(capsys):
    assert run(["influence", "--help"]) == 0
    help_ = capsys.readouterr().out
    for option in set(re.findall(r"`(--[\w-]+)", TEXT)):
        assert option in help_
