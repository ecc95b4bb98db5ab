"""Sums and multiples of curvatures, end to end: what they are, how they are inverted, λ·I once."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import curvlang as cv
from curvlang.compiler.planning.plan import Limits
from curvlang.diagnostics.diagnostic import Severity
from curvlang.diagnostics.render import render
from curvlang.language import check_text, load, loads
from curvlang.language.chain import Combination, Weight
from curvlang.language.sums import is_identity, sum_text
from curvlang.runtime.fit import fit_losses
from tests.small import network, task

EXACT = 1e-10  # only the order of summation differs
SOLVED = 1e-8  # one eigendecomposition of the same matrix
FAR = 1e-3


def decayed(weight_decay=0.3, **options):
    t = task(network([3, 4, 3]), "cross_entropy", **options)
    return cv.Task(t.model, "cross_entropy", t.train, t.query, weight_decay=weight_decay)


def bare(name, t):
    """A shipped curvature of the mean loss alone, without the task's L2 term."""
    plain = cv.Task(t.model, "cross_entropy", t.train, t.query, weight_decay=0.0)
    return cv.fit(name, plain).dense()


def summed(expression, t):
    return cv.fit(loads(f"curvature x = {expression}"), t)


def assert_close(found, wanted, tolerance=EXACT):
    assert float((found - wanted).abs().max()) <= tolerance * max(1.0, float(wanted.abs().max()))


WRITTEN = {
    "0.9 * kfac + 0.1 * diagonal": (lambda c: 0.9 * c("kfac") + 0.1 * c("diagonal"), 1),
    "kfac - diagonal": (lambda c: c("kfac") - c("diagonal"), 1),
    "-kfac": (lambda c: -c("kfac"), 1),
    "2 * kfac": (lambda c: 2 * c("kfac"), 1),
    "1/3 * 2 * kfac": (lambda c: 2 / 3 * c("kfac"), 1),
    "kfac + 0.1 * identity": (lambda c: c("kfac") + 0.1 * c("identity"), 1),
    "kfac + weight_decay * identity": (lambda c: c("kfac"), 1),
    "kfac + 3 * weight_decay * identity": (lambda c: c("kfac"), 3),
    "kfac - weight_decay * identity": (lambda c: c("kfac"), -1),
    "2 * (kfac + 0.5 * weight_decay * identity)": (lambda c: 2 * c("kfac"), 1),
    "kfac - 0.5 * (diagonal + 2 * (foof - kfac))": (
        lambda c: 2 * c("kfac") - 0.5 * c("diagonal") - c("foof"),
        1,
    ),
    "ggn + 0.1 * kfac": (lambda c: c("ggn") + 0.1 * c("kfac"), 1),
    "(block_ggn |> tkfac) + (block_ggn |> diagonal)": (lambda c: c("tkfac") + c("diagonal"), 1),
}  # fmt: skip


@pytest.mark.parametrize("expression", WRITTEN)
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_a_sum_is_the_sum_and_decay_counts_once(expression, weight_decay):
    t = decayed(weight_decay)
    wanted, times = WRITTEN[expression]
    matrix = wanted(lambda name: bare(name, t)) + times * weight_decay * torch.eye(t.P).double()
    op = summed(expression, t)
    assert_close(op.dense(), matrix)
    assert_close(op.trace(), matrix.trace())
    assert_close(op.frobenius(), matrix.norm())
    eye = torch.eye(t.P, dtype=torch.float64)
    assert_close(op.inverse(10.0).dense(), torch.linalg.inv(matrix + 10.0 * eye), SOLVED)


def test_decay_written_out_is_the_decay_of_every_stage():
    t = decayed()
    assert_close(summed("kfac + weight_decay * identity", t).dense(), cv.fit("kfac", t).dense())
    # The twins: the same number as a number is added on top, and so is another multiple.
    for other in ("kfac + 0.3 * identity", "kfac + 2 * weight_decay * identity"):
        gap = summed(other, t).dense() - cv.fit("kfac", t).dense()
        assert float(gap.abs().max()) > FAR


