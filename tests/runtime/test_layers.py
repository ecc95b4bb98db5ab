"""Curvatures of models whose layers are not all linear: shared positions, groups, ties, norms.

References: curvlinops 3.0.1 where it is right (Linear with positions, Conv2d of one group), dense
autodiff everywhere else. Its EK-FAC reads outputs with two axes alone; its K-FAC of positions
is compared with a loss over flattened outputs.
"""

from __future__ import annotations

import pytest
import torch
from curvlinops import EKFACLinearOperator, KFACLinearOperator
from curvlinops.kfac import FisherType, KFACType
from torch import nn

import curvlang as cv
from tests.models.support import drawn, normal
from tests.oracles import dense

PEER = 1e-8  # two eigendecompositions of the same matrices
LAW = 1e-9
N = 7


def task(model: nn.Module, X: torch.Tensor, loss: str = "mse", seed: int = 0) -> cv.Task:
    generator = torch.Generator().manual_seed(seed)
    model = drawn(model.double().eval(), generator)
    with torch.no_grad():
        f = model(X)
    y = normal(tuple(f.shape), generator)
    if loss == "cross_entropy":
        y = torch.randint(0, f.shape[-1], f.shape[:-1], generator=generator)
    return cv.Task(model, loss, (X, y), (X[:2], y[:2]))


def inputs(*shape: int, examples: int = N) -> torch.Tensor:
    return normal((examples, *shape), torch.Generator().manual_seed(5))


def fit(text: str, t: cv.Task):
    return cv.fit(cv.loads(f"curvature mine = {text}"), t)


def assert_close(a: torch.Tensor, b: torch.Tensor, tolerance: float = LAW) -> None:
    assert float((a - b).abs().max()) <= tolerance * max(1.0, float(b.abs().max()))


