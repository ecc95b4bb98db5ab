"""Rows of different lengths, as a tokenizer gives them without padding: checked, and padded to one length."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal
from curvlang.models.data.derived_rows import as_numbers, mapped
from curvlang.models.data.rows import Rows, pieces

TOKENS = "input_ids"
"""The field of tokens."""


class RaggedRows(ABC):
    """One field of all examples, each of its own length: [T_n, …]."""

    __slots__ = ()

    @property
    @abstractmethod
    def lengths(self) -> Tensor:
        """T_n of every row, [N]."""

    @abstractmethod
    def padded(self, width: int, fill: int) -> Rows:
        """[N, width, …], filled behind every row."""

    def __len__(self) -> int:
        return len(self.lengths)


@dataclass(frozen=True, slots=True, eq=False)
class RaggedColumn(RaggedRows):
    """Rows of different lengths in memory.

    Args:
        rows: [T_n, …] of every example.
    """

    rows: tuple[Tensor, ...]

    @property
    def lengths(self) -> Tensor:
        """T_n of every row, [N]."""
        return torch.tensor([len(row) for row in self.rows], dtype=torch.int64)

    def padded(self, width: int, fill: int) -> Tensor:
        """[N, width, …], filled behind every row."""
        kinds = {row.dtype for row in self.rows if len(row)} or {torch.int64}
        kind = reduce(torch.promote_types, kinds)
        found = torch.full((len(self), width, *self.rows[0].shape[1:]), fill, dtype=kind)
        for n, row in enumerate(self.rows):
            found[n, : len(row)] = row
        return found


@dataclass(frozen=True, slots=True, eq=False)
class LevelColumn(RaggedRows):
    """Rows of one length, padded like others.

    Args:
        rows: [N, T, …].
    """

    rows: Rows

    @property
    def lengths(self) -> Tensor:
        """T, N times."""
        return torch.full((len(self.rows),), self.rows.shape[1])

    def padded(self, width: int, fill: int) -> Rows:
        """[N, width, …], filled behind every row."""
        _, length, *rest = self.rows.shape
        more = (0, 0) * len(rest) + (0, width - length)
        return mapped(
            self.rows, lambda x: pad(x, more, value=fill), (width, *rest), self.rows.dtype
        )


Columns = Mapping[str, "Rows | RaggedRows"]
"""Fields of all examples."""


def ragged_column(rows: Sequence[Tensor]) -> RaggedColumn | None:
    """Rows that differ in their first axis alone; None for others."""
    alike = {tuple(row.shape[1:]) for row in rows}
    if any(row.ndim == 0 for row in rows) or len(alike) > 1:
        return None
    return RaggedColumn(tuple(rows))


@dataclass(frozen=True, slots=True)
class PaddingRule:
    """What the rows of a part are padded with.

    Args:
        mask: The name of the field that says which positions count.
        labels: Names of the fields of targets.
        ignored: The target of a position that takes no part.
        token: The token of padding.
    """

    mask: str
    labels: Sequence[str]
    ignored: int
    token: int = 0

    def of(self, name: str) -> int:
        """What a field is filled with."""
        if name in self.labels:
            return self.ignored
        return self.token if name == TOKENS else 0


def padding_token(model: nn.Module) -> int:
    """The token that a model's configuration names for padding; 0 where it names none."""
    found = getattr(getattr(model, "config", None), "pad_token_id", None)
    return found if isinstance(found, int) and found >= 0 else 0


def varying(first: Columns, second: Columns) -> set[str]:
    """The fields of two parts whose rows differ in length, in a part or, of tokens, between the parts."""
    found = {k for part in (first, second) for k, x in part.items() if isinstance(x, RaggedRows)}
    if found or not _differ(first, second, TOKENS):
        return found
    return {name for name in first if _differ(first, second, name)}


def _differ(first: Columns, second: Columns, name: str) -> bool:
    """Whether a field of integers has other lengths in one part than in the other."""
    x, y = first.get(name), second.get(name)
    if x is None or y is None or isinstance(x, RaggedRows) or isinstance(y, RaggedRows):
        return False
    return x.ndim == y.ndim == 2 and not x.is_floating_point() and x.shape[1] != y.shape[1]


