"""The user's model called on a few examples; what it raises is shown whole, before any other reason."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import CurvlangError, SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.models.execution.longest_rows import positions_at_most
from curvlang.models.execution.packed import layout_in
from curvlang.models.execution.tables import OutsideTableError, inside_tables

SHAPE_WORDS = ("shape", "size", "dimension", "channel", "multiplied", "stride")
"""Words by which an error of torch says that a tensor's shape does not fit."""


def run_model(model: nn.Module, X: Tensor, part: str, longest: int | None = None) -> Any:
    """What the model returns for these inputs, without a graph.

    Args:
        model: The user's model, or its packed copy.
        X: A few inputs [B, …], on the model's device.
        part: `train` or `query`, for the message.
        longest: The number of the row, where it is longer than others.

    Raises:
        SpecError: E0859 for rows that are longer than the model runs on; E0408 with the type and the
            whole text of whatever else the model raised.
    """
    try:
        with torch.no_grad(), inside_tables(model):
            return model(X)
    except Exception as error:
        if isinstance(error, CurvlangError) or exhausted(error):
            raise
        counts = positions_at_most(model, X)
        if counts is None:
            raise model_error(error, model, X, part) from error
        subject = f"rows of `{part}` have" if longest is None else f"row {longest} of `{part}` has"
        raise _too_long(error, subject, *counts) from error


def _too_long(error: Exception, subject: str, positions: int, most: int) -> SpecError:
    """The refusal of rows that a model runs on when they are cut."""
    return refusal(
        Code.E0859,
        f"{subject} {positions} positions, and the model runs on at most {most} of them",
        f"cut longer rows to {most}, as `truncation=True, max_length={most}` of a tokenizer does, or "
        "give a model for longer ones",
        notes=(whole_text(error),),
    )


def model_error(error: Exception, model: nn.Module, X: Tensor, part: str) -> SpecError:
    """The refusal of a model that fails by itself on inputs `X` of a part."""
    return refusal(
        Code.E0408,
        f"the model's `forward` raises `{_kind(error)}` on the inputs of `{part}`, "
        f"{_described(model, X)} each",
        _repair(model, X, error),
        notes=(whole_text(error),),
    )


def whole_text(error: BaseException) -> str:
    """An exception's type and everything it says."""
    text = str(error).strip()
    kind = _kind(error)
    return f"{kind}: {text}" if text else f"{kind}, without a text"


def _kind(error: BaseException) -> str:
    """The error's type; of ours, that of the error of torch which it stands for."""
    return "IndexError" if isinstance(error, OutsideTableError) else type(error).__name__


def exhausted(error: BaseException) -> bool:
    """Whether memory ran out, which says nothing about the model or the loss."""
    told = "DefaultCPUAllocator" in str(error)
    return told or isinstance(error, torch.OutOfMemoryError | MemoryError)


def _described(model: nn.Module, X: Tensor) -> str:
    """The inputs of one example as the model sees them."""
    layout = layout_in(model)
    kind = str(X.dtype).removeprefix("torch.")
    return f"of shape {list(X.shape[1:])} and type {kind}" if layout is None else str(layout)


_FUSED = ("stride", "mat_a")
"""Words of the fused products of experts, which take few sizes and types."""
NARROWER = (
    "the model's own code does not take float64: compute in float32, `--precision float32` or "
    '`precision="float32"`'
)
_DOUBLE = ("Double", "double", "float64", "without overflow")


def _repair(model: nn.Module, X: Tensor, error: Exception) -> str:
    """What helps: only where the text says that the shape or the type is to blame, that."""
    text = str(error)
    if isinstance(error, OutsideTableError):
        return "give numbers that the table has, or a model with a larger table"
    if hasattr(model, "set_experts_implementation") and any(x in text for x in _FUSED):
        return (
            'call `model.set_experts_implementation("eager")`: the fused product of its experts does '
            "not take these sizes or this precision"
        )
    if any(word in text for word in _DOUBLE):
        return NARROWER
    if layout_in(model) is not None:
        return "make the model run on these fields by itself: the text above is the model's own"
    if not X.is_floating_point() and ("range" in text or "type" in text):
        return (
            "integers reach the model as they are: as numbers of tokens they must be below the "
            "number of embeddings; give other inputs as floating-point numbers, `X.float()`"
        )
    if any(word in text.lower() for word in SHAPE_WORDS):
        return "give inputs of the shape that the model's first layer expects"
    return "make `model(X[:1])` run by itself: the text above is the model's own"