def test_only_the_identity_states_the_decay():
    t = decayed()
    eye = torch.eye(t.P, dtype=torch.float64)
    wanted = bare("kfac", t) + 0.3 * bare("diagonal", t) + 0.3 * eye
    assert_close(summed("kfac + weight_decay * diagonal", t).dense(), wanted)


def test_blocks_of_different_cuts_are_added_whole():
    t = decayed()
    op = summed("0.5 * (hessian |> block_diagonal(by = parameter)) + 0.5 * kfac", t)
    cut = cv.fit(loads("curvature x = hessian |> block_diagonal(by = parameter)"), t)
    assert_close(op.dense(), 0.5 * cut.dense() + 0.5 * cv.fit("kfac", t).dense())
    assert op.structure == "Sum"


STRUCTURES = {
    "kfac + 0.1 * identity": "EigenBasis",
    "kfac + weight_decay * identity": "EigenBasis",
    "2 * kfac": "EigenBasis",
    "kfac + 0.1 * foof": "EigenBasis",
    "0.5 * (block_ggn |> diagonal) - 2 * diagonal": "Diagonal",
    "ekfac + 0.5 * ekfac + identity": "EigenBasis",
    "per_output + identity": "PerOutputEigen",
    "kfac + diagonal": "Eigen",
}


@pytest.mark.parametrize("expression", STRUCTURES)
def test_the_best_rule_applies(expression):
    t = decayed()
    op = summed(expression, t)
    assert op.structure == "BlockDiagonal"
    inverse = op.inverse(5.0)
    assert {b.structure for b in inverse.blocks.values()} == {STRUCTURES[expression]}
    shifted = op.dense() + 5.0 * torch.eye(t.P, dtype=torch.float64)
    assert_close(inverse.dense() @ shifted, torch.eye(t.P, dtype=torch.float64), SOLVED)


