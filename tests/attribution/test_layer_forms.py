"""Identities, diagonals and matrices without blocks are scored layer by layer, as plain dot products are."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import curvlang as cv
from curvlang.attribution.blocks import scored_blocks
from curvlang.attribution.factored import block_queries
from curvlang.attribution.score_orders import (
    DenseQueries,
    Outer,
    RankQueries,
    factored_spectrum,
    formed_gradients,
)
from curvlang.attribution.scorer import scored_by
from curvlang.attribution.streams.reduced import CompressedQueries, ReducedPrecision
from curvlang.attribution.streams.request import Request
from curvlang.costs.predicted import predicted_scores, rotations, score_ranks
from curvlang.models.layers import OneHot
from curvlang.models.tracing.blocks import apart
from curvlang.operators import (
    BlockDiagonal,
    Dense,
    Diagonal,
    EigenBasis,
    Identity,
    Kronecker,
    Scaled,
    Sum,
)
from tests.attribution.block_scores import block_scores
from tests.models.support import CASES
from tests.oracles import dense
from tests.oracles.allocations import peak_bytes
from tests.runtime.test_layers import Convolutional, fit, inputs, language, task

EXACT = 1e-10
DAMPING = 0.05
WITHOUT_BLOCKS = {
    "identity": "hessian |> flat",
    "diagonal": "block_ggn |> diagonal",
    "with identity": "0.5 * diagonal + 0.1 * identity",
    "ggn": "ggn",
    "low rank": "block_ggn |> low_rank(rank = 2)",
    "block with identity": "block_ggn + 0.1 * identity",
}


class Vocabulary(nn.Module):
    """An embedding of many words, whose rows are read, and a scale that is a parameter of its own."""

    def __init__(self, words=40):
        super().__init__()
        self.token = nn.Embedding(words, 3, padding_idx=0)
        self.scale = nn.Parameter(torch.ones(3))
        self.norm = nn.LayerNorm(3)
        self.out = nn.Linear(3, 4)

    def forward(self, x):
        return self.out(self.norm(torch.tanh(self.token(x)) * self.scale))


def words(shape, high=40):
    return torch.randint(0, high, (7, *shape), generator=torch.Generator().manual_seed(2))


def tasks():
    wide = nn.Sequential(nn.Linear(5, 2), nn.Tanh(), nn.Linear(2, 4))
    tied = CASES[5].make(2)[0]
    return {
        "one position": task(wide, inputs(5), "cross_entropy"),
        "convolutions": task(Convolutional(2), inputs(4, 4, 4), "cross_entropy"),
        "language": language(tied=True),
        "few words": task(Vocabulary(), words((3,)), "cross_entropy"),
        "more places than words": task(Vocabulary(4), words((6,), 4), "cross_entropy"),
        "called twice": task(tied, inputs(3, 4)),
        "decay": task(tied, inputs(3, 4)).replaced(weight_decay=0.3),
    }


NAMES = list(tasks())


def assert_equal(found, wanted):
    assert float((found - wanted).abs().max()) <= EXACT * max(1.0, float(wanted.abs().max()))


def plain(op, t):
    """C⁻¹, and gradients of queries and training examples by plain autograd."""
    inverse = torch.linalg.inv(op.dense() + DAMPING * torch.eye(t.P, dtype=torch.float64))
    query, train = (
        dense.per_example_gradients(t.model, t.loss.name, *part) for part in (t.query, t.train)
    )
    return inverse, query, train


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("chain", WITHOUT_BLOCKS)
def test_scores_are_products_of_plain_gradients(name, chain):
    t = tasks()[name]
    op = fit(WITHOUT_BLOCKS[chain], t)
    inverse, query, train = plain(op, t)
    wanted = query @ inverse @ train.T
    assert_equal(cv.influence(op, t, damping=DAMPING), wanted)
    groups = cv.influence(op, t, damping=DAMPING, groups=[[0, 1], [1]], reduce="mean")
    assert_equal(groups, torch.stack([wanted[:2].mean(0), wanted[1]]))
    assert_equal(cv.self_influence(op, t, damping=DAMPING), ((train @ inverse) * train).sum(1))
    own = cv.self_influence(op, t, part="query", damping=DAMPING)
    assert_equal(own, ((query @ inverse) * query).sum(1))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("chain", ["identity", "diagonal", "with identity"])
def test_scores_per_layer_need_no_blocks_in_the_chain(name, chain):
    """A multiple of the identity, or a diagonal, is a direct sum over layers whatever it is made of."""
    t = tasks()[name]
    op = fit(WITHOUT_BLOCKS[chain], t)
    inverse, query, train = plain(op, t)
    found = cv.influence(op, t, damping=DAMPING, per_layer=True)
    for block in single_blocks(t):
        own = block.index
        part = query[:, own] @ inverse[own][:, own] @ train[:, own].T
        assert_equal(found[block.name], part)


@pytest.mark.parametrize("chain", ["identity", "ggn"])
def test_scores_by_position_add_up(chain):
    t = tasks()["few words"]
    op = fit(WITHOUT_BLOCKS[chain], t)
    whole = cv.influence(op, t, damping=DAMPING)
    assert_equal(cv.influence(op, t, damping=DAMPING, per_position=True).sum(2), whole)


def test_padding_and_parameters_that_a_chain_ignores():
    t = tasks()["few words"]
    t = t.replaced(mask=t.train[0] != 0) if bool((t.train[0] != 0).any(1).all()) else t
    op = fit("block_ggn |> kronecker_factor(others = ignore)", t)
    seen = t.restricted(op.parameters)
    inverse, query, train = plain(op, seen)
    assert_equal(cv.influence(op, t, damping=DAMPING), query @ inverse @ train.T)
    few = fit("identity", seen)
    assert_equal(cv.influence(few, seen, damping=1.0), query @ train.T / 2)


@pytest.mark.parametrize("chain", ["identity", "diagonal", "with identity"])
def test_options_of_blocks_work_without_them(chain):
    t = tasks()["convolutions"]
    op = fit(WITHOUT_BLOCKS[chain], t)
    wanted = cv.influence(op, t, damping=DAMPING)
    with pytest.warns(CompressedQueries):
        found = cv.influence(op, t, damping=DAMPING, compress=1e-12)
    assert_equal(found, wanted)
    with pytest.warns(ReducedPrecision):
        found = cv.influence(op, t, damping=DAMPING, products=torch.bfloat16)
    assert 0 < float((found - wanted).abs().max() / wanted.abs().max()) < 0.02


def single_blocks(t):
    return [own for block in t.blocks() for own in apart(block)]


def direct_sum(t, make):
    layers = single_blocks(t)
    return BlockDiagonal(
        tuple(b.name for b in layers),
        tuple(make(b) for b in layers),
        tuple(b.index for b in layers),
    )


def zoo(t):
    """Inverses that are direct sums over layers, with whether all blocks are diagonal in a basis."""
    g = torch.Generator().manual_seed(0)

    def drawn(*shape):
        return torch.randn(shape, generator=g, dtype=torch.float64)

    def basis(b):
        q = [torch.linalg.qr(drawn(n, n)).Q for n in (b.d_out, b.d_in)]
        return EigenBasis(*q, drawn(b.d_out, b.d_in))

    def shared(b):
        one = basis(b)
        return Sum((one, EigenBasis(one.left, one.right, drawn(b.d_out, b.d_in))))

    one = Identity(torch.tensor(0.7, dtype=torch.float64), t.P)
    entries = Diagonal(drawn(t.P))
    return {
        "identity": (one, True),
        "negative": (Scaled(-2.0, one), True),
        "diagonal": (Scaled(0.5, entries), True),
        "identities": (Sum((one, Scaled(3.0, one))), True),
        "diagonal and identity": (Sum((entries, one)), True),
        "bases and identity": (Sum((direct_sum(t, basis), one)), True),
        "one basis": (direct_sum(t, shared), True),
        "bases and diagonal": (Sum((direct_sum(t, basis), entries)), False),
        "two bases": (Sum((direct_sum(t, basis), direct_sum(t, basis))), False),
        "products": (
            Sum((
                direct_sum(t, lambda b: Kronecker(torch.eye(b.d_out).double(), torch.eye(b.d_in).double())),
                one,
            )),
            False,
        ),
    }  # fmt: skip


@pytest.mark.parametrize("kind", list(zoo(tasks()["one position"])))
@pytest.mark.parametrize("name", ["one position", "convolutions", "few words"])
def test_direct_sums_of_any_structure(name, kind):
    t = tasks()[name]
    inverse, diagonal = zoo(t)[kind]
    given = scored_blocks(inverse, t)
    assert given is not None
    assert all((x.spectrum is not None) is diagonal for x in given)
    _, query, train = plain(fit("identity", t), t)
    wanted = query @ inverse.dense() @ train.T
    assert_equal(scored_by(inverse, t, t.loss), wanted)
    parts = scored_by(inverse, t, t.loss, Request(per_layer=True))
    assert_equal(torch.stack(list(parts.values())).sum(0), wanted)


def test_what_is_no_direct_sum_is_not_cut():
    t = tasks()["one position"]
    one = Identity(torch.tensor(1.0, dtype=torch.float64), t.P)
    full = Dense(torch.eye(t.P, dtype=torch.float64))
    assert scored_blocks(full, t) is None
    assert scored_blocks(Sum((one, full)), t) is None
    with pytest.raises(cv.SpecError, match="E0710"):
        scored_by(full, t, t.loss, Request(per_layer=True))


def test_a_spectrum_of_one_number_has_rank_one():
    """The score of a layer is the product of two inner products: no query is preconditioned."""
    t = tasks()["one position"]
    for chain, kind in (("identity", RankQueries), ("diagonal", Outer)):
        given = scored_blocks(fit(WITHOUT_BLOCKS[chain], t).inverse(DAMPING).operator, t)
        assert given is not None
        queries = block_queries(t, t.loss, given, None)
        assert all(isinstance(x, kind) for x in queries.values())


def test_negative_entries_of_a_spectrum_are_measured_too():
    """An error of a negative entry counts: a spectrum of no low rank is not factored."""
    S = -torch.rand(40, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 0.1
    assert factored_spectrum(S, 1e-6, 10) is None
    assert factored_spectrum(-S, 1e-6, 10) is None
    low = -torch.outer(torch.arange(1.0, 41.0), torch.arange(1.0, 41.0)).double()
    found = factored_spectrum(low, 1e-12, 10)
    assert found is not None
    assert len(found.left) == 1


def test_no_gradient_over_all_parameters_is_formed():
    """A thousand examples on 10⁵ parameters: their gradients would be 800 MB, scores take a tenth of it."""
    wide = nn.Sequential(nn.Linear(300, 300), nn.Tanh(), nn.Linear(300, 3)).double()
    X, y = torch.randn(1002, 300, dtype=torch.float64), torch.zeros(1002, dtype=torch.int64)
    t = cv.Task(wide, "cross_entropy", (X[2:], y[2:]), (X[:2], y[:2]))
    gradients = 8 * t.P * t.N
    one = Identity(torch.tensor(1.0, dtype=torch.float64), t.P)
    entries = Diagonal(torch.rand(t.P, dtype=torch.float64))
    assert peak_bytes(lambda: scored_by(one, t, t.loss)) < gradients / 20
    assert peak_bytes(lambda: scored_by(entries, t, t.loss)) < gradients / 10
    assert peak_bytes(lambda: scored_by(matrix_of_ones(t), t, t.loss)) < gradients / 10
    for inverse in (one, entries):
        op = cv.FittedOperator(inverse, t.parameters)
        assert peak_bytes(lambda op=op: cv.self_influence(op, t, damping=1.0)) < gradients / 10


def matrix_of_ones(t):
    """A matrix without blocks, known by its products: I + 1 1ᵀ."""
    from curvlang.operators import MatrixFree

    return MatrixFree(lambda v: v + v.sum(0), t.P, torch.float64, torch.device("cpu"))


@pytest.mark.parametrize("kind", [torch.float64, torch.float32])
def test_rows_of_an_embedding_are_read(kind):
    """Held queries against indices: as against the rows written out, with several entries in a row."""
    g = torch.Generator().manual_seed(0)
    index = torch.randint(0, 30, (4, 3, 2), generator=g)
    a = OneHot(index, torch.rand(4, 3, 2, generator=g, dtype=kind), 30)
    e, u = torch.randn(4, 3, 5, generator=g, dtype=kind), torch.randn(6, 5, 30, dtype=kind)
    held = DenseQueries(u, in_basis=False)
    found, wanted = held.against(a, e, kind), held.against(a.dense(), e, kind)
    assert torch.allclose(found, wanted, rtol=0, atol=1e-4 if kind == torch.float32 else 1e-12)
    assert formed_gradients(a, e).shape == (4, 5, 30)


@pytest.mark.parametrize("chain", ["identity", "diagonal"])
@pytest.mark.parametrize("several", [False, True])
def test_predicted_operations_are_the_counted_ones(chain, several):
    torch.manual_seed(0)
    flat = nn.Sequential(nn.Linear(60, 40), nn.Tanh(), nn.Linear(40, 4))
    conv = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(54, 4))
    X = torch.randn(70, 2, 3, 3) if several else torch.randn(70, 60)
    y = torch.randint(0, 4, (70,))
    t = cv.Task(conv if several else flat, "cross_entropy", (X[:50], y[:50]), (X[50:], y[50:]))
    given = scored_blocks(fit(WITHOUT_BLOCKS[chain], t).inverse(DAMPING).operator, t)
    assert given is not None
    ranks = score_ranks(given, t)
    assert (ranks is not None and ranks[-1] == 1) is (chain == "identity")
    layers = [x.layer for x in given]
    told = predicted_scores(rotations(given), t, layers, None, ranks).cost.flops
    with FlopCounterMode(display=False) as counter:
        block_scores(t, given, block_queries(t, t.loss, given, None), apart=False)
    assert counter.get_total_flops() == pytest.approx(told, rel=0.1)
