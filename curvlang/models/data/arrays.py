"""Numbers in any container as a tensor: arrays, nested lists, series, tables; or why they are not numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from curvlang.models.data.rows import StoredRows


class UnfitError(Exception):
    """A value that is not numbers of one shape.

    Args:
        what: The predicate of a sentence about the value.
        repair: What to give instead.
    """

    def __init__(self, what: str, repair: str) -> None:
        """Keep both."""
        self.what = what
        self.repair = repair
        super().__init__(what)


class RaggedError(UnfitError):
    """Rows of different shapes."""

    def __init__(self, shapes: Sequence[tuple[int, ...]]) -> None:
        """Show the first two."""
        self.shapes = tuple(shapes)
        shown = " and ".join(str(list(s)) for s in sorted(set(shapes))[:2])
        super().__init__(f"has examples of different shapes: {shown}", "pad them to one shape")


def is_table(value: object) -> bool:
    """Whether a value is a table of named columns, as those of pandas and polars are."""
    return hasattr(value, "columns") and hasattr(value, "to_numpy")


def is_array(value: object) -> bool:
    """Whether a value is numbers in a container of its own: no list, no mapping."""
    told = hasattr(value, "__array__") or hasattr(value, "toarray")
    told = told or isinstance(value, Tensor | StoredRows)
    return told and not isinstance(value, type)


def numbers(value: Any, dtype: torch.dtype | None = None) -> Tensor:
    """The value as a tensor; integers in int64, other than those of tensors.

    Args:
        value: A tensor, an array, nested lists, a series or a table.
        dtype: Precision of floating-point numbers that do not come in a tensor.

    Raises:
        UnfitError: For texts, missing values, sparse or masked arrays, rows of different shapes.
    """
    if isinstance(value, Tensor):
        found = _strided(value)
        # A tensor stays the same object, so that what is known of it is known of a copy of its task.
        return found.detach() if found.requires_grad else found
    if is_table(value):
        return torch.stack([_column(value, name, dtype) for name in value.columns], 1)
    if hasattr(value, "toarray"):
        raise UnfitError("is a sparse matrix", "give it dense, `.toarray()`")
    if isinstance(value, list | tuple) and any(isinstance(v, Tensor) for v in value):
        return _stacked([numbers(v, dtype) for v in value])
    return _of_array(_array(value), dtype)


def _column(table: Any, name: Any, dtype: torch.dtype | None) -> Tensor:
    try:
        found = numbers(table[name], dtype)
    except UnfitError as error:
        raise UnfitError(f"has a column `{name}` that {error.what}", error.repair) from error
    return found if dtype is None or found.is_floating_point() else found.to(dtype)


def _strided(x: Tensor) -> Tensor:
    """The tensor itself, where its numbers lie in memory one by one."""
    if x.is_nested:
        raise UnfitError("is a nested tensor", "pad it: `torch.nested.to_padded_tensor(x, 0)`")
    if x.layout is not torch.strided:
        raise UnfitError(f"is sparse (`{x.layout}`)", "give it dense, `.to_dense()`")
    if x.is_quantized:
        raise UnfitError("is quantised", "give its numbers, `.dequantize()`")
    if x.is_meta:
        raise UnfitError("holds no numbers (device `meta`)", "give it with its data")
    return x


def _stacked(parts: Sequence[Tensor]) -> Tensor:
    shapes = [tuple(p.shape) for p in parts]
    if len(set(shapes)) > 1:
        raise RaggedError(shapes)
    return torch.stack(list(parts))


def _array(value: Any) -> np.ndarray[Any, Any]:
    if isinstance(value, Mapping | set | str | bytes) or hasattr(value, "__next__"):
        raise UnfitError(f"is a `{type(value).__name__}`, not numbers", "give a tensor or an array")
    if isinstance(value, np.ma.MaskedArray) and bool(np.ma.getmaskarray(value).any()):
        raise UnfitError("has masked entries", "fill them, `.filled(…)`, or drop these examples")
    try:
        return np.asarray(value)
    except ValueError as error:
        raise RaggedError([np.shape(v) for v in value]) from error
    except (TypeError, OverflowError, RuntimeError) as error:
        raise UnfitError(f"cannot be read as an array ({error})", "give a tensor") from error


def _of_array(array: np.ndarray[Any, Any], dtype: torch.dtype | None) -> Tensor:
    array = _plain(array) if array.dtype.kind == "O" else array
    match array.dtype.kind:
        case "b":
            return torch.from_numpy(array.copy())
        case "i" | "u":
            if array.size and int(array.max()) > torch.iinfo(torch.int64).max:
                raise UnfitError(
                    "holds integers beyond int64", "give them as floating-point numbers"
                )
            return torch.from_numpy(array.astype(np.int64))
        case "f":
            narrow = array.dtype.itemsize <= np.dtype(np.float64).itemsize
            kind = array.dtype.newbyteorder("=") if narrow else np.dtype(np.float64)
            found = torch.from_numpy(array.astype(kind))
            return found if dtype is None else found.to(dtype)
        case _:
            raise UnfitError(
                f"holds {_what(array)}, not numbers", "leave it out, or encode it as numbers"
            )


def _plain(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """An array of objects that are all numbers, as numbers."""
    found = array.reshape(-1).tolist()
    if not found or array.ndim == 0:
        return array
    if all(isinstance(v, Integral) for v in found):
        return np.array(found, np.int64).reshape(array.shape)
    if all(isinstance(v, Real) for v in found):
        return np.array(found, np.float64).reshape(array.shape)
    shapes = [np.shape(v) for v in found if not isinstance(v, str)]
    if len(set(shapes)) > 1 and all(hasattr(v, "__len__") for v in found):
        raise RaggedError(shapes)
    return array


def _what(array: np.ndarray[Any, Any]) -> str:
    if array.dtype.kind in "US":
        return "texts"
    if array.dtype.kind != "O" or not array.size:
        return f"`{array.dtype}`"
    odd = next(v for v in array.reshape(-1).tolist() if not isinstance(v, Real))
    if isinstance(odd, str):
        return "texts"
    missing = odd is None or type(odd).__name__ in ("NAType", "NaTType")
    return "missing values" if missing else f"objects of the type `{type(odd).__name__}`"
