from __future__ import annotations

import torch
from torch import nn

import curvlang as cv
from curvlang.language.selection import chains_of, chosen
from curvlang.models.tracing.leaves import Fisher
from curvlang.runtime.limits import activations
from curvlang.runtime.limits.activations import activation_bytes, live_bytes
from curvlang.runtime.limits.footprint import largest
from curvlang.runtime.prepare import prepare


def _wide(outputs: int = 4000, examples: int = 64) -> cv.Task:
    """A model whose outputs are far larger than what its first layers show."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, outputs)).double()
    X = torch.randn(examples, 10, dtype=torch.float64)
    y = torch.randint(0, outputs, (examples,))
    return cv.Task(model, "cross_entropy", (X, y), (X[:2], y[:2]))


def test_live_bytes_are_those_of_tensors_that_stand_side_by_side() -> None:
    x = torch.zeros(1000, dtype=torch.float64)

    def one_after_the_other() -> None:
        for _ in range(5):
            _ = x + 1

    def together() -> list[torch.Tensor]:
        return [x + 1 for _ in range(5)]

    assert live_bytes(one_after_the_other) in (8000, 16000)
    assert live_bytes(together) == 40000
    assert live_bytes(lambda: x.view(10, 100)[3]) == 0, "a view holds nothing"
    assert live_bytes(lambda: x.clone().add_(1)) == 8000


def test_outputs_count_in_memory_and_in_the_batch(monkeypatch) -> None:
    task = _wide()
    monkeypatch.setattr(activations, "NEGLIGIBLE", 0)
    each = activation_bytes(task, task.loss, task.blocks(), Fisher("empirical"), task.N)
    outputs = 8 * 4000
    assert 3 * outputs < each < 12 * outputs
    (chain,) = chains_of(chosen(cv.load("ekfac_empirical")))
    prepared = prepare([chain], task)
    phase = largest(prepared.phases)
    batch = prepared.plans[0].batch
    assert phase.bytes >= batch * each


def test_little_is_not_measured(monkeypatch) -> None:
    def measured(*given: object) -> int:
        raise AssertionError("measured")

    monkeypatch.setattr(activations, "_measured", measured)
    task = _wide(outputs=10, examples=8)
    assert activation_bytes(task, task.loss, task.blocks(), Fisher("empirical"), 8) == 0


def test_measured_once_for_each_model_and_kind(monkeypatch) -> None:
    monkeypatch.setattr(activations, "NEGLIGIBLE", 0)
    calls = []
    inner = activations.live_bytes
    monkeypatch.setattr(activations, "live_bytes", lambda run: (calls.append(1), inner(run))[1])
    task = _wide()
    for _ in range(3):
        forward = activation_bytes(task, task.loss, task.blocks(), None, 64)
        both = activation_bytes(task, task.loss, task.blocks(), Fisher("empirical"), 64)
    assert len(calls) == 4
    assert forward < both
