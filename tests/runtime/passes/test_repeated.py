"""Blocks of one layer that have its inputs, or its output gradients, in common: one statistic for all of them."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch

import curvlang as cv
from curvlang.attribution.blocks import ScoredBlock
from curvlang.compiler.derive.program import Partition
from curvlang.compiler.planning import chunks
from curvlang.compiler.planning.plan import Limits
from curvlang.facade import chains_of, chosen
from curvlang.language import loads
from curvlang.models.tracing.half_precision import exact_leaves
from curvlang.models.tracing.leaves import LeafRequest
from curvlang.operators import Stacked
from curvlang.operators.stacked import held_tensors
from curvlang.runtime import execute
from curvlang.runtime.limits.turns import operator_bytes
from curvlang.runtime.prepare import prepare
from curvlang.storage import repeated
from tests.models.partitions.test_cutting import heads_task, mlp_task
from tests.processes import together

BODIES = {
    "kfac": "kronecker_factor",
    "reduce": "kronecker_factor(sharing = reduce)",
    "ekfac": "kronecker_factor |> eigen_correct",
    "tkfac": "tkfac",
    "foof": "foof",
    "per_output": "per_output",
    "diagonal": "diagonal",
    "low_rank": "low_rank(rank = 2)",
    "shampoo": "shampoo",
}
BY = {"neuron": mlp_task, "unit(2)": mlp_task, "head(2)": heads_task}


def spec(body: str, by: str) -> str:
    others = "(others = diagonal)" if by.startswith("head") else ""
    first, *rest = BODIES[body].split(" |> ")
    if others and "(" in first:
        first = first[:-1] + ", others = diagonal)"
    else:
        first += others
    return f"curvature mine = ggn |> block_diagonal(by = {by}) |> " + " |> ".join([first, *rest])


def stacks(op: cv.FittedOperator) -> dict[str, Stacked]:
    return {names[0]: x for names, x, _ in op.operator.named_parts() if isinstance(x, Stacked)}


@pytest.fixture
def with_copies(monkeypatch):
    """Leaves are told apart: every block computes with a copy of its own, as any stack does."""

    def apply():
        monkeypatch.setattr(import_module("curvlang.operators.stacked"), "repeats", lambda x: False)
        monkeypatch.setattr(execute, "once", lambda x: x.contiguous())
        monkeypatch.setattr(repeated, "repeats", lambda x: False)

    return apply


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("by", BY)
@pytest.mark.parametrize("body", BODIES)
def test_it_is_what_every_block_finds_with_its_own_copy(body, by, dtype, with_copies):
    task = BY[by]().to(dtype=dtype)
    one = cv.fit(loads(spec(body, by)), task, progress=False)
    inverse = one.inverse(damping=0.1).dense()
    with_copies()
    apart = cv.fit(loads(spec(body, by)), task, progress=False)
    assert not any(repeated.repeats(x) for s in stacks(apart).values() for x in held_tensors(s))
    close = {"rtol": 0, "atol": (1e-12 if dtype == torch.float64 else 1e-5)}
    torch.testing.assert_close(one.dense(), apart.dense(), **close)
    torch.testing.assert_close(inverse, apart.inverse(damping=0.1).dense(), **close)


def test_units_have_the_input_factor_of_their_layer_bit_for_bit():
    task = mlp_task(examples=40)
    whole = cv.fit("kfac", task).operator
    parts = stacks(cv.fit("kfac_by_unit", task))
    for name, layer in zip(whole.names, whole.blocks, strict=True):
        right = parts[f"{name}[0]"].stack.right
        assert repeated.repeats(right)
        assert torch.equal(right[0], layer.right)


def test_heads_that_are_cut_by_inputs_have_one_output_factor():
    parts = stacks(cv.fit(loads(spec("kfac", "head(2)")), heads_task()))
    found = {name: tuple(map(repeated.repeats, held_tensors(x.stack))) for name, x in parts.items()}
    assert found["query[0]"] == (False, True)
    assert found["out.weight[0]"] == (True, False)


@pytest.mark.parametrize("by", BY)
@pytest.mark.parametrize("body", BODIES)
def test_the_plan_says_what_is_held(body, by):
    task = BY[by]()
    chain = list(chains_of(chosen(loads(spec(body, by)))))
    prepared = prepare(chain, task, last=True)
    op = cv.fit(loads(spec(body, by)), task, progress=False)
    found = stacks(op)
    seen = 0
    for part in prepared.chains[0][-1].parts:
        for block in prepared.plan_of(part).blocks:
            stack = found.get(block.geometry.name.replace("…", "]").split("]")[0] + "]")
            if block.count == 1 or stack is None:
                continue
            result, held = block.results[part.value], held_tensors(stack.stack)
            copies = {block.component_copies(result, x) for x in result.code.returned}
            assert {1 if repeated.repeats(x) else block.count for x in held} == copies
            seen += 1
    assert seen
    if body == "kfac" and by == "neuron":
        own = [p for p in prepared.plans if p.partition != Partition.MODEL and p.blocks]
        assert sum(map(operator_bytes, own)) >= op.operator.memory()


def test_explain_counts_it_once():
    task = mlp_task()
    text = str(cv.explain("kfac_by_unit", task))
    assert "the same in all of them, computed and held once: A" in text
    (plan,) = (
        p
        for p in prepare(list(chains_of(chosen(cv.load("kfac_by_unit")))), task, last=True).plans
        if p.partition != Partition.MODEL
    )
    first = plan.blocks[0]
    lines = {x.count for x in first.passes[0].lines if not x.view}
    assert (first.count, lines) == (4, {1, 4})


def fits():
    """Fits in chunks of a few rows, as matrices, with what each holds."""
    chunks.ROWS, chunks.LONG_ROWS, chunks.WORK = 4, 4, 1
    found = {}
    for by, make in (("neuron", lambda: mlp_task(examples=53)), ("head(2)", heads_task)):
        for body in ("kfac", "ekfac"):
            op = cv.fit(loads(spec(body, by)), make(), progress=False)
            found[f"{body} {by}"] = [op.dense(), op.operator.memory()]
    return found


def test_processes_send_it_once_and_get_the_same_bits():
    (alone,) = together(fits, 1)
    for found in together(fits, 2):
        for name, (matrix, memory) in alone.items():
            assert torch.equal(found[name][0], matrix), name
            assert found[name][1] == memory


def test_a_store_keeps_it_as_one(tmp_path):
    task = mlp_task(examples=40)
    op = cv.fit("kfac_by_unit", task, store=tmp_path / "s", progress=False)
    back = cv.fit("kfac_by_unit", task, store=tmp_path / "s", progress=False)
    assert torch.equal(op.dense(), back.dense())
    for x in (op, back):
        assert [repeated.repeats(s.stack.right) for s in stacks(x).values()] == [True, True]
    assert torch.equal(op.inverse(damping=0.1).dense(), back.inverse(damping=0.1).dense())


def test_a_saved_fit_keeps_it_as_one(tmp_path):
    op = cv.fit("kfac_by_unit", mlp_task())
    op.save(tmp_path / "x.safetensors")
    found = cv.load_operator(tmp_path / "x.safetensors")
    assert found.operator.memory() == op.operator.memory()
    assert torch.equal(found.inverse(damping=0.1).dense(), op.inverse(damping=0.1).dense())


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_half_precision_does_not_copy_what_blocks_have_alike(kind):
    task = heads_task()
    (by,) = {
        p.partition
        for p in prepare(list(chains_of(chosen(loads(spec("kfac", "head(2)"))))), task).plans
        if p.partition not in (Partition.MODEL, Partition.LAYER)
    }
    blocks = task.blocks(by)
    model = task.model.to(kind)
    X, y = task.train
    given = exact_leaves(model, task.loss, X.to(kind), y, blocks, LeafRequest({"a", "g"}))
    for block in blocks:
        if block.count > 1:
            assert {x for x in "ag" if repeated.repeats(given[block.name][x])} == (
                block.repeated & {"a", "g"}
            )


def test_leaves_that_are_one_are_planned_as_one():
    task = mlp_task()
    chain = list(chains_of(chosen(cv.load("kfac_by_unit"))))
    (plan,) = (
        p
        for p in prepare(chain, task, last=True, limits=Limits(keep=0)).plans
        if p.partition != Partition.MODEL
    )
    assert [x.geometry.count for x in plan.blocks] == [4, 2]
    assert all(x.copies("a") == 1 and x.copies("g") == x.count for x in plan.blocks)


def test_scores_rotate_inputs_once(monkeypatch):
    task = mlp_task(examples=20)
    op = cv.fit("kfac_by_unit", task)
    inverse = op.inverse(damping=0.1)
    shapes = []
    plain = ScoredBlock._product

    def seen(self, x, basis):
        shapes.append((len(x), len(basis)))
        return plain(self, x, basis)

    monkeypatch.setattr(ScoredBlock, "_product", seen)
    scores = cv.influence(op, task, damping=0.1, progress=False)
    gradients = torch.stack(
        [
            torch.cat(
                [
                    g.reshape(-1)
                    for g in torch.autograd.grad(
                        torch.nn.functional.cross_entropy(task.model(x[None]), t[None]),
                        list(task.model.parameters()),
                    )
                ]
            )
            for part in (task.query, task.train)
            for x, t in zip(part[0][:], part[1][:], strict=True)
        ]
    )
    wanted = gradients[: task.Q] @ inverse.dense() @ gradients[task.Q :].T
    torch.testing.assert_close(
        torch.as_tensor(scores).reshape(wanted.shape), wanted, rtol=1e-9, atol=1e-12
    )
    assert {x for x, y in shapes if y == 1} == {1}
    assert (1, 1) in shapes
