"""What a model keeps out of its gradient by itself, kept at its value while parameters are varied.

`detach`, `no_grad`, `.data` and `.item()` in a `forward` say that a quantity is a constant. The Hessian
takes it as one, and so has the difference quotient that the Hessian is checked against.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import CodeType, FrameType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves


class Constants(TorchFunctionMode):
    """Notes what gradients do not go through in one pass, and gives the same in later ones."""

    def __init__(self) -> None:
        super().__init__()
        self.values: list[Any] = []
        self.at: int | None = None

    def again(self) -> Constants:
        """For the next pass, with what was noted."""
        self.at = 0
        return self

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """The function's result, or the one that was noted where gradients stop."""
        found = func(*args, **(kwargs or {}))
        if not _stops((args, kwargs), found):
            return found
        if self.at is None:
            self.values.append(_kept(found))
            return found
        self.at += 1
        return _kept(self.values[self.at - 1]) if self.at <= len(self.values) else found


def _stops(given: Any, found: Any) -> bool:
    """Whether a result that depends on what has a gradient has none itself."""
    if isinstance(found, Tensor):
        if found.requires_grad or not found.is_floating_point() or _wrapped(found):
            return False
    elif not isinstance(found, float):
        return False
    tensors = [t for t in tree_leaves(given) if isinstance(t, Tensor)]
    through = any(t.requires_grad for t in tensors) and not any(t is found for t in tensors)
    return through and not _in_own_function()


def _wrapped(t: Tensor) -> bool:
    """Whether a tensor belongs to a transformation of `torch.func` that ends with the pass."""
    return bool(torch._C._functorch.is_functorch_wrapped_tensor(t))


def _kept(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _in_own_function() -> bool:
    """Whether an `autograd.Function` is being applied: no gradient is recorded inside, and nothing is constant."""
    # By its `forward`: from torch 2.14 on `apply` has no frame of Python.
    own = {code for kind in _below(torch.autograd.Function) if (code := _code(kind)) is not None}
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code in own:
            return True
        frame = frame.f_back
    return False


def _below(kind: type) -> Iterator[type]:
    """All classes that are derived from one."""
    own: list[type] = kind.__subclasses__()
    for derived in own:
        yield derived
        yield from _below(derived)


def _code(kind: type) -> CodeType | None:
    """The code of a function's `forward`, where it is one of Python."""
    return getattr(getattr(kind, "forward", None), "__code__", None)
