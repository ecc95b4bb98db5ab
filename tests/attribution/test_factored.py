"""Scores from inputs and output gradients equal the dense formula, whatever the layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import curvlang as cv
from curvlang.attribution.blocks import ScoredBlock, scored_blocks
from curvlang.attribution.factored import block_queries
from curvlang.attribution.passes import BatchLoad, batch_size, scored_elements
from curvlang.attribution.streams import score_stream
from curvlang.attribution.streams.fitting import QUERIES_SHARE, query_bytes
from curvlang.attribution.streams.reduced import CompressedQueries, ReducedPrecision
from curvlang.costs.predicted import predicted_scores, rotations
from tests.attribution.block_scores import block_scores
from tests.models.support import CASES
from tests.oracles import dense
from tests.runtime.test_layers import Convolutional, assert_close, fit, inputs, language, task

DAMPING = 0.05
CHAINS = {
    "ekfac": "block_ggn |> kronecker_factor(others = diagonal) |> eigen_correct",
    "kfac": "block_ggn |> kronecker_factor(others = keep)",
    "foof": "block_ggn |> foof(others = diagonal)",
    "block_ggn": "block_ggn",
    "diagonal": "block_ggn |> diagonal",
    "by parameter": "ggn |> block_diagonal(by = parameter) |> kronecker_factor(others = diagonal)",
    "logra": "block_ggn |> project_random(inputs = 2, outputs = 2, others = keep) |> kronecker_factor",
}


def tasks() -> dict[str, cv.Task]:
    wide = nn.Sequential(nn.Linear(5, 2), nn.Tanh(), nn.Linear(2, 4))
    return {
        "one position": task(wide, inputs(5), "cross_entropy"),
        "convolutions": task(Convolutional(2), inputs(4, 4, 4), "cross_entropy"),
        "language": language(tied=True),
        "called twice": task(CASES[5].make(2)[0], inputs(3, 4)),
    }


@pytest.mark.parametrize("name", ["one position", "convolutions", "language", "called twice"])
@pytest.mark.parametrize("chain", CHAINS)
def test_scores_equal_the_dense_formula(name, chain):
    t = tasks()[name]
    loss = t.loss.name
    op = fit(CHAINS[chain], t)
    train = dense.per_example_gradients(t.model, loss, *t.train)
    query = dense.per_example_gradients(t.model, loss, *t.query)
    inverse = torch.linalg.inv(op.dense() + DAMPING * torch.eye(t.P, dtype=torch.float64))
    wanted = query @ inverse @ train.T
    assert_close(cv.influence(op, t, damping=DAMPING), wanted)
    parts = cv.influence(op, t, damping=DAMPING, per_layer=True)
    assert_close(torch.stack(list(parts.values())).sum(0), wanted)
    grouped = cv.influence(op, t, damping=DAMPING, groups=[[0, 1], [1]], reduce="mean")
    assert_close(grouped, torch.stack([wanted[:2].mean(0), wanted[1]]))
    own = cv.self_influence(op, t, damping=DAMPING)
    assert_close(own, ((train @ inverse) * train).sum(1))


@pytest.mark.parametrize("name", ["one position", "convolutions"])
def test_products_in_bfloat16_state_their_error(name):
    t = tasks()[name].to(dtype=torch.float32)
    op = cv.fit("ekfac", t)
    wanted = cv.influence(op, t, damping=DAMPING)
    with pytest.warns(ReducedPrecision) as said:
        found = cv.influence(op, t, damping=DAMPING, products=torch.bfloat16)
    gap = float((found - wanted).abs().max() / wanted.abs().max())
    assert 0 < gap < 0.02
    stated = float(str(said[0].message).split("most ")[1].split()[0])
    assert gap == pytest.approx(stated, rel=0.6)


@pytest.mark.parametrize("name", ["language", "convolutions"])
def test_queries_change_their_basis_in_the_precision_of_passes_and_products(name):
    """Rounded once more, by no more than products are; wide where the products are to be."""
    t = tasks()[name].to(dtype=torch.float32)
    op = cv.fit("kfac_lm" if name == "language" else "kfac", t)
    wanted = cv.influence(op, t, damping=DAMPING)
    inverse = op.inverse(DAMPING).operator
    for precision, operands in (
        ("bfloat16", torch.bfloat16),
        ("passes=bfloat16,products=float32", None),
        ("passes=float32,products=bfloat16", None),
    ):
        given = scored_blocks(inverse, t.to(precision=precision))
        assert given is not None
        assert {x.operands for x in given if x.left is not None} == {operands}
    with pytest.warns(ReducedPrecision):
        found = cv.influence(op, t, damping=DAMPING, precision="bfloat16")
    gap = float((found - wanted).abs().max() / wanted.abs().max())
    assert 0 < gap < 0.05


def test_products_need_blocks():
    t = tasks()["one position"]
    with pytest.raises(cv.SpecError, match="E0594"):
        cv.influence(cv.fit("ggn", t), t, damping=DAMPING, products=torch.bfloat16)


def test_single_precision_stays_near():
    t = tasks()["one position"]
    op = cv.fit("ekfac", t)
    wanted = cv.influence(op, t, damping=DAMPING)
    single = t.to(dtype=torch.float32)
    found = cv.influence(cv.fit("ekfac", single), single, damping=DAMPING)
    assert_close(found.double(), wanted, 1e-4)


@pytest.mark.parametrize("name", ["convolutions", "language", "called twice"])
@pytest.mark.parametrize("back", [False, True])
def test_queries_meet_training_examples_in_either_basis(monkeypatch, name, back):
    t = tasks()[name]
    op = fit(CHAINS["ekfac"], t)
    inverse = torch.linalg.inv(op.dense() + DAMPING * torch.eye(t.P, dtype=torch.float64))
    gradients = [dense.per_example_gradients(t.model, t.loss.name, *x) for x in (t.query, t.train)]
    wanted = gradients[0] @ inverse @ gradients[1].T
    monkeypatch.setattr(
        ScoredBlock, "rotates_back", lambda self, queries, examples: back and self.right is not None
    )
    assert_close(cv.influence(op, t, damping=DAMPING), wanted)
    with pytest.warns(CompressedQueries):
        found = cv.influence(op, t, damping=DAMPING, compress=1e-12)
    assert_close(found, wanted)


def test_the_cheaper_rotation_is_taken():
    """Counted: few queries are rotated back, many are not; either way fewer operations than the other."""
    t = tasks()["convolutions"]
    op = fit(CHAINS["ekfac"], t)
    given = scored_blocks(op.inverse(DAMPING).operator, t)
    assert given is not None
    (layer,) = [x for x in given if x.layer.positions > 1][:1]
    O, I, T = layer.layer.d_out, layer.layer.d_in, layer.layer.positions
    even = T * (O * O + I * I) / (O * I * (O + I))
    assert layer.rotates_back(10, round(10 / even) + 1)
    assert not layer.rotates_back(10, round(10 / even) - 1)


@pytest.mark.parametrize("queries", [2, 90])
def test_predicted_operations_of_scores_are_the_counted_ones(queries):
    """Few queries are rotated back, ninety meet rotated training examples: both are foretold."""
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(6 * 25, 4)
    )
    X, y = torch.randn(8 + queries, 2, 5, 5), torch.randint(0, 4, (8 + queries,))
    t = cv.Task(model, "cross_entropy", (X[:8], y[:8]), (X[8:], y[8:]))
    inverse = cv.fit("ekfac_empirical", t).inverse(DAMPING).operator
    given = scored_blocks(inverse, t)
    assert given is not None
    assert given[0].rotates_back(t.Q, t.N) is (queries == 2)
    foretold = predicted_scores(rotations(given), t, [x.layer for x in given], None).cost.flops
    with FlopCounterMode(display=False) as counter:
        block_scores(t, given, block_queries(t, t.loss, given, None))
    assert counter.get_total_flops() == pytest.approx(foretold, rel=0.05)


@pytest.mark.parametrize("per_layer", [False, True])
def test_queries_that_do_not_fit_take_turns(monkeypatch, per_layer):
    """A third of the queries fits: the training examples are read three times, scores are the same."""
    t = tasks()["convolutions"]
    t = t.replaced(query=(torch.cat([t.query[0]] * 3), torch.cat([t.query[1]] * 3)))
    op = fit(CHAINS["ekfac"], t)
    wanted = cv.influence(op, t, damping=DAMPING, per_layer=per_layer)
    given = scored_blocks(op.inverse(DAMPING).operator, t)
    assert given is not None
    each = query_bytes(t, given)
    sizes: list[int] = []
    made = score_stream.block_queries

    def counted(some, *rest, **more):
        sizes.append(some.Q)
        return made(some, *rest, **more)

    monkeypatch.setattr(score_stream, "block_queries", counted)
    told: list[tuple[int, int]] = []
    found = cv.influence(
        op, t, damping=DAMPING, per_layer=per_layer, memory=QUERIES_SHARE * each * (t.Q // 3),
        progress=lambda what, done, total: told.append((done, total)),
    )  # fmt: skip
    assert sizes == [t.Q // 3] * 3
    assert told[-1] == (3 * t.N, 3 * t.N)
    if per_layer:
        assert set(found) == set(wanted)
        found, wanted = (torch.stack(list(x.values())) for x in (found, wanted))
    assert_close(found, wanted)


def test_batches_hold_what_is_formed_and_no_more():
    """With one position no gradient is formed, of one query as of many."""
    flat = fit("block_ggn |> kronecker_factor", tasks()["one position"]).inverse(DAMPING)
    layers = [x.layer for x in scored_blocks(flat.operator, tasks()["one position"]) or ()]
    assert scored_elements(layers, 1) == 1
    assert scored_elements(layers, 100) == 100
    assert batch_size(tasks()["one position"], layers, BatchLoad(1)) == 1024
    assert batch_size(tasks()["one position"], layers, BatchLoad(2**22)) == 4
    t = tasks()["language"]
    several = fit(CHAINS["ekfac"], t).inverse(DAMPING)
    layers = [x.layer for x in scored_blocks(several.operator, t) or ()]
    assert scored_elements(layers, 1) == max(b.size for b in layers if b.positions > 1)
