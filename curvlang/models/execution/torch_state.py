"""The one state of torch in which numbers are computed, whatever state the caller is in.

Inside `torch.no_grad()` there are no gradients, inside `torch.autocast` products are in half precision
without a word, and compiled code hides its derivatives from `torch.func`: the entry points are wrapped
in `settled`, which puts all of these aside for as long as they run.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils import checkpoint
from torch.utils._python_dispatch import TorchDispatchMode

from curvlang.diagnostics.plain_arguments import check_keywords
from curvlang.models.execution.own_device import OwnDevice
from curvlang.models.execution.process_state import (
    ALONE,
    kept_torch_stream,
    math_attention,
    without_cudnn,
)
from curvlang.models.execution.twice_differentiable import DefinitionMode
from curvlang.operators.validation import trusting

Given = ParamSpec("Given")
Made = TypeVar("Made")


class OperationMode(TorchDispatchMode):
    """Sees operations as they run. Nothing is compiled inside: torch's compiler, whose import takes seconds, is not loaded."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


DEVICES = ("cpu", "cuda", "mps", "xpu")
"""Kinds of device that have autocast."""


def settled(function: Callable[Given, Made]) -> Callable[Given, Made]:
    """The function, run in the settled state, by one thread at a time."""
    names = inspect.signature(function).parameters.keys()

    @wraps(function)
    def run(*args: Given.args, **kwargs: Given.kwargs) -> Made:
        if kwargs.keys() - names:
            check_keywords(function, kwargs)
        with settled_state():
            return function(*args, **kwargs)

    return run


@contextmanager
def settled_state() -> Iterator[None]:
    """Gradients recorded, no autocast or search for anomalies, compiled code run as written, no cache.

    Torch's random numbers go on afterwards where the caller's were, whatever a user's code seeds inside.

    One thread at a time: hooks, replaced parameters and some modes of torch are for one.
    """
    with ALONE, ExitStack() as stack:
        stack.enter_context(trusting())
        stack.enter_context(kept_torch_stream())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        if torch.is_anomaly_enabled():
            # It reads values, which derivatives of many vectors at once do not have.
            stack.enter_context(torch.autograd.set_detect_anomaly(False))
        for kind in DEVICES:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(OwnDevice())
        if "torch._dynamo" in sys.modules:
            # Without it nothing can have been compiled, and its import takes seconds.
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(_replaced(parametrize, "_cache_enabled", 0))
        stack.enter_context(_replaced(checkpoint, "CheckpointFunction", _Checkpoint))
        yield


@contextmanager
def product_state(model: nn.Module) -> Iterator[None]:
    """The state in which products are formed: kernels that can be differentiated twice.

    Fused attention and recurrent kernels have no second derivatives, nor have sparse gradients and the
    operations of `written_out`.
    """
    recurrent = any(isinstance(m, nn.RNNBase) for m in model.modules())
    with ExitStack() as stack:
        stack.enter_context(settled_state())
        stack.enter_context(math_attention())
        stack.enter_context(_dense_gradients(model))
        stack.enter_context(_constant_padding(model))
        stack.enter_context(DefinitionMode())
        if recurrent:
            stack.enter_context(without_cudnn())
        yield


@contextmanager
def _dense_gradients(model: nn.Module) -> Iterator[None]:
    """Embeddings whose gradients are dense tensors."""
    kinds = (nn.Embedding, nn.EmbeddingBag)
    found = [m for m in model.modules() if isinstance(m, kinds) and m.sparse]
    for module in found:
        module.sparse = False
    try:
        yield
    finally:
        for module in found:
            module.sparse = True


@contextmanager
def _constant_padding(model: nn.Module) -> Iterator[None]:
    """Padding rows of embeddings as constants in forward mode too: reverse mode leaves them out."""
    handles = [
        module.register_forward_hook(_hold_padding)
        for module in model.modules()
        if isinstance(module, nn.Embedding) and module.padding_idx is not None
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hold_padding(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
    assert isinstance(module, nn.Embedding)
    padded = torch.isin(given[0], torch.tensor(module.padding_idx, device=given[0].device))
    return torch.where(padded.unsqueeze(-1), output.detach(), output)


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
