"""Stacked: every verb of every structure, with its blocks held as one, against the blocks one by one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from curvlang.diagnostics.diagnostic import SpecError
from curvlang.operators import (
    BlockDiagonal,
    Dense,
    Diagonal,
    Identity,
    Kronecker,
    Operator,
    Scaled,
    Stacked,
    Sum,
    added,
    load_operator,
    save,
    scaled,
    stacked,
)
from tests.operators.zoo import NAMES, zoo

TOLERANCE = 1e-9
APART = {"BlockDiagonal", "Sum blocks", "MatrixFree"}
STACKING = [name for name in NAMES if name not in APART]
G = 3


def both(name: str) -> tuple[BlockDiagonal, BlockDiagonal]:
    """Blocks one by one, and the same ones held as one, on scattered entries."""
    units = tuple(zoo(seed)[name] for seed in range(G))
    names = tuple("abc")
    order = torch.randperm(units[0].size * G, generator=torch.Generator().manual_seed(1))
    whole = stacked(units)
    assert isinstance(whole, Stacked)
    assert whole.count == G
    return (
        BlockDiagonal(names, units, order.chunk(G)),
        BlockDiagonal(names, (whole,), (order,)),
    )


def one(scale: float, size: int) -> Identity:
    return Identity(torch.tensor(scale, dtype=torch.float64), size)


VERBS = {
    "product": lambda op: op @ torch.eye(op.size, dtype=op.dtype)[:, ::2],
    "dense": lambda op: op.dense(),
    "trace": lambda op: op.trace(),
    "diagonal": lambda op: op.diagonal(),
    "norm": lambda op: op.frobenius(),
    "eigenvalues": lambda op: op.eigenvalues().sort().values,
    "log det": lambda op: op.logdet(1e3),
    "spectral form": lambda op: op.spectral_form().dense(),
    "inverse": lambda op: op.inverse(30.0).dense(),
    "function": lambda op: op.spectral(lambda s: s.abs().sqrt()).inverse(1.0).dense(),
    "multiple": lambda op: scaled(-2.0, op).inverse(70.0).dense(),
    "shifted": lambda op: added((op, one(0.5, op.size))).inverse(30.0).dense(),
    "sum": lambda op: added((op, scaled(0.5, op), one(0.5, op.size))).spectral_form().dense(),
    "sum of multiples": lambda op: Sum((op, Scaled(2.0, op))).spectral_form().dense(),
    "distance to a multiple": lambda op: op.distance(scaled(2.0, op)),
    "units": lambda op: torch.stack([block.dense() for block in op.blocks]),
    "index": lambda op: torch.stack(op.index),
}


def assert_close(found: Tensor, wanted: Tensor) -> None:
    scale = max(1.0, float(wanted.abs().max()))
    assert float((found - wanted).abs().max()) <= TOLERANCE * scale


@pytest.mark.parametrize("name", STACKING)
@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_that_of_the_blocks(name: str, verb: str) -> None:
    apart, together = both(name)
    assert_close(VERBS[verb](together), VERBS[verb](apart))


@pytest.mark.parametrize("name", STACKING)
def test_results_are_stacks_again(name: str) -> None:
    _, together = both(name)
    for made in (
        together.spectral_form(),
        together.inverse(30.0),
        scaled(2.0, together),
        added((together, one(1.0, together.size))),
        added((together, scaled(2.0, together))),
    ):
        assert isinstance(made, BlockDiagonal)
        assert [part.count for part in made.parts] == [G]


@pytest.mark.parametrize("name", STACKING)
def test_blocks_and_stacks_meet(name: str) -> None:
    apart, together = both(name)
    assert apart.same_blocks(together)
    assert together.same_blocks(apart)
    assert_close(added((apart, together)).dense(), 2 * apart.dense())
    assert float(apart.distance(together)) <= TOLERANCE * float(apart.frobenius())
    assert apart.memory() == together.memory()


@pytest.mark.parametrize("name", STACKING)
def test_stacks_in_files(name: str, tmp_path) -> None:
    _, together = both(name)
    for k, op in enumerate((together, together.inverse(30.0))):
        save(op, tmp_path / f"{k}.safetensors")
        found = load_operator(tmp_path / f"{k}.safetensors")[0]
        assert_close(found.dense(), op.dense())
        assert found.describe() == op.describe()


def test_what_does_not_stack() -> None:
    assert stacked([Dense(torch.eye(2))]) is None
    assert stacked([Dense(torch.eye(2)), Dense(torch.eye(3))]) is None
    assert stacked([Dense(torch.eye(2)), Diagonal(torch.ones(2))]) is None
    assert stacked([Dense(torch.eye(2)), Dense(torch.eye(2).double())]) is None
    assert stacked([Scaled(1.0, Dense(torch.eye(2))), Scaled(2.0, Dense(torch.eye(2)))]) is None
    for name in APART:
        assert stacked([zoo(1)[name], zoo(2)[name]]) is None


def test_tensors_that_terms_share_stay_shared() -> None:
    units = [zoo(seed)["EigenBasis"] for seed in range(G)]
    sums: list[Operator] = [Sum((unit, unit.spectral(torch.square))) for unit in units]
    whole = stacked(sums)
    assert isinstance(whole, Stacked)
    assert isinstance(whole.stack, Sum)
    first, second = whole.stack.terms
    assert first.left is second.left
    assert whole.spectral_form().structure == "Stacked"
    assert type(whole.spectral_form().stack).__name__ == "EigenBasis"


def test_a_common_factor_is_common_in_every_block() -> None:
    """G⊗A + H⊗A = (G+H)⊗A in a stack; a sum of which one block alone shares a factor is formed."""
    a = [zoo(seed)["Kronecker"] for seed in range(G)]
    b = [Kronecker(zoo(seed + 9)["Kronecker"].left, x.right.clone()) for seed, x in enumerate(a)]
    shared = stacked([Sum(pair) for pair in zip(a, b, strict=True)])
    assert type(shared.spectral_form().stack).__name__ == "EigenBasis"
    b[1] = zoo(99)["Kronecker"]
    mixed = stacked([Sum(pair) for pair in zip(a, b, strict=True)])
    assert type(mixed.spectral_form().stack).__name__ == "Eigen"
    for op in (shared, mixed):
        assert_close(op.spectral_form().dense(), op.dense())


def test_poles_are_a_matter_of_each_block() -> None:
    """A small block beside a large one has its own rounding."""
    units = [
        Diagonal(torch.tensor([1.0, 2.0]).double()),
        Diagonal(torch.tensor([1e-20, 0.0]).double()),
    ]
    apart = BlockDiagonal(("a", "b"), tuple(units), torch.arange(4).chunk(2))
    together = BlockDiagonal(("a", "b"), (stacked(units),), (torch.arange(4),))
    assert_close(
        together.inverse(1e-17).diagonal() * 1e-17, apart.inverse(1e-17).diagonal() * 1e-17
    )
    for op in (apart, together):
        with pytest.raises(SpecError, match="singular"):
            op.inverse(-2.0)


def test_entries_that_are_not_finite_are_refused() -> None:
    units = [zoo(seed)["Kronecker"] for seed in range(G)]
    units[1].left[0, 0] = torch.nan
    with pytest.raises(SpecError, match="not finite"):
        stacked(units).spectral_form()
