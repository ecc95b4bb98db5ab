"""The queries that a curvature attributes best and worst, with what it attributes them to, as images or texts.

Kept with a study's results so that its report shows them without the data: gray, at most
`LARGEST` pixels a side, 256 levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from curvlang.attribution.top import Neighbour, example_label, example_text, shortened, top
from curvlang.models.data.rows import Pair, Rows
from curvlang.models.task import Task

QUERIES = 2
"""Queries of each kind."""
NEIGHBOURS = 4
"""Training examples of each kind beside a query."""
LONGEST = 72
"""Letters of a text; longer ones are shown by their beginning."""
LARGEST = 24
"""Pixels a side; larger images are averaged down."""


@dataclass(frozen=True, slots=True)
class Image:
    """One example: its place, its target, and `height` times `width` pixels, two hex digits each; or its text.

    `label` is the name of its target, where that has one.
    `score` is that of a training example for its query; the LDS of a query for itself.
    """

    index: int
    target: float
    score: float
    height: int
    width: int
    pixels: str
    text: str = ""
    label: str = ""

    def array(self) -> NDArray[np.uint8]:
        """`[height, width]`, 0 for the image's lowest value."""
        raw = np.frombuffer(bytes.fromhex(self.pixels), np.uint8)
        return raw.reshape(self.height, self.width)


@dataclass(frozen=True, slots=True)
class Attribution:
    """A query with its most helpful and most harmful training examples under one curvature."""

    curvature: str
    damping: float | None
    query: Image
    helpful: tuple[Image, ...]
    harmful: tuple[Image, ...]


def attributions(
    curvature: str,
    damping: float | None,
    scores: Tensor,
    quality: NDArray[np.float32],
    task: Task,
    seen: Pair | None,
) -> tuple[Attribution, ...]:
    """The queries with the largest LDS, the best first, then those with the smallest, the worst last.

    Args:
        curvature: Its name.
        damping: λ that the scores hold at.
        scores: `[Q, N]`.
        quality: `[Q]`, the LDS of each query; NaN where it has none.
        task: Gives targets.
        seen: Images of training examples and of queries; None for texts.
    """
    known = np.flatnonzero(np.isfinite(quality))
    order = known[np.argsort(-quality[known], kind="stable")]
    count = min(QUERIES, len(order) // 2) or len(order)
    chosen = list(dict.fromkeys([*order[:count], *order[len(order) - count :]]))
    train, query = (None, None) if seen is None else seen
    return tuple(
        Attribution(
            curvature,
            damping,
            _image(q, float(quality[q]), query, task, "query"),
            _images(found.helpful, train, task),
            _images(found.harmful, train, task),
        )
        for q in chosen
        for found in top(scores[q : q + 1], NEIGHBOURS)
    )


def _images(found: Sequence[Neighbour], seen: Rows | None, task: Task) -> tuple[Image, ...]:
    return tuple(_image(n.index, n.score, seen, task, "train") for n in found)


def _image(index: int, score: float, seen: Rows | None, task: Task, part: str) -> Image:
    target = float(task.part(part)[1][index].reshape(-1)[0])
    value = float(f"{score:.4g}")
    label = shortened(example_label(task, part, int(index)) or "")
    if seen is None:
        text = shortened(example_text(task, part, int(index)) or "", LONGEST)
        return Image(int(index), target, value, 0, 0, "", text, label)
    levels = _levels(seen[index])
    height, width = levels.shape
    return Image(int(index), target, value, height, width, levels.tobytes().hex(), label=label)


def gray(image: Tensor) -> Tensor:
    """An image [H, W] or [C, H, W] in one channel, at most `LARGEST` pixels a side."""
    x = image.detach().double().cpu()
    x = x.mean(0) if x.ndim == 3 else x
    if max(x.shape) <= LARGEST:
        return x
    scale = LARGEST / max(x.shape)
    height, width = (max(1, round(side * scale)) for side in x.shape)
    return torch.nn.functional.adaptive_avg_pool2d(x[None], (height, width))[0]


def _levels(image: Tensor) -> NDArray[np.uint8]:
    x = gray(image)
    low, high = float(x.min()), float(x.max())
    spread = (x - low) / (high - low) if high > low else torch.zeros_like(x)
    return (255 * spread).round().to(torch.uint8).numpy()
