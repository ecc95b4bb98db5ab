"""The table of what must be exactly true, over random tasks; each claim with a twin that must fail."""

from __future__ import annotations

import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

import curvlang as cv
from curvlang.compiler.planning.plan import Limits
from curvlang.facade import chains_of, chosen
from curvlang.language import load
from curvlang.runtime.fit import fit_chains
from tests.oracles import dense
from tests.small import layer_block, network, task

EXACT = 1e-10  # only the order of summation differs
FACTORED = 1e-9  # through products of statistics
FAR = 1e-4  # a twin must miss by more than this, relative to what it is compared with

widths = st.lists(st.integers(1, 4), max_size=3).map(lambda hidden: [3, *hidden, 3])
losses = st.sampled_from(["cross_entropy", "mse", "bce_with_logits"])
activations = st.sampled_from(["tanh", "relu", "sigmoid", "identity"])
seeds = st.integers(0, 10_000)


def far(a, b):
    return float((a - b).norm()) > FAR * float(b.norm())


def assert_same(a, b, tolerance=EXACT):
    assert float((a - b).norm()) <= tolerance * max(1.0, float(b.norm()))


def random_task(shape, activation, bias, loss, n, seed, positions=None):
    return task(network(shape, activation, bias, seed), loss, n, positions, seed=seed)


def fitted(name, t, batch=None):
    (stages,) = fit_chains(list(chains_of(chosen(load(name)))), t, limits=Limits(batch=batch))
    return [stage.operator for stage in stages]


@settings(max_examples=8)
@given(widths, activations, st.booleans(), losses, st.integers(1, 7), st.integers(1, 7), seeds)
def test_any_model_loss_and_batches(shape, activation, bias, loss, n, batch, seed):
    t = random_task(shape, activation, bias, loss, n, seed)
    H = dense.hessian(t.model, loss, *t.train)
    G = dense.ggn(t.model, loss, *t.train)
    hessian, ggn, block = fitted("block_ggn", t, batch)
    assert_same(hessian.dense(), H)
    assert_same(ggn.dense(), G)
    for op, index in zip(block.blocks, block.index, strict=True):
        assert_same(op.dense(), G[index][:, index])


@settings(max_examples=4)
@given(widths, losses, st.integers(2, 7), st.integers(1, 3), seeds)
def test_batches_and_order_change_nothing(shape, loss, n, batch, seed):
    t = random_task(shape, "tanh", True, loss, n, seed)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    X, y = t.train
    shuffled = cv.Task(t.model, loss, (X[order], y[order]), t.query)
    for name in ("ekfac", "kfac_reduce", "diagonal"):
        whole = fitted(name, t, n)[-1].dense()
        assert_same(fitted(name, t, batch)[-1].dense(), whole, FACTORED)
        assert_same(fitted(name, shuffled, batch)[-1].dense(), whole, FACTORED)


def test_a_mean_of_batch_means_is_another_matrix():
    t = task(network([3, 4, 3]), "cross_entropy", n=7)
    X, y = t.train
    means = [dense.ggn(t.model, "cross_entropy", X[a:b], y[a:b]) for a, b in ((0, 5), (5, 7))]
    assert far((means[0] + means[1]) / 2, fitted("ggn", t, 5)[-1].dense())


@settings(max_examples=10)
@given(widths, activations, st.booleans(), losses, seeds)
def test_one_datum_with_empirical_columns(shape, activation, bias, loss, seed):
    t = random_task(shape, activation, bias, loss, 1, seed)
    F = dense.empirical_fisher(t.model, loss, *t.train)
    whole = cv.fit("ekfac_empirical", t)
    *_, kfac, ekfac = fitted("ekfac_empirical", t)
    for k, name in enumerate(whole.blocks):
        wanted = layer_block(F, whole, name)
        assert_same(kfac.blocks[k].dense(), wanted, FACTORED)
        assert_same(ekfac.blocks[k].dense(), wanted, FACTORED)


def test_two_data_with_empirical_columns_are_not():
    t = task(network([3, 4, 3]), "cross_entropy", n=2)
    F = dense.empirical_fisher(t.model, "cross_entropy", *t.train)
    op = cv.fit("ekfac_empirical", t)
    name, block = next(iter(op.blocks.items()))
    assert far(block.dense(), layer_block(F, op, name))


