"""The one state of torch in which numbers are computed, whatever state the caller is in.

Inside `torch.no_grad()` there are no gradients, inside `torch.autocast` products are in half precision
without a word, and compiled code hides its derivatives from `torch.func`: the entry points are wrapped
in `settled`, which puts all of these aside for as long as they run.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch.nn.utils import parametrize
from torch.utils import checkpoint

Given = ParamSpec("Given")
Made = TypeVar("Made")

DEVICES = ("cpu", "cuda", "mps", "xpu")
"""Kinds of device that have autocast."""


def settled(function: Callable[Given, Made]) -> Callable[Given, Made]:
    """The function, run in the settled state."""

    @wraps(function)
    def run(*args: Given.args, **kwargs: Given.kwargs) -> Made:
        with settled_state():
            return function(*args, **kwargs)

    return run


@contextmanager
def settled_state() -> Iterator[None]:
    """Gradients recorded, no autocast, compiled code run as written, nothing cached by others."""
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in DEVICES:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if "torch._dynamo" in sys.modules:
            # Without it nothing can have been compiled, and its import takes seconds.
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(_replaced(parametrize, "_cache_enabled", 0))
        stack.enter_context(_replaced(checkpoint, "CheckpointFunction", _Checkpoint))
        yield


class _Checkpoint:
    """Reentrant checkpointing as the other kind: it alone gives gradients of chosen tensors."""

    @staticmethod
    def apply(function: Callable[..., Any], preserve: bool, *args: Any) -> Any:
        """As `torch.utils.checkpoint.CheckpointFunction.apply`."""
        return checkpoint.checkpoint(
            function, *args, use_reentrant=False, preserve_rng_state=preserve
        )


@contextmanager
def _replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    """Another value of a module's name, until the block ends."""
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)
