"""The clause `others = …`: what becomes of parameters that a stage does not fit."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

import curvlang as cv
from curvlang.compiler.planning.fits import first_unfit
from curvlang.facade import chains_of, chosen
from curvlang.runtime.limits import columns
from tests.oracles import dense
from tests.runtime.test_layers import assert_close, fit, inputs, language, task

NORMED = {"token", "place", "mix", "norm", "out"}


def normed() -> cv.Task:
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 3))
    return task(model, inputs(3), "cross_entropy")


def test_without_the_clause_they_are_refused_by_name():
    with pytest.raises(cv.SpecError, match="E0401") as caught:
        cv.fit("ekfac", normed())
    (problem,) = caught.value.diagnostics
    assert problem.headline == "`kronecker_factor` does not fit `1`"
    assert "others = diagonal" in problem.help[1]


def spoken(words: int, positions: int = 2) -> cv.Task:
    """Words from positions, with a norm; a class for every word."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2), nn.Linear(2, words, bias=False))
    X, y = torch.randn(6, positions, 3).double(), torch.randint(0, words, (6, positions))
    return cv.Task(model.double().eval(), cv.CrossEntropy(), (X, y), (X[:2], y[:2]))


def repaired(error: cv.SpecError) -> str:
    """The spec that a repair writes."""
    (text,) = re.findall(r"for example `(.*?)`", str(error))
    return text


@pytest.mark.parametrize("name", ["kfac", "ekfac", "tkfac", "shampoo", "foof", "per_output"])
def test_what_the_repair_writes_runs(name):
    for t in (normed(), spoken(5)):
        with pytest.raises(cv.SpecError, match="E0401") as caught:
            cv.fit(name, t)
        assert "fisher = mc" not in str(caught.value)
        op = cv.fit(cv.loads(repaired(caught.value)), t)
        assert op.blocks["1"].describe() == "Diagonal 8" or op.blocks["1"].size == 4
        assert op.parameters == t.parameters


def test_one_repair_where_exact_columns_do_not_fit_either(monkeypatch):
    t = spoken(5)
    monkeypatch.setattr(columns, "available", lambda device: 1000)
    with pytest.raises(cv.SpecError, match="E0401") as caught:
        cv.fit("ekfac", t)
    assert "10 exact columns for each example, which do not fit" in str(caught.value)
    assert "which ships as `ekfac_lm`" in str(caught.value)
    written = cv.fit(cv.loads(repaired(caught.value)), t)
    assert_close(written.dense(), cv.fit("ekfac_lm", t).dense())
    with pytest.raises(cv.MachineError, match="E0801"):
        cv.fit(cv.loads("curvature m = block_ggn |> kronecker_factor(others = diagonal)"), t)


def test_many_columns_are_named_where_they_fit():
    with pytest.raises(cv.SpecError, match="E0401") as caught:
        cv.fit("kfac", spoken(600))
    assert "1200 exact columns for each example" in str(caught.value)
    assert "drop_residual(fisher = mc)" in repaired(caught.value)
    assert "which ships as `kfac_lm`" in str(caught.value)


def test_the_name_is_that_of_the_chain_as_written_where_there_is_padding():
    t = spoken(600)
    mask = torch.ones(t.N, 2, dtype=torch.bool)
    mask[0, 1] = False
    with pytest.raises(cv.SpecError, match="E0401") as caught:
        cv.fit("ekfac", t.replaced(mask=mask))
    assert "which ships as `ekfac_lm`" in str(caught.value)


def words(tied: bool, width: int = 4) -> cv.Task:
    """The next word from a word, by a hidden layer as wide as there are words."""
    torch.manual_seed(0)
    table, head = nn.Embedding(7, width), nn.Linear(width, 7, bias=False)
    if tied:
        head.weight = table.weight
    model = nn.Sequential(table, nn.Linear(width, 7), nn.Tanh(), nn.Linear(7, width), head)
    X = torch.randint(0, 7, (6, 3))
    return cv.Task(model.double().eval(), cv.CrossEntropy(), (X, X), (X[:2], X[:2]))


