"""A copy of any model that shares no tensor with it, and the module behind wrappers of torch.

`copy.deepcopy` fails on locks, open files and tensors with a history, and leaves functions as they
are: a hook that closes over the model would go on reading the original. Here every module and tensor
that can be reached is copied once, so that ties stay ties, and every list, object, bound method or
closure on the way to one is made again around the copies. All else is shared.
"""

from __future__ import annotations

import copy
import functools
import itertools
import types
import weakref
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from curvlang.models.data.rows import Pair, Rows

M = TypeVar("M", bound=nn.Module)

_TABLES = (list, dict, set, OrderedDict, defaultdict, deque)
"""Containers whose copies are filled after they are made, so that they may hold themselves."""
_COMPILED = "_compiled_call_impl"
"""Where `module.compile()` keeps what it made: a copy is a module as it was written."""
_ATOMS = frozenset((type(None), bool, str, bytes, int, float, complex))
_SHARED = (type, types.ModuleType, types.BuiltinFunctionType, str, bytes, int, float, complex)
"""What is never looked into."""


HOOKS = ("_forward_hooks", "_forward_pre_hooks")


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside `torch.compile`, `DataParallel` and the like: its names are the user's own.

    A wrapper that has hooks of its own computes something else, and stays.
    """
    inner = _inside(model)
    if inner is None or any(vars(model).get(table) for table in HOOKS):
        return model
    return unwrapped(inner)


def _inside(model: nn.Module) -> nn.Module | None:
    """The module that a wrapper of torch calls; None for any other module."""
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        inner: nn.Module = model.module
        return inner
    compiled = type(model).__module__ == "torch._dynamo.eval_frame"
    return model._modules.get("_orig_mod") if compiled else None


def differentiable(model: nn.Module) -> nn.Module:
    """The model itself, or a copy where its parameters were made in inference mode."""
    held = [*model.parameters(), *model.buffers()]
    return copied(model) if any(t.is_inference() for t in held) else model


def recordable(pair: Pair) -> Pair:
    """Inputs and targets that autograd may keep: not made in inference mode, without a graph."""
    return _recordable(pair[0]), _recordable(pair[1])


def _recordable(rows: Rows) -> Rows:
    if not isinstance(rows, Tensor):
        return rows
    return rows.clone() if rows.is_inference() else rows.detach() if rows.requires_grad else rows


def copied(
    model: M, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> M:
    """The model with tensors of its own; floating-point ones in `dtype`, all on `device`.

    Parameters keep their names, ties and `requires_grad`; gradients and histories are left behind.

    Args:
        model: Any module; it is not changed.
        dtype: None for that of each tensor.
        device: None for that of each tensor.
    """
    work = _Copy(_on_the_way(model), dtype, device)
    made: M = work.of(model)
    # Modules may do more than move their tensors when they are moved.
    return made if dtype is None and device is None else made.to(device=device, dtype=dtype)


def rebuilt(
    model: nn.Module,
    given: Sequence[tuple[object, object]],
    empty: Callable[[nn.Module], tuple[nn.Module, dict[str, Any]]],
) -> nn.Module:
    """A copy with other objects in place of some, of modules that are made otherwise.

    Args:
        model: Any module; it is not changed.
        given: Objects of the model, and what stands for each.
        empty: Makes what stands for a module, without attributes; and says which attributes it takes over.
    """
    work = _Copy(_on_the_way(model), None, None)
    work.made.update({id(old): new for old, new in given})
    made = [(module, *empty(module)) for module in model.modules()]
    work.made.update({id(module): own for module, own, _ in made})
    for _, own, attributes in made:
        work.fill(own, attributes)
    return next(own for module, own, _ in made if module is model)


class _Copy:
    """One copy in progress: what stands for which object, by identity."""

    def __init__(
        self, affected: set[int], dtype: torch.dtype | None, device: torch.device | str | None
    ) -> None:
        self.affected = affected
        self.dtype = dtype
        self.device = device
        self.made: dict[int, Any] = {}
        self.storages: dict[tuple[int, torch.dtype], Tensor] = {}
        self.kept: list[object] = []

    def of(self, value: Any) -> Any:
        """What stands for a value in the copy; the value itself where it reaches no tensor."""
        if id(value) in self.made:
            return self.made[id(value)]
        if id(value) not in self.affected:
            return value.copy() if type(value) in _TABLES else value
        # An identity is one only as long as the object lives.
        self.kept.append(value)
        if type(value) in weakref.ProxyTypes:
            return self._note(value, weakref.proxy(self.of(_referent(value))))
        match value:
            case Tensor():
                return self._note(value, self._tensor(value))
            case torch.jit.ScriptModule():
                return self._note(value, copy.deepcopy(value))
            case nn.Module():
                return self._object(value)
            case types.FunctionType():
                return self._function(value)
            case types.MethodType():
                return self._note(value, types.MethodType(value.__func__, self.of(value.__self__)))
            case functools.partial():
                keywords = {k: self.of(v) for k, v in value.keywords.items()}
                again = functools.partial(
                    self.of(value.func), *map(self.of, value.args), **keywords
                )
                return self._note(value, again)
            case weakref.ReferenceType():
                target = value()
                return value if target is None else self._note(value, weakref.ref(self.of(target)))
            case list() | dict() | set() | deque():
                return self._table(value)
            case tuple():
                parts = [self.of(v) for v in value]
                kind: Any = type(value)
                named = hasattr(kind, "_fields")
                return self._note(value, kind(*parts) if named else kind(parts))
            case frozenset():
                return self._note(value, frozenset(map(self.of, value)))
            case _:
                return self._object(value)

    def _note(self, value: object, made: Any) -> Any:
        self.made[id(value)] = made
        return made

    def _tensor(self, value: Tensor) -> Tensor:
        if isinstance(value, UninitializedParameter | UninitializedBuffer):
            return copy.deepcopy(value)
        with torch.no_grad():
            own = self._values(value.detach())
        if not isinstance(value, nn.Parameter):
            return own.requires_grad_(value.requires_grad and value.is_leaf)
        made: nn.Parameter = Tensor._make_subclass(type(value), own, value.requires_grad)
        vars(made).update(vars(value))
        for hook in (value._backward_hooks or {}).values():
            made.register_hook(self.of(hook))
        return made

    def _values(self, value: Tensor) -> Tensor:
        """The numbers of a tensor; two tensors on the same numbers stay on the same numbers."""
        dtype = self.dtype if value.is_floating_point() else None
        strided = value.layout is torch.strided and not value.is_quantized
        if not strided or value.untyped_storage().nbytes() != value.nbytes or not value.numel():
            return value.clone().to(device=self.device, dtype=dtype)
        key = (value.data_ptr(), value.dtype)
        if key not in self.storages:
            whole = value.as_strided((value.numel(),), (1,))
            self.storages[key] = whole.clone().to(device=self.device, dtype=dtype)
        return self.storages[key].as_strided(value.shape, value.stride())

    def _object(self, value: Any) -> Any:
        """A module, or any object with attributes: made without its constructor, then filled."""
        made = self._note(value, object.__new__(type(value)))
        self._fill(made, value)
        return made

    def _fill(self, made: Any, value: Any) -> None:
        """Attributes of a value, copied into what stands for it."""
        self.fill(made, _attributes(value))
        for name in _slots(type(value)):
            if hasattr(value, name):
                object.__setattr__(made, name, self.of(getattr(value, name)))

    def fill(self, made: Any, attributes: Mapping[str, Any]) -> None:
        """Copies of attributes, by name."""
        for name, part in attributes.items():
            vars(made)[name] = None if name == _COMPILED else self.of(part)

    def _table(self, value: Any) -> Any:
        made = self._note(value, copy.copy(value))
        made.clear()
        match value:
            case dict():
                made.update((self.of(k), self.of(v)) for k, v in value.items())
            case set():
                made.update(map(self.of, value))
            case _:
                made.extend(map(self.of, value))
        self._fill(made, value)
        return made

    def _function(self, value: types.FunctionType) -> Any:
        """The same code around copies of what it closes over; a compiled function as it was written."""
        written = getattr(value, "_torchdynamo_orig_callable", None)
        if written is not None:
            return self._note(value, self.of(written))
        cells = tuple(types.CellType() for _ in value.__closure__ or ())
        named = _named_globals(value, self.affected)
        # Another function's names stay those of its file, but for what the copy stands for.
        scope = {**value.__globals__} if named else value.__globals__
        made = types.FunctionType(value.__code__, scope, value.__name__, None, cells or None)
        self._note(value, made)
        scope.update({name: self.of(part) for name, part in named.items()})
        made.__defaults__ = self.of(value.__defaults__)
        made.__kwdefaults__ = self.of(value.__kwdefaults__)
        made.__qualname__, made.__module__ = value.__qualname__, value.__module__
        made.__dict__.update({k: self.of(v) for k, v in vars(value).items()})
        for cell, old in zip(cells, value.__closure__ or (), strict=True):
            for content in _content(old):
                cell.cell_contents = self.of(content)
        return made


def _on_the_way(model: nn.Module) -> set[int]:
    """Identities of the modules and tensors that a model reaches, and of all that leads to one."""
    own = {id(part) for part in (*model.modules(), *model.parameters(), *model.buffers())}
    leads: dict[int, list[int]] = {}
    targets: list[int] = []
    seen: dict[int, object] = {id(model): model}
    waiting: list[object] = [model]
    while waiting:
        value = waiting.pop()
        if isinstance(value, nn.Module | Tensor):
            targets.append(id(value))
        parts = _parts(value)
        if isinstance(value, types.FunctionType):
            parts = itertools.chain(parts, _named_globals(value, own).values())
        for part in parts:
            if type(part) in _ATOMS or (type(part) in _TABLES and not part):
                continue
            leads.setdefault(id(part), []).append(id(value))
            if id(part) not in seen:
                seen[id(part)] = part
                waiting.append(part)
    found: set[int] = set()
    while targets:
        at = targets.pop()
        if at not in found:
            found.add(at)
            targets += leads.get(at, [])
    return found


def _parts(value: Any) -> Iterator[Any]:
    """What a value holds, one step down."""
    if type(value) in weakref.ProxyTypes:
        yield _referent(value)
        return
    match value:
        case None | torch.jit.ScriptModule():
            return
        case Tensor():
            yield from (value._backward_hooks or {}).values() if value.is_leaf else ()
        case _ if isinstance(value, _SHARED):
            return
        case types.FunctionType():
            yield from (value.__defaults__, value.__kwdefaults__, *vars(value).values())
            for cell in value.__closure__ or ():
                yield from _content(cell)
        case types.MethodType():
            yield value.__self__
        case functools.partial():
            yield from (value.func, *value.args, *value.keywords.values())
        case weakref.ReferenceType():
            yield value()
        case tuple() | frozenset():
            yield from value
        case dict():
            yield from (*value.keys(), *value.values(), *_attributes(value).values())
        case list() | set() | deque():
            yield from (*value, *_attributes(value).values())
        case _ if isinstance(value, nn.Module) or _bare(type(value)):
            yield from _attributes(value).values()
            yield from (getattr(value, n) for n in _slots(type(value)) if hasattr(value, n))
        case _:
            return


def _bare(kind: Any) -> bool:
    """Whether objects of a type are made empty, so that their attributes are all there is to them."""
    found: bool = kind.__new__ is object.__new__
    return found


def _attributes(value: Any) -> dict[str, Any]:
    """What an object holds by name; nothing where its type has slots alone."""
    found: dict[str, Any] = getattr(value, "__dict__", {})
    return found


def _referent(proxy: Any) -> Any:
    """What a weak proxy stands for."""
    return proxy.__repr__.__self__


def _named_globals(function: types.FunctionType, among: set[int]) -> dict[str, Any]:
    """Global modules, tensors and methods that a function reads, as hooks of a notebook read their model."""
    scope = function.__globals__
    found = {name: scope[name] for name in _names(function.__code__) if name in scope}
    kinds = nn.Module | Tensor | types.MethodType
    return {
        name: part
        for name, part in found.items()
        if isinstance(part, kinds) and id(getattr(part, "__self__", part)) in among
    }


def _names(code: types.CodeType) -> set[str]:
    inner = [part for part in code.co_consts if isinstance(part, types.CodeType)]
    return set(code.co_names).union(*map(_names, inner))


def _slots(kind: type) -> Iterator[str]:
    for base in kind.__mro__:
        names = vars(base).get("__slots__", ())
        for name in (names,) if isinstance(names, str) else names:
            if name not in ("__dict__", "__weakref__"):
                yield name


def _content(cell: types.CellType) -> Iterator[Any]:
    """What a cell holds; nothing where the variable has not been set."""
    try:
        yield cell.cell_contents
    except ValueError:
        return
