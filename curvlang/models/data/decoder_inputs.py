"""Inputs of an encoder-decoder's decoder, which the model makes from the labels inside its own loss."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping

from torch import Tensor, nn

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal
from curvlang.models.data.derived_rows import mapped
from curvlang.models.data.rows import Rows
from curvlang.models.execution.calls import exhausted, whole_text

FIELD = "decoder_input_ids"
MAKER = "prepare_decoder_input_ids_from_labels"
"""How models of `transformers` make the field from labels: moved one place, behind the start token."""

SHIFT = "shift_tokens_right"


def is_encoder_decoder(model: nn.Module, fields: Mapping[str, Rows]) -> bool:
    """Whether outputs stand at the positions of a decoder, with inputs of its own."""
    if any(name.startswith("decoder_input") for name in fields):
        return True
    config = getattr(model, "config", None)
    return bool(getattr(config, "is_encoder_decoder", False)) and _takes(model, FIELD)


def lacks_decoder_inputs(model: nn.Module, fields: Mapping[str, Rows], y: Rows) -> bool:
    """Whether labels of every position are all that says what the decoder reads."""
    given = any(name.startswith("decoder_input") for name in fields)
    return (
        y.ndim == 2
        and not y.is_floating_point()
        and not given
        and is_encoder_decoder(model, fields)
    )


def with_decoder_inputs(
    model: nn.Module, fields: Mapping[str, Rows], y: Rows, part: str
) -> dict[str, Rows]:
    """The fields, with the decoder's inputs as the model makes them from these labels.

    Raises:
        SpecError: E0564 where it does not say how it makes them.
    """
    make = getattr(model, MAKER, None) or _shift_of_its_module(model)
    repair = (
        f"add the field `{FIELD}`: the labels moved one place to the right, behind the decoder's "
        "start token"
    )
    if make is None:
        raise refusal(
            Code.E0564,
            f"`{type(model).__name__}` reads labels to make the inputs of its decoder, and labels are "
            "not given to it",
            repair,
            notes=(f"it has no `{MAKER}`, by which they could be made here",),
        )
    try:
        return {**fields, FIELD: mapped(y, lambda rows: make(labels=rows), y.shape[1:], y.dtype)}
    except Exception as error:
        if exhausted(error):
            raise
        raise refusal(
            Code.E0564,
            f"`{type(model).__name__}` cannot make its decoder's inputs from the labels of `{part}`",
            repair,
            notes=(whole_text(error),),
        ) from error


def _shift_of_its_module(model: nn.Module) -> Callable[..., Tensor] | None:
    """What models of `transformers` without the method call in `forward`: a function of their module."""
    shift = getattr(sys.modules.get(type(model).__module__), SHIFT, None)
    config = getattr(model, "config", None)
    tokens = [getattr(config, name, None) for name in ("pad_token_id", "decoder_start_token_id")]
    if shift is None or None in tokens or len(inspect.signature(shift).parameters) != 3:
        return None
    made: Callable[..., Tensor] = lambda labels: shift(labels, *tokens)  # noqa: E731
    return made


def _takes(model: nn.Module, name: str) -> bool:
    try:
        return name in inspect.signature(model.forward).parameters
    except (TypeError, ValueError):
        return False
