"""Laws that are false are found out, with the smallest task that shows it."""

from __future__ import annotations

import pytest
import torch

import curvlang.testing as ct
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.language import load, loads
from curvlang.language.checking.uses import task_in
from curvlang.runtime.execute import Execution

MINE = "curvature mine = block_ggn |> kronecker_factor\n"
ASYMMETRIC = """transform crooked {
  needs a[n,t,i], g[n,r,t,o]
  u[o,i] = mean[n] sum[r,t] g[n,r,t,o] * a[n,t,i]
  w[o,i] = mean[n] sum[r,t] g[n,r,t,o]^2 * a[n,t,i]^2
  yield C[o,i,o',i'] = u[o,i] * w[o',i']
}
curvature crooked = block_ggn |> crooked
"""
NEGATIVE = """transform minus {
  needs a[n,t,i], g[n,r,t,o]
  A[i,i'] = mean[n,t] a[n,t,i] * a[n,t,i']
  G[o,o'] = mean[n] sum[r,t] g[n,r,t,o] * g[n,r,t,o']
  yield C[o,i,o',i'] = -G[o,o'] * A[i,i']
}
curvature minus = block_ggn |> minus
"""


def verdict(text, law, **options):
    (found,) = ct.check_spec(loads(text), law=law, examples=20, **options)
    return found


def failed(text):
    return {v.law.text for v in ct.check_spec(loads(text), examples=8) if not v.holds}


def test_a_false_law_fails_on_the_smallest_task():
    found = verdict(MINE + "law mine equals block_ggn when examples > 1", "equals")
    assert not found.holds
    assert found.counterexample.gap.size > found.law.bound
    task = found.counterexample.task
    for words in ("examples = 2, inputs = 1, outputs = 1,", "hidden = []", "bias = false"):
        assert words in task
    again = verdict(MINE + "law mine equals block_ggn when examples > 1", "equals")
    assert again == found
    replayed = loads(f"{MINE}law mine equals block_ggn when examples > 1\n{task}")
    (once,) = ct.check_spec(replayed, law="equals", task=task_in(replayed, "counterexample"))
    assert not once.holds
    assert once.worst.size == pytest.approx(found.worst.size, rel=1e-6)


def test_a_shrunk_task_keeps_what_the_failure_needs():
    text = "law ggn equals hessian\nlaw block_hessian equals block_ggn"
    whole, block = ct.check_spec(loads(text), examples=40)
    assert "hidden = [1]" in whole.counterexample.task
    assert "activation = identity" in whole.counterexample.task
    assert "activation = identity" not in block.counterexample.task


def test_a_twin_without_a_witness_fails():
    found = verdict(MINE + "law mine differs_from kfac", "differs_from")
    assert (found.holds, found.tried) == (False, 20)
    assert found.counterexample is not None
    found = verdict("law kfac not closer_to block_ggn than kfac", "closer")
    assert not found.holds


@pytest.mark.parametrize(
    "law",
    [
        "kfac closer_to block_ggn than ekfac",
        "trace(kfac) equals trace(block_ggn)",
        "hessian equals ggn in each block when network is smooth",
        "kfac equals block_ggn when network is linear and loss is mse and columns are empirical",
        "kfac equals block_ggn when network is linear and loss is mse and positions are averaged",
        "ggn equals autodiff(hessian)",
        "norm(kfac) equals norm(ekfac)",
        "hessian is positive_semidefinite",
    ],
)
def test_false_laws_of_every_form_fail(law):
    (found,) = ct.check_spec(loads(f"law {law}"), examples=30)
    assert not found.holds


def test_a_biased_mean_fails():
    biased = (
        "curvature mine = 2 * mc_fisher\nlaw mine averages_to ggn\nlaw mc_fisher averages_to ggn"
    )
    wrong, right = ct.check_spec(loads(biased), law="averages_to", examples=10)
    assert not wrong.holds
    assert right.holds


def test_an_asymmetric_yield_is_refused():
    with pytest.raises(SpecError) as caught:
        failed(ASYMMETRIC)
    assert caught.value.diagnostics[0].code == "E0334"


def test_a_wrong_sign_is_caught_unless_it_is_meant():
    assert failed(NEGATIVE) == {"minus: positive_semidefinite"}
    assert failed(NEGATIVE + "law minus is not positive_semidefinite") == set()


def test_cancelling_terms_are_no_disagreement():
    text = NEGATIVE.replace("-G[o,o'] * A[i,i']", "G[o,o'] * A[i,i'] - G[o,o'] * A[i,i']")
    assert failed(text) == set()


