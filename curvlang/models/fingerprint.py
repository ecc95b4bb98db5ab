"""Content hashes: what decides a result, reduced to one name for a cache."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from curvlang.models.data.derived_rows import cast
from curvlang.models.data.rows import Pair, Rows, pieces

if TYPE_CHECKING:
    from hashlib import _Hash as Hash


def digest(*parts: Rows | str, after: Hash | None = None) -> str:
    """SHA-256 over rows (type, shape, bytes) and texts, in order, as hexadecimal digits.

    Equal numbers give equal digests, whether they are in memory or on disk.

    Args:
        parts: Tensors, stored rows and texts.
        after: What `hashed` gave of the parts before these.
    """
    return hashed(*parts, after=after).hexdigest()


def hashed(*parts: Rows | str, after: Hash | None = None) -> Hash:
    """The state of the digest after these parts, to go on from."""
    state = hashlib.sha256() if after is None else after.copy()
    for part in parts:
        # Lengths first: no two different sequences of parts give the same stream.
        if isinstance(part, str):
            content = part.encode()
            state.update(f"text:{len(content)};".encode())
            state.update(content)
            continue
        size = part.shape.numel() * part.dtype.itemsize
        state.update(f"{part.dtype}{tuple(part.shape)}:{size};".encode())
        for piece in [part] if isinstance(part, Tensor) else (x for _, x in pieces(part)):
            plain = piece.detach().cpu().contiguous()
            state.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return state


class RowHashes:
    """Digests of the rows of a task, each taken once, unless tensors have changed since.

    Copies of the rows in other precisions share what is known: a pair of rows is told from others by
    the precisions that it has had, and by how often its tensors changed in each.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], Hash] = {}
        self._past: tuple[object, ...] = ()

    def of(self, rows: Pair, dtype: torch.dtype | None = None) -> Hash:
        """The digest's state after the rows, or after them in another precision."""
        key = (*self._past, *_state(rows))
        if dtype is not None and any(x.is_floating_point() and x.dtype != dtype for x in rows):
            rows = cast(rows[0], dtype), cast(rows[1], dtype)
            key = (*key, *_state(rows))
        if key not in self._known:
            self._known[key] = hashed(*rows)
        return self._known[key]

    def of_copies(self, rows: Pair) -> RowHashes:
        """Those of copies of the rows in another precision."""
        made = RowHashes()
        made._known, made._past = self._known, (*self._past, *_state(rows))
        return made


def _state(rows: Pair) -> tuple[object, ...]:
    return tuple((x.dtype, x._version if isinstance(x, Tensor) else 0) for x in rows)


def model_parts(model: nn.Module) -> Iterator[str]:
    """The architecture as text: the module tree, the types' full names, what is trainable."""
    # A user's `__repr__` may show functions with their addresses, which differ in every process.
    yield re.sub(r" at 0x[0-9a-fA-F]+", "", repr(model))
    for name, module in model.named_modules():
        yield f"{name} {_kind(type(module))}"
    for name, p in model.named_parameters():
        yield f"{name} {tuple(p.shape)} {p.dtype} {p.requires_grad}"


def _kind(kind: type[nn.Module]) -> str:
    """The full name of a type; own models state one, so that it does not change with their file."""
    return str(vars(kind).get("stable_name", f"{kind.__module__}.{kind.__qualname__}"))


def parameter_parts(model: nn.Module) -> Iterator[Tensor | str]:
    """Parameters and buffers by name."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        yield name
        yield tensor
