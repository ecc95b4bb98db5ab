"""How much goes through products at once: what that holds is measured, bounded by the limit, and changes no result."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import curvlang as cv
from curvlang.compiler.planning.chunks import Chunks
from curvlang.models.derivatives.product_methods import GGNS, HESSIANS
from curvlang.models.derivatives.products import WHOLE, hessian_product
from curvlang.runtime.limits import activations
from curvlang.runtime.limits.activations import forward_batch, live_bytes
from curvlang.runtime.limits.memory import available, limited
from curvlang.runtime.limits.portions import (
    column_portion,
    hessian_bytes,
    product_bytes,
    product_portion,
)
from tests.oracles import dense

TOLERANCE = 1e-12
"""Relative, of sums in another order."""


def _images(examples: int = 24, side: int = 24) -> cv.Task:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1),
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(12, 3),
    ).double()
    X = torch.randn(examples, 2, side, side, dtype=torch.float64)
    return cv.Task(
        model, "cross_entropy", (X, torch.arange(examples) % 3), (X[:2], torch.tensor([0, 1]))
    )


@pytest.mark.parametrize("way", ["forward", "reverse"])
@pytest.mark.parametrize("ggn", [False, True])
def test_what_products_hold_is_known_from_one_and_two(monkeypatch, way, ggn) -> None:
    monkeypatch.setattr(activations, "NEGLIGIBLE", 0)
    task = _images()
    known = product_bytes(task, task.blocks(), way, ggn=ggn)
    rows = (GGNS if ggn else HESSIANS)[way](task.model, task.loss)
    for examples, vectors in ((8, 4), (3, 16), (24, 1)):
        X, y = (part[:examples] for part in task.train)
        v = torch.randn(vectors, task.P, dtype=torch.float64)
        held = live_bytes(lambda: rows(X, y, v))  # noqa: B023
        told = known.of(type(WHOLE)(examples, vectors))
        assert held <= 1.1 * told
        assert told <= 2 * held


def test_a_limit_makes_portions_smaller_and_changes_no_product() -> None:
    task = _images()
    whole = product_portion(task, task.blocks(), "forward")
    assert (whole.examples, whole.vectors) == (24, 32)
    with limited("4 MiB"):
        some = product_portion(task, task.blocks(), "forward")
        assert product_bytes(task, task.blocks(), "forward").of(some) <= 2**20
        assert 1 <= some.examples < 24
    with limited("64 KiB"):
        one = product_portion(task, task.blocks(), "forward")
        assert (one.examples, one.vectors) == (1, 1)
    wanted = dense.hessian(task.model, "cross_entropy", *task.train)
    eye = torch.eye(task.P, dtype=torch.float64)
    for portion, vectors in ((some, task.P), (one, 4)):
        product = hessian_product(task.model, task.loss, *task.train, "forward", portion)
        gap = (product(eye[:, :vectors]) - wanted[:, :vectors]).abs().max()
        assert float(gap) <= TOLERANCE * float(wanted.abs().max()) * 100


def test_the_dense_hessian_of_a_fit_is_the_same_under_a_limit() -> None:
    task = _images()
    free, bound = cv.fit("hessian", task), cv.fit("hessian", task, memory="8 MiB")
    gap = (free.dense() - bound.dense()).abs().max()
    assert float(gap) <= TOLERANCE * float(free.dense().abs().max()) * 100


def test_the_plan_of_a_hessian_counts_what_the_model_holds() -> None:
    task = _images(examples=256, side=32)
    layers = task.blocks()
    assert hessian_bytes(task, layers, Chunks(task.N)) > 3 * 8 * task.P**2 + 2**20
    with limited("16 MiB"):
        assert hessian_bytes(task, layers, Chunks(task.N)) < 3 * 8 * task.P**2 + 2**22


def test_columns_of_many_outputs_go_through_a_few_examples_at_a_time() -> None:
    task = _images()
    assert column_portion(task, task.blocks(), 3).examples == WHOLE.examples
    assert column_portion(task, task.blocks(), 50_000).examples < 10


def test_forward_passes_take_fewer_large_examples() -> None:
    small, large = _images(side=4), _images(side=64)
    with limited("8 MiB"):
        assert forward_batch(large) < 16 < forward_batch(small) <= activations.FORWARD
    assert forward_batch(large) == activations.FORWARD


def test_processes_of_one_machine_share_what_is_free(monkeypatch) -> None:
    from curvlang.runtime.limits import memory

    monkeypatch.setattr(memory, "free_memory", lambda: 1000)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert available(torch.device("cpu")) == 800
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert available(torch.device("cpu")) == 200
    with limited(150):
        assert available(torch.device("cpu")) == 150
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "none")
    assert available(torch.device("cpu")) == 800
