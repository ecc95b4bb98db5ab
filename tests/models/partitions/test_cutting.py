"""Blocks by head, by unit and by name: the entries of plain automatic differentiation, and refusals."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

import curvlang as cv
from curvlang.language import loads
from curvlang.models.architectures.self_attention import attention
from tests.models.support import EXACT, assert_refused

CLOSE = {"rtol": EXACT, "atol": EXACT}
N, T, WIDTH, HEADS, SIZE, OUT = 4, 3, 3, 2, 2, 3


def heads_task(positions: str = "averaged", bias: bool = True) -> cv.Task:
    generator = torch.Generator().manual_seed(0)
    model = attention((WIDTH, OUT), HEADS, SIZE, bias, positions, generator).double()
    X = torch.randn(N, T, WIDTH, generator=generator).double()
    shape = (N, T) if positions == "kept" else (N,)
    y = torch.randint(0, OUT, shape, generator=generator)
    return cv.Task(model, "cross_entropy", (X, y), (X[:2], y[:2]))


def mlp_task(bias: bool = True, examples: int = 6) -> cv.Task:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 4, bias), nn.Tanh(), nn.Linear(4, 2, bias)).double().eval()
    X, y = torch.randn(examples, 3).double(), torch.randint(0, 2, (examples,))
    return cv.Task(model, "cross_entropy", (X, y), (X[:1], y[:1]))


def fitted(task: cv.Task, by: str, tail: str = "", source: str = "ggn") -> cv.FittedOperator:
    return cv.fit(loads(f"curvature mine = {source} |> block_diagonal(by = {by}){tail}"), task)


def dense_ggn(task: cv.Task) -> Tensor:
    """(1/N) Σ Jᵀ (diag p − p pᵀ) J, one example after the other."""
    params = {k: v.detach() for k, v in task.model.named_parameters()}
    total = torch.zeros(task.P, task.P, dtype=torch.float64)
    for x in task.train[0][:]:
        outputs = lambda p, x=x: functional_call(task.model, p, (x[None],))[0]  # noqa: E731
        jac = torch.func.jacrev(outputs)(params)
        J = torch.cat([jac[k].flatten(1) for k in params], 1)
        p = outputs(params).softmax(-1)
        total += J.T @ (p.diag() - torch.outer(p, p)) @ J
    return total / task.N


def places(task: cv.Task, name: str) -> Tensor:
    """Where the entries of a parameter are, in its own shape."""
    start = 0
    for own, p in task.model.named_parameters():
        if own == name:
            return torch.arange(start, start + p.numel()).reshape(p.shape)
        start += p.numel()
    raise KeyError(name)


def masked(matrix: Tensor, blocks: Sequence[Tensor]) -> Tensor:
    kept = torch.zeros_like(matrix)
    for index in blocks:
        kept[index[:, None], index] = matrix[index[:, None], index]
    return kept


def by_outputs(task: cv.Task, layer: str, size: int) -> list[Tensor]:
    weight = places(task, f"{layer}.weight").reshape(-1)
    rows = places(task, f"{layer}.weight").unflatten(0, (-1, size))
    found = [x.reshape(-1) for x in rows]
    if f"{layer}.bias" in dict(task.model.named_parameters()):
        bias = places(task, f"{layer}.bias").unflatten(0, (-1, size))
        found = [torch.cat(pair) for pair in zip(found, bias, strict=True)]
    assert len(weight)
    return found


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("positions", ["averaged", "summed"])
def test_heads_cut_queries_keys_values_by_outputs_and_what_joins_them_by_inputs(bias, positions):
    task = heads_task(positions, bias)
    blocks = [b for x in ("query", "key", "value") for b in by_outputs(task, x, SIZE)]
    columns = places(task, "out.weight").unflatten(1, (HEADS, SIZE))
    blocks += [columns[:, h].reshape(-1) for h in range(HEADS)]
    blocks += [places(task, "out.bias")] if bias else []
    found = fitted(task, f"head({HEADS})").dense()
    torch.testing.assert_close(found, masked(dense_ggn(task), blocks), **CLOSE)


@pytest.mark.parametrize(("by", "size"), [("neuron", 1), ("unit(2)", 2)])
@pytest.mark.parametrize("bias", [True, False])
def test_units_cut_every_layer_by_outputs(by, size, bias):
    task = mlp_task(bias)
    blocks = [b for layer in "02" for b in by_outputs(task, layer, size)]
    found = fitted(task, by)
    torch.testing.assert_close(found.dense(), masked(dense_ggn(task), blocks), **CLOSE)
    if size == 1:
        assert found.operator.names == ("0[0]", "0[1]", "0[2]", "0[3]", "2[0]", "2[1]")


def test_one_head_with_all_features_is_a_block_per_layer_and_per_tensor_of_the_last():
    task = mlp_task()
    whole = fitted(task, 'unit(2), of = "2"').dense()
    torch.testing.assert_close(whole, fitted(task, "layer").dense(), **CLOSE)


@pytest.mark.parametrize("others", ["", " |> diagonal"])
def test_named_groups_are_blocks_across_layers(others):
    task = heads_task()
    names = [["query.weight", "out.bias"], ["key.weight", "key.bias"]]
    found = fitted(task, '[["query.weight", "out.bias"], "key.*"]', others).dense()
    blocks = [torch.cat([places(task, n).reshape(-1) for n in group]) for group in names]
    # What no pattern matches is a block by layer, or by tensor where the rest of its layer is in a group.
    left = [["query.bias"], ["out.weight"], ["value.weight", "value.bias"]]
    blocks += [torch.cat([places(task, n).reshape(-1) for n in group]) for group in left]
    wanted = masked(dense_ggn(task), blocks)
    if others:
        wanted = wanted.diagonal().diag()
    torch.testing.assert_close(found, wanted, **CLOSE)


def test_a_part_of_a_path_in_braces_tells_blocks_apart():
    task = mlp_task()
    by_layer = fitted(task, '"{*}.*"')
    assert by_layer.operator.names == ("0", "2")
    torch.testing.assert_close(by_layer.dense(), fitted(task, "layer").dense(), **CLOSE)
    whole = fitted(task, '"*"')
    torch.testing.assert_close(whole.dense(), dense_ggn(task), **CLOSE)


def test_layers_with_one_input_are_one_matrix_over_all_their_outputs():
    task = heads_task("kept")
    found = fitted(task, '[["query.*", "key.*", "value.*"]]', " |> kronecker_factor")
    x = torch.cat([task.train[0], torch.ones(N, T, 1).double()], -1)
    A = torch.einsum("nti,ntj->ij", x, x) / (N * T)
    weights = torch.cat([places(task, f"{k}.weight") for k in ("query", "key", "value")])
    biases = torch.cat([places(task, f"{k}.bias") for k in ("query", "key", "value")])
    index = torch.cat([weights, biases[:, None]], 1)
    block = found.dense()[index.reshape(-1)[:, None], index.reshape(-1)]
    rows = len(weights)
    four = block.reshape(rows, WIDTH + 1, rows, WIDTH + 1)
    G = torch.einsum("oipj,ij->op", four, A) / (A * A).sum()
    torch.testing.assert_close(four, torch.einsum("op,ij->oipj", G, A), **CLOSE)
    # Kronecker factors of the layers by themselves are the blocks of G on its diagonal.
    alone = fitted(task, "layer", " |> kronecker_factor").dense()
    own = index[: HEADS * SIZE].reshape(-1)
    torch.testing.assert_close(found.dense()[own[:, None], own], alone[own[:, None], own], **CLOSE)


def test_heads_of_multi_head_attention_of_torch():
    torch.manual_seed(0)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attend = nn.MultiheadAttention(4, 2, batch_first=True)
            self.last = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.attend(x, x, x, need_weights=False)[0].mean(1))

    X, y = torch.randn(4, 3, 4).double(), torch.randint(0, 2, (4,))
    task = cv.Task(Model().double().eval(), "cross_entropy", (X, y), (X[:1], y[:1]))
    rows = places(task, "attend.in_proj_weight").unflatten(0, (6, 2))
    biases = places(task, "attend.in_proj_bias").unflatten(0, (6, 2))
    blocks = [torch.cat([w.reshape(-1), b]) for w, b in zip(rows, biases, strict=True)]
    joins = places(task, "attend.out_proj.weight").unflatten(1, (2, 2))
    blocks += [joins[:, h].reshape(-1) for h in range(2)] + [places(task, "attend.out_proj.bias")]
    blocks += [torch.cat([places(task, f"last.{k}").reshape(-1) for k in ("weight", "bias")])]
    found = fitted(task, "head(2)").dense()
    torch.testing.assert_close(found, masked(dense_ggn(task), blocks), **CLOSE)


def test_a_group_that_a_stage_does_not_fit_is_refused_with_the_clause():
    assert_refused("E0401", lambda: fitted(mlp_task(), '["*"]', " |> kronecker_factor"))
    found = fitted(mlp_task(), '["*"]', " |> kronecker_factor(others = diagonal)")
    wanted = dense_ggn(mlp_task()).diagonal().diag()
    torch.testing.assert_close(found.dense(), wanted, **CLOSE)


@pytest.mark.parametrize(
    ("code", "by"),
    [
        ("E0427", "unit(3)"),
        ("E0429", "head(2)"),
        ("E0431", '"nothing.*"'),
        ("E0431", 'neuron, of = "nothing"'),
        ("E0433", '["*.weight", "0.*"]'),
        ("E0706", "heads"),
        ("E0706", "modules"),
        ("E0707", "unit(0)"),
        ("E0705", "[1, 2]"),
        ("E0705", "[]"),
        ("E0211", 'layer, of = "0"'),
    ],
)
def test_refusals(code, by):
    assert_refused(code, lambda: fitted(mlp_task(), by))


def test_heads_that_do_not_divide_the_features_are_refused():
    assert_refused("E0427", lambda: fitted(heads_task(), "head(3)"))


@pytest.mark.parametrize("by", ["neuron", "unit(2)", '"*.weight"', '[["0.*"], ["2.*"]]'])
@pytest.mark.parametrize(
    "tail", ["", " |> kronecker_factor(others = diagonal) |> eigen_correct(others = keep)"]
)
def test_scores_are_those_of_the_dense_matrix(by, tail):
    task = mlp_task()
    found = fitted(task, by, tail)
    scores = cv.influence(found, task, damping=0.1)
    u, v = (gradients(task, part) for part in ("query", "train"))
    C = found.dense() + 0.1 * torch.eye(task.P).double()
    torch.testing.assert_close(scores, u @ torch.linalg.solve(C, v.T), **CLOSE)


def gradients(task: cv.Task, part: str) -> Tensor:
    rows = []
    for x, target in zip(*(z[:] for z in task.part(part)), strict=True):
        loss = nn.functional.cross_entropy(task.model(x[None]), target[None])
        grads = torch.autograd.grad(loss, list(task.model.parameters()))
        rows.append(torch.cat([g.reshape(-1) for g in grads]))
    return torch.stack(rows)


def test_a_saved_operator_scores_as_before(tmp_path):
    task = heads_task()
    found = fitted(task, "head(2)", " |> kronecker_factor(others = diagonal)")
    found.save(tmp_path / "kept")
    again = cv.load_operator(tmp_path / "kept")
    before, after = (cv.influence(x, task, damping=0.1) for x in (found, again))
    assert torch.equal(before, after)
