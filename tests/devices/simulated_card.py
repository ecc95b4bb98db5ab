"""A card that this machine does not have: its tensors have values, mixing devices raises, and waits are counted.

`FakeTensorMode` says which device a result has, but its tensors have no values, so that no run gets past its
first branch on a number; and the CPU build of torch has no device guard for CUDA, so that it refuses `.to("cuda")`,
writing in place and backward passes there. Here a tensor of the card carries its values on the host. Python is
told that its device is `cuda:0`; C++ is told `meta`, which needs no driver. Every operation is checked as the card
would check it, then computed on the values. What makes the host wait for the card is counted by its call site.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from inspect import CO_GENERATOR
from pathlib import Path
from types import FrameType
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

CARD = torch.device("cuda", 0)
HIDDEN = torch.device("meta")
PACKAGE = Path(__file__).resolve().parents[2] / "curvlang"

READS = {
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "aten::masked_select",
    "aten::equal",
    "aten::_unique2",
    "aten::unique_dim",
    "aten::unique_consecutive",
    "aten::bincount",
    "aten::repeat_interleave.Tensor",
    "aten::_linalg_check_errors",
    "aten::_linalg_eigh",
    "aten::_linalg_eigvals",
    "aten::_linalg_svd",
    "aten::_linalg_solve_ex",
    "aten::linalg_eig",
    "aten::linalg_lstsq",
    "aten::linalg_inv_ex",
    "aten::linalg_ldl_factor_ex",
}
"""Operations whose result, or whose check of errors, the host waits for. An `_ex` waits where it checks."""
CHECKED = {"aten::_linalg_solve_ex", "aten::linalg_inv_ex", "aten::linalg_ldl_factor_ex"}
MASKED = {"aten::index.Tensor", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
COPIES = {"aten::_to_copy", "aten::copy_", "aten::copy"}
SCALARS = {"aten::fill_.Tensor", "aten::masked_fill.Tensor", "aten::masked_fill_.Tensor"}
FROM_NUMBERS = ("tensor", "as_tensor", "asarray", "scalar_tensor")
"""Functions of which C++ keeps the shape of the numbers alone where the device is `meta`."""
_PLAIN = Tensor._make_subclass
_NEW, _GET, _SET = Tensor.new_tensor, Tensor.__getitem__, Tensor.__setitem__


class MixedDevicesError(RuntimeError):
    """An operation had operands on the card and on the host."""


class CardTensor(Tensor):
    """A tensor of the simulated card: `values` are on the host."""

    # Not among its attributes, which code may copy from one parameter to another.
    __slots__ = ("values",)
    values: Tensor

    @staticmethod
    def __new__(cls, values: Tensor) -> CardTensor:
        shown = torch.empty_strided(
            values.shape, values.stride(), dtype=values.dtype, device=HIDDEN
        )
        self = _PLAIN(cls, shown)
        self.values = values
        return self

    def __repr__(self, *_, **__) -> str:
        return f"CardTensor({self.values})"

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise RuntimeError(f"{func} on a tensor of a card that is not there any more")


@dataclass(eq=False)
class Waits:
    """How often the host waited for the card, by the line of the package that made it wait."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    loops: list[FrameType] = field(default_factory=list)
    in_loops: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, what: str) -> None:
        """Count one, at the innermost line of the package."""
        place = _site(), what
        self.counts[place] += 1
        if self.loops and any(frame in self.loops for frame in _stack()):
            self.in_loops[place] += 1

    @contextmanager
    def inside(self) -> Iterator[None]:
        """What waits until the end is inside a loop, if the function that has the loop still runs."""
        frame = next(f for f in _stack() if f.f_code.co_flags & CO_GENERATOR == 0 and _tested(f))
        self.loops.append(frame)
        try:
            yield
        finally:
            self.loops.remove(frame)

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self.counts.values())


def _stack() -> Iterator[FrameType]:
    frame = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


def _tested(frame: FrameType) -> bool:
    return Path(frame.f_code.co_filename).is_relative_to(PACKAGE)


def _leaves(values) -> Iterator:
    """What is in tuples, lists and dictionaries."""
    for value in values:
        if isinstance(value, list | tuple):
            yield from _leaves(value)
        else:
            yield value


def _mapped(change: Callable, value):
    """The same with every leaf changed."""
    if isinstance(value, list | tuple):
        return type(value)([_mapped(change, x) for x in value])
    if isinstance(value, dict):
        return {name: _mapped(change, x) for name, x in value.items()}
    return change(value)


def _values(value):
    return value.values if isinstance(value, CardTensor) else value


def _on_card(value, known: dict[int, CardTensor]):
    if not isinstance(value, Tensor):
        return value
    same = known.get(id(value))
    return CardTensor(value) if same is None else same