def test_words_apart_are_the_embeddings_and_the_layer_that_predicts_them():
    op = cv.fit("ekfac_lm", words(tied=False))
    assert [op.blocks[k].describe().split()[0] for k in "0134"] == [
        "Diagonal", "EigenBasis", "EigenBasis", "Diagonal",
    ]  # fmt: skip
    tied = cv.fit("ekfac_lm", words(tied=True))
    assert [op.describe().split()[0] for op in tied.blocks.values()] == [
        "Diagonal", "EigenBasis", "EigenBasis",
    ]  # fmt: skip
    plain = "curvature m = mc_fisher |> block_diagonal(by = layer) |> kronecker_factor"
    assert "Kronecker" in cv.fit(cv.loads(plain), words(tied=False)).blocks["4"].describe()


def test_words_apart_have_the_diagonal_of_the_block():
    t = words(tied=False)
    op = cv.fit(cv.loads(APART.format("kronecker_factor(others = diagonal)")), t, seed=1)
    whole = cv.fit(cv.loads("curvature m = hessian |> drop_residual(fisher = mc)"), t, seed=1)
    for k in (0, 3):
        place = op.operator.index[k]
        own = list(op.blocks.values())[k].dense()
        assert_close(own, whole.dense()[place][:, place].diagonal().diag())


def test_words_apart_need_a_clause_too():
    with pytest.raises(cv.SpecError, match="E0401") as caught:
        cv.fit(cv.loads(APART.format("kronecker_factor")), words(tied=False))
    assert "`0`, `4`" in str(caught.value)
    assert "words of a vocabulary" in str(caught.value)


def test_a_model_that_reads_words_leads_to_the_spec_for_it():
    with pytest.raises(cv.SpecError, match="E0401") as caught:
        cv.fit("ekfac", words(tied=True))
    text = repaired(caught.value)
    assert "vocabulary = apart" in text
    cv.fit(cv.loads(text), words(tied=True))


APART = (
    "curvature m = hessian |> drop_residual(fisher = mc) "
    "|> block_diagonal(by = layer, vocabulary = apart) |> {}"
)


def test_the_shipped_spec_for_language_models():
    t = spoken(5)
    op = cv.fit("ekfac_lm", t, seed=3)
    drawn = cv.fit(fisher("kronecker_factor |> eigen_correct"), plain(t), seed=3)
    for name in ("0", "2"):
        assert_close(op.blocks[name].dense(), drawn.blocks[name].dense())
    squares = cv.fit(fisher("diagonal"), t, seed=3)
    assert_close(op.blocks["1"].dense(), squares.blocks["1"].dense())


def fisher(tail):
    return cv.loads(
        "curvature m = hessian |> drop_residual(fisher = mc) |> block_diagonal(by = layer) |> "
        + tail
    )


def plain(t):
    return t.restricted([name for name in t.parameters if not name.startswith("1.")])


@pytest.mark.parametrize("tail", ["", " |> eigen_correct"])
def test_they_are_what_the_clause_says_from_there_on(tail):
    t = normed()
    ggn = dense.ggn(t.model, "cross_entropy", *t.train)
    index = cv.fit("block_ggn", t).operator.index[1]
    block = ggn[index][:, index]
    found = fit(f"block_ggn |> kronecker_factor(others = diagonal){tail}", t)
    assert found.blocks["1"].describe() == "Diagonal 8"
    assert_close(found.blocks["1"].dense(), torch.diag(block.diagonal()))
    found = fit(f"block_ggn |> kronecker_factor(others = keep){tail}", t)
    assert_close(found.blocks["1"].dense(), block)
    found = fit(f"block_ggn |> kronecker_factor(others = low_rank){tail}", t)
    assert found.parameters == t.parameters


def test_layers_that_the_stage_fits_are_as_if_alone():
    t = normed()
    ours = fit("block_ggn |> kronecker_factor(others = keep) |> eigen_correct", t)
    alone = cv.fit("ekfac", t.restricted([n for n in t.parameters if not n.startswith("1.")]))
    for name in ("0", "3"):
        assert_close(ours.blocks[name].dense(), alone.blocks[name].dense())


