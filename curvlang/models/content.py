"""Functions, objects and classes as text that says what they are: equal content, equal text, in every process.

A function counts by its name, its code, its constants, its defaults, what it closes over and the
globals it reads. Code of installed packages counts by its name alone.
"""

from __future__ import annotations

import dis
import secrets
import sys
from collections.abc import Iterator, Mapping
from enum import Enum
from functools import partial
from pathlib import PurePath
from types import (
    BuiltinFunctionType,
    BuiltinMethodType,
    CellType,
    CodeType,
    FunctionType,
    MethodType,
    ModuleType,
)
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from curvlang.models.fingerprint import digest

_PLAIN = (bool, int, float, complex, str, bytes, type(None), type(Ellipsis), range, slice)
_TORCHS = (torch.dtype, torch.device, torch.Size, torch.layout, torch.memory_format)
_BUILTIN = (BuiltinFunctionType, BuiltinMethodType, np.ufunc)
_READS = {"LOAD_GLOBAL", "LOAD_NAME"}


class UnknownContentError(Exception):
    """An object whose content cannot be read: an open file, a lock, a generator."""


def content(value: object) -> str:
    """What a value is, as a digest that another process finds as well.

    Raises:
        UnknownContentError: With the type of the part that cannot be read.
    """
    return digest(*_Reader().parts(value))


ONLY_HERE = f"known in this process alone: {secrets.token_hex(8)}"
"""Stands for content that cannot be read: another process finds another text."""


def content_or_token(value: object) -> str:
    """What a value is; `ONLY_HERE` where that cannot be read."""
    try:
        return content(value)
    except UnknownContentError:
        return ONLY_HERE


def full_name(value: Any) -> str:
    """Module and qualified name; without the module for what a script defines.

    >>> full_name(content), full_name(len)
    ('curvlang.models.content.content', 'builtins.len')
    """
    name = getattr(value, "__qualname__", None) or getattr(value, "__name__", "")
    module = getattr(value, "__module__", None)
    return str(name) if module in (None, "__main__") else f"{module}.{name}"


def is_own(module: str | None) -> bool:
    """Whether a module is the user's: neither installed, nor Python's, nor curvlang's."""
    root = (module or "").partition(".")[0]
    if root == "__main__":
        return True
    if root in ("", "curvlang") or root in sys.stdlib_module_names:
        return False
    place = getattr(sys.modules.get(str(module)), "__file__", None) or ""
    return not {"site-packages", "dist-packages"} & set(PurePath(place).parts)


def own_code(model: nn.Module) -> Iterator[str]:
    """The code of a model's own modules: their classes, and functions that they hold."""
    for name, module in model.named_modules():
        kind = type(module)
        if not is_own(kind.__module__) or "stable_name" in vars(kind):
            continue
        functions = {k: v for k, v in vars(module).items() if callable(v)}
        yield f"{name} {content_or_token([kind, functions])}"


class _Reader:
    """One walk over a value; what is met again counts by its number."""

    def __init__(self) -> None:
        self._seen: dict[int, int] = {}
        self._alive: list[object] = []

    def parts(self, value: object) -> Iterator[Tensor | str]:
        """Texts and tensors, in an order that the content decides."""
        kind = type(value)
        if isinstance(value, Enum):
            yield f"{full_name(kind)}.{value.name}"
        elif kind in _PLAIN or isinstance(value, (*_TORCHS, PurePath)):
            yield f"{full_name(kind)} {value!r}"
        elif isinstance(value, ModuleType):
            yield f"module {value.__name__}"
        elif id(value) in self._seen:
            yield f"again {self._seen[id(value)]}"
        else:
            self._seen[id(value)] = len(self._seen)
            # Ids are of what is alive: what `__reduce_ex__` makes has to stay so.
            self._alive.append(value)
            yield from self._composed(value)

    def _composed(self, value: Any) -> Iterator[Tensor | str]:
        kind = full_name(type(value))
        match value:
            case Tensor():
                yield from (kind, value)
            case np.ndarray() | np.generic() if value.dtype != object:
                yield f"{kind} {value.dtype} {value.shape} {value.tobytes().hex()}"
            case tuple() | list():
                yield from self._each(kind, value)
            case set() | frozenset():
                yield from (kind, *sorted(digest(*_Reader().parts(x)) for x in value))
            case Mapping():
                yield from self._each(kind, [x for pair in value.items() for x in pair])
            case partial():
                yield from self._each(kind, [value.func, value.args, value.keywords])
            case MethodType():
                yield from self._each(kind, [value.__func__, value.__self__])
            case FunctionType():
                yield from self._function(value)
            case CodeType():
                yield value.co_code.hex()
                yield from self._each(kind, [value.co_names, value.co_consts])
            case CellType():
                yield from self.parts(value.cell_contents) if _filled(value) else ("empty",)
            case _ if isinstance(value, type):
                yield from self._class(value)
            case _ if isinstance(value, _BUILTIN):
                owner = getattr(value, "__self__", None)
                yield from self._each(full_name(value), [owner])
            case _:
                yield from self._object(value)

    def _each(self, kind: str, values: Any) -> Iterator[Tensor | str]:
        yield f"{kind} {len(values)}"
        for value in values:
            yield from self.parts(value)

    def _function(self, value: FunctionType) -> Iterator[Tensor | str]:
        yield full_name(value)
        if not is_own(value.__module__):
            return
        read = sorted(_globals_read(value.__code__) & set(value.__globals__))
        held = [value.__code__, value.__defaults__, value.__kwdefaults__, value.__closure__]
        yield from self._each("function", [*held, {x: value.__globals__[x] for x in read}])

    def _class(self, value: type) -> Iterator[Tensor | str]:
        yield full_name(value)
        if is_own(value.__module__):
            code = (FunctionType, staticmethod, classmethod, property)
            methods = {k: v for k, v in sorted(vars(value).items()) if isinstance(v, code)}
            yield from self._each("class", [value.__bases__, methods])

    def _object(self, value: Any) -> Iterator[Tensor | str]:
        """By what copying and pickling would take of it."""
        if isinstance(value, property):
            yield from self._each("property", [value.fget, value.fset])
            return
        if isinstance(value, staticmethod | classmethod):
            yield from self.parts(value.__func__)
            return
        try:
            reduced = value.__reduce_ex__(4)
        except Exception as error:
            raise UnknownContentError(full_name(type(value))) from error
        yield full_name(type(value))
        if isinstance(reduced, str):
            # A name at the top of its module, as for what `functools.lru_cache` wraps.
            yield full_name(value)
            yield from self.parts(getattr(value, "__wrapped__", None))
            return
        make, given, *state = reduced
        held = [x if isinstance(x, dict | tuple | None) else list(x) for x in state[:1]]
        rest = [None if x is None else list(x) for x in state[1:3]]
        yield from self._each("object", [make, given, *held, *rest])


def _filled(cell: CellType) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


def _globals_read(code: CodeType) -> set[str]:
    """Names that a function, or a function inside it, reads from its module."""
    own = {str(x.argval) for x in dis.get_instructions(code) if x.opname in _READS}
    inner = (x for x in code.co_consts if isinstance(x, CodeType))
    return own.union(*(_globals_read(x) for x in inner))
