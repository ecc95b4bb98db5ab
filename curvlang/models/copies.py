"""Copies of a model that share nothing with it, and the module behind wrappers that compute the same.

`copy.deepcopy` fails on models that hold a lock, a generator or a tensor with a graph (weight norm and
pruning leave one after every pass), and its copies keep functions that call the original's modules: a
replaced `forward`, a hook that adds another module's output.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from types import CellType, FunctionType, MethodType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)

Memo = dict[int, Any]
"""Copies by the identity of what was copied, as `copy.deepcopy` keeps them."""

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


def recordable(pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Inputs and targets that autograd may keep: not made in inference mode, without a graph."""
    X, y = (t.clone() if t.is_inference() else t.detach() if t.requires_grad else t for t in pair)
    return X, y


def copied(model: M) -> M:
    """A copy of a model that computes the same and shares no module and no parameter with it.

    What cannot be copied (locks, files, generators) is shared, tensors with a graph lose it, and
    compiled functions are copied as they were written.
    """
    memo: Memo = {}
    for module in model.modules():
        for value in _values(module):
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    try:
        found, known = deepcopy(model, trial := dict(memo)), trial
    except Exception:
        # Innermost modules first, so that only what itself cannot be copied is shared.
        for module in reversed(list(model.modules())):
            _share(module, memo)
        found, known = deepcopy(model, memo), memo
    for module in list(model.modules()):
        if id(module) in known and not isinstance(module, torch.jit.ScriptModule):
            _rebind(vars(known[id(module)]), known)
    return found


def _values(module: nn.Module) -> Iterator[Any]:
    """A module's attributes, and what stands in their lists and tables."""
    for value in vars(module).values():
        yield value
        if isinstance(value, list | tuple):
            yield from value
        elif isinstance(value, dict):
            yield from value.values()


def _share(module: nn.Module, memo: Memo) -> None:
    """Enter attributes that cannot be copied as their own copies."""
    for name, value in vars(module).items():
        if name == "_modules" or isinstance(value, nn.Module):
            continue
        try:
            deepcopy(value, dict(memo))
        except Exception:
            memo[id(value)] = value


def _rebind(attributes: dict[str, Any], memo: Memo) -> None:
    """Let the functions of a copy call the copy's modules."""
    for name, value in list(attributes.items()):
        if isinstance(value, dict):
            if name.startswith("_"):
                value.update({key: _bound(entry, memo) for key, entry in value.items()})
        else:
            attributes[name] = _bound(value, memo)


def _bound(value: Any, memo: Memo) -> Any:
    """A function whose variables are the copies of what they were; anything else as it is."""
    if isinstance(value, MethodType):
        return MethodType(value.__func__, memo.get(id(value.__self__), value.__self__))
    if not isinstance(value, FunctionType):
        return value
    written = getattr(value, "_torchdynamo_orig_callable", None)
    if written is not None:
        return _bound(written, memo)
    if id(value) in memo:
        return memo[id(value)]
    cells = value.__closure__ or ()
    held = [*_contents(cells), *(value.__defaults__ or ())]
    if not any(_changes(x, memo) for x in held):
        return value
    fresh = tuple(CellType() for _ in cells)
    made = FunctionType(value.__code__, value.__globals__, value.__name__, None, fresh)
    memo[id(value)] = made
    for cell, own in zip(cells, fresh, strict=True):
        for x in _contents([cell]):
            own.cell_contents = _variable(x, memo)
    made.__defaults__ = tuple(_variable(x, memo) for x in value.__defaults__ or ()) or None
    made.__kwdefaults__ = value.__kwdefaults__
    made.__dict__.update(vars(value))
    return made


def _contents(cells: Sequence[CellType]) -> list[Any]:
    """What cells hold; those that hold nothing are left out."""
    found = []
    for cell in cells:
        try:
            found.append(cell.cell_contents)
        except ValueError:
            continue
    return found


def _changes(x: Any, memo: Memo) -> bool:
    """Whether a variable's value has a copy, or may call what has one."""
    if type(x) in (list, tuple):
        return any(_changes(entry, memo) for entry in x)
    return id(x) in memo or isinstance(x, FunctionType | MethodType)


def _variable(x: Any, memo: Memo) -> Any:
    """The value that a variable has in the copy."""
    if id(x) in memo:
        return memo[id(x)]
    if type(x) in (list, tuple):
        return type(x)(_variable(entry, memo) for entry in x)
    return _bound(x, memo)
