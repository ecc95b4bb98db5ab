"""The Kronecker family against dense references, and the identities between its members."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import curvlang as cv
from curvlang.compiler.planning.plan import Limits
from curvlang.facade import chains_of, chosen
from curvlang.language import load
from curvlang.language.partition import Partition
from curvlang.runtime.fit import fit_chains
from tests.oracles import kronecker as oracle
from tests.small import network, task

EXACT = 1e-9  # float64; sums of a few hundred products and two small eigendecompositions
FAR = 1e-4  # a twin must miss by more than this, relative

LOSSES = ["cross_entropy", "mse", "bce_with_logits"]
REFERENCES = {
    "tkfac": oracle.trace_restricted,
    "etkfac": oracle.corrected,
    "shampoo": oracle.second_moment_roots,
    "eshampoo": oracle.corrected,
    "per_output": oracle.per_output,
}
LAYERS = ["0", "2"]


def gap(a, b):
    return float(np.linalg.norm(np.asarray(a) - np.asarray(b)) / max(np.linalg.norm(b), 1e-12))


def fitted(name, t, batch=3):
    """The last stage of a shipped chain, from uneven batches."""
    (stages,) = fit_chains(list(chains_of(chosen(load(name)))), t, limits=Limits(batch=batch))
    return dict(zip(stages[-1].operator.names, stages[-1].operator.blocks, strict=True))


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("positions", [None, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_equals_the_dense_reference(name, loss, positions, bias):
    t = task(network([3, 4, 2], bias=bias), loss, positions=positions)
    blocks = fitted(name, t)
    for layer in LAYERS:
        M = oracle.columns(t.model, loss, *t.train, layer)
        assert gap(blocks[layer].dense(), REFERENCES[name](M)) <= EXACT


@pytest.mark.parametrize("positions", [None, 3])
@pytest.mark.parametrize("exponent", [0.5, 1.0, 0.25])
def test_the_exponent_is_a_parameter(positions, exponent):
    t = task(network([3, 4, 2]), "cross_entropy", positions=positions)
    op = cv.fit(cv.loads(f"curvature x = block_ggn |> shampoo(exponent = {exponent})"), t)
    for layer in LAYERS:
        M = oracle.columns(t.model, "cross_entropy", *t.train, layer)
        assert gap(op.blocks[layer].dense(), oracle.second_moment_roots(M, exponent)) <= EXACT


@pytest.mark.parametrize("sharing", ["expand", "reduce"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("positions", [None, 3])
def test_inputs_alone_equal_the_dense_reference(sharing, bias, positions):
    t = task(network([3, 4, 2], bias=bias), "mse", positions=positions)
    op = cv.fit(cv.loads(f"curvature x = block_ggn |> foof(sharing = {sharing})"), t)
    for layer, outputs in zip(LAYERS, (4, 2), strict=True):
        a = oracle.inputs(t.model, t.train[0], layer)
        wanted = oracle.inputs_alone(a, outputs, sharing == "reduce")
        assert gap(op.blocks[layer].dense(), wanted) <= EXACT


@pytest.mark.parametrize("name", ["tkfac", "etkfac", "shampoo", "per_output"])
def test_empirical_columns_take_the_true_label(name):
    t = task(network([3, 4, 2]), "cross_entropy", positions=3)
    stages = "shampoo" if name == "shampoo" else name
    tail = "tkfac |> eigen_correct" if name == "etkfac" else stages
    text = f"curvature x = empirical_fisher |> block_diagonal |> {tail}"
    op = cv.fit(cv.loads(text), t)
    for layer in LAYERS:
        M = oracle.columns(t.model, "cross_entropy", *t.train, layer, empirical=True)
        assert gap(op.blocks[layer].dense(), REFERENCES[name](M)) <= EXACT


def test_fisher_specs_are_their_columns():
    t = task(network([3, 4, 3]), "cross_entropy")
    M = oracle.columns(t.model, "cross_entropy", *t.train, "2", empirical=True)
    at = torch.as_tensor(oracle.places(t.model, "2").reshape(-1))
    assert gap(cv.fit("empirical_fisher", t).dense()[at][:, at], oracle.block(M)) <= EXACT
    ggn = cv.fit("ggn", t)
    draws = [cv.fit("mc_fisher", t, seed=k).dense() for k in range(100)]
    mean = torch.stack(draws).mean(0)
    error = torch.stack(draws).std(0) / len(draws) ** 0.5
    z = ((mean - ggn.dense()) / error.clamp(min=1e-9)).abs()
    assert float((z > 4).double().mean()) < 0.01
    assert gap(draws[0], ggn.dense()) > FAR


tasks = st.builds(
    lambda hidden, loss, n, positions, bias, activation, seed: task(
        network([3, *hidden, 3], activation, bias, seed), loss, n=n, positions=positions, seed=seed
    ),
    st.lists(st.integers(1, 4), max_size=2),
    st.sampled_from(LOSSES),
    st.integers(1, 6),
    st.sampled_from([None, 2, 3]),
    st.booleans(),
    st.sampled_from(["tanh", "relu", "sigmoid"]),
    st.integers(0, 20),
)


@settings(max_examples=12)
@given(tasks)
def test_identities(t):
    block, kfac, ekfac, tkfac, etkfac, eshampoo = (
        cv.fit(x, t) for x in ("block_ggn", "kfac", "ekfac", "tkfac", "etkfac", "eshampoo")
    )
    scale = max(1.0, float(block.frobenius()))
    for kept in (tkfac, ekfac, etkfac):
        assert abs(float(kept.trace() - block.trace())) <= EXACT * scale
    assert torch.equal(etkfac.dense(), eshampoo.dense())
    assert float(ekfac.distance(block)) <= float(kfac.distance(block)) + EXACT * scale
    assert float(etkfac.distance(block)) <= float(tkfac.distance(block)) + EXACT * scale
    one = cv.fit(cv.loads("curvature x = block_ggn |> shampoo(exponent = 1)"), t)
    assert float(one.distance(tkfac)) <= EXACT * scale


def test_identities_can_fail():
    t = task(network([3, 4, 3]), "cross_entropy")
    block, kfac, ekfac, tkfac, etkfac, shampoo = (
        cv.fit(x, t) for x in ("block_ggn", "kfac", "ekfac", "tkfac", "etkfac", "shampoo")
    )
    for other in (kfac, shampoo):
        assert abs(float(other.trace() / block.trace()) - 1) > FAR
    assert gap(ekfac.dense(), etkfac.dense()) > FAR
    assert gap(shampoo.dense(), tkfac.dense()) > FAR


@pytest.mark.parametrize("name", ["tkfac", "etkfac", "shampoo", "eshampoo"])
def test_one_column_of_one_example_is_exact(name):
    tail = {"etkfac": "tkfac |> eigen_correct", "eshampoo": "shampoo |> eigen_correct"}
    text = f"curvature x = empirical_fisher |> block_diagonal |> {tail.get(name, name)}"
    t = task(network([3, 4, 3]), "cross_entropy", n=1)
    for layer, op in cv.fit(cv.loads(text), t).blocks.items():
        M = oracle.columns(t.model, "cross_entropy", *t.train, layer, empirical=True)
        assert gap(op.dense(), oracle.block(M)) <= EXACT
    two = task(network([3, 4, 3]), "cross_entropy", n=2)
    M = oracle.columns(two.model, "cross_entropy", *two.train, "0", empirical=True)
    assert gap(cv.fit(cv.loads(text), two).blocks["0"].dense(), oracle.block(M)) > FAR


@pytest.mark.parametrize("positions", [None, 4])
@pytest.mark.parametrize("bias", [True, False])
def test_one_linear_layer_with_squared_loss_is_its_inputs_alone(positions, bias):
    outputs = 3
    t = task(network([3, outputs], bias=bias), "mse", positions=positions)
    ggn, foof = cv.fit("ggn", t), cv.fit("foof", t)
    # `mse` is the mean over outputs: ∂²ℓ/∂f² = 2/C · I, spread over the positions.
    assert gap(ggn.dense(), 2 / outputs * foof.dense()) <= EXACT


def test_another_loss_or_a_second_layer_is_not():
    curved = task(network([3, 3]), "cross_entropy")
    deep = task(network([3, 4, 3], "identity"), "mse")
    for t in (curved, deep):
        block, foof = cv.fit("block_ggn", t), cv.fit("foof", t)
        best = float((block.dense() * foof.dense()).sum() / foof.frobenius() ** 2)
        assert gap(best * foof.dense(), block.dense()) > FAR


class Averaged(nn.Module):
    """One linear layer whose positions are averaged before the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network([3, 2], bias=False)

    def forward(self, x):
        return self.inner(x).mean(1)


