"""The package's own tensors are made on the processor, whatever device the caller has made the default."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import Any

from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors

PACKAGE = "curvlang."


class OwnDevice(TorchFunctionMode):
    """Tensors that this package makes without naming a device are on the processor.

    Those that a model makes in its `forward` stay where the caller's default puts them.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """The function, with a device where it is called from here and makes a tensor."""
        given = dict(kwargs or {})
        if given.get("device") is None and func in _device_constructors() and _called_from_here():
            given["device"] = "cpu"
        return func(*args, **given)


def _called_from_here() -> bool:
    """Whether the first caller outside torch, and outside other modes, is a module of this package."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        name = str(frame.f_globals.get("__name__", ""))
        if name.split(".")[0] != "torch" and frame.f_code.co_name != "__torch_function__":
            return name.startswith(PACKAGE)
        frame = frame.f_back
    return False