def test_a_lost_batch_is_caught(monkeypatch):
    feed = Execution.feed

    def once(self, number, leaves):
        if number not in self.__dict__.setdefault("fed", set()):
            feed(self, number, leaves)
        self.fed.add(number)

    monkeypatch.setattr(Execution, "feed", once)
    found = verdict(MINE, "any_batches")
    assert not found.holds
    assert (found.counterexample.batch, "examples = 2" in found.counterexample.task) == (1, True)


def test_code_that_raises_is_a_failure(monkeypatch):
    def broken(self, block, value):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(Execution, "result", broken)
    found = verdict(MINE, "symmetric")
    assert not found.holds
    assert "shapes do not fit" in found.worst.where


def test_labels_drawn_in_every_pass_are_read_in_every_pass():
    found = verdict("curvature mine = ekfac_mc", "as_written")
    assert found.holds
    assert found.worst.size > 0


def test_where_rounding_decides_nothing_is_judged():
    # All ten labels agree: the basis of what they leave open is anyone's, and the next pass needs it.
    spec = loads(
        """curvature mine = ekfac_mc
        task open {
          data random(examples = 1, inputs = 1, outputs = 3, positions = 2, seed = 11)
          model mlp(hidden = [], activation = identity, positions = summed)
          loss cross_entropy
          train sgd(epochs = 0)
        }"""
    )
    (found,) = ct.check_spec(spec, law="as_written", task=task_in(spec, "open"))
    assert found.holds
    assert found.worst.undetermined


def test_what_is_asked_for_and_is_not_there():
    with pytest.raises(SpecError, match="no law contains"):
        ct.check_spec("kfac", law="nothing of the kind")
    with pytest.raises(SpecError, match="states no law"):
        ct.check_spec(loads("inverse mine: s -> 1 / s"))


def test_sampled_labels_have_no_law_of_order():
    words = {law.text for law in ct.laws_of(load("mc_fisher"))}
    assert "mc_fisher: any_order" not in words
    assert "kfac: any_order" in {law.text for law in ct.laws_of(load("kfac"))}


def test_a_task_outside_the_conditions_is_left_out():
    spec = loads(
        MINE + "law mine equals block_ggn when examples == 1\n"
        "task small { data random(examples = 3) model mlp(hidden = []) loss mse train sgd(epochs = 2) }"
    )
    (found,) = ct.check_spec(spec, law="equals", task=task_in(spec, "small"))
    assert (found.holds, found.tried, found.note) == (
        True,
        0,
        "the task does not meet its conditions",
    )
    (used,) = ct.check_spec(spec, law="solves", task=task_in(spec, "small"))
    assert (used.holds, used.tried) == (True, 1)


def test_global_randomness_is_left_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    verdict(MINE, "as_written")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("curvature", "why"),
    [
        ('ggn |> block_diagonal(by = ["encoder.*"])', "matches no trainable parameter"),
        ("ggn |> block_diagonal(by = unit(97))", "does not divide"),
    ],
)
def test_a_law_that_no_drawn_task_decides_says_so(curvature, why):
    spec = loads(f"curvature mine = {curvature}\nlaw mine differs_from ggn")
    for verdict in ct.check_spec(spec, examples=3):
        assert verdict.holds
        assert verdict.undetermined or verdict.note.startswith("no drawn task decides it: ")
        assert why in verdict.note


def test_a_curvature_that_fits_some_drawn_tasks_is_decided_by_those():
    spec = loads(
        "curvature mine = ggn |> block_diagonal(by = unit(2))\nlaw diagonal(mine) equals diagonal(ggn)"
    )
    (verdict,) = ct.check_spec(spec, examples=20, law="diagonal(mine)")
    assert verdict.holds
    assert not verdict.note
    assert 0 < verdict.undetermined < verdict.tried


def test_a_score_that_applies_a_function_to_what_it_does_not_use_has_no_law_of_its_own():
    spec = loads(
        "inverse itself: s -> s\nscore own { needs u[q,p], v[n,p]\nw[q,p] = apply(itself(), u)\n"
        "x[q,n] = sum[p] w[q,p] * v[n,p]\nyield s[q,n] = sum[p] u[q,p] * v[n,p] }\n"
        "curvature mine = identity"
    )
    assert not [x for x in ct.check_spec(spec, examples=2) if x.law.text.startswith("own")]
