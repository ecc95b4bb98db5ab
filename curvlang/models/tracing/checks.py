"""What a task's model and data must fulfil, each refusal with its repair."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.models.data.rows import OddEntries, Pair, Rows, odd_entries
from curvlang.models.data.vocabulary import checked_tokens
from curvlang.models.execution.calls import run_model
from curvlang.models.execution.packed import Layout
from curvlang.models.execution.sharded import check_gatherable
from curvlang.models.losses.finite import FINITE, check_examples_finite, not_finite
from curvlang.models.losses.loss import Loss, show_dtype
from curvlang.models.losses.resolve import say_probabilities
from curvlang.models.tracing.independence import check_alone, check_examples, spread
from curvlang.models.tracing.survey import check_mode
from curvlang.models.tracing.trace import check_output
from curvlang.models.tracing.verify import EXAMPLES


def check_values(model: nn.Module) -> None:
    """Parameters and buffers have values, and those in other processes can be gathered.

    Raises:
        SpecError: E0413, E0839.
    """
    check_gatherable(model)
    for name, x in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(x):
            raise refusal(
                Code.E0413,
                f"`{name}` has no shape yet: its module is lazy, and has not been called",
                "call the model once on a few inputs, `model(X[:2])`, before",
            )
        if x.is_meta:
            raise refusal(
                Code.E0413,
                f"`{name}` is on the meta device, and has no values",
                "load the weights onto a device, `model.to_empty(device=…)` and `load_state_dict`",
            )


def check_model(model: nn.Module) -> None:
    """Parameters exist, share a precision and a device, and are finite; the mode is fixed.

    Raises:
        SpecError: E0403, E0406, E0413.
    """
    own = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not own:
        raise refusal(
            Code.E0413,
            "the model has no trainable parameter",
            "set `requires_grad_(True)` on the parameters to be studied",
        )
    check_mode(model)
    unreal = next((name for name, p in own.items() if p.is_complex()), None)
    if unreal is not None:
        raise refusal(
            Code.E0413,
            f"`{unreal}` is `{show_dtype(own[unreal].dtype)}`: derivatives are by real parameters",
            "hold its real and imaginary parts as one real parameter [..., 2], and read it with "
            "`torch.view_as_complex`; or freeze it",
        )
    kinds = sorted({f"{show_dtype(p.dtype)} on {p.device}" for p in own.values()})
    if len(kinds) > 1:
        raise refusal(
            Code.E0413,
            f"the model's parameters differ in precision or device: {', '.join(kinds)}",
            "move the whole model with `model.to(device=…, dtype=…)`",
        )
    for name, p in own.items():
        _check_finite(p.detach(), f"parameter `{name}`", "train it again, with a lower `lr`")
    held = [(f"buffer `{name}`", x) for name, x in model.named_buffers()]
    held += [(f"parameter `{k}`", p) for k, p in model.named_parameters() if k not in own]
    for what, x in held:
        # Infinite entries are masks as a rule; what they do to an output is looked at there.
        if x.is_floating_point() and bool(torch.isnan(x).any()):
            _check_finite(x.detach(), what, "train the model again, or load it again")


def check_data(pair: Pair, part: str) -> None:
    """As many targets as inputs, at least one, all finite.

    Raises:
        SpecError: E0406, E0407.
    """
    check_lengths(pair, part)
    X, y = pair
    _check_rows(X, f"inputs of `{part}`")
    _check_rows(y, f"targets of `{part}`")


def check_lengths(pair: Pair, part: str) -> None:
    """As many targets as inputs, and at least one.

    Raises:
        SpecError: E0407.
    """
    X, y = pair
    if X.ndim < 1 or y.ndim < 1 or X.shape[0] != y.shape[0]:
        single = (
            "give one target (first axis) for every input; where it is a single example, "
            f"`{part}=(x[None], y[None])`"
        )
        raise refusal(
            Code.E0407,
            f"`{part}` has inputs of shape {list(X.shape)} and targets of shape {list(y.shape)}",
            single if y.ndim < 1 else "give one target (first axis) for every input",
        )
    if X.shape[0] == 0:
        raise refusal(Code.E0407, f"`{part}` is empty", "give at least one example")


def check_pairs(model: nn.Module, loss: Loss, train: Pair, query: Pair) -> None:
    """A model and its examples are what a task is made of, each by itself and together.

    Raises:
        SpecError: E0405 to E0409, E0411 and E0413.
    """
    check_model(model)
    parts = (("train", train), ("query", query))
    for part, pair in parts:
        check_data(pair, part)
    check_together(train, query)
    check_outputs(model, loss, train, "train")
    check_outputs(model, loss, query, "query", known=query[0].shape[1:] == train[0].shape[1:])


def check_masks(parts: Mapping[str, tuple[Tensor | None, int]]) -> None:
    """The mask of each part that has one, with the number of its examples, as `check_mask`."""
    for part, (mask, examples) in parts.items():
        if mask is not None:
            check_mask(mask, examples, part)


def check_mask(mask: Tensor, examples: int, part: str = "train") -> None:
    """One word for every position of every example, and a position that counts in each.

    Raises:
        SpecError: E0416.
    """
    name = "mask" if part == "train" else "query_mask"
    if mask.dtype != torch.bool or mask.dim() != 2 or mask.shape[0] != examples:
        raise refusal(
            Code.E0416,
            f"`{name}` is `{show_dtype(mask.dtype)}` of shape {list(mask.shape)} for {examples} "
            + ("training examples" if part == "train" else "queries"),
            f"give [{'N' if part == 'train' else 'Q'}, T] of bool: true where a position counts",
        )
    empty = (~mask.any(1)).nonzero().flatten()
    if len(empty):
        raise refusal(
            Code.E0416,
            f"`{name}` leaves no position of {len(empty)} examples (first: {int(empty[0])})",
            "drop these examples",
        )


def check_mask_length(mask: Tensor, pair: Pair, layout: Layout | None) -> None:
    """The positions of a mask that no layer has are at least those of the examples.

    Raises:
        SpecError: E0416 where it would count nowhere.
    """
    X, y = pair
    shapes = [tuple(X.shape[1:])] if layout is None else [shape for _, shape in layout.shapes]
    if not any(mask.shape[1] in shape for shape in (*shapes, y.shape[1:])):
        raise refusal(
            Code.E0416,
            f"`mask` has {mask.shape[1]} positions, and neither the examples nor any layer has so many",
            "give [N, T] of bool with the T of the inputs",
        )


def check_together(train: Pair, query: Pair) -> None:
    """Both parts have inputs of one kind.

    Raises:
        SpecError: E0407.
    """
    if train[0].dtype != query[0].dtype:
        raise refusal(
            Code.E0407,
            f"`train` has {show_dtype(train[0].dtype)} inputs and `query` "
            f"{show_dtype(query[0].dtype)} ones",
            "convert one of them",
        )


def check_outputs(
    model: nn.Module, loss: Loss, pair: Pair, part: str, *, known: bool = False
) -> None:
    """The model reads the inputs, one example at a time, and its outputs fit the targets.

    Args:
        model: The model.
        loss: The loss.
        pair: Inputs and targets.
        part: Which they are, in words.
        known: Whether inputs of this shape have shown that it reads one example at a time: then it is only
            compared whether these are read alike alone and together.

    Raises:
        SpecError: E0403, E0405, E0407, E0408, E0410, E0420, E0422.
    """
    X, y = pair
    p = next(q for q in model.parameters() if q.requires_grad)
    if X.is_floating_point() and X.dtype != p.dtype:
        raise refusal(
            Code.E0407,
            f"`{part}` has {show_dtype(X.dtype)} inputs, the model is {show_dtype(p.dtype)}",
            f"convert the inputs, `X.to(torch.{show_dtype(p.dtype)})`, or the model",
        )
    places = sorted(set(spread(EXAMPLES, len(X))))
    chosen = torch.tensor(places)
    few = X[chosen].to(p.device)
    with checked_tokens(model, X, few, part):
        f = run_model(model, few, part)
    check_output(f, few.shape[0])
    loss.validate(f.shape, y, f.dtype)
    check_examples_finite(model, loss, few, y[chosen], part, places)
    if known:
        check_alone(model, few)
    else:
        check_examples(model, few, f, X)
    if part == "train":
        say_probabilities(model, loss, f)


def _check_rows(x: Rows, what: str) -> None:
    """All rows are finite."""
    odd = odd_entries(x, FINITE, not_finite)
    if odd is not None:
        raise _refused(what, odd, list(odd.place), "drop or fill these examples")


def _check_finite(x: Tensor, what: str, repair: str) -> None:
    """A tensor of any shape, also one number."""
    odd = odd_entries(x.reshape(-1), FINITE, not_finite)
    if odd is not None:
        place = torch.unravel_index(torch.tensor(odd.row), x.shape)
        raise _refused(what, odd, [int(k) for k in place], repair)


def _refused(what: str, odd: OddEntries, place: list[int], repair: str) -> SpecError:
    shown = "NaN" if math.isnan(odd.value) else "infinite"
    return refusal(
        Code.E0406,
        f"{what}: {odd.count} values are NaN or infinite (first: {shown} at {place})",
        repair,
    )