def _site() -> str:
    frame = sys._getframe(2)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(PACKAGE) or path.name.startswith("<curvlang"):
            where = path.relative_to(PACKAGE) if path.is_relative_to(PACKAGE) else path.name
            if frame.f_code.co_name not in ("all_finite", "<lambda>", "<genexpr>"):
                return f"{where}:{frame.f_code.co_name}"
        frame = frame.f_back
    return "outside the package"


class _Dispatch(TorchDispatchMode):
    """Runs every operation on the values of its operands, and says where its result is."""

    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self.waits = waits

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = func.name()
        leaves = [*_leaves(args), *_leaves(tuple(kwargs.values()))]
        on_card = [x for x in leaves if isinstance(x, CardTensor)]
        asked = kwargs.get("device")
        target = torch.device(asked) if asked is not None else None
        to_card = target == HIDDEN if target is not None else bool(on_card)
        self._check(func, name, leaves, bool(on_card))
        if on_card or to_card:
            self._count(name, args, kwargs, bool(on_card), to_card)
        if target is not None and (to_card or on_card):
            kwargs["device"] = torch.device("cpu")
        a, k = _mapped(_values, args), _mapped(_values, kwargs)
        # A tensor that is known to be zero has no memory of its own, so that only C++ can compute with it.
        found = torch.zeros(*a, **k) if name == "aten::_efficientzerotensor" else func(*a, **k)
        if torch.Tag.inplace_view in func.tags and isinstance(args[0], CardTensor):
            with torch._C._DisableTorchDispatch():
                func(*args, **kwargs)
        if name == "aten::_to_copy" and any(found is x for x in a):
            found = found.clone()
        if not to_card or (name == "aten::copy_" and not isinstance(args[0], CardTensor)):
            return found
        known = {id(x.values): x for x in on_card}
        return _mapped(lambda x: _on_card(x, known), found)

    def _check(self, func, name: str, leaves, on_card: bool) -> None:
        """Operands are on one device, as the card wants it."""
        host = [x for x in leaves if isinstance(x, Tensor) and not isinstance(x, CardTensor)]
        if (
            not (host and on_card)
            or name in COPIES
            or (name in MASKED and isinstance(leaves[0], CardTensor))
        ):
            return
        scalars = torch.Tag.pointwise in func.tags or name in SCALARS
        if all(x.ndim == 0 for x in host) and scalars:
            return
        shapes = [tuple(x.shape) for x in host]
        raise MixedDevicesError(
            f"Expected all tensors to be on the same device, but {name} found at least two devices, "
            f"cuda:0 and cpu (of shapes {shapes})"
        )

    def _count(self, name: str, args, kwargs, on_card: bool, to_card: bool) -> None:
        if name in COPIES:
            self._count_copy(name, args, kwargs, to_card)
        elif name in MASKED:
            indices = [x for x in args[1] if x is not None]
            if any(x.dtype in (torch.bool, torch.uint8) for x in indices):
                self.waits.add(f"{name} by a mask")
            elif any(not isinstance(x, CardTensor) for x in indices):
                self.waits.add(f"{name} by places on the host")
        elif name in READS and on_card:
            if name in CHECKED and not kwargs.get("check_errors", False):
                return
            self.waits.add(name)

    def _count_copy(self, name: str, args, kwargs, to_card: bool) -> None:
        if name == "aten::_to_copy":
            source, from_card = args[0], isinstance(args[0], CardTensor)
            free = kwargs.get("non_blocking", False)
        else:
            to_card, source = isinstance(args[0], CardTensor), args[1]
            from_card = isinstance(source, CardTensor)
            free = args[2] if len(args) > 2 else kwargs.get("non_blocking", False)
        if from_card and not to_card:
            self.waits.add("a copy to the host")
        elif (
            to_card and not from_card and not (free and getattr(source, "_curvlang_pinned", False))
        ):
            self.waits.add("a copy to the card that waits")


class _Stream:
    """A stream of the card, on which everything is done at once."""

    def __init__(self, device=None) -> None:
        self.device = device

    def wait_stream(self, other: _Stream) -> None:
        """All that was queued is done."""