def test_ignored_parameters_are_constants():
    t = normed()
    kept = [n for n in t.parameters if not n.startswith("1.")]
    found = fit("block_ggn |> kronecker_factor(others = ignore)", t)
    assert list(found.parameters) == kept
    scores = cv.influence(found, t, damping=0.1)
    frozen = t.restricted(kept)
    assert_close(scores, cv.influence(cv.fit("kfac", frozen), frozen, damping=0.1))
    result = cv.evaluate(
        cv.loads("curvature mine = block_ggn |> kronecker_factor(others = ignore)"), t
    )
    assert [step.structure for step in result.steps][-1] == "Kronecker blocks"
    assert len(t.parameters) == len(kept) + 2


def test_a_clause_that_does_not_fit_either_is_refused():
    with pytest.raises(cv.SpecError, match="E0415"):
        fit("block_ggn |> kronecker_factor(others = tkfac)", normed())


def test_a_clause_that_concerns_no_layer_changes_nothing():
    t = task(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)), inputs(3))
    assert_close(
        fit("block_ggn |> kronecker_factor(others = ignore)", t).dense(), cv.fit("kfac", t).dense()
    )


def test_models_without_any_matrix():
    t = task(nn.Sequential(nn.LayerNorm(3), nn.PReLU(3)), inputs(3))
    found = fit("block_ggn |> kronecker_factor(others = keep)", t)
    ggn = dense.ggn(t.model, "mse", *t.train)
    for block, index in zip(found.operator.blocks, found.operator.index, strict=True):
        assert_close(block.dense(), ggn[index][:, index])
    assert "Dense" in str(
        cv.explain(cv.loads("curvature m = block_ggn |> kronecker_factor(others = keep)"), t)
    )


def test_by_parameter():
    t = language(tied=True)
    ggn = dense.ggn(t.model, "cross_entropy", *t.train)
    found = fit("ggn |> block_diagonal(by = parameter) |> kronecker_factor(others = diagonal)", t)
    index = dict(zip(found.operator.names, found.operator.index, strict=True))
    for name in ("token.weight", "norm.weight", "norm.bias"):
        own = ggn[index[name]][:, index[name]]
        assert_close(found.blocks[name].dense(), torch.diag(own.diagonal()))


@pytest.mark.parametrize(
    ("spec", "fits"),
    [
        ("diagonal", True),
        ("low_rank", True),
        ("identity", True),
        ("projected", True),
        ("block_hessian", True),
        ("kfac", False),
        ("tkfac", False),
        ("foof", False),
        ("per_output", False),
        ("logra", False),
        ("nearest_kronecker", False),
    ],
)
def test_which_shipped_chains_fit(spec, fits):
    (chain,) = chains_of(chosen(cv.load(spec)))
    assert (first_unfit(chain) is None) is fits


def test_a_diagonal_of_factors_does_not_fit():
    """Its structure treats entries as one index, but it reads `a` and `g` by themselves."""
    text = """transform product_of_diagonals {
      "Squares of inputs and columns, each alone."
      needs a[n,t,i], g[n,r,t,o]
      A[i] = mean[n,t] a[n,t,i]^2
      G[o] = mean[n] sum[r,t] g[n,r,t,o]^2
      yield C[o,i,o',i'] = identity[o,o'] * identity[i,i'] * G[o] * A[i]
    }
    curvature mine = block_ggn |> product_of_diagonals"""
    (chain,) = chains_of(chosen(cv.loads(text)))
    assert first_unfit(chain) == 3


@pytest.mark.parametrize(
    ("gradient", "fits"),
    [
        ("sum[t] g[n,r,t,o] * a[n,t,i]", True),
        ("sum[t,t'] g[n,r,t,o] * a[n,t',i]", False),
        ("sum[t] g[n,r,t,o] * a[n,t,i] * a[n,t,i]", False),
    ],
)
def test_only_the_layer_gradient_is_known(gradient, fits):
    """Inputs and columns of different positions make no gradient, though both are summed."""
    text = f"""transform squares {{
      "Squares of something."
      needs a[n,t,i], g[n,r,t,o]
      D[o,i] = mean[n] sum[r] ({gradient})^2
      yield C[o,i,o',i'] = identity[o,o'] * identity[i,i'] * D[o,i]
    }}
    curvature mine = block_ggn |> squares"""
    (chain,) = chains_of(chosen(cv.loads(text)))
    assert (first_unfit(chain) is None) is fits


