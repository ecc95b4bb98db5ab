"""What is typed in the place of something else in Python: taken where it means the same, else refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import curvlang as cv
from tests.models.support import assert_refused
from tests.small import network, task

T = task(network([3, 4, 3]), "cross_entropy")
OP = cv.fit("ekfac", T)
SCORES = cv.influence(OP, T)

REFUSED = {
    "a list for a vector": (lambda: OP @ [0.0] * 31, "E0563", "as_tensor"),
    "an array for a vector": (lambda: OP @ np.zeros(31), "E0563", "as_tensor"),
    "an operator for a vector": (lambda: OP @ OP, "E0563", "`v`"),
    "distance to a tensor": (lambda: OP.distance(OP.dense()), "E0563", "fitted curvature"),
    "divided by 0": (lambda: OP / 0, "E0563", "other than 0"),
    "scores of each layer": (
        lambda: cv.top(cv.influence(OP, T, per_layer=True), 2, T), "E0563", "scores[name]",
    ),
    "half an example": (lambda: cv.top(SCORES, 2.5), "E0563", "`k`"),
    "top, arguments swapped": (lambda: cv.top(SCORES, T), "E0563", "`k`"),
    "lds of a text": (lambda: cv.lds("scores", SCORES, SCORES), "E0505", "`scores`"),
    "lds of nothing": (lambda: cv.lds(SCORES, None, SCORES), "E0505", "`kept`"),
    "precision as text": (lambda: cv.fit("ekfac", T, dtype="float64"), "E0563", "torch.float64"),
    "precision of integers": (lambda: cv.fit("ekfac", T, dtype=torch.int64), "E0563", "dtype"),
    "a seed as text": (lambda: cv.fit("ekfac_mc", T, seed="a"), "E0563", "`seed`"),
    "a curvature for its name": (lambda: cv.fit("kfac", T, curvature=OP), "E0563", "name"),
    "a protocol as a number": (lambda: cv.evaluate("ggn", T, protocol=5), "E0563", "cv.LDS("),
    "no damping": (lambda: cv.evaluate("ggn", T, damping=()), "E0563", "several"),
    "no inverse": (lambda: cv.evaluate("ggn", T, inverse=[]), "E0563", "several"),
    "an inverse as a number": (lambda: cv.evaluate("ggn", T, inverse=1), "E0563", "several"),
    "a baseline as one text": (
        lambda: cv.evaluate("ggn", T, baselines="gradient_cosine"), "E0510", "gradient_cosine",
    ),
    "a baseline as a number": (lambda: cv.evaluate("ggn", T, baselines=1), "E0563", "several"),
    "λ beside an inverse that has its own": (
        lambda: cv.evaluate("ggn", T, damping=0.1, inverse="tikhonov(damping = 0.5)"),
        "E0709", "leaves no damping open",
    ),
    "λ beside an inverse without one": (
        lambda: cv.evaluate("ggn", T, damping=(0.1, 1), inverse="pseudo"), "E0709", "damping",
    ),
    "subsets as text": (lambda: cv.LDS(subsets="many"), "E0705", "`subsets = many`"),
    "half a retraining": (lambda: cv.LDS(retrains=1.5), "E0705", "`retrains = 1.5`"),
    "a build without a seed": (
        lambda: T.replaced(build=lambda: network([3, 4, 3])), "E0563", "lambda seed",
    ),
    "coverage of a task": (lambda: cv.coverage(T), "E0563", "cv.coverage(task.model, task)"),
    "coverage, swapped": (lambda: cv.coverage(T, T.model), "E0563", "task.model"),
    "coverage on a model": (lambda: cv.coverage(T.model, T.model), "E0563", "cv.Task("),
    "explain on a model": (lambda: cv.explain("ekfac", T.model), "E0563", "cv.Task("),
    "explain, swapped": (lambda: cv.explain(T, "ekfac"), "E0563", "cv.Task("),
    "no spec": (lambda: cv.fit(None, T), "E0563", "ggn"),
    "the spec of nothing": (lambda: cv.loads(None), "E0563", "a text"),
    "a spec in bytes": (lambda: cv.loads(b"curvature x = ggn"), "E0563", "a text"),
    "a path that there is not": (lambda: cv.load(Path("no/such.cv")), "E0110", "no/such.cv"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_means_something_else_is_refused_by_name(name):
    act, code, word = REFUSED[name]
    with pytest.raises(cv.SpecError) as caught:
        act()
    assert [d.code for d in caught.value.diagnostics] == [code]
    assert word in str(caught.value)


def test_what_means_the_same_is_taken():
    assert OP.to(torch.float32).operator.dtype is torch.float32
    assert OP.to("cpu").operator.device == torch.device("cpu")
    assert str(cv.top(SCORES.numpy(), 2, T)) == str(cv.top(SCORES, 2, T))
    assert cv.evaluate("identity", T, damping=0.1).sweep == (0.1,)
    for inverse in ("tikhonov", ["tikhonov", "pseudo"]):
        assert cv.evaluate("identity", T, damping=0.1, inverse=inverse).sweep == (0.1,)
    for damping in ([0.1, 1], np.array([0.1, 1.0]), torch.tensor([0.1, 1.0], dtype=torch.float64)):
        sweep = cv.evaluate("identity", T, damping=damping).sweep
        assert all(type(value) is float for value in sweep)
        assert sweep == (0.1, 1.0)
    kept = np.array([[1, 0, 1, 0, 1, 0, 1], [0, 1, 0, 1, 0, 1, 1], [1, 1, 0, 0, 1, 1, 0]])
    outcome = [[0.1, 0.3, 0.2], [0.2, 0.1, 0.3], [0.3, 0.2, 0.1]]
    one = cv.lds(SCORES.tolist(), kept.tolist(), outcome)
    two = cv.lds(SCORES, torch.tensor(kept).bool(), torch.tensor(outcome))
    assert one.estimate == two.estimate
    difference = (OP - OP / 2).dense()
    assert torch.allclose(difference, OP.dense() / 2)
    assert torch.equal((-OP).dense(), -OP.dense())


def test_files_that_cannot_be_written_are_refused(tmp_path):
    assert_refused("E0605", lambda: OP.save(tmp_path), "name a file")
    (tmp_path / "file").write_text("")
    assert_refused("E0605", lambda: OP.save(tmp_path / "file" / "x.safetensors"), "name another")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    result = cv.evaluate("identity", T)
    assert_refused("E0563", lambda: result.save(None), "runs/mine")


FIXED = (
    "curvature mine = ggn |> block_diagonal\nevaluate mine with tikhonov(damping = 0.5) on digits"
)


def test_a_damping_that_the_specs_inverse_leaves_no_room_for_is_refused():
    """It would be ignored; where the spec leaves it open, or another inverse is given, it is swept."""
    with pytest.raises(cv.SpecError, match="E0709") as caught:
        cv.evaluate(cv.loads(FIXED), T, damping=0.1)
    assert caught.value.diagnostics[0].labels
    asked = {"damping": 0.1, "inverse": "tikhonov"}
    assert cv.evaluate(cv.loads(FIXED), T, **asked).sweep == (0.1,)
    for text in (
        FIXED.replace("(damping = 0.5)", ""),
        FIXED.replace("with tikhonov(damping = 0.5) ", ""),
    ):
        assert cv.evaluate(cv.loads(text), T, damping=0.1).sweep == (0.1,)
    assert cv.evaluate(cv.loads(FIXED), T).sweep == ()


def test_a_damping_beside_a_function_of_eigenvalues_is_refused():
    whole = cv.fit("ggn", T)
    for operator in (OP, OP.operator, whole.operator):
        assert_refused(
            "E0873", lambda x=operator: x.inverse(0.1, spectral=torch.exp), "λ", "give one"
        )
        assert operator.inverse(spectral=torch.exp).shape == operator.shape


def test_a_grid_that_no_inverse_of_a_study_reads_is_refused():
    text = "study s { task digits curvatures kfac inverses INVERSES damping [0.1, 1] }"
    assert_refused("E0915", lambda: cv.loads(text.replace("INVERSES", "pseudo")), "`tikhonov`")
    fixed = "pseudo, tikhonov(damping = 1)"
    assert_refused("E0915", lambda: cv.loads(text.replace("INVERSES", fixed)), "`tikhonov`")
    assert cv.loads(text.replace("INVERSES", "pseudo, factored")).studies["s"].damping == (0.1, 1)
    assert cv.loads(text.replace("inverses INVERSES ", "")).studies["s"].damping == (0.1, 1)