def test_positions_averaged_need_the_reduced_inputs():
    t = task(Averaged().eval(), "mse", positions=4)
    block = cv.fit("block_ggn", t)
    reduce = cv.fit(cv.loads("curvature x = block_ggn |> foof(sharing = reduce)"), t)
    assert gap(block.dense(), reduce.dense()) <= EXACT  # 2/C with C = 2
    assert gap(block.dense(), cv.fit("foof", t).dense()) > FAR


def test_a_layer_without_gradient_has_a_zero_block():
    model = network([3, 4, 3], "relu")
    with torch.no_grad():
        model[0].bias.fill_(-100.0)
    t = task(model, "cross_entropy")
    for name in ("tkfac", "etkfac", "shampoo", "eshampoo"):
        op = cv.fit(name, t)
        assert float(op.blocks["0"].frobenius()) == 0.0
        assert torch.isfinite(op.inverse(0.1).dense()).all()


@pytest.mark.parametrize("name", ["tkfac", "shampoo"])
def test_one_position_never_forms_per_example_gradients(name):
    from curvlang.compiler.derive.derive import derive
    from curvlang.compiler.planning.plan import Geometry
    from curvlang.compiler.planning.planner import plan

    (chain,) = load(name).curvatures.values()
    programs, _ = derive([chain])
    program = next(p for p in programs if p.partition == Partition.LAYER)
    kept = type(program)(
        program.partition, program.fisher, program.leaves, program.definitions, program.results[1:]
    )
    n, r, o, i = 64, 3, 20, 30
    made = plan(
        kept,
        [Geometry("x", {"t": 1, "r": r, "o": o, "i": i})],
        n,
        memory=10**9,
        limits=Limits(batch=n),
    )
    assert made.blocks[0].passes[0].largest <= n * max(r * o, i)


@pytest.mark.parametrize("clause", ["ignore", "diagonal", "tkfac", "foof", "per_output"])
@pytest.mark.parametrize("name", ["tkfac", "shampoo", "foof"])
def test_a_clause_for_other_layers_changes_nothing_where_all_fit(name, clause):
    t = task(network([3, 4, 3]), "cross_entropy")
    op = cv.fit(cv.loads(f"curvature x = block_ggn |> {name}(others = {clause})"), t)
    assert torch.equal(op.dense(), cv.fit(name, t).dense())
