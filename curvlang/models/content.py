"""Functions, objects and classes as text that says what they are: equal content, equal text, in every process.

A function counts by its name, its code, its constants, its defaults, what it closes over and the
globals it reads, also those that it reads from the user's other modules. A class counts by all that
its body defines. Code of installed packages counts by its name alone.
"""

from __future__ import annotations

import dis
import secrets
import sys
from collections.abc import Iterator, Mapping, Sequence, Set
from enum import Enum
from functools import cached_property, partial, partialmethod
from pathlib import PurePath
from types import (
    BuiltinFunctionType,
    BuiltinMethodType,
    CellType,
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
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
_DESCRIPTORS = (GetSetDescriptorType, MemberDescriptorType)
_MADE_BY_PYTHON = frozenset(
    [
        "__module__",
        "__dict__",
        "__weakref__",
        "__doc__",
        "__qualname__",
        "__annotations__",
        "__firstlineno__",
        "__static_attributes__",
        "__abstractmethods__",
        "_abc_impl",
        "__dataclass_fields__",
        "__dataclass_params__",
        "__match_args__",
        "__parameters__",
        "__orig_bases__",
    ]
)
"""Names in a class's body that follow from the rest, or say nothing of what it does."""
_MADE_BY_TORCH = frozenset(vars(nn.Module()))
"""Attributes of every module: its parameters, buffers and modules count elsewhere, its hooks by themselves."""


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
    """The code of a model's own modules, what they hold besides tensors, and the hooks of all modules."""
    for name, module in model.named_modules():
        kind = type(module)
        hooks = [list(v.values()) for k, v in vars(module).items() if k.endswith("_hooks") and v]
        held = {k: v for k, v in vars(module).items() if k not in _MADE_BY_TORCH}
        if not is_own(kind.__module__) or "stable_name" in vars(kind):
            held = {k: v for k, v in held.items() if isinstance(v, FunctionType | MethodType)}
            if not hooks and not held:
                continue
        yield f"{name} {content_or_token([kind, held, hooks])}"


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
        # `functools.wraps` gives a function another one's `__module__`: its globals are its own.
        if not is_own(value.__globals__.get("__name__")):
            return
        held = [value.__code__, value.__defaults__, value.__kwdefaults__, value.__closure__]
        codes = [*_codes(value.__code__)]
        names = {x for code in codes for x in code.co_names}
        read = sorted(_operands(codes, _READS) & set(value.__globals__))
        found = {x: _from_modules(value.__globals__[x], names, set()) for x in read}
        local = sorted(_operands(codes, {"IMPORT_NAME"}) & set(sys.modules))
        found |= {f"import {x}": _from_modules(sys.modules[x], names, set()) for x in local}
        yield from self._each("function", [*held, found])

    def _class(self, value: type) -> Iterator[Tensor | str]:
        yield full_name(value)
        if is_own(value.__module__):
            body = {
                k: v
                for k, v in sorted(vars(value).items())
                if k not in _MADE_BY_PYTHON and not isinstance(v, _DESCRIPTORS)
            }
            yield from self._each("class", [value.__bases__, body])

    def _object(self, value: Any) -> Iterator[Tensor | str]:
        """By what copying and pickling would take of it."""
        if isinstance(value, property):
            yield from self._each("property", [value.fget, value.fset])
            return
        if isinstance(value, staticmethod | classmethod):
            yield from self.parts(value.__func__)
            return
        if isinstance(value, cached_property):
            yield from self.parts(value.func)
            return
        if isinstance(value, partialmethod):
            yield from self._each("method", [value.func, value.args, value.keywords])
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
        # What `__getstate__` leaves out decides results as well.
        whole = (
            [vars(value)] if is_own(type(value).__module__) and hasattr(value, "__dict__") else []
        )
        yield from self._each("object", [make, given, *held, *rest, *whole])


def _filled(cell: CellType) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


def _codes(code: CodeType) -> Iterator[CodeType]:
    """The code of a function, and of the functions inside it."""
    yield code
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _codes(inner)


def _operands(codes: Sequence[CodeType], opcodes: Set[str]) -> set[str]:
    """What instructions of some kinds are about: the globals that are read, the modules that are imported."""
    found = (x for code in codes for x in dis.get_instructions(code))
    return {str(x.argval) for x in found if x.opname in opcodes}


def _from_modules(value: object, names: set[str], seen: set[int]) -> object:
    """A value; of a module of the user's, what a function reads from it."""
    if not isinstance(value, ModuleType) or not is_own(value.__name__) or id(value) in seen:
        return value
    seen.add(id(value))
    read = sorted(names & set(vars(value)))
    return {x: _from_modules(vars(value)[x], names, seen) for x in read}
