"""What the fields of an operator may hold: kinds of values, and numbers that are finite and symmetric.

Kinds are checked wherever an operator is made, numbers where a caller makes one: the engine makes
operators of numbers that it has checked itself, inside `trusting`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from curvlang.operators.places import Places

PRECISIONS = (torch.float32, torch.float64)
"""What decompositions are computed in."""
SYMMETRY = 1e-4
"""Relative asymmetry above which a matrix is not what rounding makes of a symmetric one."""

_TRUSTED: ContextVar[bool] = ContextVar("trusted", default=False)


@contextmanager
def trusting() -> Iterator[None]:
    """Operators made inside are of numbers that are known: their entries are not read again."""
    before = _TRUSTED.set(True)
    try:
        yield
    finally:
        _TRUSTED.reset(before)


@dataclass(frozen=True, slots=True)
class _Kind:
    """What a field holds: `wanted`, several of it where `several`, or None where `optional`."""

    name: str
    plain: str
    wanted: Any
    several: bool
    optional: bool


_KINDS: dict[type, tuple[_Kind, ...]] = {}
"""The fields of every structure that was made, read once."""


def _kinds(structure: type, part: type) -> tuple[_Kind, ...]:
    """The fields of a structure, from its annotations."""
    return tuple(
        _Kind(
            x.name,
            _plain(str(x.type)),
            _wanted(str(x.type), part),
            str(x.type).startswith("tuple["),
            "None" in str(x.type),
        )
        for x in fields(structure)
    )


def wrong_kind(operator: Any, part: type) -> str:
    """A field of another kind than the structure has, as the end of a sentence; lists become tuples.

    Args:
        operator: The operator; its fields are read.
        part: The class of operators.
    """
    structure = type(operator)
    if structure not in _KINDS:
        _KINDS[structure] = _kinds(structure, part)
    for kind in _KINDS[structure]:
        value = getattr(operator, kind.name)
        if kind.several and isinstance(value, list):
            value = tuple(value)
            object.__setattr__(operator, kind.name, value)
        if kind.several:
            fits = isinstance(value, tuple) and all(isinstance(x, kind.wanted) for x in value)
        else:
            fits = isinstance(value, kind.wanted) or (value is None and kind.optional)
        if not fits:
            found = _named(value, kind.wanted)
            return f"has a `{found}` as `{kind.name}`, where {_WORDS[kind.plain]}"
        numbers = kind.plain == "Tensor" and not kind.several and value is not None
        if numbers and value.dtype not in PRECISIONS:
            return f"has `{kind.name}` in {value.dtype}, where float32 or float64 is expected"
    return ""


_WORDS = {
    "Tensor": "a tensor is expected",
    "Places": "a tensor is expected",
    "Operator": "an operator is expected",
    "str": "a name is expected",
    "int": "a whole number is expected",
    "float": "a number is expected",
    "Callable": "a function is expected",
    "torch.dtype": "a precision is expected",
    "torch.device": "a device is expected",
}


def _plain(kind: str) -> str:
    """`Tensor` of `tuple[Tensor, ...]` and `Tensor | None`."""
    inner = kind.removeprefix("tuple[").split(",")[0].split(" |")[0]
    return inner.split("[")[0].rstrip("]")


def _wanted(kind: str, part: type) -> Any:
    known: dict[str, Any] = {
        "Tensor": Tensor,
        "Places": Places,
        "str": str,
        "int": int,
        "float": (int, float),
        "torch.dtype": torch.dtype,
        "torch.device": torch.device,
    }
    return known.get(_plain(kind), part if _plain(kind) == "Operator" else object)


def _named(value: Any, wanted: Any) -> str:
    """The type of what does not fit: of the first entry of a tuple that does not."""
    if isinstance(value, tuple):
        value = next((x for x in value if not isinstance(x, wanted)), value)
    return type(value).__name__


def infinite(operator: Any) -> str:
    """Entries that are not finite, as the end of a sentence."""
    for name, value in _read(operator):
        if isinstance(value, float) and not math.isfinite(value):
            return f"has the `{name}` {value}"
        if isinstance(value, Tensor) and not all_finite(value):
            return f"has entries in `{name}` that are not finite"
    return ""


def asymmetric(operator: Any) -> str:
    """A matrix that is not symmetric beyond rounding, as the end of a sentence."""
    for name, value in _read(operator):
        if name not in operator.symmetric or torch.equal(value, value.mT):
            continue
        gap = float((value - value.mT).abs().max())
        if gap > SYMMETRY * float(value.abs().max()):
            return f"has a `{name}` that is not symmetric: entries differ by up to {gap:.2g}"
    return ""


def _read(operator: Any) -> Iterator[tuple[str, Any]]:
    """The fields whose numbers are read: none inside `trusting`."""
    for field in () if _TRUSTED.get() else fields(operator):
        value = getattr(operator, field.name)
        if not isinstance(value, Tensor) or readable(value):
            yield field.name, value


def all_finite(tensor: Tensor) -> bool:
    """Whether every entry is finite: by their sum, which is not finite where one of them is not."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    # The sum of finite entries may overflow: only then is each of them looked at.
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())


def readable(tensor: Tensor) -> bool:
    """Whether entries can be read: not those of tensors without memory, or inside `torch.vmap`."""
    return (
        type(tensor) in (Tensor, torch.nn.Parameter)
        and tensor.device.type != "meta"
        and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)
    )