def pairs(classes, kinds):
    """A classifier of texts that come in two kinds of segments."""

    class Pairs(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.places = nn.Embedding(9, 4), nn.Embedding(5, 4)
            self.kinds, self.head = nn.Embedding(kinds, 4), nn.Linear(4, classes)

        def forward(self, x):
            kinds = torch.arange(2).repeat_interleave(x.shape[1])[: x.shape[1]].expand_as(x) * (
                x > 2
            )
            places = torch.arange(x.shape[1]).expand_as(x)
            return self.head(
                (self.words(x) + self.kinds(kinds) + self.places(places)).tanh().mean(1)
            )

    torch.manual_seed(0)
    X = torch.randint(0, 9, (6, 3))
    y = torch.randint(0, classes, (6,))
    return cv.Task(Pairs().double().eval(), "cross_entropy", (X, y), (X[:2], y[:2]))


@pytest.mark.parametrize(
    ("classes", "kind"), [(2, "EigenBasis"), (5, "EigenBasis"), (9, "Diagonal")]
)
def test_classes_are_not_words_because_they_are_as_many_as_kinds_or_places(classes, kind):
    op = cv.fit("ekfac_lm", pairs(classes, 2))
    assert op.blocks["head"].describe().split()[0] == kind
    assert op.blocks["kinds"].describe().split()[0] == "Diagonal"


def test_coverage_names_what_a_chain_sets_apart():
    found = cv.covered([cv.load("ekfac_lm")], cv.TaskSource(task="characters"))
    status = {row.parameter: row.status for row in found.found.rows}
    assert {"others"} == {
        status[name] for name in status if "embed" in name or "tokens" in name or "head" in name
    }
    plain = cv.covered([cv.load("diagonal_lm"), cv.load("ekfac")], cv.TaskSource(task="characters"))
    assert len(plain.found.others) < len(found.found.others)


OUTPUTS = """
transform output_eigenbasis {
  "Second moments in the eigenbasis of the outputs alone: one-hot inputs have the identity for theirs."
  needs a[n,t,i], g[n,r,t,o]
  G[o,o'] = mean[n] sum[r,t] g[n,r,t,o] * g[n,r,t,o']
  U[o,m], _[m] = eigh(G)
  S[m,i] = mean[n] sum[r] (sum[t,o] U[o,m] * g[n,r,t,o] * a[n,t,i])^2
  yield C[o,i,o',i'] = sum[m] U[o,m] * S[m,i] * U[o',m] * identity[i,i']
}
curvature m = block_ggn |> output_eigenbasis(others = diagonal)
"""


def table(rows, width=6):
    """A classifier of the words that it sees."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Embedding(rows, width), nn.Tanh(), nn.Flatten(), nn.Linear(3 * width, 4)
    )
    X, y = torch.randint(0, rows, (8, 3)), torch.randint(0, 4, (8,))
    return cv.Task(model.double().eval(), "cross_entropy", (X, y), (X[:2], y[:2]))


def test_embeddings_with_a_factor_for_their_outputs_are_those_of_the_whole_eigenbasis():
    task = table(7)
    rows, whole = (cv.fit(x, task).blocks["0"] for x in (cv.loads(OUTPUTS), "ekfac"))
    assert rows.describe() == "EigenBasis 6×6 ⊗ I"
    # Words that nothing is seen of have no eigenvectors of their own in the other.
    assert_close(rows.dense(), whole.dense())
    other = cv.fit(cv.loads(OUTPUTS), task).blocks["3"].dense()
    assert (other - cv.fit("ekfac", task).blocks["3"].dense()).abs().max() > 1e-3


def test_embeddings_with_a_factor_for_their_outputs_need_nothing_of_the_size_of_words_times_words():
    task = table(20_000)
    op = cv.fit(cv.loads(OUTPUTS), task)
    assert op.operator.memory() < 8 * (3 * 20_000 * 6)
    assert torch.isfinite(cv.influence(op, task, damping=0.1)).all()
