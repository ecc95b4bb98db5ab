"""Kronecker factors, their correction, inverses and scores against curvlinops, float64.

curvlinops 3.0.1 with `separate_weight_and_bias=False`. Its empirical gradients are those of the loss
summed over an example's outputs, squared, and divided by their number C once: C times ours for the
losses that are means over outputs. Its factors average over both batches, of unequal size here.
"""

from __future__ import annotations

import functools

import pytest
import torch
from curvlinops import EKFACLinearOperator, KFACInverseLinearOperator, KFACLinearOperator
from curvlinops.kfac import FisherType, KFACType

import curvlang as cv
from curvlang.compiler.planning.plan import Limits
from curvlang.facade import chains_of, chosen
from curvlang.language import load
from curvlang.runtime.fit import fit_chains
from tests.oracles import dense
from tests.small import network, task

PEER = 1e-8  # two eigendecompositions of the same matrices
DAMPING = 0.01
LOSSES = ["cross_entropy", "mse", "bce_with_logits"]
HIDDEN = {1: [3, 4, 3], 2: [3, 4, 2, 3], 3: [3, 4, 3, 2, 3]}
FISHER = {
    "ekfac": FisherType.TYPE2,
    "ekfac_empirical": FisherType.EMPIRICAL,
}


def assert_close(a, b, tolerance=PEER):
    scale = max(1.0, float(b.abs().max()))
    assert float((a - b).abs().max()) <= tolerance * scale


def binary_task(widths, bias, loss):
    """curvlinops takes labels of 0 and 1 alone."""
    t = task(network(widths, bias=bias), loss, seed=3)
    if loss != "bce_with_logits":
        return t
    (X, y), (Xq, yq) = t.train, t.query
    return cv.Task(t.model, loss, (X, y.round()), (Xq, yq.round()))


def torch_loss(name):
    return {
        "cross_entropy": torch.nn.CrossEntropyLoss,
        "mse": torch.nn.MSELoss,
        "bce_with_logits": torch.nn.BCEWithLogitsLoss,
    }[name](reduction="mean")


def peers(t, loss, fisher, approximation=KFACType.EXPAND):
    params = [p for p in t.model.parameters() if p.requires_grad]
    X, y = t.train
    make = functools.partial(
        lambda kind, **kw: kind(
            t.model, torch_loss(loss), params, [(X[:4], y[:4]), (X[4:], y[4:])], **kw
        ),
        fisher_type=fisher,
        kfac_approx=approximation,
        separate_weight_and_bias=False,
        check_deterministic=False,
    )
    return make(KFACLinearOperator), make(EKFACLinearOperator)


def outputs_under_the_square(t, loss, name):
    return (
        t.model(t.train[0][:1]).shape[-1] if "empirical" in name and loss != "cross_entropy" else 1
    )


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize("name", FISHER)
def test_factors_inverses_and_scores_equal_curvlinops(loss, bias, hidden, name):
    t = binary_task(HIDDEN[hidden], bias, loss)
    (stages,) = fit_chains(list(chains_of(chosen(load(name)))), t, limits=Limits(batch=3))
    assert [s.operator.blocks[0].structure for s in stages[-2:]] == ["Kronecker", "EigenBasis"]
    eye = torch.eye(t.P, dtype=torch.float64)
    C = outputs_under_the_square(t, loss, name)
    train = dense.per_example_gradients(t.model, loss, *t.train)
    query = dense.per_example_gradients(t.model, loss, *t.query)
    for ours, theirs in zip(stages[-2:], peers(t, loss, FISHER[name]), strict=True):
        assert_close(C * ours.operator.dense(), theirs @ eye)
        inverse = KFACInverseLinearOperator(theirs, damping=DAMPING, use_exact_damping=True)
        found = ours.operator.inverse(DAMPING / C)
        assert_close(found.dense() / C, inverse @ eye)
        wanted = query @ (inverse @ train.T)
        assert_close(cv.influence(ours.operator, t, damping=DAMPING / C) / C, wanted)


def test_damping_of_both_factors_is_another_matrix():
    """The twin: their default inverse adds √λ-like damping to each factor, ours never does."""
    t = binary_task([3, 4, 3], True, "cross_entropy")
    theirs, _ = peers(t, "cross_entropy", FisherType.TYPE2)
    both = KFACInverseLinearOperator(theirs, damping=DAMPING)
    ours = cv.fit("kfac", t).inverse(DAMPING).dense()
    assert float((ours - both @ torch.eye(t.P, dtype=torch.float64)).abs().max()) > 1.0


@pytest.mark.parametrize(
    ("name", "kind"), [("kfac", KFACType.EXPAND), ("kfac_reduce", KFACType.REDUCE)]
)
def test_one_position_makes_expand_and_reduce_equal(name, kind):
    t = binary_task([3, 4, 3], True, "cross_entropy")
    theirs, _ = peers(t, "cross_entropy", FisherType.TYPE2, kind)
    assert_close(cv.fit(name, t).dense(), theirs @ torch.eye(t.P, dtype=torch.float64))
