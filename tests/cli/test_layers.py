"""Every kind of layer through the whole of `curvlang eval`, on data small enough for a test."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from curvlang.cli.main import run

SPECS = {
    "images": """
task images(groups = 2, norm = group) {
  data file("images.npz", query = "images.npz")
  model cnn(channels = [2, 4], groups = groups, norm = norm, activation = tanh)
  loss cross_entropy
  train adam(lr = 0.01, epochs = 2, warmup = 2, clip = 1)
}
""",
    "tokens": """
task tokens {
  data file("tokens.npz", query = "tokens.npz")
  model decoder(width = 4, hidden = 4)
  loss cross_entropy
  train adamw(lr = 0.01, epochs = 2, schedule = linear, weight_decay = 0.1)
}
""",
}
REST = """
curvature mine = block_ggn |> kronecker_factor(others = diagonal) |> eigen_correct
evaluate mine on {name} {{ lds subsets = 4, retrains = 2, bootstrap = 10 }}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    g = np.random.default_rng(0)
    images = g.normal(size=(12, 1, 4, 4)).astype(np.float32)
    np.savez("images.npz", X=images, y=np.arange(12) % 3)
    tokens = g.integers(0, 5, (12, 4))
    np.savez("tokens.npz", X=tokens[:, :3], y=tokens[:, 1:])
    for name, text in SPECS.items():
        Path(f"{name}.cv").write_text(text + REST.format(name=name))


@pytest.mark.parametrize("name", SPECS)
def test_convolutions_embeddings_and_norms_are_evaluated(name):
    assert run(["eval", f"{name}.cv", "-q", "--out", "run"]) == 0
    result = json.loads(Path("run/result.json").read_text())
    steps = {step["label"]: step for step in result["steps"]}
    assert [*steps] == ["hessian", "ggn", "block_ggn", "kfac", "mine"]
    assert steps["hessian"]["forward"] == 0
    assert all(0 < steps[x]["forward"] < 2 for x in ("ggn", "block_ggn", "kfac", "mine"))
    assert all(p["lds"] is not None for step in steps.values() for p in step["points"])
    assert "Diagonal" in steps["mine"]["structure"]
    recipe = result["task"]["recipe"]
    assert recipe["optimiser"] == {"images": "adam", "tokens": "adamw"}[name]
    assert result["task"]["weight_decay"] == 0
    assert math.isfinite(result["task"]["query_loss"])


@pytest.mark.parametrize("name", SPECS)
def test_norms_without_a_clause_are_refused_before_the_training(name, capsys, monkeypatch):
    from curvlang.training import baseline

    def never(*args, **options):
        raise AssertionError("a model was trained")

    monkeypatch.setattr(baseline, "train_baseline", never)
    for command, out in (("eval", "run"), ("influence", "s.npy")):
        assert run([command, "kfac", "--task", _task(name), "-q", "--out", out]) == 2
        shown = capsys.readouterr().err
        assert "E0401" in shown
        assert "others = diagonal" in shown


def _task(name):
    return {
        "images": "digits_cnn(channels = [2, 4], norm = group)",
        "tokens": "characters(width = 4, hidden = 4)",
    }[name]


def test_scores_of_every_layer():
    assert run(["influence", "tokens.cv", "--per-layer", "--out", "s.safetensors", "-q"]) == 0
    assert run(["influence", "images.cv", "--out", "s.npy", "-q"]) == 0
    assert np.load("s.npy").shape == (12, 12)