class Positions(nn.Module):
    """A deep linear network with positions; `end` says what happens to them before the loss."""

    def __init__(self, shape, bias, seed, end):
        super().__init__()
        self.inner = network(shape, "identity", bias, seed)
        self.end = end

    def forward(self, x):
        out = self.inner(x)
        match self.end:
            case "kept":
                return out
            case "summed":
                return out.sum(1)
            case _:
                return out.mean(1)


linear = st.lists(st.integers(2, 4), max_size=2).map(lambda hidden: [3, *hidden, 2])


def deep_linear(shape, end, n, positions, seed, bias=False):
    model = Positions(shape, bias, seed, end).eval()
    return task(model, "mse", n, positions, seed=seed)


@settings(max_examples=10)
@given(linear, st.booleans(), st.integers(1, 5), st.integers(2, 4), seeds)
def test_positions_kept_make_expand_exact(shape, bias, n, positions, seed):
    t = deep_linear(shape, "kept", n, positions, seed, bias)
    block = fitted("block_ggn", t)[-1].dense()
    assert_same(cv.fit("kfac", t).dense(), block, FACTORED)
    if not bias:
        assert far(cv.fit("kfac_reduce", t).dense(), block)


@settings(max_examples=6)
@given(
    linear,
    st.booleans(),
    st.sampled_from(["summed", "averaged"]),
    st.integers(1, 5),
    st.integers(2, 4),
    seeds,
)
def test_positions_brought_together_make_reduce_exact(shape, bias, end, n, positions, seed):
    t = deep_linear(shape, end, n, positions, seed, bias)
    block = fitted("block_ggn", t)[-1].dense()
    assert_same(cv.fit("kfac_reduce", t).dense(), block, FACTORED)
    assert far(cv.fit("kfac", t).dense(), block)


@settings(max_examples=8)
@given(widths, st.booleans(), st.integers(1, 5), seeds)
def test_softmax_ggn_is_the_fisher_of_the_model(shape, bias, n, seed):
    """G = (1/N) Σ_n Σ_y p(y|x_n) ∇ℓ(y) ∇ℓ(y)ᵀ, every label in turn."""
    t = random_task(shape, "tanh", bias, "cross_entropy", n, seed)
    X, _ = t.train
    p = torch.softmax(t.model(X).detach(), -1)
    fisher = torch.zeros(t.P, t.P, dtype=torch.float64)
    for label in range(p.shape[1]):
        y = torch.full((n,), label)
        grads = dense.per_example_gradients(t.model, "cross_entropy", X, y)
        fisher += torch.einsum("n,np,nq->pq", p[:, label], grads, grads) / n
    assert_same(fitted("ggn", t)[-1].dense(), fisher)


def test_the_empirical_fisher_is_another_matrix():
    t = task(network([3, 4, 3]), "cross_entropy", n=7)
    F = dense.empirical_fisher(t.model, "cross_entropy", *t.train)
    assert far(F, fitted("ggn", t)[-1].dense())


@settings(max_examples=6)
@given(st.lists(st.integers(2, 4), min_size=1, max_size=3), st.booleans(), losses, seeds)
def test_piecewise_linear_blocks_have_no_residual(hidden, bias, loss, seed):
    t = random_task([3, *hidden, 3], "relu", bias, loss, 9, seed)
    H, G = cv.fit("block_hessian", t).dense(), cv.fit("block_ggn", t).dense()
    assert_same(H, G, FACTORED)
    whole = dense.ggn(t.model, loss, *t.train)
    # Units that no example wakes leave nothing between the layers to differ in.
    alive = float((dense.jacobian(t.model, t.train[0])[:, :, : 3 * hidden[0]]).abs().max()) > 0.05
    assume(alive)
    assert far(cv.fit("hessian", t).dense(), whole)


def test_each_pass_draws_its_own_labels():
    """With one draw for both passes the trace of the correction is that of the very same labels.

    tr S = tr of the sampled block of the second pass, and tr G ⊗ A only knows the first pass: for a
    single example both have one input, so that equal traces of both mean equal labels.
    """
    t = task(network([3, 4, 3], bias=False), "cross_entropy", n=1)
    different = 0
    for seed in range(5):
        (stages,) = fit_chains(list(chains_of(chosen(load("ekfac_mc")))), t, seed=seed)
        first, second = float(stages[-2].operator.trace()), float(stages[-1].operator.trace())
        different += abs(first - second) > FAR * first
    assert different >= 4


