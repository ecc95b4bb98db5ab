"""The nearest Kronecker product: stationary, never farther than its start, equal to the SVD's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import curvlang as cv
from curvlang.compiler.planning.plan import Limits
from curvlang.facade import chains_of, chosen
from curvlang.language import load, loads
from curvlang.language.partition import Partition
from curvlang.runtime.fit import fit_chains
from tests.oracles import kronecker as oracle
from tests.small import network, task

EXACT = 1e-9  # float64; sums of a few hundred products
ROUNDING = 1e-12  # a norm of a difference of nearly equal matrices
FAR = 1e-4  # a twin must miss by more than this, relative
ROUNDS, RATIO = 25, 0.65  # 0.65 ^ (2 · 25) = 4e-10: what is left of the start

tasks = st.builds(
    lambda hidden, loss, n, positions, bias, activation, seed: task(
        network([3, hidden, 3], activation, bias, seed), loss, n=n, positions=positions, seed=seed
    ),
    st.integers(1, 4),
    st.sampled_from(["cross_entropy", "mse", "bce_with_logits"]),
    st.integers(1, 6),
    st.sampled_from([None, 2]),
    st.booleans(),
    st.sampled_from(["tanh", "relu", "sigmoid"]),
    st.integers(0, 20),
)


def text(rounds):
    return f"curvature x = block_ggn |> nearest_kronecker(rounds = {rounds})"


def nearest(t, rounds, **options):
    (stages,) = fit_chains(
        list(chains_of(chosen(loads(text(rounds))))), t, limits=Limits(**options)
    )
    operator = stages[-1].operator
    return dict(zip(operator.names, operator.blocks, strict=True))


def rearranged(block, outputs):
    return oracle.rearranged(block.dense().numpy(), outputs)


def gradient(R, op):
    """Relative size of the derivatives of ½‖C − Y ⊗ X‖² by Y and by X."""
    y, x = op.left.numpy().reshape(-1), op.right.numpy().reshape(-1)
    scale = np.linalg.norm(R) * max(np.linalg.norm(x), 1e-300)
    other = np.linalg.norm(R) * max(np.linalg.norm(y), 1e-300)
    by_y, by_x = (np.outer(y, x) - R) @ x, (np.outer(y, x) - R).T @ y
    return np.linalg.norm(by_y) / scale, np.linalg.norm(by_x) / other


@settings(max_examples=8)
@given(tasks)
def test_never_farther_than_its_start_and_never_growing(t):
    block, kfac = cv.fit("block_ggn", t), cv.fit("kfac", t)
    one, three = nearest(t, 1), nearest(t, 3)
    for name, op in block.blocks.items():
        slack = ROUNDING * max(1.0, float(op.frobenius()))
        start, first, third = (
            float(x.distance(op)) for x in (kfac.blocks[name], one[name], three[name])
        )
        assert first <= start + slack
        assert third <= first + slack


@settings(max_examples=8)
@given(tasks)
def test_stationary_and_equal_to_the_first_singular_pair(t):
    found = nearest(t, ROUNDS)
    for name, op in cv.fit("block_ggn", t).blocks.items():
        outputs = len(found[name].left)
        R = rearranged(op, outputs)
        values = np.linalg.svd(R, compute_uv=False)
        if values[0] == 0:
            assert float(found[name].frobenius()) == 0
            continue
        assume(len(values) == 1 or values[1] < RATIO * values[0])
        assert max(gradient(R, found[name])) <= 1e-8
        wanted = oracle.nearest(op.dense().numpy(), outputs)
        assert np.linalg.norm(found[name].dense().numpy() - wanted) <= 1e-8 * values[0]


@pytest.mark.parametrize("positions", [None, 3])
def test_each_round_gains_the_squared_ratio_of_singular_values(positions):
    t = task(network([3, 4, 3]), "cross_entropy", n=12, positions=positions)
    kfac = cv.fit("kfac", t)
    for name, op in cv.fit("block_ggn", t).blocks.items():
        R = rearranged(op, len(kfac.blocks[name].left))
        left, values, _ = np.linalg.svd(R)

        def angle(factor, top=left[:, 0]):
            y = factor.numpy().reshape(-1)
            along = y @ top
            return np.sqrt(max(y @ y - along**2, 0)) / abs(along)

        start, ratio = angle(kfac.blocks[name].left), values[1] / values[0]
        for rounds in (1, 2, 4):
            op_k = nearest(t, rounds)[name]
            assert angle(op_k.left) <= ratio ** (2 * rounds) * start * (1 + 1e-6) + 1e-7


def test_the_default_rounds_are_stationary():
    t = task(network([3, 4, 3]), "cross_entropy", n=12)
    default, few = cv.fit("nearest_kronecker", t), nearest(t, 1)
    kfac = cv.fit("kfac", t)
    for name, op in cv.fit("block_ggn", t).blocks.items():
        R = rearranged(op, len(few[name].left))
        assert max(gradient(R, default.blocks[name])) <= 1e-4
        # The twins: one round is not enough, and the start is not stationary at all.
        assert max(gradient(R, few[name])) > max(gradient(R, default.blocks[name]))
        assert max(gradient(R, kfac.blocks[name])) > FAR


@pytest.mark.parametrize(
    ("activation", "loss", "n", "positions"),
    [("tanh", "cross_entropy", 1, None), ("identity", "mse", 6, None), ("identity", "mse", 6, 3)],
)
def test_exact_where_the_block_is_a_kronecker_product(activation, loss, n, positions):
    t = task(network([3, 4, 3], activation), loss, n=n, positions=positions)
    found = nearest(t, 1)
    for name, op in cv.fit("block_ggn", t).blocks.items():
        assert float(found[name].distance(op)) <= EXACT * float(op.frobenius())


def test_not_exact_where_it_is_not():
    t = task(network([3, 4, 3]), "cross_entropy", n=2)
    found = nearest(t, 50)
    for name, op in cv.fit("block_ggn", t).blocks.items():
        assert float(found[name].distance(op)) > FAR * float(op.frobenius())


def test_batches_do_not_matter():
    t = task(network([3, 4, 3]), "cross_entropy")
    whole, split = nearest(t, 3), nearest(t, 3, batch=2)
    for name, op in whole.items():
        assert float(split[name].distance(op)) <= EXACT * float(op.frobenius())


def test_its_factors_can_be_corrected():
    t = task(network([3, 4, 3]), "cross_entropy")
    spec = cv.loads("curvature x = nearest_kronecker |> eigen_correct")
    block, corrected = cv.fit("block_ggn", t), cv.fit(spec, t)
    assert abs(float(corrected.trace() - block.trace())) <= EXACT * float(block.trace())
    assert float(corrected.distance(block)) <= float(cv.fit("nearest_kronecker", t).distance(block))


def test_one_position_never_forms_per_example_gradients():
    from curvlang.compiler.derive.derive import derive
    from curvlang.compiler.planning.plan import Geometry
    from curvlang.compiler.planning.planner import plan

    (chain,) = load("nearest_kronecker").curvatures.values()
    programs, _ = derive([chain])
    program = next(p for p in programs if p.partition == Partition.LAYER)
    n, r, o, i = 64, 3, 20, 30
    made = plan(
        program,
        [Geometry("x", {"t": 1, "r": r, "o": o, "i": i})],
        n,
        memory=10**9,
        limits=Limits(batch=n),
    )
    assert made.passes == 21
    for function in made.blocks[0].passes[1:]:
        # The block [o,i,o',i'] of the stage before it stands in the first pass alone.
        assert function.largest <= n * max(r * o, i)


def test_a_layer_without_gradient_has_a_zero_block():
    model = network([3, 4, 3], "relu")
    with torch.no_grad():
        model[0].bias.fill_(-100.0)
    op = cv.fit("nearest_kronecker", task(model, "cross_entropy"))
    assert float(op.blocks["0"].frobenius()) == 0.0
    assert torch.isfinite(op.inverse(0.1).dense()).all()
