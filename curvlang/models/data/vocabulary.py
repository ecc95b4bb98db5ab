"""Tokens that a model's tables do not have, found in the data before anything is computed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.models.data.rows import Rows, known, pieces
from curvlang.models.execution.calls import exhausted
from curvlang.models.execution.packed import layout_in
from curvlang.models.execution.tables import (
    OutsideTableError,
    inside_tables,
    is_outside,
    watched_tables,
)


@contextmanager
def checked_tokens(model: nn.Module, X: Rows, few: Tensor, part: str) -> Iterator[None]:
    """Compare whole columns of integers with the tables that look them up while `few` are run.

    Args:
        model: The model; it is run inside.
        X: All inputs of a part.
        few: The inputs that it is run on.
        part: `train` or `query`, for the message.

    Raises:
        SpecError: E0422 naming the first example with a token outside a table.
    """
    shown = _integers(model, few)
    columns = _Columns(model, X)
    found: dict[tuple[str, str], int] = {}

    def look(table: str, given: Tensor, size: int) -> None:
        for field, x in shown.items():
            if not _same(given, x):
                continue
            if is_outside(given, size):
                raise _refused(columns.odd(field, size), size, table, field, part)
            if columns.odd(field, size).count:
                found[table, field] = size

    with watched_tables(model if shown else nn.Module(), look):
        yield
    for (table, field), size in found.items():
        odd = columns.odd(field, size)
        if _reached(model, X, odd.first, few.device):
            raise _refused(odd, size, table, field, part)


@dataclass(frozen=True, slots=True)
class _OddTokens:
    """Examples with tokens that a table does not have: how many, the first, and its first such token."""

    count: int
    first: int
    token: int


@dataclass(frozen=True, slots=True, eq=False)
class _Columns:
    """The integers of all examples, by field; all rows are looked at in turn."""

    model: nn.Module
    X: Rows

    def odd(self, field: str, size: int) -> _OddTokens:
        """Tokens of a field outside a table of `size` rows."""
        what = f"tokens `{field}` of {layout_in(self.model)} in {size}"
        return known(self.X, what, lambda: self._odd(field, size))

    def _odd(self, field: str, size: int) -> _OddTokens:
        count, first, token = 0, -1, 0
        for start, piece in pieces(self.X):
            x = _integers(self.model, piece)[field]
            if not x.numel() or not is_outside(x, size):
                continue
            rows = _rows(x, size)
            count += len(rows)
            if first < 0:
                own = x[rows[0]].reshape(-1)
                first, token = start + int(rows[0]), int(own[(own < 0) | (own >= size)][0])
        return _OddTokens(count, first, token)


def _reached(model: nn.Module, X: Rows, first: int, device: torch.device) -> bool:
    """Whether the first example with such a token makes a table be asked for it.

    A model may bring tokens into range itself; and a table on a graphics processor that is asked for
    a row it does not have ends the process, so that the model is stopped before.
    """
    try:
        with torch.no_grad(), inside_tables(model):
            model(X[first : first + 1].to(device))
    except OutsideTableError:
        return True
    except Exception as error:
        # What else the model raises there is refused with its own reason when it is met.
        if exhausted(error):
            raise
    return False


def _integers(model: nn.Module, X: Tensor) -> Mapping[str, Tensor]:
    """Columns of integers, by field; by no name where the inputs are one tensor."""
    layout = layout_in(model)
    if layout is None:
        return {} if X.is_floating_point() else {"": X}
    return {name: x for name, x in layout.unpack(X).items() if x.dtype == torch.int64}


def _same(given: Tensor, x: Tensor) -> bool:
    """Whether a table is asked for a column as it is."""
    return given.numel() == x.numel() and torch.equal(given.reshape(-1), x.reshape(-1))


def _rows(x: Tensor, size: int) -> Tensor:
    """The examples that have such an entry."""
    return ((x < 0) | (x >= size)).reshape(len(x), -1).any(1).nonzero().flatten()


def _refused(odd: _OddTokens, size: int, table: str, field: str, part: str) -> SpecError:
    where = f"`{field}` of example {odd.first}" if field else f"example {odd.first}"
    tokens = field in ("", "input_ids", "decoder_input_ids")
    repair = "the tokens of the model's own tokenizer" if tokens else "numbers that the table has"
    return refusal(
        Code.E0422,
        f"{where} of `{part}` has the token {odd.token}; the table `{table or 'model'}` has the rows "
        f"0…{size - 1}",
        f"give {repair}, or a model with a larger table",
        notes=(f"{odd.count} examples have such tokens",) if odd.count > 1 else (),
    )
