"""The public laws hold on the public strategies, and fail where they must."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import curvlang.testing as ct
from curvlang.language import loads
from curvlang.operators import Dense, Kronecker
from curvlang.operators.operator import unchecked
from curvlang.runtime.fitted import FittedOperator
from curvlang.testing.draws import within
from curvlang.testing.strategies import space_of

SKEW = torch.tensor([[1.0, 2.0], [0.0, 1.0]], dtype=torch.float64)
CROOKED = FittedOperator(unchecked(Dense, {"matrix": SKEW}), ("w",))
few = settings(max_examples=10, suppress_health_check=[HealthCheck.too_slow])


@few
@given(ct.operators())
def test_laws_of_operators_hold(op):
    ct.assert_symmetric(op)
    ct.assert_positive_semidefinite(op)
    ct.assert_trace(op)
    ct.assert_inverse_inverts(op)
    ct.assert_verbs_agree(op)
    ct.assert_unchanged_by_use(op)


@few
@given(ct.specs(), ct.tasks("examples > 1"), st.data())
def test_laws_of_specs_hold(spec, task, data):
    ct.assert_as_written(spec, task)
    ct.assert_any_batches(spec, task, data.draw(st.integers(1, task.N)))
    chain = next(iter(spec.curvatures.values()))
    if all(s.arguments.get("fisher") != "mc" for s in chain.stages):
        ct.assert_any_order(spec, task, data.draw(st.permutations(range(task.N))))


def test_laws_can_fail():
    with pytest.raises(AssertionError, match="symmetric"):
        ct.assert_symmetric(CROOKED)
    with pytest.raises(AssertionError, match="inverts"):
        ct.assert_inverse_inverts(CROOKED)
    with pytest.raises(AssertionError, match="semidefinite"):
        ct.assert_positive_semidefinite(Dense(torch.diag(torch.tensor([1.0, -1e-3]).double())))
    with pytest.raises(AssertionError, match="equal"):
        ct.assert_equal(CROOKED, FittedOperator(Dense(torch.eye(2).double()), ("w",)))
    with pytest.raises(AssertionError, match="on\ntask counterexample"):
        ct.assert_laws(loads("law hessian equals ggn"), examples=10)


@pytest.mark.parametrize(
    ("verb", "broken"),
    [
        ("trace", lambda self: self.left.trace() + self.right.trace()),
        ("apply", lambda self, v: v),
        ("diagonal", lambda self: self.right.diagonal().repeat(len(self.left))),
        ("frobenius", lambda self: self.left.norm()),
        ("logdet", lambda self, damping=0.0: self.left.logdet() + self.right.logdet()),
    ],
)
def test_a_broken_verb_is_caught(verb, broken, monkeypatch):
    def op():
        generator = torch.Generator().manual_seed(0)
        a, b = (torch.randn(n, 5, generator=generator, dtype=torch.float64) for n in (2, 3))
        return Kronecker(a @ a.T, b @ b.T)

    ct.assert_verbs_agree(op())
    monkeypatch.setattr(Kronecker, verb, broken)
    with pytest.raises(AssertionError, match="verbs agree"):
        ct.assert_verbs_agree(op())


def test_a_verb_that_changes_its_operator_is_caught(monkeypatch):
    before = Kronecker.trace
    monkeypatch.setattr(Kronecker, "trace", lambda self: before(self) + self.left.mul_(2).sum() * 0)
    op = Kronecker(torch.eye(2).double(), torch.eye(3).double())
    with pytest.raises(AssertionError, match="changes nothing"):
        ct.assert_unchanged_by_use(op)


WHERE = [
    "examples == 1 and positions == 1",
    "examples > 7 and network is smooth and loss is not mse",
    "network is linear and positions are averaged and positions > 1 and bias is true",
    "layers == 4 and outputs != 2 and inputs >= 2 and network is not linear",
]


@pytest.mark.parametrize("where", WHERE)
@settings(max_examples=15)
@given(st.data())
def test_conditions_hold_by_construction_and_tasks_read_back(where, data):
    spec = data.draw(ct.task_specs(where))
    assert within(space_of(where), spec)
    text = ct.task_notation(spec)
    (evaluation,) = loads(f"{text}\nevaluate hessian on counterexample").evaluations
    assert evaluation.task.data == spec.data
    assert evaluation.task.model == spec.model
    assert evaluation.task.loss == spec.loss
    assert evaluation.task.train == spec.train
    task, again = ct.build_task(spec), ct.build_task(evaluation.task)
    assert task.fingerprint() == again.fingerprint()
    assert task.dtype == torch.float64


def test_networks_are_what_the_condition_says():
    assert space_of("network is linear").activations == ("identity",)
    assert "relu" not in space_of("network is smooth").activations
    assert not {"identity", "relu"} & set(space_of("network is not piecewise_linear").activations)


@settings(max_examples=5)
@given(ct.models())
def test_models_are_in_float64(model):
    assert all(p.dtype == torch.float64 for p in model.parameters())