class _Names(TorchFunctionMode):
    """What Python calls `cuda` C++ is told as `meta`, and the other way round."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func == Tensor.is_cuda.__get__:
            return args[0].device == HIDDEN
        if func == Tensor.is_meta.__get__:
            return False
        if func is Tensor.pin_memory:
            found = args[0].clone()
            found._curvlang_pinned = True
            return found
        if func is Tensor.is_pinned:
            return getattr(args[0], "_curvlang_pinned", False)
        if func in (Tensor.data_ptr, Tensor.untyped_storage) and isinstance(args[0], CardTensor):
            return func(args[0].values)
        if func == Tensor.data.__set__ and isinstance(args[1], CardTensor):
            args[0].values = args[1].values
            return func(*args)
        if func is Tensor.tolist:
            return args[0].cpu().tolist() if args[0].device == HIDDEN else func(*args)
        if func is Tensor.cuda:
            return args[0].to(CARD)
        args, kwargs = _renamed(args), _renamed(kwargs)
        found = func(*args, **kwargs)
        return CARD if isinstance(found, torch.device) and found == HIDDEN else found


def _made_of(cls, data: Tensor, requires_grad: bool = False, **kwargs) -> Tensor:
    """`Tensor._make_subclass`: what a parameter is made of keeps its values."""
    if not isinstance(data, CardTensor):
        return _PLAIN(cls, data, requires_grad, **kwargs)
    if cls not in (torch.nn.Parameter, CardTensor):
        raise NotImplementedError(f"{cls} of a tensor on the card")
    made = data.detach().requires_grad_(requires_grad)
    made._is_param = True
    return made


def _from_numbers(function: Callable) -> Callable:
    """The function, whose numbers are copied to the card where that is asked for."""

    def made(data, *given, device=None, **named):
        if device is None or torch.device(device).type not in ("cuda", "meta"):
            return function(data, *given, device=device, **named)
        return function(data, *given, **named).to(HIDDEN)

    return made


def _new_tensor(self: Tensor, data, **named) -> Tensor:
    if self.device.type not in ("cuda", "meta"):
        return _NEW(self, data, **named)
    return torch.tensor(data, **{"dtype": self.dtype, "device": HIDDEN, **named})


def _get(self: Tensor, index) -> Tensor:
    return _GET(self, index if self.device.type == "cpu" else _places(index))


def _set(self: Tensor, index, value) -> None:
    _SET(self, index if self.device.type == "cpu" else _places(index), value)


def _places(index):
    """An index whose lists are tensors on the card: C++ would keep their lengths alone."""
    if isinstance(index, tuple):
        return tuple(map(_places, index))
    if isinstance(index, list | np.ndarray):
        return torch.as_tensor(index).to(HIDDEN)
    return index


def _renamed(value):
    if isinstance(value, torch.device):
        return HIDDEN if value.type == "cuda" else value
    if isinstance(value, str):
        return HIDDEN if value == "cuda" or value.startswith("cuda:") else value
    if type(value) is tuple:
        return tuple(map(_renamed, value))
    if type(value) is dict:
        return {name: _renamed(x) for name, x in value.items()}
    return value


@contextmanager
def simulated_card(memory: int = 2**33) -> Iterator[Waits]:
    """Within it this machine has a card of so many bytes; what makes the host wait is counted."""
    waits = Waits()
    with ExitStack() as stack:
        for name, value in {
            "is_available": lambda: True,
            "is_initialized": lambda: True,
            "device_count": lambda: 1,
            "current_device": lambda: 0,
            "mem_get_info": lambda *_: (memory, memory),
            "memory_reserved": lambda *_: 0,
            "memory_allocated": lambda *_: 0,
            "max_memory_allocated": lambda *_: 0,
            "reset_peak_memory_stats": lambda *_: None,
            "synchronize": lambda *_: waits.add("torch.cuda.synchronize"),
            "get_rng_state": lambda *_: torch.zeros(16, dtype=torch.uint8),
            "get_rng_state_all": lambda: [],
            "set_rng_state_all": lambda _: None,
            "Stream": _Stream,
            "current_stream": _Stream,
            "stream": lambda _: nullcontext(),
        }.items():
            stack.enter_context(patch.object(torch.cuda, name, value))
        # Not by a mode of functions, which is not asked inside a function of one's own for autograd.
        # Once `__getitem__` has been replaced, Python takes every tensor for a sequence, for good:
        # `torch.tensor` of a list of 0-d tensors then fails, and `torch.stack` of it does not.
        for name, value in {
            "_make_subclass": staticmethod(_made_of),
            "record_stream": lambda *_: None,
            "new_tensor": _new_tensor,
            "__getitem__": _get,
            "__setitem__": _set,
        }.items():
            stack.enter_context(patch.object(Tensor, name, value, create=True))
        for name in FROM_NUMBERS:
            stack.enter_context(patch.object(torch, name, _from_numbers(getattr(torch, name))))
        stack.enter_context(_Names())
        stack.enter_context(_Dispatch(waits))
        yield waits


def on_host(x):
    """The values of tensors of the card, in anything that is made of tuples, lists and dictionaries."""
    return _mapped(_values, x)
