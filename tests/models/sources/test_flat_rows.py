"""Rows of different lengths behind each other: the same in memory and in a file, padded where they are read."""

from __future__ import annotations

import pytest
import torch

from curvlang.models.data import derived_rows
from curvlang.models.data.rows import StoredRows
from curvlang.models.sources.flat_rows import FlatRows, FlatRowsWriter

ROWS = [[n * 10 + k for k in range(n % 5)] for n in range(97)]


def _written(step: int) -> FlatRows:
    with FlatRowsWriter() as writer:
        for k in range(0, len(ROWS), step):
            writer.add(ROWS[k : k + step])
        return writer.finished()


@pytest.mark.parametrize("held", [2**26, 64])
@pytest.mark.parametrize("step", [1, 13, 200])
def test_rows_are_what_was_added(monkeypatch, tmp_path, held, step) -> None:
    monkeypatch.setenv("CURVLANG_CACHE", str(tmp_path))
    monkeypatch.setattr(derived_rows, "HELD", held)
    found = _written(step)
    assert found.lengths.tolist() == [len(row) for row in ROWS]
    padded = found.padded(6, -100)
    assert isinstance(padded, StoredRows) == (held == 64)
    wanted = torch.tensor([row + [-100] * (6 - len(row)) for row in ROWS])
    assert torch.equal(padded[:], wanted)
    for places in (slice(5, 60), slice(0, 0), slice(3, 90, 7), torch.tensor([96, 4, 4, 0, 50])):
        assert torch.equal(padded[places], wanted[places])
    assert torch.equal(padded[7], wanted[7])


def test_no_rows(monkeypatch) -> None:
    with FlatRowsWriter() as writer:
        found = writer.finished()
    assert len(found) == 0
    assert found.padded(3, 0).shape == (0, 3)
