"""Families of library models: gradients, the Gauss-Newton matrix and blocks against loops of autograd."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

import curvlang as cv
from tests.models.library import MODELS
from tests.models.support import EXACT

KEPT = (
    "curvature m = hessian |> drop_residual |> block_diagonal(by = layer) "
    "|> kronecker_factor(others = diagonal) |> eigen_correct(others = diagonal)"
)
SINGLE = 1e-7
"""Mamba multiplies in float32 inside its scan, whatever the model's precision: batches round otherwise."""
FLOAT32 = 1e-6
"""Of the largest entry: rounding to float32 inside the model, once differentiated."""
MODEST = 2500
"""Parameters up to which the whole matrix is formed."""


def task_of(name: str) -> cv.Task:
    torch.manual_seed(0)
    make, rows, shift = MODELS[name]
    found = rows()
    options = {} if shift is None else {"shift_labels": shift}
    query = {field: value[:2] for field, value in found.items()}
    model = make().double().eval()
    return cv.Task(model, "cross_entropy", train=found, query=query, **options)


def flat(parts: tuple[Tensor | None, ...], own: list[Tensor]) -> Tensor:
    pairs = zip(parts, own, strict=True)
    return torch.cat(
        [torch.zeros_like(p).reshape(-1) if g is None else g.reshape(-1) for g, p in pairs]
    )


def references(task: cv.Task) -> tuple[Tensor, Tensor]:
    """Gradients of the examples' losses [N, P] and columns of the GGN's factor [N, R, P]."""
    own = [p for p in task.model.parameters() if p.requires_grad]
    X, y = task.train
    rows, columns = [], []
    for n in range(len(X)):
        f = task.model(X[n : n + 1])[0].reshape(-1, task.model(X[n : n + 1]).shape[-1])
        label = y[n].reshape(-1)
        loss = functional.cross_entropy(f, label, reduction="sum")
        grads = torch.autograd.grad(loss, own, retain_graph=True, allow_unused=True)
        rows.append(flat(grads, own))
        p = f.detach().softmax(-1)
        root = torch.diag_embed(p.sqrt()) - p.unsqueeze(-1) * p.sqrt().unsqueeze(-2)
        for t in (label != -100).nonzero().flatten():
            for column in root[t].T:
                seed = torch.zeros_like(f)
                seed[t] = column
                columns.append(
                    flat(
                        torch.autograd.grad(f, own, seed, retain_graph=True, allow_unused=True), own
                    )
                )
    return torch.stack(rows), torch.stack(columns) / len(X) ** 0.5


def assert_near(found: Tensor, expected: Tensor, tolerance: float) -> None:
    assert float(torch.dist(found, expected)) <= tolerance * max(1.0, float(expected.norm()))


@pytest.mark.parametrize("name", MODELS)
def test_families(name):
    task = task_of(name)
    tolerance = SINGLE if name == "Mamba" else EXACT
    gradients, columns = references(task)
    scores = cv.influence(cv.fit("identity", task), task, damping=0.0)
    assert_near(scores, gradients[:2] @ gradients.T, tolerance)
    if task.P <= MODEST:
        assert_near(cv.fit("ggn", task).operator.dense(), columns.T @ columns, tolerance)
    fitted = cv.fit(cv.loads(KEPT), task).operator
    for block, operator in zip(task.blocks(), fitted.parts, strict=True):
        own = columns[:, block.index]
        # The corrected eigenvalues keep the trace of the block, the diagonal keeps the diagonal.
        assert_near(operator.trace(), own.square().sum(), tolerance)
        if not block.factored:
            assert_near(operator.diagonal(), own.square().sum(0), tolerance)
    assert cv.influence(fitted, task, damping=0.1).isfinite().all()
    assert cv.coverage(task.model, task).share is not None


@pytest.mark.parametrize("name", ["Llama", "T5", "Mamba", "Qwen with experts", "DeBERTa"])
def test_hessians_of_models_that_round_to_float32_inside(name):
    """Norms in float32 leave a difference quotient in float64 few digits; the Hessian is not refused."""
    task = task_of(name)
    product = cv.fit("hessian", task).operator
    own = [p for p in task.model.parameters() if p.requires_grad]
    v = torch.randn(task.P, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    X, y = task.train
    # Fused attention has no second derivative.
    with sdpa_kernel(SDPBackend.MATH):
        mean = task.loss.per_example(task.model(X), y).mean()
        slope = torch.autograd.grad(mean, own, create_graph=True, allow_unused=True)
        pieces = zip(slope, v.split([p.numel() for p in own]), strict=True)
        along = sum((g.double() * w.reshape(g.shape)).sum() for g, w in pieces if g is not None)
        wanted = flat(torch.autograd.grad(along, own, allow_unused=True), own)
    assert_near(product @ v / wanted.norm(), wanted / wanted.norm(), FLOAT32)


def test_fused_experts_that_do_not_run_are_told_how_to():
    """The model's own error first, and the repair that makes it run."""
    torch.manual_seed(0)
    model = MODELS["Qwen with experts"][0]().eval()
    model.set_experts_implementation("grouped_mm")
    rows = MODELS["Qwen with experts"][1]()
    with pytest.raises(cv.SpecError, match=r'set_experts_implementation\("eager"\)'):
        cv.Task(model, "cross_entropy", train=rows, query=rows, shift_labels=True)
    model.set_experts_implementation("eager")
    assert (
        len(rows["labels"])
        == cv.Task(model, "cross_entropy", train=rows, query=rows, shift_labels=True).N
    )