def levelled(
    parts: Mapping[str, Columns], model: nn.Module, rule: PaddingRule
) -> tuple[dict[str, dict[str, Rows]], tuple[str, ...], dict[str, Tensor]]:
    """The fields of every part padded to the longest row of all parts.

    Args:
        parts: The fields, by part.
        model: Whose `forward` may take a mask.
        rule: What the padding is.

    Returns:
        The fields by part, with a mask where the model takes one; the names of those that have the rows'
        positions; and which positions count, [N, T], by part.

    Raises:
        SpecError: E0407 for a part without rows, E0857 for a row without entries, or whose fields differ
            in length.
    """
    for part, columns in parts.items():
        if not all(len(column) for column in columns.values()):
            raise refusal(Code.E0407, f"`{part}` is empty", "give at least one example")
    names = sorted(varying(*parts.values()))
    ragged = {
        part: {k: _rows(x) if k in names else x for k, x in columns.items()}
        for part, columns in parts.items()
    }
    lengths = {part: _lengths(part, columns, names) for part, columns in ragged.items()}
    width = max(int(own.max()) for own in lengths.values())
    counts = {part: torch.arange(width) < own[:, None] for part, own in lengths.items()}
    found = {
        part: {
            k: x.padded(width, rule.of(k)) if isinstance(x, RaggedRows) else x
            for k, x in columns.items()
        }
        for part, columns in ragged.items()
    }
    given = any(rule.mask in fields for fields in found.values())
    if not given and rule.mask in inspect.signature(model.forward).parameters:
        for part, fields in found.items():
            fields[rule.mask] = as_numbers(counts[part])
        names.append(rule.mask)
    for part, fields in found.items():
        if rule.mask in fields and fields[rule.mask].shape == counts[part].shape:
            counts[part] = mask_of(fields[rule.mask])
    return found, tuple(k for k in names if k not in rule.labels), counts


def mask_of(rows: Rows) -> Tensor:
    """Where rows of numbers are not 0, in memory."""
    return torch.cat([piece != 0 for _, piece in pieces(rows)])


def longest_row(counts: Mapping[str, Tensor]) -> tuple[str, int]:
    """The longest row of all parts: its part, and its number.

    Args:
        counts: Which positions are a row's own, [N, T], by part.
    """
    behind = {part: own.flip(1).to(torch.uint8).argmax(1) for part, own in counts.items()}
    part = min(behind, key=lambda name: int(behind[name].min()))
    return part, int(behind[part].argmin())


def _rows(x: Rows | RaggedRows) -> Rows | RaggedRows:
    """Rows of one length as rows of any; a number for every example stays, and is refused later."""
    return x if isinstance(x, RaggedRows) or x.ndim < 2 else LevelColumn(x)


def _lengths(part: str, columns: Columns, names: Sequence[str]) -> Tensor:
    """Positions of every row, which all ragged fields agree in.

    Raises:
        SpecError: E0857.
    """
    own = {k: x.lengths for k, x in columns.items() if k in names and isinstance(x, RaggedRows)}
    if not own:
        # A field that one part lacks is refused by its name, when both are compared.
        return torch.ones(len(next(iter(columns.values()))), dtype=torch.int64)
    first, lengths = next(iter(own.items()))
    wrong = [(_first(lengths == 0), first), *((_first(x != lengths), k) for k, x in own.items())]
    n, other = min(wrong, key=lambda found: found[0])
    if n == len(lengths):
        return lengths
    if not lengths[n]:
        raise refusal(
            Code.E0857,
            f"row {n} of `{part}` has no entries in `{first}`",
            "drop this example",
        )
    raise refusal(
        Code.E0857,
        f"row {n} of `{part}` has {int(lengths[n])} entries in `{first}` and {int(own[other][n])} in "
        f"`{other}`",
        "give all fields of a row one length; a label that takes no part is -100",
    )


def _first(wrong: Tensor) -> int:
    """The first row that is wrong; N where none is."""
    return int(wrong.to(torch.uint8).argmax()) if bool(wrong.any()) else len(wrong)
