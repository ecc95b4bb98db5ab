"""Columns of a file: read when they are asked for, checked, their bytes counted before they are allocated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import CurvlangError
from curvlang.diagnostics.free_memory import free_memory, gibibytes
from curvlang.diagnostics.refusal import refusal
from curvlang.models.data.rows import Rows

Column: TypeAlias = "Rows | list[str]"
"""Numbers [N, …] (integers int64, others in the file's precision), in memory or in the file; or N texts."""

LARGEST = 2**63 - 1
AXES = 32
"""More axes than any examples have; libraries end at 64 or below."""


class Table(Mapping[str, Column]):
    """Columns by name, each read when it is first asked for.

    A column that cannot be used is refused where it is used: a table of names and dates beside its
    numbers is a table.

    Args:
        names: Of the columns, in the file's order.
        read: What reads one of them.
    """

    def __init__(self, names: Sequence[str], read: Callable[[str], Column]) -> None:
        self._names = dict.fromkeys(names)
        self._read = read
        self._held: dict[str, Column] = {}

    def __getitem__(self, name: str) -> Column:
        if name not in self._names:
            raise KeyError(name)
        if name not in self._held:
            self._held[name] = self._read(name)
        return self._held[name]

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def unreadable(path: Path, why: str, repair: str = "") -> Exception:
    """E0552 about a file."""
    return refusal(
        Code.E0552,
        f"`{path}` cannot be read: {why}",
        repair or "write the file again, and check it",
    )


@contextmanager
def parsing(path: Path, repair: str = "") -> Iterator[None]:
    """A library reads bytes that anyone may have written: whatever it raises is about the file.

    Args:
        path: The file.
        repair: What to do about it.

    Raises:
        SpecError: E0552 with the first line of what the library says.
    """
    try:
        yield
    except CurvlangError:
        raise
    except MemoryError as error:
        raise unreadable(path, "what it declares does not fit in memory", repair) from error
    except OSError as error:
        raise unreadable(path, str(error.strerror or error).split("\n")[0], repair) from error
    except Exception as error:
        raise unreadable(path, _said(error), repair) from error


def _said(error: Exception) -> str:
    """The first line of a library's message, short, without the quotes that a `KeyError` adds."""
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    line = str(text).strip().split("\n")[0].rstrip(".")
    shown = line if len(line) <= 200 else f"{line[:200]}…"
    return shown or f"it is damaged (`{type(error).__name__}`)"


def require_room(path: Path, what: str, count: int) -> None:
    """Refuse what will not fit, before it is allocated.

    Args:
        path: The file.
        what: What takes the bytes: a column's name with backticks, or words.
        count: Bytes.

    Raises:
        SpecError: E0552.
    """
    free = free_memory()
    if count > free:
        raise unreadable(
            path,
            f"{what} takes {gibibytes(count)}, and {gibibytes(free)} are free",
            "write fewer examples, or use a machine with more memory",
        )


def column_of(path: Path, name: str, value: np.ndarray[Any, Any]) -> Column:
    """An array as a column: integers int64, numbers in their own precision, texts as a list.

    Raises:
        SpecError: E0552 for what is neither numbers nor texts.
    """
    if value.dtype.kind == "U":
        if value.ndim == 1:
            return [str(x) for x in value]
        raise unreadable(path, f"`{name}` is an array of texts with {value.ndim} axes")
    if value.dtype.kind not in "iufb" or value.dtype.itemsize > 8:
        raise unreadable(
            path, f"`{name}` holds `{value.dtype}`", "write integers or floating-point numbers"
        )
    if value.dtype.kind == "u" and value.size and int(value.max()) > LARGEST:
        raise unreadable(path, f"`{name}` has integers beyond 2⁶³", "write smaller numbers")
    kind = np.dtype(np.int64) if value.dtype.kind in "iub" else value.dtype.newbyteorder("=")
    with parsing(path):
        return torch.from_numpy(np.array(value, dtype=kind, order="C"))
