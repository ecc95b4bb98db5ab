"""A model run in a wider precision than its own, without a copy of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from curvlang.models.execution.substitution import functional_call
from curvlang.models.execution.torch_state import OperationMode


def accumulation_dtype(device: torch.device) -> torch.dtype:
    """Float64 wherever the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


def run_widened(model: nn.Module, X: Tensor, dtype: torch.dtype) -> Tensor | None:
    """The model's outputs with every operation in `dtype`; None where it does not run so.

    Parameters are converted one operation at a time, so that no second model is kept in memory.
    Only modules that look at the precision of their parameters themselves (recurrent ones) are
    given all of them converted.
    """
    wide = X.to(dtype) if X.is_floating_point() else X
    for call in (model, lambda x: functional_call(model, _converted(model, dtype), (x,))):
        try:
            with torch.no_grad(), _Widening(dtype):
                found = call(wide)
        except Exception:
            continue
        return found if isinstance(found, Tensor) else None
    return None


def _converted(model: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: x.detach().to(dtype) for name, x in tensors.items() if x.is_floating_point()}


class _Widening(OperationMode):
    """Every narrower floating-point operand, result and requested precision becomes `dtype`."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given, named = tree_map(self._wide, (tuple(args), dict(kwargs or {})))
        return tree_map(self._wide, func(*given, **named))

    def _wide(self, x: Any) -> Any:
        if isinstance(x, Tensor) and self._narrow(x.dtype):
            return x.to(self.dtype)
        return self.dtype if isinstance(x, torch.dtype) and self._narrow(x) else x

    def _narrow(self, dtype: torch.dtype) -> bool:
        return dtype.is_floating_point and dtype.itemsize < self.dtype.itemsize