def test_products_stay_products():
    t = decayed()
    names = [load(x).curvatures[x] for x in ("ggn", "kfac")]
    fitted = fit_losses(names, t, last=True, limits=Limits(dense=10))
    free, kfac = (stages[-1].operator for stages in fitted)
    from curvlang.operators import Identity, added, scaled

    whole = added([free, scaled(0.5, kfac), Identity(torch.tensor(0.2).double(), t.P)])
    assert not whole.spectrum_known
    wanted = bare("ggn", t) + 0.5 * bare("kfac", t) + 0.2 * torch.eye(t.P, dtype=torch.float64)
    v = torch.randn(t.P, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert_close(whole @ v, wanted @ v, SOLVED)
    inverse = cv.FittedOperator(whole, t.parameters).inverse(1.0)
    eye = torch.eye(t.P, dtype=torch.float64)
    assert_close(inverse @ v, torch.linalg.inv(wanted + eye) @ v, 1e-5)


def test_scores_per_layer_add_up():
    t = decayed()
    op = summed("0.9 * kfac + 0.1 * diagonal", t)
    parts = cv.influence(op, t, damping=0.1, per_layer=True)
    assert set(parts) == {"0", "2"}
    assert_close(sum(parts.values()), cv.influence(op, t, damping=0.1), SOLVED)


weights = st.floats(-2, 2).map(lambda x: round(x, 3))


@settings(max_examples=8)
@given(weights, weights, st.sampled_from(["tkfac", "per_output", "identity"]))
def test_any_weights(a, b, other):
    t = decayed(0.1)
    op = summed(f"{a:.3f} * kfac + {b:.3f} * {other}".replace("+ -", "- "), t)
    eye = torch.eye(t.P, dtype=torch.float64)
    assert_close(op.dense(), a * bare("kfac", t) + b * bare(other, t) + 0.1 * eye)


def test_evaluated_against_the_reference():
    t = decayed(n=20)
    result = cv.evaluate(loads("curvature mix = 0.9 * kfac + 0.1 * diagonal"), t)
    first, last = result.steps
    assert (first.label, last.label) == ("hessian", "mix")
    assert first.forward == 0.0
    assert last.structure == "Kronecker + Diagonal + Identity blocks"
    assert last.stage == "0.9 * kfac + 0.1 * diagonal"
    assert 0 < last.forward < 1


def test_explained_with_its_structure_and_rule():
    t = decayed()
    shown = str(cv.explain(loads("curvature x = kfac + weight_decay * identity"), t))
    assert "Sum: kfac + weight_decay * identity" in shown
    assert "structure of each layer: Kronecker + Identity" in shown
    assert "the spectrum of the Kronecker term is shifted, exactly" in shown
    assert "1 pass over the data" in shown
    mixed = str(cv.explain(loads("curvature x = 0.9 * kfac + 0.1 * diagonal"), t))
    assert "the entries are formed" in mixed


def test_sums_are_multiplied_out_as_text():
    spec = loads("curvature x = kfac - 0.5 * (diagonal + 2 * weight_decay * identity)")
    (found,) = spec.curvatures.values()
    assert isinstance(found, Combination)
    assert sum_text(found) == "kfac - 0.5 * diagonal - weight_decay * identity"
    assert isinstance(
        loads("curvature x = 1 * kfac").curvatures["x"],
        type(loads("curvature x = kfac").curvatures["x"]),
    )
    assert str(Weight(2.0, ("weight_decay",))) == "2 * weight_decay"


MISTAKES = {
    "another name": ("curvature x = kfac + lr * identity", "names that may stand here: `weight_decay`"),
    "division by zero": ("curvature x = 1/0 * kfac", "finite number"),
    "too large": ("curvature x = 1e999 * kfac", "too large for float64"),
    "stage after a sum": ("curvature x = (kfac + diagonal) |> eigen_correct", "put the stage into the terms"),
    "stage after a named sum": ("curvature m = kfac + diagonal\ncurvature x = m |> eigen_correct", "put the stage"),
    "stage after a multiple": ("curvature x = (2 * kfac) |> eigen_correct", "put the stage into the terms"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(name):
    spec, words = MISTAKES[name]
    found = [d for d in check_text(spec) if d.severity is Severity.ERROR]
    assert {d.code for d in found} <= {"E0116", "E0212", "E0213"}
    assert words in render(found)


def test_a_single_chain_in_brackets_goes_on():
    t = decayed()
    assert torch.equal(summed("(kfac) |> eigen_correct", t).dense(), cv.fit("ekfac", t).dense())


IDENTITIES = {
    "identity": True,
    "block_ggn |> own": True,
    "block_ggn |> half": False,
    "block_ggn |> traced": False,
    "kfac": False,
    "hessian": False,
}
OWN = """
transform own { yield C[o,i,o',i'] = identity[i,i'] * identity[o,o'] }
transform half { yield C[o,i,o',i'] = 0.5 * identity[i,i'] * identity[o,o'] }
transform traced {
  needs a[n,t,i]
  A[i,i'] = mean[n,t] a[n,t,i] * a[n,t,i']
  yield C[o,i,o',i'] = trace(A) * identity[i,i'] * identity[o,o']
}
"""


@pytest.mark.parametrize("chain", IDENTITIES)
def test_the_identity_is_known_by_its_formula(chain):
    spec = loads(f"{OWN}curvature x = kfac + weight_decay * ({chain})")
    (_, found) = spec.curvatures["x"].terms[1]
    assert is_identity(found) is IDENTITIES[chain]
    t = decayed()
    part = cv.fit(loads(f"{OWN}curvature x = 1 * ({chain})"), decayed(0.0)).dense()
    eye = torch.eye(t.P, dtype=torch.float64)
    wanted = bare("kfac", t) + 0.3 * part + (0.0 if IDENTITIES[chain] else 0.3) * eye
    assert_close(cv.fit(spec, t).dense(), wanted)
