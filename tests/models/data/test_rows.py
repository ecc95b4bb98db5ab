"""Rows that are read when asked for answer as the tensor of all of them would."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from curvlang.models.data.rows import Places, Rows, StoredRows, known, pieces

X = torch.arange(24.0).reshape(8, 3)


class Numbered(StoredRows):
    """Rows of `X`, and how many were read."""

    def __init__(self) -> None:
        super().__init__(X.shape, X.dtype)
        self.count = 0

    def read(self, places: Places) -> Tensor:
        self.count += len(places)
        return X[torch.tensor([int(k) for k in places], dtype=torch.int64)]


INDICES = (
    0,
    -1,
    slice(2, 5),
    slice(None),
    slice(None, None, 3),
    slice(6, 100),
    torch.tensor([7, 0, 0, -2]),
    torch.tensor([], dtype=torch.int64),
    X[:, 0] > 9,
)


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_an_index_means_what_it_means_for_a_tensor(index: int | slice | Tensor) -> None:
    assert torch.equal(Numbered()[index], X[index])


def test_a_tensor_and_stored_rows_are_rows() -> None:
    for rows in (X, Numbered()):
        given: Rows = rows
        assert (given.shape, given.dtype, given.device, given.ndim) == (
            X.shape,
            X.dtype,
            X.device,
            2,
        )
        assert given.is_floating_point()
        assert len(given) == 8


@pytest.mark.parametrize("index", [8, -9, torch.tensor([8]), torch.tensor([-9]), X[:3, 0] > 0])
def test_rows_that_are_not_there_are_refused(index: int | Tensor) -> None:
    with pytest.raises(IndexError):
        Numbered()[index]


def test_pieces_hold_every_row_once() -> None:
    for rows in (X, Numbered()):
        found = list(pieces(rows, limit=40))
        assert [start for start, _ in found] == [0, 3, 6]
        assert torch.equal(torch.cat([piece for _, piece in found]), X)


def test_what_is_found_out_about_stored_rows_is_found_once() -> None:
    rows = Numbered()
    for _ in range(3):
        assert known(rows, "sum", lambda: float(sum(p.sum() for _, p in pieces(rows)))) == 276
    assert rows.count == 8
