"""Training examples and queries from data sets of texts, as a checkpoint reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Generator

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal
from curvlang.language.registry import NONE
from curvlang.models.data.data import Data, check_share
from curvlang.models.language_models.checkpoint import Checkpoint
from curvlang.models.language_models.heads import (
    IMAGE_CLASS,
    NEXT_TOKEN,
    TARGET_TEXT,
    TEXT_CLASS,
    WORD_CLASS,
    Head,
)
from curvlang.models.language_models.text_table import TextTable, text_table
from curvlang.models.language_models.tokenizer import tokenizer_of
from curvlang.models.table_rows.class_rows import TextClassReader
from curvlang.models.table_rows.columns import TextColumns
from curvlang.models.table_rows.image_rows import ImageReader
from curvlang.models.table_rows.target_rows import TargetTextReader
from curvlang.models.table_rows.text_rows import NextTokenReader
from curvlang.models.table_rows.word_rows import WordClassReader


@dataclass(frozen=True, slots=True)
class TextSource:
    """Data sets of texts, and how they are read.

    Args:
        path: A file, a folder of `save_to_disk`, or a name of a hub; or rows in memory.
        query: A second one, of the queries; None for a share of the first.
        split: Of a data set of a hub.
        tokenizer: A folder or name in place of the model's own.
        test: Share of the rows that become queries, where `query` is not given.
        seed: Of that choice.
        columns: What is read of each.
    """

    path: Any
    query: Any = None
    split: str | None = None
    tokenizer: str | None = None
    test: float = 0.1
    seed: int = 0
    columns: TextColumns = field(default_factory=TextColumns)


def text_source(values: Mapping[str, Any]) -> TextSource:
    """What all parameters of a `data dataset(…)` line say, `none` for what is not given."""
    given: dict[str, Any] = {
        k: None if isinstance(v, str) and v == NONE else v for k, v in values.items()
    }
    columns = {f.name: given.pop(f.name) for f in fields(TextColumns)}
    return TextSource(**given, columns=TextColumns(**columns))


def text_data(source: TextSource, model: Checkpoint, folder: Path) -> Data:
    """Training examples and queries, in the order of their rows.

    Args:
        source: Where they come from.
        model: What reads them.
        folder: Where relative paths start.

    Raises:
        SpecError: E0866, E0890 and E0894 to E0899, and E0412 for the share.
    """
    source.columns.check(model)
    reader = _reader(source, model, folder)
    whole = text_table(source.path, folder, "train", source.split)
    if source.query is not None:
        train, query = whole, text_table(source.query, folder, "query", source.split)
    else:
        train, query = _parts(whole, source.test, source.seed)
    empty = (torch.empty(0), torch.empty(0))
    return Data(empty, empty, 0, 0, "fields", given=reader.examples(train, query))


Reader = NextTokenReader | TextClassReader | WordClassReader | TargetTextReader | ImageReader
_READERS: Mapping[
    Head, type[NextTokenReader | TextClassReader | TargetTextReader | WordClassReader]
] = {
    NEXT_TOKEN: NextTokenReader,
    TEXT_CLASS: TextClassReader,
    TARGET_TEXT: TargetTextReader,
    WORD_CLASS: WordClassReader,
}
"""What reads texts, by what the model predicts."""


def _reader(source: TextSource, model: Checkpoint, folder: Path) -> Reader:
    """What makes a model's rows of tables.

    Raises:
        SpecError: E0894 for a tokenizer, E0899 for one of a model that reads images.
    """
    if model.head is not IMAGE_CLASS:
        tokenizer = tokenizer_of(model, source.tokenizer, folder)
        return _READERS[model.head](model, tokenizer, source.columns)
    if source.tokenizer is not None:
        raise refusal(
            Code.E0899,
            f"`tokenizer` is given, and `{model.architecture}` reads images",
            "leave `tokenizer` out",
        )
    return ImageReader(model, source.columns)


def _parts(whole: TextTable, test: float, seed: int) -> tuple[TextTable, TextTable]:
    """Rows of the training part and of the queries, each in the data set's order, as for a file."""
    count = len(whole)
    check_share(test, count)
    order = torch.randperm(count, generator=Generator().manual_seed(seed))
    cut = count - round(test * count)
    return whole.rows(order[:cut].sort().values.tolist()), whole.rows(
        order[cut:].sort().values.tolist()
    )
