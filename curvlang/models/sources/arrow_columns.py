"""Columns of Arrow as tensors: numbers, and lists of them of one length or of several."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from curvlang.models.data.arrays import RaggedError, UnfitError


@dataclass(frozen=True, slots=True, eq=False)
class ArrowValues:
    """Some rows of a column.

    Args:
        lengths: Entries of every row, [B]; None where a row is one number.
        values: The entries of all rows one behind the other, [Σ lengths, …], or the numbers, [B].
    """

    lengths: Tensor | None
    values: Tensor

    def level(self) -> Tensor:
        """Rows of one length, [B, …].

        Raises:
            RaggedError: For rows of different lengths.
        """
        if self.lengths is None:
            return self.values
        found = self.lengths.unique().tolist()
        if len(found) > 1:
            raise RaggedError([(n, *self.values.shape[1:]) for n in found])
        return self.values.reshape(
            len(self.lengths), found[0] if found else 0, *self.values.shape[1:]
        )

    def padded(self, width: int, fill: int) -> Tensor:
        """Rows of any length, [B, width, …], filled behind every row."""
        assert self.lengths is not None, "a number has nothing behind it"
        shape = (len(self.lengths), width, *self.values.shape[1:])
        found = torch.full(shape, fill, dtype=self.values.dtype)
        found[torch.arange(width) < self.lengths[:, None]] = self.values
        return found


def arrow_values(column: Any) -> ArrowValues:
    """Numbers, or lists of them: the first level may have rows of any length, others have one.

    Raises:
        UnfitError: For missing values.
        RaggedError: For lists in lists that differ in length.
    """
    column = _plain(column)
    if not is_list(column.type):
        return ArrowValues(None, _numbers(column))
    lengths, inner = _opened(column)
    return ArrowValues(lengths, _level(inner))


def arrow_shapes(column: Any) -> tuple[Tensor | None, tuple[int, ...]]:
    """Entries of every row (None where a row is one number), and the shape of an entry; no number is read.

    Raises:
        UnfitError: For missing values.
        RaggedError: For lists in lists that differ in length.
    """
    column = _plain(column)
    if not is_list(column.type):
        _complete(column)
        return None, ()
    lengths, inner = _opened(column)
    shape, inner = _levels(inner)
    _complete(inner)
    return lengths, tuple(shape[1:])


def _level(column: Any) -> Tensor:
    shape, column = _levels(column)
    return _numbers(column).reshape(shape)


def _levels(column: Any) -> tuple[list[int], Any]:
    """The axes of lists of one length, and the numbers in them."""
    shape = [len(column)]
    while is_list(column.type):
        lengths, column = _opened(column)
        found = lengths.unique().tolist()
        if len(found) > 1:
            raise RaggedError([(n,) for n in found])
        shape.append(found[0] if found else 0)
    return shape, column


def _opened(column: Any) -> tuple[Tensor, Any]:
    """The lengths of lists, and what is in them one behind the other."""
    from pyarrow import compute

    _complete(column)
    lengths = np.asarray(compute.list_value_length(column).to_numpy(), np.int64)
    return torch.from_numpy(lengths.copy()), _plain(compute.list_flatten(column))


def _numbers(column: Any) -> Tensor:
    _complete(column)
    array = np.asarray(column.to_numpy())
    kind = array.dtype if array.dtype.kind in "fb" else np.dtype(np.int64)
    if array.dtype == np.uint64 and array.size and int(array.max()) > torch.iinfo(torch.int64).max:
        raise UnfitError("holds integers beyond int64", "give them as floating-point numbers")
    return torch.from_numpy(array.astype(kind))


def _complete(column: Any) -> None:
    if column.null_count:
        raise UnfitError("holds missing values", "drop or fill these rows")


def _plain(column: Any) -> Any:
    """The column in Arrow's own types: arrays of a fixed shape are lists of lists to it."""
    import pyarrow as pa

    if not isinstance(column.type, pa.BaseExtensionType):
        return column
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    return pa.chunked_array([x.storage for x in chunks], column.type.storage_type)


def is_list(kind: Any) -> bool:
    """Whether values of a type are lists."""
    import pyarrow as pa

    tests = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(test(kind) for test in tests)


def is_numeric(kind: Any) -> bool:
    """Whether values of a type are numbers, or lists of them."""
    import pyarrow as pa

    while is_list(kind) or isinstance(kind, pa.BaseExtensionType):
        kind = kind.value_type if is_list(kind) else kind.storage_type
    tests = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)
    return any(test(kind) for test in tests)
