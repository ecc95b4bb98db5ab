"""Texts with the texts that are made of them: rows of a checkpoint with an encoder and a decoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from curvlang.models.data.data import RawExamples
from curvlang.models.data.derived_rows import MappedRows, fits
from curvlang.models.data.fields import IGNORED, LABELS, Fields
from curvlang.models.data.rows import Rows
from curvlang.models.language_models.text_table import AT_ONCE, TextTable
from curvlang.models.language_models.tokenizer import TokenText
from curvlang.models.padding.ragged_rows import RaggedRows
from curvlang.models.sources.flat_rows import FlatRows, FlatRowsWriter
from curvlang.models.table_rows.class_labels import column_of
from curvlang.models.table_rows.token_reader import TOKENS, TokenReader, nothing

SOURCE, TARGET = ("source",), ("target",)
"""Columns where none are named."""
Pairs = tuple[FlatRows, FlatRows]
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
        width = max(int(targets.lengths.max()) for _, targets in pairs)
        sides = [
            Fields({TOKENS: sources, **level_targets(targets, width)}) for sources, targets in pairs
        ]
        options = {
            "shift_labels": False,
            "text_of": TokenText(self.tokenizer),
            "label_of": TargetText(self.tokenizer),
        }
        return RawExamples(sides[0], sides[1], options, "cross_entropy")

    def _rows(self, table: TextTable) -> Pairs:
        with FlatRowsWriter() as sources, FlatRowsWriter() as targets:
            done = 0
            for block, labels in self._blocks(table):
                for n, (source, target) in enumerate(zip(block, labels, strict=True), done):
                    if not source or not target:
                        raise nothing(
                            table, n, "no token to predict" if source else "no token to read"
                        )
                sources.add(block)
                targets.add(labels)
                done += len(block)
            found = sources.finished(), targets.finished()
        for rows in found:
            self.check_longest(table, rows.lengths)
        return found

    def _blocks(self, table: TextTable) -> Iterator[tuple[list[list[int]], list[list[int]]]]:
        """Tokens of sources and of targets, some rows at a time; targets end with what is predicted last."""
        length = self.columns.length
        given = TOKENS in table.columns and LABELS[0] in table.columns
        if given and self.columns.source is None and SOURCE[0] not in table.columns:
            rows = self.given(table, labelled=False)
            for labels in table.list_blocks(LABELS[0]):
                cut = [row[: own_length(row)][:length] for row in labels]
                yield (
                    [ids[:length] for ids, _ in islice(rows, len(labels))],
                    [row[: own_length(row)] for row in cut],
                )
            return
        names = [
            column_of(self.model, self.columns.source, SOURCE, "source", table),
            column_of(self.model, self.columns.target, TARGET, "target", table),
        ]
        for one, other in zip(*map(table.text_blocks, names), strict=True):
            yield self.tokens(one, length), self._targets(other, length)

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


def flat_targets(labels: Sequence[Sequence[int]]) -> FlatRows:
    """Labels of every row up to the last one that is predicted."""
    with FlatRowsWriter() as writer:
        writer.add([row[: own_length(row)] for row in labels])
        return writer.finished()


def level_targets(targets: FlatRows, width: int) -> dict[str, Rows | RaggedRows]:
    """Targets in one length, with the mask of a decoder that reads them.

    Args:
        targets: Labels of every row up to the last one that is predicted.
        width: The length.
    """
    own = targets.lengths
    read: Rows = MappedRows((own,), partial(_read_up_to, width), (width,), torch.int64)
    return {
        "labels": targets.padded(width, IGNORED),
        "decoder_attention_mask": read[:] if fits(read.shape, read.dtype) else read,
    }


def _read_up_to(width: int, lengths: Tensor) -> Tensor:
    return (torch.arange(width) < lengths[:, None]).long()
