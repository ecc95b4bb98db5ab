"""Predicted scores before a fit: the same as after it, for every structure; an index keeps what is said."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import curvlang as cv
from curvlang.attribution.indexed.projections import projection_of
from curvlang.costs.formulas import form_of, predicted_influence
from curvlang.costs.operations import operations
from curvlang.costs.planned_scores import predicted_index, predicted_score, said_formula
from curvlang.language import load, loads
from curvlang.language.selection import chains_of, chosen, evaluation_of
from curvlang.runtime.prepare import prepare
from tests.small import network, task

TRACIN = """task mine {
  data digits
  model mlp(hidden = [4])
  loss cross_entropy
  train sgd(epochs = %d)
  checkpoints every(epochs = 1)
}
curvature c = identity
evaluate tracin of c on mine { lds subsets = 10 }"""


@pytest.fixture(scope="module")
def small():
    return task(network([3, 6, 3]), "cross_entropy", n=24)


def planned(spec, given):
    found = chosen(spec)
    prepared = prepare(list(chains_of(found)), given, last=True)
    said = evaluation_of(spec, found)
    return predicted_score(said, prepared, given, None), predicted_index(
        said_formula(said), prepared, given
    )


@pytest.mark.parametrize(
    "name", ["kfac", "ekfac", "diagonal", "identity", "block_ggn", "ggn", "per_output"]
)
def test_scores_are_predicted_before_the_fit_as_after_it(name, small):
    before, _ = planned(load(name), small)
    inverse = cv.fit(name, small, progress=False).inverse(0.1).operator
    after = predicted_influence(form_of(inverse, small), small, None)
    assert before.counted
    assert before.stage.cost.flops == pytest.approx(after.cost.flops, rel=0.3)


@pytest.mark.parametrize("name", ["logra", "low_rank", "projected", "ekfac"])
def test_an_index_keeps_as_many_numbers_as_are_predicted(name, small):
    _, index = planned(load(name), small)
    found = projection_of(cv.fit(name, small, progress=False).operator, small)
    assert index.numbers == found.size
    assert index.bytes(torch.float32) == 4 * small.N * found.size


def test_products_of_a_solver_whose_steps_are_stated_are_counted():
    given = cv.task("digits(hidden = [4], epochs = 1)")
    steps, none = (
        planned(load("lissa") if x else load("ggn"), given)[0].stage.cost.flops for x in (1, 0)
    )
    assert steps - none == pytest.approx(500 * 2 * given.P**2 * given.Q, rel=0.01)


def test_scores_along_a_training_take_as_often_as_there_are_checkpoints():
    costs = []
    for epochs in (2, 6):
        spec = loads(TRACIN % epochs)
        said = evaluation_of(spec, chosen(spec))
        costs.append(planned(spec, cv.task(said.task))[0].stage.cost.flops)
    assert costs[1] == pytest.approx(3 * costs[0], rel=0.01)
    alone = loads("curvature c = identity\nevaluate tracin of c on digits { lds subsets = 10 }")
    assert planned(alone, cv.task("digits"))[0] is None


def test_the_explanation_says_what_scores_take(small):
    found = cv.explain("ekfac", small)
    assert "scores of" in str(found)
    assert found.to_json()["scores"]["flops"] > 0
    assert found.to_json()["scores"]["index"]["numbers"] == small.P


SOLVED = """evaluate ggn with tikhonov(damping = 0.1) on digits {{
  solve cg(iterations = 40{more})
}}"""


@pytest.mark.parametrize("more", ["", ", preconditioner = block_ggn"])
def test_conjugate_gradients_are_counted_with_the_products_that_they_take(more, small):
    """Before the fit with as many as they may take; of those that were taken, as torch counts them."""
    spec = loads(SOLVED.format(more=more))
    before, _ = planned(spec, small)
    assert before.counted
    assert before.most == 40
    fitted, solves = cv.fit(spec, small, progress=False), []
    inverse = fitted.inverse(report=solves.append).operator
    rows = torch.randn(small.P, small.Q, dtype=torch.float64)
    with FlopCounterMode(display=False) as counter:
        inverse.apply(rows)
    (solve,) = solves
    each = operations(inverse, solve.products / small.Q)
    assert each.flops(small.Q) == pytest.approx(counter.get_total_flops(), rel=0.2)
    after = predicted_influence(form_of(inverse, small, 40.0), small, None)
    assert before.stage.cost.flops == pytest.approx(after.cost.flops, rel=0.3)
    assert solve.iterations < 40
    shown = str(cv.explain(spec, small))
    assert "at most" in shown
    assert "40 products for a vector that `cg` may ask for" in shown


@pytest.mark.parametrize(
    "solver", ["lissa(batch = 8)", "neumann(preconditioner = kfac, batch = 8)"]
)
def test_products_on_minibatches_are_said_not_to_be_counted(solver, small):
    text = SOLVED.format(more="").replace("cg(iterations = 40)", solver)
    before, _ = planned(loads(text), small)
    assert not before.counted
    assert "and the products that a solver asks for" in str(cv.explain(loads(text), small))
