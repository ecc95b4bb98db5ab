"""Places of a block: ranges where they are some, with the entries that an index has."""

from __future__ import annotations

import pytest
import torch

import curvlang as cv
from curvlang.operators import BlockDiagonal, Dense, Diagonal, files
from curvlang.operators.files import load_operator, save
from curvlang.operators.places import Places
from tests.small import network, task


def matrix(start, outputs, inputs, *, transposed=False, bias=None):
    """The index of a layer's matrix, row by row, its bias behind."""
    own = torch.arange(start, start + outputs * inputs)
    own = own.view(inputs, outputs).T if transposed else own.view(outputs, inputs)
    if bias is not None:
        own = torch.cat([own, torch.arange(bias, bias + outputs)[:, None]], 1)
    return own.reshape(-1)


CASES = {
    "a range": (torch.arange(3, 20), True),
    "one entry": (torch.tensor([4]), True),
    "bias behind": (matrix(2, 4, 3, bias=14), True),
    "bias before": (matrix(6, 4, 3, bias=2), True),
    "transposed": (matrix(5, 4, 3, transposed=True), True),
    "transposed, with a bias": (matrix(5, 4, 3, transposed=True, bias=17), True),
    "one output": (matrix(2, 1, 5, bias=9), True),
    "one input": (matrix(2, 5, 1), True),
    "one input, with a bias": (matrix(2, 5, 1, bias=12), False),
    "a permutation": (torch.randperm(19), False),
    "backwards": (torch.arange(19).flip(0), False),
    "every other": (torch.arange(0, 19, 2), False),
    "ends as a range does": (torch.tensor([3, 6, 5, 4, 7]), False),
}


@pytest.mark.parametrize("name", CASES)
def test_ranges_are_the_index_they_were_found_in(name):
    index, found = CASES[name]
    places = Places.of(index)
    assert (places.single is None) is found
    assert torch.equal(places.index, index)
    assert (places.size, places.first) == (len(index), int(index[0]))
    for v in (torch.randn(24), torch.randn(24, 3), torch.randn(3, 24).T, torch.randn(24, 0)):
        assert torch.equal(places.take(v), v[index])
        x, out, wanted = torch.randn(len(index), *v.shape[1:]), torch.zeros_like(v), v * 0
        places.put(out, x)
        wanted[index] = x
        assert torch.equal(out, wanted)
    assert places.same(Places.of(index.clone()))
    assert not places.same(Places.of(index + 1))
    if found:
        again = Places.read(places.plain(), index.device)
        assert torch.equal(again.index, index)


@pytest.mark.parametrize("bias", [None, 26])
def test_groups_are_parts_of_the_places_of_all(bias):
    index = matrix(2, 6, 4, bias=bias)
    for places in (Places.of(index), Places.of(index.flip(0))):
        whole = places.index
        parts = places.parts(3)
        assert all(torch.equal(x.index, y) for x, y in zip(parts, whole.chunk(3), strict=True))


def test_what_is_taken_is_a_copy():
    v = torch.zeros(9, 2)
    Places.of(torch.arange(2, 6)).take(v).add_(1)
    assert not v.any()


def test_layers_have_ranges_and_the_operators_on_them_too():
    given = task(network([3, 4, 3]), "cross_entropy")
    op = cv.fit("ekfac", given, progress=False).operator
    assert all(own.single is None for own in op.places)
    assert all(block.where.single is None for block in given.blocks())
    dense = op.dense()
    for block, index in zip(op.blocks, op.index, strict=True):
        assert torch.allclose(dense[index][:, index], block.dense(), rtol=1e-12)


def test_places_that_no_ranges_are_travel_in_files(tmp_path):
    mixed = torch.tensor([0, 7, 2, 5])
    rest = torch.tensor([1, 3, 4, 6])
    made = BlockDiagonal(
        ("a", "b"), (Dense(torch.eye(4)), Diagonal(torch.arange(4.0))), (mixed, rest)
    )
    save(made, tmp_path / "x.safetensors")
    found, _, _ = load_operator(tmp_path / "x.safetensors")
    assert torch.equal(found.dense(), made.dense())
    assert [torch.equal(x, y) for x, y in zip(found.index, (mixed, rest), strict=True)] == [
        True
    ] * 2


def test_no_number_is_kept_for_a_place_on_the_disk(tmp_path):
    given = task(network([3, 40, 3]), "cross_entropy")
    op = cv.fit("identity", given, store=tmp_path / "s", progress=False)
    numbers = sum(x.nbytes for x in op.operator.tensors())
    files = [*(tmp_path / "s/results").rglob("*.safetensors")]
    assert sum(p.stat().st_size for p in files) < numbers + 2048 * len(files)


def test_a_file_with_a_number_for_every_place_is_read(tmp_path, monkeypatch):
    made = BlockDiagonal(
        ("a", "b"),
        (Dense(torch.eye(4)), Diagonal(torch.arange(4.0))),
        tuple(map(Places.of, torch.arange(8).chunk(2))),
    )
    with monkeypatch.context() as patch:
        patch.setattr(files, "FORMAT", 3)
        singles = tuple(Places(1, (), own.index, own.origin) for own in made.places)
        object.__setattr__(made, "places", singles)
        save(made, tmp_path / "x.safetensors")
    found, _, _ = load_operator(tmp_path / "x.safetensors")
    assert [own.single for own in found.places] == [None, None]
    assert torch.equal(found.dense(), made.dense())
