"""Natural gradients: what the optimisers of torch do with (C + λI)⁻¹ g, against dense solutions."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

import curvlang as cv
from curvlang.operators import MatrixFree
from tests.small import Tied, network, task

DAMPING = 0.1


def mean_loss(model, t):
    return t.loss.per_example(model(t.train[0]), t.train[1]).mean()


def gradient(model):
    return torch.cat([p.grad.reshape(-1) for p in model.parameters()])


@pytest.mark.parametrize(
    "spec", ["ggn", "block_ggn", "kfac", "ekfac", "diagonal", "hessian", "low_rank"]
)
def test_gradients_are_those_of_a_dense_solution(spec):
    t = task(network([3, 4, 2]), "cross_entropy", n=9)
    op = cv.fit(spec, t)
    damping = DAMPING if spec != "hessian" else 5.0
    natural = cv.NaturalGradient(op, t.model, damping)
    mean_loss(t.model, t).backward()
    plain = gradient(t.model)
    held = [p.grad for p in t.model.parameters()]
    natural.step()
    eye = torch.eye(len(plain), dtype=torch.float64)
    wanted = torch.linalg.solve(op.dense() + damping * eye, plain)
    assert torch.allclose(gradient(t.model), wanted, atol=1e-9)
    assert all(p.grad is g for p, g in zip(t.model.parameters(), held, strict=True)), "in place"


def test_one_step_solves_least_squares():
    g = torch.Generator().manual_seed(0)
    X, y = (torch.randn(20, k, generator=g, dtype=torch.float64) for k in (3, 2))
    t = cv.Task(network([3, 2]), "mse", (X, y), (X, y))
    natural = cv.NaturalGradient(cv.fit("ggn", t), t.model, 0.0)
    optimizer = torch.optim.SGD(t.model.parameters(), lr=1.0)
    mean_loss(t.model, t).backward()
    natural.step()
    optimizer.step()
    ones = torch.cat([X, torch.ones(20, 1, dtype=torch.float64)], 1)
    solved = torch.linalg.lstsq(ones, y).solution
    assert torch.allclose(t.model[0].weight, solved[:3].T, atol=1e-9)
    assert torch.allclose(t.model[0].bias, solved[3], atol=1e-9)


def test_an_optimiser_calls_it_before_every_step():
    t = task(network([3, 4, 2]), "cross_entropy", n=9)
    op = cv.fit("ekfac", t)
    hooked, by_hand = deepcopy(t.model), deepcopy(t.model)
    losses = []
    for model, hook in ((hooked, True), (by_hand, False)):
        natural = cv.NaturalGradient(op, model, DAMPING)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.5)
        if hook:
            optimizer.register_step_pre_hook(lambda *_, natural=natural: natural.step())
        losses.append(float(mean_loss(model, t).detach()))
        for _ in range(4):
            optimizer.zero_grad()
            mean_loss(model, t).backward()
            if not hook:
                natural.step()
            optimizer.step()
        losses.append(float(mean_loss(model, t).detach()))
    assert losses[0] == losses[2]
    assert losses[1] == losses[3] < losses[0]


def test_a_curvature_that_is_known_by_its_products():
    """Products run the model, with gradients recorded, inside a step that records none."""
    t = task(network([3, 4, 2]), "cross_entropy", n=9)
    dense = cv.fit("hessian", t)
    model = deepcopy(t.model)
    parameters = list(model.parameters())

    def product(v):
        g = torch.autograd.grad(mean_loss(model, t), parameters, create_graph=True)
        flat = torch.cat([x.reshape(-1) for x in g])
        columns = [torch.autograd.grad(flat @ x, parameters, retain_graph=True) for x in v.T]
        return torch.stack([torch.cat([x.reshape(-1) for x in c]) for c in columns], 1)

    free = MatrixFree(product, t.P, torch.float64, torch.device("cpu"))
    natural = cv.NaturalGradient(cv.FittedOperator(free, t.parameters), t.model, 5.0)
    mean_loss(t.model, t).backward()
    plain = gradient(t.model)
    natural.step()
    wanted = torch.linalg.solve(dense.dense() + 5 * torch.eye(t.P, dtype=torch.float64), plain)
    assert torch.allclose(gradient(t.model), wanted, atol=1e-5)
    op = cv.FittedOperator(free, t.parameters)
    for act, code in ((lambda: cv.Evidence(op, t), "E0924"), (op.decomposed, "E0603")):
        with pytest.raises(cv.SpecError, match=code):
            act()


def test_tied_weights_and_another_precision():
    torch.manual_seed(0)
    t = task(Tied(3).double().eval(), "cross_entropy", n=9)
    op = cv.fit("ggn", t)
    single = deepcopy(t.model).float()
    assert single.last.weight is single.first.weight
    natural = cv.NaturalGradient(op, single, DAMPING)
    x, y = t.train
    t.loss.per_example(single(x.float()), y).mean().backward()
    plain = gradient(single).double()
    natural.step()
    eye = torch.eye(len(plain), dtype=torch.float64)
    wanted = torch.linalg.solve(op.dense() + DAMPING * eye, plain)
    assert gradient(single).dtype == torch.float32
    assert torch.allclose(gradient(single).double(), wanted, atol=1e-6)


def test_a_missing_gradient_is_zero():
    t = task(network([3, 4, 2]), "cross_entropy", n=9)
    op = cv.fit("ggn", t)
    natural = cv.NaturalGradient(op, t.model, DAMPING)
    mean_loss(t.model, t).backward()
    t.model[0].weight.grad = None
    plain = torch.cat(
        [
            (torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1)
            for p in t.model.parameters()
        ]
    )
    natural.step()
    eye = torch.eye(len(plain), dtype=torch.float64)
    wanted = torch.linalg.solve(op.dense() + DAMPING * eye, plain)
    assert torch.allclose(gradient(t.model), wanted, atol=1e-9)


def test_sparse_gradients_of_embeddings():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(5, 3, sparse=True), nn.Flatten(), nn.Linear(6, 2)).double()
    X, y = torch.randint(0, 5, (8, 2)), torch.randint(0, 2, (8,))
    t = cv.Task(model, "cross_entropy", (X, y), (X, y))
    op = cv.fit("ggn", t)
    natural = cv.NaturalGradient(op, model, DAMPING)
    mean_loss(model, t).backward()
    plain = torch.cat([p.grad.to_dense().reshape(-1) for p in model.parameters()])
    natural.step()
    eye = torch.eye(len(plain), dtype=torch.float64)
    assert torch.allclose(
        gradient(model), torch.linalg.solve(op.dense() + DAMPING * eye, plain), atol=1e-9
    )


def test_what_does_not_fit_is_refused():
    t = task(network([3, 4, 2]), "cross_entropy")
    op = cv.fit("kfac", t)
    wider = nn.Sequential(*network([3, 4, 2]), nn.Linear(2, 2).double())
    frozen = network([3, 4, 2])
    frozen[0].bias.requires_grad_(False)
    for act, code, repair in (
        (lambda: cv.NaturalGradient(op, wider, DAMPING), "E0929", "keep"),
        (lambda: cv.NaturalGradient(op, network([3, 5, 2]), DAMPING), "E0923", "architecture"),
        (lambda: cv.NaturalGradient(op, nn.Linear(3, 2), DAMPING), "E0923", "fitted on"),
        (lambda: cv.NaturalGradient(op, frozen, DAMPING), "E0929", "frozen"),
        (lambda: cv.NaturalGradient(op, network([3, 4, 2]), DAMPING).step(), "E0929", "backward"),
        (lambda: cv.NaturalGradient(op.operator, t.model, DAMPING), "E0563", "cv.fit"),
        (lambda: cv.NaturalGradient(op, "model", DAMPING), "E0563", "nn.Module"),
        (lambda: cv.NaturalGradient(op, wider, DAMPING, others="drop"), "E0563", "keep"),
    ):
        with pytest.raises(cv.SpecError, match=code) as caught:
            act()
        assert repair in str(caught.value)
    natural = cv.NaturalGradient(op, wider, DAMPING, others="keep")
    wider(t.train[0]).square().sum().backward()
    kept = wider[3].weight.grad.clone()
    natural.step()
    assert torch.equal(wider[3].weight.grad, kept)
