"""The rows of a `transformers.Trainer`: its data sets as its collator reads them, without padding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal
from curvlang.models.data.fields import LABELS, Fields
from curvlang.models.data.rows import Rows
from curvlang.models.padding.ragged_rows import RaggedColumn, RaggedRows
from curvlang.models.table_rows.target_rows import flat_targets, level_targets

MASK = "attention_mask"
DECODER = "decoder_"
Examples = Sequence[Mapping[str, Tensor]]
"""The fields of every example."""


@dataclass(frozen=True, slots=True, eq=False)
class TrainerRows:
    """Training examples and queries, field by field.

    Args:
        sides: Of both.
        decoder: Whether labels are those of a decoder, which has positions of its own.
    """

    sides: tuple[Examples, Examples]
    decoder: bool

    @classmethod
    def of(cls, trainer: Any, asked: Any) -> TrainerRows:
        """The rows of a trainer's training set, and those of a data set of queries.

        Raises:
            SpecError: E0899.
        """
        model = trainer.model
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        decoder = bool(getattr(getattr(inner, "config", None), "is_encoder_decoder", False))
        train, query = (_rows(trainer, rows, decoder) for rows in (trainer.train_dataset, asked))
        return cls((train, query), decoder and train[0][LABELS[0]].ndim == 1)

    @property
    def labels(self) -> Tensor:
        """Those of the first example."""
        return self.sides[0][0][LABELS[0]]

    @property
    def by_position(self) -> bool:
        """Whether every position has a class."""
        return self.labels.ndim == 1 and not self.labels.is_floating_point()

    def fields(self, *, numbers: bool) -> tuple[Fields, Fields]:
        """The fields of both parts.

        Args:
            numbers: Whether labels are numbers, in the shape of a model's outputs.
        """
        targets: list[dict[str, Rows | RaggedRows]] = [{}, {}]
        if self.decoder:
            # What the decoder reads is made again, from labels of one length.
            sides = [[row[LABELS[0]].tolist() for row in rows] for rows in self.sides]
            width = max(len(row) for rows in sides for row in rows)
            targets = [level_targets(flat_targets(rows), width) for rows in sides]
        train, query = (
            Fields({**self._read(rows, numbers), **made})
            for rows, made in zip(self.sides, targets, strict=True)
        )
        return train, query

    def _read(self, rows: Examples, numbers: bool) -> dict[str, Tensor | RaggedColumn]:
        names = [
            x for x in rows[0] if not (self.decoder and (x in LABELS or x.startswith(DECODER)))
        ]
        found = {name: _column([row[name] for row in rows]) for name in names}
        y = found.get(LABELS[0])
        if numbers and isinstance(y, Tensor):
            found[LABELS[0]] = y.float().reshape(len(y), -1)
        return found


def _rows(trainer: Any, rows: Any, decoder: bool) -> list[dict[str, Tensor]]:
    """All examples as the trainer's collator makes them, each by itself.

    Raises:
        SpecError: E0899.
    """
    loader = trainer.get_eval_dataloader(rows)
    collate, rows = loader.collate_fn, loader.dataset
    made = [_row(collate([rows[n]]), decoder) for n in range(len(rows))]
    again = _row(collate([rows[0]]), decoder)
    if any(not torch.equal(again[name], x) for name, x in made[0].items()):
        raise refusal(
            Code.E0899,
            "the trainer's collator makes other rows each time: it draws what is masked",
            "give data sets whose labels are fixed, and a collator that draws nothing",
        )
    if LABELS[0] not in again:
        known = ", ".join(f"`{x}`" for x in again)
        raise refusal(
            Code.E0899,
            f"the trainer's collator gives no `{LABELS[0]}`: it gives {known}",
            "give a collator that makes labels, such as `DataCollatorForLanguageModeling(tokenizer, mlm=False)`",
        )
    return made


def _row(batch: Mapping[str, Any], decoder: bool) -> dict[str, Tensor]:
    """The fields of one example, without the positions that its mask leaves out."""
    found = {name: x[0] for name, x in batch.items() if isinstance(x, Tensor)}
    mask = found.pop(MASK, None)
    if mask is None or mask.ndim != 1:
        return found if mask is None else {**found, MASK: mask}
    return {
        name: x[mask != 0]
        if x.shape[:1] == mask.shape
        and not (decoder and (name in LABELS or name.startswith(DECODER)))
        else x
        for name, x in found.items()
    }


def _column(rows: Sequence[Tensor]) -> Tensor | RaggedColumn:
    if rows[0].ndim == 1 and not rows[0].is_floating_point():
        return RaggedColumn(tuple(rows))
    alike = all(row.shape == rows[0].shape for row in rows)
    return torch.stack(list(rows)) if alike else RaggedColumn(tuple(rows))
