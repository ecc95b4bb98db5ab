"""What a precision changes is measured before it is trusted: the error that is stated, and the true one."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from curvlang.cli.main import run
from torch import nn

import curvlang as cv
from curvlang.attribution.streams.reduced import ReducedPrecision
from curvlang.diagnostics.diagnostic import SpecError
from tests.models.language_models.by_hand import ByHand, rows_of
from tests.models.language_models.checkpoints import QUERIES, TEXTS, lines, saved
from tests.small import network, task

DATA = 'dataset("train.jsonl", query = "query.jsonl", text = "text")'
FACTOR = 3  # how far a measured error of a few examples may be below the true one
LEAST = 1e-7  # rounding of float32


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    at = tmp_path_factory.mktemp("texts")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(at)
        patch.setattr("datasets.config.HF_DATASETS_CACHE", at / "cache")
        _trained(saved("gpt2"))
        lines("train.jsonl", TEXTS)
        lines("query.jsonl", QUERIES)
        yield at


def _trained(where):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(where)
    rows = rows_of(AutoTokenizer.from_pretrained(where), TEXTS)
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(10):
        optimiser.zero_grad()
        sum(model(input_ids=x[None], labels=x[None]).loss for x in rows).backward()
        optimiser.step()
    model.save_pretrained(where)


def by_hand(name):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(name, attn_implementation="eager")
    own = AutoTokenizer.from_pretrained(name)
    found = ByHand(model.double().eval(), rows_of(own, TEXTS))
    return found.scores(rows_of(own, QUERIES), 0.01, diagonal=["transformer.wpe"])


@pytest.mark.parametrize("precision", ["float64", "float32", "bfloat16"])
def test_a_checkpoint_is_scored_within_the_error_that_is_stated(folder, precision, capsys):
    command = ["influence", "ekfac_lm", "--model", "gpt2", "--data", DATA, "--damping", "0.01"]
    command += ["--top", "3", "--precision", precision, "--out", "s.npy", "--json"]
    assert run(command) == 0
    said = json.loads(capsys.readouterr().out)
    scores, wanted = torch.from_numpy(np.load("s.npy")), by_hand("gpt2")
    actual = float((scores - wanted).abs().max() / wanted.abs().max())
    if precision == "float64":
        assert "precision_errors" not in said
        assert actual < 1e-5
        return
    stated = said["precision_errors"]["errors"]["all"]
    assert actual <= FACTOR * stated + LEAST
    assert stated <= {"float32": 1e-4, "bfloat16": 0.3}[precision]
    assert f"{stated:.1g} of the largest" in said["precision"]
    assert {one["text"] for top in said["top"] for one in top["helpful"]} <= set(TEXTS)


@pytest.mark.parametrize("positions", [None, 5])
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_every_part_is_measured_by_itself(loss, positions):
    made = task(network([3, 6, 3]), loss, n=24, positions=positions)
    wanted = cv.influence(cv.fit("kfac", made), made, damping=0.1)
    asked = cv.Precision("float32", "float32", "bfloat16")
    found = cv.precision_errors("kfac", made, asked, damping=0.1)
    assert list(found.errors) == ["passes", "decompositions", "products", "all"]
    assert 0 < found.errors["passes"] < 1e-5
    assert 0 < found.errors["decompositions"] < 1e-4
    assert 1e-5 < found.errors["products"] < 0.05
    assert found.whole == pytest.approx(found.errors["products"], rel=0.5)
    few = made.to(precision=asked)
    with pytest.warns(ReducedPrecision):
        scores = cv.influence(cv.fit("kfac", few), few, damping=0.1)
    actual = float((scores - wanted).abs().max() / wanted.abs().max())
    assert actual <= FACTOR * found.whole


def test_nothing_is_measured_where_nothing_is_rounded():
    made = task(network([3, 4, 3]), "cross_entropy")
    found = cv.precision_errors("kfac", made, "float64")
    assert not found.errors
    assert found.whole == 0
    assert "nothing is rounded" in str(found)


def test_one_example_is_measured_too():
    made = task(network([3, 4, 3]), "cross_entropy", n=1)
    found = cv.precision_errors("ekfac", made, "bfloat16", damping=0.1)
    assert found.examples == 1
    assert 0 < found.whole < 0.2


def test_layers_whose_decompositions_take_long_are_left_out(monkeypatch):
    made = task(network([3, 8, 3, 3]), "cross_entropy")
    monkeypatch.setattr("curvlang.precision_report.CUBES", 100.0)
    found = cv.precision_errors("kfac", made, "float32", damping=0.1)
    assert found.layers == (1, 3)
    assert "of 1 of 3 layers" in str(found)
    assert 0 < found.whole < 1e-4


def test_a_store_of_another_precision_is_refused_by_its_name(tmp_path):
    made = task(network([3, 4, 3]), "cross_entropy")
    cv.fit("kfac", made, precision="bfloat16", store=tmp_path / "fit")
    for other in ("float32", "passes=bfloat16,decompositions=float32", None):
        with pytest.raises(SpecError, match="another precision") as error:
            cv.fit("kfac", made, precision=other, store=tmp_path / "fit")
        assert 'precision="bfloat16"' in str(error.value)
    cv.fit("kfac", made, precision="passes=bfloat16,products=float32", store=tmp_path / "fit")


@pytest.mark.parametrize("spec", ["ggn", "hessian"])
def test_a_curvature_without_blocks_has_passes_in_bfloat16(spec):
    made = task(network([3, 4, 3]), "cross_entropy", n=12)
    found = cv.precision_errors(spec, made, "bfloat16", damping=0.5)
    assert list(found.errors) == ["all"]
    low = made.to(precision="bfloat16")
    exact = cv.influence(cv.fit(spec, made), made, damping=0.5)
    scores = cv.influence(cv.fit(spec, low), low, damping=0.5)
    assert (scores - exact).abs().max() <= FACTOR * found.whole * exact.abs().max()
    with pytest.raises(SpecError, match="no products in another precision"):
        cv.precision_errors(spec, made, "products=bfloat16", damping=0.5)


def test_conjugate_gradients_converge_on_a_model_in_bfloat16():
    made = task(network([3, 4, 3]), "cross_entropy", n=12).to(precision="bfloat16")
    op = cv.fit("ggn", made)
    by_products = cv.influence(op, made, damping=0.5, solve="cg")
    wanted = cv.influence(op, made, damping=0.5)
    # Both see the gradients of one model in bfloat16: what is left is the residual of the solver.
    assert (by_products - wanted).abs().max() <= 1e-3 * wanted.abs().max()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_that_is_in_half_precision_already(dtype):
    made = task(network([3, 4, 3]), "cross_entropy", n=12).to(dtype=dtype)
    wide = made.to(dtype=torch.float64)
    exact = cv.influence(cv.fit("kfac", wide), wide, damping=0.1)
    for precision, most in (("float32", 1e-4), ("bfloat16", 0.2)):
        op = cv.fit("kfac", made, precision=precision)
        scores = cv.influence(op, made, damping=0.1, precision=precision)
        assert (scores - exact).abs().max() <= most * exact.abs().max()


def test_targets_that_are_met_to_rounding_have_an_error_that_says_so():
    made = task(network([3, 4, 3]), "mse", n=12)
    X = made.train[0]
    near = made.model(X).detach() + 1e-6
    made = made.replaced(train=(X, near), query=(X[:3], near[:3]))
    # Residuals of 1e-6 are below the rounding of outputs in bfloat16.
    assert cv.precision_errors("ekfac", made, "bfloat16", damping=0.1).whole > 1
    assert cv.precision_errors("ekfac", made, "float32", damping=0.1).whole < 1


class Narrow(nn.Module):
    """A mask that is made as some models of `transformers` make theirs: of the lowest number of a type."""

    def __init__(self, kind):
        super().__init__()
        self.layer, self.kind = nn.Linear(3, 3), kind

    def forward(self, x):
        f, lowest = self.layer(x), torch.finfo(x.dtype).min
        if self.kind == "raises":
            return torch.maximum(f, torch.full((), lowest))
        return f + ((1 - torch.ones(3, dtype=torch.long)).float() * lowest).to(f.dtype)


@pytest.mark.parametrize(("kind", "code"), [("raises", "E0408"), ("nan", "E0420")])
def test_a_model_that_runs_in_float32_alone(kind, code):
    X, y = torch.randn(7, 3), torch.arange(7) % 3
    made = cv.Task(Narrow(kind).eval(), "cross_entropy", (X, y), (X[:2], y[:2]))
    with pytest.raises(SpecError, match=code) as caught:
        cv.fit("kfac", made.to(dtype=torch.float64))
    assert "`--precision float32`" in str(caught.value)
    found = cv.precision_errors("kfac", made, "float32", damping=0.1)
    assert found.unmeasured
    assert "not known" in str(found)
    assert found.to_json()["errors"] == {}
    assert torch.isfinite(cv.influence(cv.fit("kfac", made), made, damping=0.1)).all()
