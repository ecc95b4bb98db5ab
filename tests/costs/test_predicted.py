"""Predicted seconds by the precision in which products are taken."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import curvlang as cv
from curvlang.attribution.blocks import scored_blocks
from curvlang.costs import predicted
from curvlang.costs.predicted import predicted_fit, predicted_scores, predicted_trial, rotations
from curvlang.costs.rates import Rates, measured_rates
from curvlang.language.selection import chains_of, chosen
from curvlang.models.execution.precision import Precision
from curvlang.runtime.prepare import prepare
from tests.small import network, task

FREE = [(1.0, 1e-30), (1e12, 1e-30)]
"""Of everything but products."""


def rates(**seconds: float) -> Rates:
    """Machines on which a product takes so many seconds for each operation, in the precisions they have."""
    kinds = {getattr(torch, name): each for name, each in seconds.items()}
    return Rates(
        {kind: [(1.0, each), (1e12, 1e12 * each)] for kind, each in kinds.items()},
        {kind: [(64.0, 1 / each)] for kind, each in kinds.items()},
        FREE, FREE, FREE, 0.0,
    )  # fmt: skip


MACHINE = rates(float32=1.0, float64=2.0, bfloat16=0.25)


@pytest.fixture(autouse=True)
def free_models(monkeypatch):
    monkeypatch.setattr(predicted, "model_seconds", lambda *given: 0.0)


def passes(precision: str) -> float:
    made = task(network([3, 6, 3]), "cross_entropy", n=24, positions=5).to(precision=precision)
    prepared = prepare(list(chains_of(chosen(cv.load("ekfac_empirical"), None))), made, last=True)
    stages = predicted_fit(prepared, made, MACHINE)
    return sum(x.seconds for x in stages if x.name.startswith("pass"))


def scores(precision: str) -> float:
    made = task(network([3, 6, 3]), "cross_entropy", n=24, positions=5).to(precision=precision)
    op = cv.fit("ekfac_empirical", made, progress=False)
    given = scored_blocks(op.inverse(0.1).operator, made)
    layers = [x.layer for x in given]
    return predicted_scores(rotations(given), made, layers, MACHINE).seconds


def test_products_of_passes_take_what_their_operands_do():
    assert passes("bfloat16") == pytest.approx(passes("float32") / 4)
    assert passes("float64") == pytest.approx(passes("float32") * 2)
    assert passes("passes=float32,products=bfloat16") == pytest.approx(passes("float32"))


def test_products_of_scores_take_what_the_policy_says_of_them():
    assert scores("bfloat16") == pytest.approx(scores("float32") / 4)
    mixed = scores("passes=float32,products=bfloat16")
    assert scores("bfloat16") < mixed < scores("float32")
    assert scores("passes=bfloat16,products=float32") == pytest.approx(scores("float32"))


def test_half_precision_is_measured_where_it_is_asked_for():
    device = torch.device("cpu")
    small = 2**20
    assert torch.bfloat16 not in measured_rates(device, small).products
    asked = Precision.of("passes=float32,products=bfloat16")
    found = measured_rates(device, small, asked)
    assert found.products[torch.bfloat16]
    assert found.thin[torch.bfloat16]


@pytest.mark.parametrize("spec", ["ekfac_empirical", "ekfac"])
@pytest.mark.parametrize(("hidden", "positions"), [(6, None), (256, None), (256, 32)])
def test_what_a_model_is_run_for_before_the_first_pass_is_predicted(spec, hidden, positions):
    made = task(network([3, hidden, hidden, 3]), "cross_entropy", n=24, positions=positions)
    counter, found = FlopCounterMode(display=False), []
    chains = list(chains_of(chosen(cv.load(spec), None)))
    with counter:
        found.append(prepare(chains, made, last=True))
    told = predicted_trial(found[0], made, MACHINE).cost.flops
    assert told / 1.5 < counter.get_total_flops() < told * 1.5
