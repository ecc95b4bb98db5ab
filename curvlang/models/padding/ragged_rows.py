"""Rows of different lengths, as a tokenizer gives them without padding: checked, and padded to one length."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal


@dataclass(frozen=True, slots=True, eq=False)
class RaggedColumn:
    """One field of all examples, each of its own length.

    Args:
        rows: [T_n, …] of every example.
    """

    rows: tuple[Tensor, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def padded(self, width: int, fill: int) -> Tensor:
        """[N, width, …], filled behind every row."""
        kind = next((row.dtype for row in self.rows if len(row)), torch.int64)
        found = torch.full((len(self), width, *self.rows[0].shape[1:]), fill, dtype=kind)
        for n, row in enumerate(self.rows):
            found[n, : len(row)] = row
        return found


Columns = Mapping[str, "Tensor | RaggedColumn"]
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
        return self.token if name == "input_ids" else 0


def padding_token(model: nn.Module) -> int:
    """The token that a model's configuration names for padding; 0 where it names none."""
    found = getattr(getattr(model, "config", None), "pad_token_id", None)
    return found if isinstance(found, int) and found >= 0 else 0


def levelled(
    parts: Mapping[str, Columns], model: nn.Module, rule: PaddingRule
) -> tuple[dict[str, dict[str, Tensor]], tuple[str, ...], dict[str, Tensor]]:
    """The fields of every part padded to the longest row of all parts.

    Args:
        parts: The fields, by part.
        model: Whose `forward` may take a mask.
        rule: What the padding is.

    Returns:
        The fields by part, with a mask where the model takes one; the names of those that have the rows'
        positions; and which positions count, [N, T], by part.

    Raises:
        SpecError: E0857 for a row without entries, or whose fields differ in length.
    """
    names = sorted({k for part in parts.values() for k, x in part.items() if _is_ragged(x)})
    ragged = {
        part: {k: _rows(x) if k in names else x for k, x in columns.items()}
        for part, columns in parts.items()
    }
    lengths = {part: _lengths(part, columns, names) for part, columns in ragged.items()}
    width = max(int(own.max()) for own in lengths.values())
    counts = {part: torch.arange(width) < own[:, None] for part, own in lengths.items()}
    found = {
        part: {
            k: x.padded(width, rule.of(k)) if isinstance(x, RaggedColumn) else x
            for k, x in columns.items()
        }
        for part, columns in ragged.items()
    }
    given = any(rule.mask in fields for fields in found.values())
    if not given and rule.mask in inspect.signature(model.forward).parameters:
        for part, fields in found.items():
            fields[rule.mask] = counts[part].to(torch.int64)
        names.append(rule.mask)
    for part, fields in found.items():
        if rule.mask in fields and fields[rule.mask].shape == counts[part].shape:
            counts[part] = fields[rule.mask] != 0
    return found, tuple(k for k in names if k not in rule.labels), counts


def _is_ragged(x: Tensor | RaggedColumn) -> bool:
    return isinstance(x, RaggedColumn)


def _rows(x: Tensor | RaggedColumn) -> Tensor | RaggedColumn:
    """Rows of one length as rows of any; a number for every example stays, and is refused later."""
    return RaggedColumn(tuple(x)) if isinstance(x, Tensor) and x.ndim > 1 else x


def _lengths(part: str, columns: Columns, names: Sequence[str]) -> Tensor:
    """Positions of every row, which all ragged fields agree in.

    Raises:
        SpecError: E0857.
    """
    own = {k: x for k, x in columns.items() if k in names and isinstance(x, RaggedColumn)}
    if not own:
        # A field that one part lacks is refused by its name, when both are compared.
        return torch.ones(len(next(iter(columns.values()))), dtype=torch.int64)
    first, column = next(iter(own.items()))
    for n, row in enumerate(column.rows):
        if not len(row):
            raise refusal(
                Code.E0857,
                f"row {n} of `{part}` has no entries in `{first}`",
                "drop this example",
            )
        for name, other in own.items():
            if len(other.rows[n]) != len(row):
                raise refusal(
                    Code.E0857,
                    f"row {n} of `{part}` has {len(row)} entries in `{first}` and "
                    f"{len(other.rows[n])} in `{name}`",
                    "give all fields of a row one length; a label that takes no part is -100",
                )
    return torch.tensor([len(row) for row in column.rows])
