"""A checkpoint with its adapter: the model itself, fresh ones like it, and what Python gives it to read."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from torch import nn

from curvlang.diagnostics.source import NOWHERE, Span
from curvlang.diagnostics.values import another_type
from curvlang.language.chain import TaskSpec
from curvlang.language.checking.arguments import completed
from curvlang.language.registry import DATA
from curvlang.models.arguments import placed
from curvlang.models.data.data import RawExamples
from curvlang.models.language_models.adapter import Adapter, adapter, trained_head
from curvlang.models.language_models.checkpoint import Checkpoint, checkpoint
from curvlang.models.language_models.text_data import text_data, text_source


@dataclass(frozen=True, slots=True, eq=False)
class PretrainedBuild:
    """A model line that names a checkpoint: the model itself, and fresh ones like it.

    Args:
        model: The checkpoint.
        adapter: The one beside it, which alone is studied; None for none.
        task: Whose model it is; None where Python made it.
    """

    model: Checkpoint
    adapter: Adapter | None
    task: TaskSpec | None = None

    @property
    def span(self) -> Span:
        """Where it is written."""
        return NOWHERE if self.task is None else self.task.model.span

    @property
    def said(self) -> str:
        """Where the parameters came from."""
        beside = "" if self.adapter is None else f", with the adapter `{self.adapter.folder}`"
        return f"read from `{self.model.path}`{beside}"

    def load(self) -> nn.Module:
        """The model with its parameters."""
        with placed(self.span):
            return (self.adapter or self.model).load()

    def __call__(self, seed: int) -> nn.Module:
        """A model of the same configuration whose parameters, or those of its adapter, are drawn."""
        with placed(self.span):
            return (self.adapter or self.model).fresh(seed)


def pretrained_build(
    path: str, beside: str | None, folder: Path, task: TaskSpec | None = None
) -> PretrainedBuild:
    """A checkpoint, and the adapter beside it, as their files describe them; no tensor is read.

    Args:
        path: A folder, or a name of a hub.
        beside: A folder of an adapter; None for none.
        folder: Where relative paths start.
        task: Whose model it is; None where Python makes it.

    Raises:
        SpecError: E0890 to E0893, and E0899.
    """
    model = checkpoint(path, folder, None if beside is None else trained_head(beside, folder))
    own = None if beside is None else adapter(beside, folder, model)
    return PretrainedBuild(model, own, task)


class TextWords(TypedDict, total=False):
    """How texts are read, as in a `data dataset(…)` line.

    `query` is a second data set, of the queries; without it a share `test` of the rows is drawn with `seed`. `text`
    names the column of whole texts, or `prompt` and `completion` those of two parts, of which the second is predicted,
    or `messages` that of conversations; `label` is the column of classes, `pair` that of second texts. A classifier of words reads `tokens` and `tags`, an
    encoder-decoder `source` and `target`, a classifier of images `image`. `tokenizer` is a folder in place of the model's own, `length` the most tokens of a
    row, `pack` whether training texts are joined and cut into rows of `length`, `split` that of a data set of a hub.
    """

    query: Any
    split: str | None
    text: str
    prompt: str | None
    completion: str | None
    messages: str
    label: str | None
    pair: str | None
    tokens: str | None
    tags: str | None
    source: str | None
    target: str | None
    image: str | None
    tokenizer: str | os.PathLike[str] | None
    length: int | None
    pack: bool
    test: float
    seed: int


def examples_for(build: PretrainedBuild, data: Any, words: Mapping[str, Any]) -> RawExamples:
    """Training examples and queries for a checkpoint.

    Args:
        build: The checkpoint.
        data: A file, a folder, a name of a hub, a table of `datasets`, or a list of texts or of rows.
        words: `TextWords`.

    Raises:
        SpecError: E0703 to E0707 for words, E0563 for data of another kind, E0866, E0894 to E0899.
    """
    given = {name: value for name, value in words.items() if value is not None}
    tables = {"path": data, **({"query": given.pop("query")} if "query" in given else {})}
    named = {name: _place(name, value) for name, value in tables.items()}
    if isinstance(given.get("tokenizer"), os.PathLike):
        given["tokenizer"] = str(given["tokenizer"])
    values = completed("dataset", {**given, **named}, DATA["dataset"], NOWHERE)
    source = text_source({**values, **{k: v for k, v in tables.items() if not _is_path(v)}})
    found = text_data(source, build.model, Path()).given
    assert found is not None
    return found


def _is_path(value: object) -> bool:
    return isinstance(value, str | os.PathLike)


def _place(name: str, value: object) -> str:
    """A path as a text; of a table a name for it.

    Raises:
        SpecError: E0563.
    """
    if _is_path(value):
        return str(value)
    if hasattr(value, "column_names") or (isinstance(value, Sequence) and len(value)):
        return "train" if name == "path" else name
    raise another_type(
        "data" if name == "path" else name,
        value,
        "a path, a table of `datasets`, or a list of texts",
        '`data="train.jsonl"`',
    )
