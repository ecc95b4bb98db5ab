"""Padding does not count: with a mask, padded sequences give what the sequences alone do."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import curvlang as cv
from curvlang.compiler.planning.plan import Limits
from tests.models.support import drawn, normal
from tests.runtime.test_layers import assert_close

N, T, L = 9, 5, 3


class Tagger(nn.Module):
    """A layer at every position, called twice, and logits of every position."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.mix, self.last = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = torch.tanh(self.first(x))
        return self.last(torch.tanh(self.mix(torch.tanh(self.mix(z)))))


def data(lengths: list[int]) -> tuple[nn.Module, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Model, inputs and labels padded with noise and −100, and the mask."""
    generator = torch.Generator().manual_seed(0)
    model = drawn(Tagger().double().eval(), generator)
    X = normal((len(lengths), T, 3), generator)
    y = torch.randint(0, 3, (len(lengths), T), generator=generator)
    mask = torch.arange(T) < torch.tensor(lengths)[:, None]
    return model, X, torch.where(mask, y, -100), mask


@pytest.mark.parametrize(
    "spec", ["ggn", "kfac", "kfac_reduce", "ekfac", "tkfac", "shampoo", "foof", "nearest_kronecker", "diagonal"]
)  # fmt: skip
def test_padded_sequences_of_one_length_are_the_sequences_alone(spec):
    model, X, y, mask = data([L] * N)
    padded = cv.Task(model, "cross_entropy", (X, y), (X[:2], y[:2]), mask=mask)
    short = cv.Task(model, "cross_entropy", (X[:, :L], y[:, :L]), (X[:2], y[:2]))
    assert_close(cv.fit(spec, padded).dense(), cv.fit(spec, short).dense())


def test_without_the_mask_padding_would_count():
    model, X, y, _ = data([L] * N)
    padded = cv.Task(model, "cross_entropy", (X, y), (X[:2], y[:2]))
    short = cv.Task(model, "cross_entropy", (X[:, :L], y[:, :L]), (X[:2], y[:2]))
    gap = (cv.fit("kfac", padded).dense() - cv.fit("kfac", short).dense()).norm()
    assert float(gap) > 0.01


def test_a_mask_of_positions_that_nothing_has_is_refused():
    model, X, y, _ = data([L] * N)
    other = torch.arange(T + 2).expand(N, -1) < L
    task = cv.Task(model, "cross_entropy", (X, y), (X[:2], y[:2]), mask=other)
    with pytest.raises(cv.SpecError, match=r"E0416.*`mask` has 7 positions, and neither"):
        cv.fit("kfac", task)


LENGTHS = [1, 5, 3, 2, 4, 5, 1, 2, 3]


def factor(expand: bool) -> torch.Tensor:
    """A of the first layer: over all positions that count, or of each example's own mean."""
    _, X, _, mask = data(LENGTHS)
    a = torch.cat([X, torch.ones(N, T, 1, dtype=X.dtype)], -1)
    if expand:
        rows = a[mask]
        return rows.T @ rows / len(rows)
    means = torch.stack([a[n, : LENGTHS[n]].mean(0) for n in range(N)])
    return means.T @ means / N


@pytest.mark.parametrize("sharing", ["expand", "reduce"])
@pytest.mark.parametrize("batch", [2, 4, None])
def test_factors_of_sequences_of_many_lengths(sharing, batch):
    from curvlang.facade import chains_of, chosen
    from curvlang.runtime.fit import fit_chains

    model, X, y, mask = data(LENGTHS)
    t = cv.Task(model, "cross_entropy", (X, y), (X[:2], y[:2]), mask=mask)
    spec = cv.loads(f"curvature m = block_ggn |> foof(sharing = {sharing})")
    (stages,) = fit_chains(list(chains_of(chosen(spec))), t, limits=Limits(batch=batch))
    block = stages[-1].operator.blocks[0].dense()
    assert_close(block[:4, :4], factor(sharing == "expand"))


def test_the_mask_moves_with_the_task():
    model, X, y, mask = data(LENGTHS)
    t = cv.Task(model, "cross_entropy", (X, y), (X[:2], y[:2]), mask=mask)
    other = cv.Task(model, "cross_entropy", (X, y), (X[:2], y[:2]))
    assert t.data_fingerprint() != other.data_fingerprint()
    for moved in (t.to(dtype=torch.float32), t.with_model(model), t.restricted(["first.weight"])):
        assert moved.mask is not None
        assert torch.equal(moved.mask, mask)
