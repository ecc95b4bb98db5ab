"""Batches of rows that are alike in length, and where their own positions are."""

from __future__ import annotations

import pytest
import torch

from curvlang.models.padding import spans as module
from curvlang.models.padding.spans import Spans, in_order, spans_of


def cut(lengths, rows_at=lambda width: 3, width=9, left=False, within=None):
    stop = torch.tensor(lengths)
    first = torch.zeros_like(stop)
    if left:
        first, stop = width - stop, torch.full_like(stop, width)
    return list(Spans(first, stop, width).batches(rows_at, within or range(len(lengths))))


def test_every_row_is_in_one_batch_and_inside_its_window():
    lengths = [3, 9, 1, 4, 4, 2, 8, 5]
    found = cut(lengths)
    assert sorted(torch.cat([rows for rows, _ in found]).tolist()) == list(range(8))
    for rows, window in found:
        assert window == slice(0, max(lengths[k] for k in rows.tolist()))
        assert rows.tolist() == sorted(rows.tolist())


def test_rows_padded_on_the_left_end_where_the_window_ends():
    assert [w for _, w in cut([2, 9, 3], lambda width: 1, left=True)] == [
        slice(7, 9), slice(6, 9), slice(0, 9),
    ]  # fmt: skip


def test_a_batch_has_no_more_rows_than_its_width_allows():
    found = cut([1] * 10 + [9] * 4, lambda width: 10 // width)
    assert [len(rows) for rows, _ in found] == [10, 1, 1, 1, 1]


def test_short_and_long_rows_part_where_there_is_enough_of_both(monkeypatch):
    monkeypatch.setattr(module, "ENOUGH", 8)
    found = cut([2] * 8 + [9] * 2, lambda width: 100)
    assert [len(rows) for rows, _ in found] == [8, 2]


def test_rows_are_cut_within_a_range():
    found = cut([3, 1, 2, 9, 5, 4], within=range(2, 5))
    assert sorted(torch.cat([rows for rows, _ in found]).tolist()) == [2, 3, 4]


def test_holes_belong_to_a_row():
    mask = torch.tensor([[0, 1, 0, 1, 0], [1, 0, 0, 0, 0]]).bool()
    found = spans_of(mask)
    assert found is not None
    assert found.first.tolist() == [1, 0]
    assert found.stop.tolist() == [4, 1]


def test_rows_that_fill_all_positions_have_no_padding():
    assert spans_of(torch.ones(3, 4, dtype=torch.bool)) is None


@pytest.mark.parametrize("axis", [0, 1])
def test_what_batches_give_is_put_in_the_order_of_the_rows(axis):
    whole = torch.randn(6, 6)
    rows = [torch.tensor([1, 4]), torch.tensor([0, 2, 5]), torch.tensor([3])]
    parts = [whole.index_select(axis, own) for own in rows]
    assert torch.equal(in_order(rows, parts, axis), whole)
    assert torch.equal(in_order([slice(0, 4), slice(4, 6)], whole.split([4, 2], axis), axis), whole)
