"""Several inverses share a pass: the scores are those of each by itself, whatever takes turns."""

from __future__ import annotations

import pytest
import torch

import curvlang as cv
from curvlang.attribution import scorer
from curvlang.attribution.scorer import Scorer
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.operators import ConjugateGradients, Diagonal
from tests.small import gradients, network, task

CHAINS = ("ggn", "block_ggn", "ekfac", "kfac", "identity", "diagonal")


def inverses(given):
    fitted = [cv.fit(name, given).operator for name in CHAINS]
    return [x.inverse(damping) for x in fitted for damping in (0.1, 1.0)]


@pytest.mark.parametrize("positions", [None, 3])
@pytest.mark.parametrize("turn", [2**29, 4000, 1])
def test_scores_of_many_are_the_scores_of_each(monkeypatch, positions, turn):
    given = task(network([3, 5, 4]), "mse", n=9, positions=positions)
    found = inverses(given)
    monkeypatch.setattr(scorer, "TURN", turn)
    turns = list(Scorer(given, given.loss, found))
    assert len(turns) == (1 if turn > 10**6 else given.Q if turn == 1 else len(turns))
    query, train = gradients(given, "query"), gradients(given, "train")
    for inverse, own in zip(found, zip(*turns, strict=True), strict=True):
        wanted = query @ inverse.dense() @ train.T
        assert float((torch.cat(own) - wanted).abs().max() / wanted.abs().max()) < 1e-10


def test_a_refused_inverse_leaves_the_others():
    given = task(network([3, 5, 4]), "mse", n=9)
    indefinite = ConjugateGradients(Diagonal(-torch.ones(given.P, dtype=torch.float64)), 0.1)
    good = cv.fit("ekfac", given).operator.inverse(0.1)
    ((refused, scores),) = Scorer(given, given.loss, [indefinite, good])
    assert isinstance(refused, SpecError)
    wanted = gradients(given, "query") @ good.dense() @ gradients(given, "train").T
    assert torch.allclose(scores, wanted)