class Convolutional(nn.Sequential):
    """Two convolutions, strided and padded, and a linear layer on the average over places."""

    def __init__(self, groups: int = 1, bias: bool = True) -> None:
        super().__init__(
            nn.Conv2d(2 * groups, 2 * groups, 3, padding=1, groups=groups, bias=bias),
            nn.Tanh(),
            nn.Conv2d(2 * groups, 3, 2, stride=2, bias=bias),
            nn.Sigmoid(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(3, 3, bias=bias),
        )


class Positions(nn.Module):
    """Linear layers at every position, averaged before the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.tanh(self.first(x))).mean(1)


MODELS = {
    "positions": (Positions, (4, 3)),
    "convolutions": (Convolutional, (2, 4, 4)),
    "convolutions, no bias": (lambda: Convolutional(bias=False), (2, 4, 4)),
}
LOSSES = {"mse": nn.MSELoss(), "cross_entropy": nn.CrossEntropyLoss()}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("sharing", ["expand", "reduce"])
@pytest.mark.parametrize("fisher", ["exact", "empirical"])
def test_shared_positions_equal_curvlinops(model, loss, sharing, fisher):
    make, shape = MODELS[model]
    # More examples than inputs of a patch: a basis of a singular factor is not unique.
    t = task(make(), inputs(*shape, examples=24), loss)
    X, y = t.train
    settings = {
        "fisher_type": FisherType.TYPE2 if fisher == "exact" else FisherType.EMPIRICAL,
        "kfac_approx": KFACType.EXPAND if sharing == "expand" else KFACType.REDUCE,
        "separate_weight_and_bias": False,
        "check_deterministic": False,
    }
    data = [(X[:4], y[:4]), (X[4:], y[4:])]
    params = list(t.model.parameters())
    eye = torch.eye(t.P, dtype=torch.float64)
    head = f"hessian |> drop_residual(fisher = {fisher}) |> block_diagonal(by = layer)"
    kron = f"{head} |> kronecker_factor(sharing = {sharing})"
    # Its empirical gradients are those of the sum over outputs, divided once by their number.
    scale = 3 if (fisher, loss) == ("empirical", "mse") else 1
    theirs = KFACLinearOperator(t.model, LOSSES[loss], params, data, **settings) @ eye
    assert_close(scale * fit(kron, t).dense(), theirs, PEER)
    theirs = EKFACLinearOperator(t.model, LOSSES[loss], params, data, **settings) @ eye
    assert_close(scale * fit(f"{kron} |> eigen_correct", t).dense(), theirs, PEER)


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_every_group_is_a_block_of_its_own(groups):
    t = task(Convolutional(groups), inputs(2 * groups, 4, 4), "cross_entropy")
    ggn = dense.ggn(t.model, "cross_entropy", *t.train)
    hessian = dense.hessian(t.model, "cross_entropy", *t.train)
    exact = cv.fit("block_ggn", t)
    corrected = cv.fit("ekfac", t)
    assert len(exact.blocks) == groups + 2
    found = exact.operator
    for name, block, index in zip(found.names, found.blocks, found.index, strict=True):
        assert_close(block.dense(), ggn[index][:, index])
        assert corrected.blocks[name].trace() == pytest.approx(float(block.trace()), rel=1e-10)
    by_block = cv.fit("block_hessian", t).operator
    for block, index in zip(by_block.blocks, by_block.index, strict=True):
        assert_close(block.dense(), hessian[index][:, index])


def test_a_group_is_not_the_average_of_groups():
    t = task(Convolutional(2), inputs(4, 4, 4))
    first, second = (cv.fit("kfac", t).blocks[f"0[{k}]"].dense() for k in (0, 1))
    assert float((first - second).norm()) > 0.1 * float(first.norm())


class Language(nn.Module):
    """Tokens and places, a norm, a tied output."""

    def __init__(self, *, tied: bool) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(5, 3, padding_idx=0), nn.Embedding(4, 3)
        self.mix, self.norm = nn.Linear(3, 3), nn.LayerNorm(3)
        self.out = nn.Linear(3, 5, bias=False)
        if tied:
            self.out.weight = self.token.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.token(x) + self.place(torch.arange(x.shape[1]))
        return self.out(self.norm(z + torch.tanh(self.mix(z))))


def language(*, tied: bool) -> cv.Task:
    tokens = torch.randint(0, 5, (N, 3), generator=torch.Generator().manual_seed(2))
    return task(Language(tied=tied), tokens, "cross_entropy")


@pytest.mark.parametrize("tied", [True, False])
def test_embeddings_ties_and_norms_equal_dense_autodiff(tied):
    t = language(tied=tied)
    ggn = dense.ggn(t.model, "cross_entropy", *t.train)
    assert_close(cv.fit("ggn", t).dense(), ggn)
    assert_close(cv.fit("hessian", t).dense(), dense.hessian(t.model, "cross_entropy", *t.train))
    exact = cv.fit("block_ggn", t).operator
    for block, index in zip(exact.blocks, exact.index, strict=True):
        assert_close(block.dense(), ggn[index][:, index])
    assert_close(cv.fit("diagonal", t).dense(), torch.diag(ggn.diagonal()))
    fisher = dense.empirical_fisher(t.model, "cross_entropy", *t.train)
    assert_close(cv.fit("empirical_fisher", t).dense(), fisher)


def test_factors_of_an_embedding_are_those_of_one_hot_rows():
    """Σ over positions of one-hot rows; the same model with `Linear` on one-hot inputs agrees."""

    class OneHot(Language):
        def forward(self, x):
            hot = nn.functional.one_hot(x, 5).double() * (x != 0).unsqueeze(-1)
            z = self.first(hot) + self.place(torch.arange(x.shape[1]))
            return self.out(self.norm(z + torch.tanh(self.mix(z))))

    t = language(tied=False)
    with torch.no_grad():
        t.model.token.weight[0] = 0
    other = OneHot(tied=False).double().eval()
    other.load_state_dict(t.model.state_dict())
    other.first = nn.Linear(5, 3, bias=False).double()
    with torch.no_grad():
        other.first.weight.copy_(t.model.token.weight.T)
    t = cv.Task(t.model, "cross_entropy", t.train, t.query)
    del other.token
    plain = cv.Task(other.eval(), "cross_entropy", t.train, t.query)
    for chain in (
        "block_ggn |> kronecker_factor(others = diagonal)",
        "block_ggn |> kronecker_factor(sharing = reduce, others = diagonal) |> eigen_correct",
        "block_ggn |> kronecker_factor(others = keep) |> eigen_correct",
        "block_ggn |> tkfac(others = diagonal)",
        "block_ggn |> nearest_kronecker(others = diagonal)",
        "block_ggn |> per_output(others = diagonal)",
        "block_ggn |> low_rank(rank = 4)",
    ):
        ours, theirs = fit(chain, t), fit(chain, plain)
        assert_close(ours.blocks["token"].dense(), theirs.blocks["first"].dense())
        for name in ("place", "mix", "norm", "out"):
            assert_close(ours.blocks[name].dense(), theirs.blocks[name].dense())


def test_no_row_of_the_vocabulary_is_formed():
    """A leaf of an embedding holds a few numbers for a token, however many tokens there are."""
    from curvlang.models.layers import OneHot
    from curvlang.models.tracing.blocks import blocks
    from curvlang.models.tracing.leaves import LeafRequest, leaves

    model = nn.Sequential(nn.Embedding(100_000, 2), nn.Flatten(), nn.Linear(6, 2))
    tokens = torch.randint(0, 100_000, (4, 3), generator=torch.Generator().manual_seed(0))
    found = leaves(
        model,
        cv.Task(model, "mse", (tokens, torch.zeros(4, 2)), (tokens, torch.zeros(4, 2))).loss,
        tokens,
        torch.zeros(4, 2),
        blocks(model, tokens),
        LeafRequest({"a"}),
    )
    a = found["0"]["a"]
    assert isinstance(a, OneHot)
    assert (a.shape, a.index.numel()) == ((4, 3, 100_000), 12)


class Attentive(nn.Module):
    """Attention, a transposed convolution over positions, a bag of tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.bag = nn.Embedding(5, 4), nn.EmbeddingBag(5, 4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.wide = nn.ConvTranspose1d(4, 4, 2, stride=2, groups=2)
        self.narrow = nn.Conv1d(4, 2, 3, groups=2)
        self.last = nn.Linear(2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.token(x) + self.bag(x).unsqueeze(1)
        z = z + self.attention(z, z, z, need_weights=False)[0]
        z = torch.tanh(self.narrow(torch.tanh(self.wide(z.transpose(1, 2)))))
        return self.last(z.mean(2))


def test_correction_keeps_the_trace_of_every_layer():
    tokens = torch.randint(0, 5, (N, 3), generator=torch.Generator().manual_seed(2))
    t = task(Attentive(), tokens, "cross_entropy")
    blocks, corrected = cv.fit("block_ggn", t).blocks, cv.fit("ekfac", t).blocks
    assert len(blocks) == 2 + 2 + 2 + 2 + 1
    ggn = dense.ggn(t.model, "cross_entropy", *t.train)
    for name, index in zip(blocks, cv.fit("block_ggn", t).operator.index, strict=True):
        assert_close(blocks[name].dense(), ggn[index][:, index])
        assert corrected[name].trace() == pytest.approx(float(blocks[name].trace()), rel=1e-9)
