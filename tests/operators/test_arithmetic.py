"""Fitted operators are added, multiplied and moved: against dense matrices, structure kept."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import curvlang as cv
from curvlang.language import loads
from curvlang.operators import moved
from tests.operators.test_verbs import WITH_SPECTRUM
from tests.operators.zoo import zoo
from tests.small import network, task

EXACT = 1e-12  # float64: one sum, one eigendecomposition of ten rows
SINGLE = 1e-5  # float32, relative to the largest entry


@pytest.fixture(scope="module")
def halves():
    model = network([3, 4, 3])
    return task(model, "cross_entropy", n=6, seed=0), task(model, "cross_entropy", n=6, seed=1)


@pytest.mark.parametrize("name", ["ggn", "block_ggn", "kfac", "ekfac", "diagonal", "identity"])
def test_sums_and_multiples_are_those_of_the_entries(name, halves):
    first, second = (cv.fit(name, half) for half in halves)
    for found, wanted in (
        (first + second, first.dense() + second.dense()),
        (0.5 * (first + second), (first.dense() + second.dense()) / 2),
        (sum([first, second]), first.dense() + second.dense()),
        (first * -2, -2 * first.dense()),
        (first + second.operator, first.dense() + second.dense()),
    ):
        assert torch.allclose(found.dense(), wanted, rtol=0, atol=EXACT)
        assert found.parameters == first.parameters
        if name in ("block_ggn", "kfac", "ekfac", "diagonal"):
            assert list(found.blocks) == list(first.blocks)
    v = torch.linspace(-1, 1, len(wanted), dtype=torch.float64)
    both = first + second
    solved = both.inverse(damping=0.1) @ v
    assert torch.allclose(
        (both.dense() + 0.1 * torch.eye(len(v), dtype=torch.float64)) @ solved, v, atol=1e-9
    )
    scores = cv.influence(both, halves[0], damping=0.1)
    assert scores.shape == (halves[0].Q, halves[0].N)


def test_the_mean_over_halves_is_the_fit_of_all(halves):
    first, second = halves
    whole = cv.Task(
        first.model,
        "cross_entropy",
        train=tuple(torch.cat(pair) for pair in zip(first.train, second.train, strict=True)),
        query=first.query,
    )
    mean = 0.5 * (cv.fit("block_ggn", first) + cv.fit("block_ggn", second))
    assert torch.allclose(mean.dense(), cv.fit("block_ggn", whole).dense(), atol=EXACT)


def test_a_curvature_is_its_own_transpose(halves):
    op = cv.fit("ekfac", halves[0])
    assert op.T is op
    assert torch.allclose(op.dense(), op.dense().T, atol=EXACT)


def refused(code, act, repair):
    with pytest.raises(cv.SpecError, match=code) as caught:
        act()
    assert repair in str(caught.value)


def test_what_cannot_be_added_is_refused(halves):
    op = cv.fit("kfac", halves[0])
    wider = cv.fit("kfac", task(network([3, 5, 3]), "cross_entropy"))
    other = cv.fit("kfac", task(nn.Sequential(nn.Identity(), *network([3, 4, 3])), "cross_entropy"))
    refused("E0798", lambda: op + wider, "one task")
    refused("E0798", lambda: op + other, "one task")
    refused("E0798", lambda: op + op.to(dtype=torch.float32), ".to(dtype=torch.float64")
    refused("E0563", lambda: float("nan") * op, "factor")
    with pytest.raises(TypeError):
        op + 1
    with pytest.raises(TypeError):
        op + torch.eye(op.shape[0])


@pytest.mark.parametrize("name", WITH_SPECTRUM)
def test_every_structure_moves(name):
    op = zoo(3)[name]
    there = moved(op, torch.float32)
    assert there.structure == op.structure
    assert all(t.dtype != torch.float64 for t in there.tensors())
    scale = float(op.dense().abs().max())
    assert torch.allclose(there.dense().double(), op.dense(), rtol=0, atol=SINGLE * scale)
    back = moved(there, torch.float64)
    assert back.dtype == torch.float64
    assert torch.equal(moved(op).dense(), op.dense())


@pytest.mark.parametrize("name", ["ggn", "kfac", "ekfac", "diagonal"])
def test_moved_operators_keep_inverse_and_solver(name, halves):
    spec = loads(
        f"curvature mine = {name}\nevaluate mine with tikhonov(damping = 0.3) on digits "
        "{ solve cg(preconditioner = diagonal) }",
        "<spec>",
    )
    op = cv.fit(spec, halves[0])
    single = op.to(dtype=torch.float32)
    assert (single.parameters, single.label) == (op.parameters, op.label)
    v = torch.linspace(-1, 1, op.shape[0], dtype=torch.float64)
    wanted = torch.linalg.solve(op.dense() + 0.3 * torch.eye(len(v), dtype=torch.float64), v)
    found = single.inverse() @ v.float()
    assert torch.allclose(found.double(), wanted, rtol=0, atol=1e-4 * float(wanted.abs().max()))
    assert torch.allclose(op.to().inverse() @ v, wanted, atol=1e-7)


def test_layers_that_share_an_input_share_it_after_the_move():
    class Twin(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(3, 4)

        def forward(self, x):
            return self.a(x) * self.b(x)

    torch.manual_seed(0)
    op = cv.fit("kfac", task(Twin().double().eval(), "mse"))
    assert 2 * op.to(dtype=torch.float32).memory() == op.memory()


def test_where_an_operator_cannot_go(halves):
    op = cv.fit("diagonal", halves[0])
    for kind in (torch.float16, torch.bfloat16, torch.int64, torch.complex64):
        refused("E0758", lambda kind=kind: op.to(dtype=kind), "float64")
    refused("E0610", lambda: op.to(device="nowhere"), "cpu")
    free = zoo(0)["MatrixFree"]
    refused("E0603", lambda: moved(free, torch.float32), "dtype=")
    refused("E0603", lambda: cv.FittedOperator(free, ()).save("x"), "cv.fit")
    solved = cv.fit("ggn", halves[0]).inverse(damping=0.1)
    assert solved.to(dtype=torch.float32).dense().dtype == torch.float32
