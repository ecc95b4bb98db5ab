"""Texts with the texts that are made of them: rows of a checkpoint with an encoder and a decoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from curvlang.models.data.data import RawExamples
from curvlang.models.data.fields import IGNORED, LABELS, Fields
from curvlang.models.language_models.text_table import AT_ONCE, TextTable
from curvlang.models.language_models.tokenizer import TokenText
from curvlang.models.table_rows.class_labels import column_of
from curvlang.models.table_rows.token_reader import TOKENS, TokenReader, nothing, ragged

SOURCE, TARGET = ("source",), ("target",)
"""Columns where none are named."""
Pairs = tuple[list[list[int]], list[list[int]]]
"""Tokens of the sources, and of the targets."""


@dataclass(frozen=True, slots=True, eq=False)
class TargetText:
    """A target's tokens as the text that they stand for.

    Args:
        tokenizer: Whose tokens they are.
    """

    tokenizer: Any

    def __call__(self, y: Tensor) -> str:
        """The text of one target."""
        own = y[y != IGNORED].tolist()
        return f"“{self.tokenizer.decode(own, skip_special_tokens=True)}”"


class TargetTextReader(TokenReader):
    """Rows for a model that reads one text and predicts another one."""

    __slots__ = ()

    def examples(self, train: TextTable, query: TextTable) -> RawExamples:
        """The rows of both tables; targets have one length in both, filled with what is not predicted.

        Raises:
            SpecError: E0896 for columns, E0897 for rows without tokens, E0898 for rows that are longer than
                the model reads, E0899 without such columns.
        """
        pairs = [self._rows(table) for table in (train, query)]
        labels = level_targets([targets for _, targets in pairs])
        sides = [
            Fields({"input_ids": ragged(sources), **fields})
            for (sources, _), fields in zip(pairs, labels, strict=True)
        ]
        options = {
            "shift_labels": False,
            "text_of": TokenText(self.tokenizer),
            "label_of": TargetText(self.tokenizer),
        }
        return RawExamples(sides[0], sides[1], options, "cross_entropy")

    def _rows(self, table: TextTable) -> Pairs:
        length = self.columns.length
        given = TOKENS in table.columns and LABELS[0] in table.columns
        if given and self.columns.source is None and SOURCE[0] not in table.columns:
            sources = [ids[:length] for ids, _ in self.given(table, labelled=False)]
            labels = table.lists(LABELS[0])
            targets = [row[: own_length(row)][:length] for row in labels]
        else:
            names = [
                column_of(self.model, self.columns.source, SOURCE, "source", table),
                column_of(self.model, self.columns.target, TARGET, "target", table),
            ]
            sources = self.tokens(table.texts(names[0]), length)
            targets = self._targets(table.texts(names[1]), length)
        for n, (source, target) in enumerate(zip(sources, targets, strict=True)):
            if not source or not own_length(target):
                raise nothing(table, n, "no token to predict" if source else "no token to read")
        self.check_lengths(table, sources)
        self.check_lengths(table, targets)
        return sources, targets

    def _targets(self, texts: list[str], length: int | None) -> list[list[int]]:
        """Tokens of targets, which some tokenizers make in another way than those of sources."""
        return [
            ids
            for k in range(0, len(texts), AT_ONCE)
            for ids in self.made(length=length, text_target=texts[k : k + AT_ONCE])[TOKENS]
        ]


def own_length(labels: Sequence[int]) -> int:
    """Positions of a target up to the last one that is predicted: what is behind it is padding."""
    return max((n for n, x in enumerate(labels, 1) if x != IGNORED), default=0)


def level_targets(sides: Sequence[Sequence[Sequence[int]]]) -> list[dict[str, Tensor]]:
    """Targets of all parts in one length, with the mask of a decoder that reads them.

    Args:
        sides: Of every part the labels of its rows.
    """
    width = max(len(row) for rows in sides for row in rows)
    found = []
    for rows in sides:
        own = torch.tensor([own_length(row) for row in rows])
        read = (torch.arange(width) < own[:, None]).long()
        found.append(
            {"labels": ragged(rows).padded(width, IGNORED), "decoder_attention_mask": read}
        )
    return found
