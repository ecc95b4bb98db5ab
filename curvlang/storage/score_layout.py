"""How a store of scores is laid out: its arrays, their chunks, and what it says of itself."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from math import ceil, prod
from typing import Any

import numpy as np

SUFFIX = ".zarr"
FORMAT = 1
"""Of the store; another one is refused."""

Chunk = tuple[int, ...]
"""A chunk by its place along each axis that is cut."""


@dataclass(frozen=True, slots=True, eq=False)
class StoreLayout:
    """What a store of scores holds.

    Args:
        names: Of the layers; empty for the total alone.
        shape: Of every array.
        chunks: Shape of a chunk; the axis of positions is never cut.
        axes: Names of the axes: `query` or `group`, `train`, `position`, or `token` in their place.
        dtype: Of the numbers.
        content: What decides the numbers, in words or as a digest, by the name that a refusal calls it.
        plan: Whole numbers that a later run goes on with.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    axes: tuple[str, ...]
    dtype: str
    content: Mapping[str, str]
    plan: Mapping[str, int]

    @property
    def grid(self) -> tuple[int, ...]:
        """Chunks along each axis that is cut."""
        cut = zip(self.shape, self.chunks, self.axes, strict=True)
        return tuple(ceil(n / size) for n, size, axis in cut if axis != "position")

    @property
    def all(self) -> list[Chunk]:
        """Every chunk, the training examples fastest."""
        return list(product(*map(range, self.grid)))

    @property
    def bytes(self) -> int:
        """Of all numbers."""
        return prod(self.shape) * max(1, len(self.names)) * np.dtype(self.dtype).itemsize

    def place(self, chunk: Chunk) -> tuple[slice, ...]:
        """Where a chunk lies."""
        sizes = zip(chunk, self.chunks, self.shape, strict=False)
        return tuple(slice(k * size, min((k + 1) * size, n)) for k, size, n in sizes)


def is_store(path: str | os.PathLike[str]) -> bool:
    """Whether a name is that of a zarr store."""
    return os.fspath(path).rstrip("/").lower().endswith(SUFFIX)


def record_of(layout: StoreLayout) -> dict[str, Any]:
    """What a later run goes on with."""
    return {
        "format": FORMAT,
        "content": dict(layout.content),
        "plan": dict(layout.plan),
        "layers": list(layout.names),
        "shape": list(layout.shape),
        "chunks": list(layout.chunks),
        "axes": list(layout.axes),
        "dtype": layout.dtype,
    }


def layout_of(record: Mapping[str, Any]) -> StoreLayout:
    """The layout of a store from what it says of itself."""
    return StoreLayout(
        tuple(record["layers"]),
        tuple(record["shape"]),
        tuple(record["chunks"]),
        tuple(record["axes"]),
        record["dtype"],
        record["content"],
        record["plan"],
    )
