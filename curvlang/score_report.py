"""Scores with what they mean: shown with their examples, written to a file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from curvlang.attribution.streams.token_scores import TokenScores
from curvlang.attribution.top import (
    Neighbour,
    Top,
    TopExamples,
    check_queries,
    largest,
    top_of_rows,
)
from curvlang.diagnostics.free_memory import gibibytes
from curvlang.diagnostics.notebook import Display
from curvlang.models.task import Task
from curvlang.precision_report import PrecisionErrors
from curvlang.reporting.examples import InputTexts, show_largest, show_top
from curvlang.storage.score_file import Scores, write_scores
from curvlang.storage.score_store import ScoreStore

SHOWN = 3
"""Queries whose top examples are shown where none are named."""


@dataclass(frozen=True, slots=True, eq=False)
class StoredScores:
    """One array of scores in a zarr store: rows are read when they are asked for.

    Args:
        store: The store.
        name: The array's: `scores`, or that of a layer.
    """

    store: ScoreStore
    name: str

    @property
    def shape(self) -> tuple[int, ...]:
        """As of a tensor."""
        return self.store.layout.shape

    def __getitem__(self, rows: list[int]) -> Tensor:
        """Some entries of the first axis."""
        return torch.from_numpy(self.store.rows(self.name, rows))


def whole(scores: Tensor | StoredScores) -> Tensor:
    """All of an array, in memory."""
    return scores if isinstance(scores, Tensor) else scores[list(range(scores.shape[0]))]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ScoreReport(Display):
    """Scores with the task they are about; printable, and written to a file by `save`.

    Args:
        arrays: The scores under the name `scores`, or those of every layer under the layer's name.
        axes: The names of their axes, in order.
        notes: What the numbers mean: convention, sign, inverse, task.
        groups: What the groups are called, where queries are asked together.
        task: Queries and training examples.
        sign: What a positive score says.
        looks: What the inputs look like, where their numbers say little.
        written: Where the scores lie already, if they were written as they came.
        found: Chunks of a store that were there before, and all of them.
        offsets: Of scores by token, where every example's begin, [N + 1].
        predicted: Bytes that scoring held by prediction, beyond the curvature, where memory was limited.
        errors: What the precision changes, where it is not float64 and scores were computed.
    """

    arrays: Mapping[str, Tensor | StoredScores]
    axes: tuple[str, ...]
    notes: dict[str, str]
    groups: tuple[object, ...] | None
    task: Task
    sign: str
    looks: InputTexts | None
    written: str | None = None
    found: tuple[int, int] | None = None
    offsets: Tensor | None = None
    predicted: int | None = None
    errors: PrecisionErrors | None = None

    @property
    def shape(self) -> list[int]:
        """Of each array."""
        return list(next(iter(self.arrays.values())).shape)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the scores: `.npy`, `.safetensors`, `.csv` or `.parquet`; all or nothing.

        A zarr store is another way to have them: see `out` of `cv.score_request`.

        Args:
            path: The file; an earlier one of that name is replaced.

        Raises:
            SpecError: E0583 to E0585 for a file that cannot be written.
            MachineError: E0802 where the disk is full.
        """
        stored = {name: whole(a).cpu().numpy() for name, a in self.arrays.items()}
        named = {} if self.groups is None else {"group": self.groups}
        offsets = None if self.offsets is None else self.offsets.numpy()
        return write_scores(Path(path), Scores(stored, self.axes, self.notes, named, offsets))

    def top(self, k: int = 5, queries: Sequence[int] | None = None) -> TopExamples:
        """The k most helpful and harmful training examples of some queries or groups.

        From the total over layers, positions and tokens, which the parts add up to. Self-influence has
        none: see `largest`.

        Args:
            k: Of each kind.
            queries: Numbers of queries or groups; the first ones where not given.
        """
        if self.axes == ("train",) or not k:
            return TopExamples()
        rows = range(min(SHOWN, self.shape[0])) if queries is None else queries
        check_queries(rows, self.shape[0])
        # Of these rows alone: the whole may be larger than memory.
        total = torch.stack([a[list(rows)] for a in self.arrays.values()]).sum(0)
        total = total.sum(-1) if "position" in self.axes else total
        if self.offsets is not None:
            total = TokenScores(total, self.offsets).totals()
        return top_of_rows(rows, total, k, self.task, grouped=self.groups is not None)

    def largest(self, k: int = 5) -> list[Neighbour]:
        """The k training examples with the largest self-influence; of other scores none.

        Args:
            k: How many.
        """
        if self.axes != ("train",) or not k:
            return []
        return largest(whole(self.arrays["scores"]), k, self.task)

    def table(self, k: int = 5, queries: Sequence[int] | None = None) -> str:
        """The extremes as text, examples as what they look like.

        Args:
            k: Of each kind.
            queries: As for `top`.
        """
        if self.axes == ("train",):
            return show_largest(self.largest(k), self.looks)
        return show_top(self.top(k, queries), self.looks, self.sign, self.groups)

    def header(self) -> list[str]:
        """What the numbers mean, a line each."""
        always = ("curvature", "task", "parameters", "convention", "sign", "inverse")
        known = [x for x in ("groups", "precision", "solver", "index") if x in self.notes]
        lines = [f"{key}: {self.notes[key]}" for key in (*always, *known)]
        if self.found is not None and self.found[0]:
            there, chunks = self.found
            rest = "nothing was computed" if there == chunks else f"{chunks - there} were computed"
            lines.append(f"store: {there} of {chunks} chunks were there, {rest}")
        if self.predicted is not None:
            lines.append(f"memory: {gibibytes(self.predicted)} predicted for scores in chunks")
        layers = [] if "scores" in self.arrays else [f"layers: {', '.join(self.arrays)}"]
        return [*lines, *layers]

    def to_json(self, k: int = 0, queries: Sequence[int] | None = None) -> dict[str, Any]:
        """Notes, axes, shape and the extremes as plain values; the scores themselves are in the file.

        Args:
            k: Extremes of each kind; 0 for none.
            queries: As for `top`.
        """
        return {
            **self.notes,
            **({} if self.errors is None else {"precision_errors": self.errors.to_json()}),
            "axes": list(self.axes),
            "shape": self.shape,
            "arrays": list(self.arrays),
            **(
                {}
                if self.found is None
                else {"chunks": self.found[1], "chunks_found": self.found[0]}
            ),
            "top": [_plain(one) for one in self.top(k, queries)],
            "largest": [_neighbour(one) for one in self.largest(k)],
        }

    def _summary(self) -> str:
        arrays = "scores" if "scores" in self.arrays else f"scores of {len(self.arrays)} layers"
        return f"of {self.notes['curvature']}: {arrays} {self.shape} ({', '.join(self.axes)})"

    def __str__(self) -> str:
        return "\n".join([*self.header(), "", self.table()])


def _plain(one: Top) -> dict[str, Any]:
    return {
        "query": one.query,
        "target": None if one.y is None else one.y.tolist(),
        **_words(one),
        "helpful": [_neighbour(n) for n in one.helpful],
        "harmful": [_neighbour(n) for n in one.harmful],
    }


def _neighbour(one: Neighbour) -> dict[str, Any]:
    target = None if one.y is None else one.y.tolist()
    return {"train": one.index, "score": one.score, "target": target, **_words(one)}


def _words(one: Top | Neighbour) -> dict[str, str]:
    """An example's text and the name of its target, where it has them."""
    found = {"text": one.text, "label": one.label}
    return {name: x for name, x in found.items() if x is not None}