def test_a_curvature_of_one_draw_would_have_equal_traces():
    """The twin: exact columns are the same in every pass, and so are both traces."""
    t = task(network([3, 4, 3], bias=False), "cross_entropy", n=1)
    *_, first, second = fitted("ekfac", t)
    assert abs(float(first.trace() - second.trace())) <= FACTORED


@settings(max_examples=5)
@given(st.sampled_from(["hessian", "block_ggn", "ekfac", "kfac_reduce", "diagonal"]), losses, seeds)
def test_asking_twice_gives_the_same_answer(name, loss, seed):
    t = random_task([3, 4, 3], "tanh", True, loss, 5, seed)
    before = [p.detach().clone() for p in t.model.parameters()]
    op = cv.fit(name, t)
    first = cv.influence(op, t, damping=2.0)
    matrix = op.dense()
    assert torch.equal(cv.influence(op, t, damping=2.0), first)
    assert torch.equal(op.dense(), matrix)
    assert torch.equal(cv.fit(name, t).dense(), matrix)
    assert torch.equal(cv.influence(cv.fit(name, t), t, damping=2.0), first)
    assert all(torch.equal(a, b) for a, b in zip(before, t.model.parameters(), strict=True))


class TwiceOverPositions(nn.Module):
    """One layer with bias, called twice on every position, positions averaged at the end."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.layer = nn.Linear(3, 3).double()

    def forward(self, x):
        return self.layer(torch.tanh(self.layer(x))).mean(1)


@settings(max_examples=6)
@given(losses, st.integers(1, 4), st.integers(1, 3), seeds)
def test_a_tied_layer_over_positions(loss, n, positions, seed):
    t = task(TwiceOverPositions().eval(), loss, n, positions, seed=seed)
    H, G = dense.hessian(t.model, loss, *t.train), dense.ggn(t.model, loss, *t.train)
    hessian, ggn, block = fitted("block_ggn", t)
    assert_same(hessian.dense(), H)
    assert_same(ggn.dense(), G)
    assert_same(block.dense(), G)
    grads = dense.per_example_gradients(t.model, loss, *t.train)
    query = dense.per_example_gradients(t.model, loss, *t.query)
    ekfac = cv.fit("ekfac", t)
    assert abs(float(ekfac.trace() - G.trace())) <= FACTORED * max(1.0, float(G.trace()))
    wanted = query @ torch.linalg.inv(ekfac.dense() + 0.1 * torch.eye(t.P, dtype=G.dtype)) @ grads.T
    assert_same(cv.influence(ekfac, t, damping=0.1), wanted, FACTORED)


class Mixed(nn.Module):
    """Positions that meet before the loss, through a nonlinearity."""

    def __init__(self, shape, bias, seed):
        super().__init__()
        self.inner = network(shape, "tanh", bias, seed)

    def forward(self, x):
        return self.inner(x).mean(1)


@settings(max_examples=6)
@given(linear, st.booleans(), losses, st.integers(1, 4), st.integers(1, 3), seeds)
def test_diagonals_and_rows_are_those_of_the_block(shape, bias, loss, n, positions, seed):
    """Diagonal: the block's own; per output: its [I, I] blocks on the diagonal; squares after Σ_t."""
    t = task(Mixed(shape, bias, seed).eval(), loss, n, positions, seed=seed)
    block = cv.fit("block_ggn", t)
    diagonal, rows = cv.fit("diagonal", t), cv.fit("per_output", t)
    assert_same(diagonal.diagonal(), block.diagonal(), FACTORED)
    assert_same(diagonal.dense(), torch.diag(block.diagonal()), FACTORED)
    for own, whole in zip(rows.blocks.values(), block.blocks.values(), strict=True):
        O, I = own.blocks.shape[:2]
        entries = whole.dense().reshape(O, I, O, I)
        wanted = torch.stack([entries[o, :, o] for o in range(O)])
        assert_same(own.blocks, wanted, FACTORED)


def test_squares_before_the_sum_over_positions_are_another_diagonal():
    t = task(Mixed([3, 4, 2], True, 0).eval(), "cross_entropy", 4, 3)
    spec = cv.loads("""transform early {
  "Squares at every position."
  needs a[n,t,i], g[n,r,t,o]
  D[o,i] = mean[n] sum[r,t] (g[n,r,t,o] * a[n,t,i])^2
  yield C[o,i,o',i'] = identity[o,o'] * identity[i,i'] * D[o,i]
}
curvature early = block_ggn |> early""")
    assert far(cv.fit(spec, t).diagonal(), cv.fit("block_ggn", t).diagonal())
