"""Where a model's parameters came from: what is trained, what is not, and what every result says."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from curvlang.cli.main import run

import curvlang as cv

NET = """
import torch

def data():
    torch.manual_seed(3)
    X, y = torch.randn(40, 4), torch.randint(0, 3, (40,))
    return {"train": (X, y), "query": (X[:5], y[:5])}

def fresh():
    return torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))

def trained():
    model = fresh()
    with torch.no_grad():
        for k, p in enumerate(model.parameters()):
            p.copy_(torch.linspace(-0.5, 0.7 - 0.1 * k, p.numel()).view_as(p))
    return model

def tuned():
    model = trained()
    torch.nn.init.normal_(model[2].weight)
    return model
"""
SPEC = "curvature mine = block_ggn |> kronecker_factor\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "origin_net", raising=False)
    monkeypatch.setenv("CURVLANG_CACHE", str(tmp_path / "cache"))
    (tmp_path / "origin_net.py").write_text(NET)
    (tmp_path / "mine.cv").write_text(SPEC)
    return tmp_path


def options(function):
    return [
        "--model", f'python("origin_net:{function}")', "--data", 'python("origin_net:data")',
        "--allow-python", "--task", "digits",
    ]  # fmt: skip


def task_line(function):
    return (
        f'task mine_task {{ data python("origin_net:data") model python("origin_net:{function}") '
        "loss cross_entropy train sgd(epochs = 3) }\ncurvature c = ggn\nevaluate c on mine_task"
    )


def made(function):
    spec = cv.loads(task_line(function))
    return cv.task(spec.evaluations[0].task, train=True, allow_python=True)


def test_a_trained_network_of_a_function_is_not_trained_again(folder, capsys):
    import importlib
    import sys

    sys.path.insert(0, str(folder))
    try:
        net = importlib.import_module("origin_net")
    finally:
        sys.path.remove(str(folder))
    own, data = net.trained(), net.data()
    task = cv.Task(own.eval(), "cross_entropy", data["train"], data["query"])
    wanted = cv.influence(cv.fit("kfac", task), task, damping=0.1)
    arguments = [*options("trained"), "--dtype", "float32", "--damping", "0.1"]
    assert run(["influence", "mine.cv", *arguments, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert "as given by `python(origin_net:trained)`" in said["parameters"]
    found = torch.from_numpy(np.load("scores.npy"))
    assert torch.allclose(found, wanted, rtol=1e-3, atol=1e-4)
    assert run(["influence", "mine.cv", *arguments]) == 0
    header = capsys.readouterr().err
    assert "parameters: as given by `python(origin_net:trained)`, for every seed alike" in header


@pytest.mark.parametrize("function", ["fresh", "tuned"])
def test_what_the_seed_decides_is_trained(function, folder):
    task = made(function)
    assert task.origin.trained
    assert task.origin.text.startswith("trained here by sgd(lr = 0.03")
    assert "epochs = 3" in task.origin.text
    assert "final training loss" in task.origin.text


def test_the_final_training_loss_is_that_of_the_last_epoch(folder):
    found = made("fresh").origin.text.rpartition("final training loss ")[2]
    task = cv.task(cv.loads(task_line("fresh")).evaluations[0].task, allow_python=True)
    assert task.origin.text == "initialised with the seed 0, not trained"
    assert not task.origin.trained
    from curvlang.training.retrain import retrain
    from curvlang.training.subsets import derived_seed
    from curvlang.training.training import Training

    whole = torch.ones(1, task.N, dtype=torch.bool)
    curve = retrain(
        Training(
            task.build,
            task.loss,
            task.train,
            task.query,
            whole,
            task.recipe,
            [0],
            [derived_seed(0, 3)],
        )
    ).curve
    assert found == f"{float(curve[0, -1]):.3g}"


def test_every_file_of_a_run_says_it(folder):
    assert run(["eval", "mine.cv", *options("trained"), "--no-lds", "--out", "run", "-q"]) == 0
    result = json.loads((folder / "run" / "result.json").read_text())
    assert "as given by `python(origin_net:trained)`" in result["task"]["origin"]
    assert "python(origin_net:trained)" in (folder / "run" / "report.html").read_text()
    provenance = json.loads((folder / "run" / "provenance.json").read_text())
    assert provenance["task"]["parameters"] == result["task"]["origin"]
    assert not (folder / "run" / "step_scores.npz").exists()


def test_scores_of_steps_where_they_are_asked_for(folder):
    arguments = [*options("trained"), "--no-lds", "--out", "run", "-q", "--step-scores"]
    assert run(["eval", "mine.cv", *arguments]) == 0
    with np.load(folder / "run" / "step_scores.npz") as found:
        assert sorted(found) == ["block_ggn", "ggn", "hessian", "mine"]


def test_a_file_of_weights_is_named(folder):
    task = made("fresh")
    torch.save(task.model.state_dict(), "w.pt")
    spec = cv.loads(
        'task mine_task { data python("origin_net:data") '
        'model python("origin_net:fresh", weights = "w.pt") loss cross_entropy train sgd }\n'
        "curvature c = ggn\nevaluate c on mine_task"
    )
    found = cv.task(spec.evaluations[0].task, train=True, allow_python=True)
    assert found.origin.text == "read from `w.pt`"
    assert torch.equal(found.model[0].weight, task.model[0].weight)


def test_lds_does_not_start_from_a_trained_network(folder, capsys):
    arguments = [*options("trained"), "--quick", "--out", "run"]
    assert run(["eval", "mine.cv", *arguments]) == 2
    shown = capsys.readouterr().err
    assert "E0753" in shown
    assert '\n 1 | python("origin_net:trained")' in shown
    assert "--no-lds" in shown


def test_a_model_given_in_python_is_as_given():
    X, y = torch.randn(6, 3), torch.randint(0, 3, (6,))
    task = cv.Task(torch.nn.Linear(3, 3), "cross_entropy", (X, y), (X, y))
    assert task.origin.text == "as given"
    assert cv.evaluate("ggn", task).task.origin == "as given"
