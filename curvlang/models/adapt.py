"""A model and its examples brought to one form: a tensor of inputs, a tensor of outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from curvlang.models.calls import exhausted, run_model
from curvlang.models.collect import Pair, Source, examples_of
from curvlang.models.fields import IGNORED, Fields, next_labels, split_labels
from curvlang.models.packed import Layout, check_fields, is_packed, layout_of, packed
from curvlang.models.refusal import refusal

MASK = "attention_mask"
DECODER = "decoder_"
"""What the names of a decoder's own fields begin with."""


@dataclass(frozen=True, slots=True, eq=False)
class Adapted:
    """What a task works with.

    Args:
        model: Reads `train[0]` by rows and returns one tensor.
        train: Inputs and targets.
        query: Likewise.
        mask: Which positions of the training examples count; None for all.
        wrapped: Whether `model` is a copy that packs or unpacks.
        layout: Where the fields of an example stand, where it has fields.
    """

    model: nn.Module
    train: Pair
    query: Pair
    mask: Tensor | None = None
    wrapped: bool = False
    layout: Layout | None = None


def adapt(
    model: nn.Module,
    train: Source,
    query: Source,
    *,
    labels: str | None = None,
    inputs: Sequence[str] | None = None,
    shift_labels: bool | None = None,
) -> Adapted:
    """Model and examples in one form, whatever form they come in.

    Args:
        model: The user's.
        train: Pairs, or dicts of fields.
        query: Likewise.
        labels: The field of the target; `labels` or `label` where not given.
        inputs: The fields that the model reads; all others where not given.
        shift_labels: For targets with a label at every output position: whether the target of a
            position is the label of the next one (causal language models), or its own.

    Raises:
        SpecError: E0407, E0409 for data of another form, E0557 for fields, E0558 for labels.
    """
    parts = examples_of(train, "train"), examples_of(query, "query")
    match parts:
        case (Fields() as first, Fields() as second):
            return _from_fields(model, first, second, labels, inputs, shift_labels)
        case (tuple() as first, tuple() as second):
            if labels is not None or inputs is not None or shift_labels is not None:
                raise refusal(
                    "E0558",
                    "`labels`, `inputs` and `shift_labels` are about examples that are dicts",
                    "leave them out: the target of a pair is its second part",
                )
            return _from_pairs(model, first, second)
        case _:
            raise refusal(
                "E0557", "one of `train` and `query` has dicts and the other pairs", "use one form"
            )


def _from_pairs(model: nn.Module, train: Pair, query: Pair) -> Adapted:
    """Pairs as they are; a model that returns an object is copied to return its logits."""
    if _returns_tensor(model, train[0]):
        return Adapted(model, train, query)
    return Adapted(packed(model, None), train, query, wrapped=True)


def _returns_tensor(model: nn.Module, X: Tensor) -> bool:
    """Whether one example gives a tensor; a call that fails is refused later, with its reason."""
    p = next((p for p in model.parameters()), None)
    if p is None or X.ndim == 0 or not len(X) or is_packed(model):
        return True
    try:
        with torch.no_grad():
            return isinstance(model(X[:1].to(p.device)), Tensor)
    except Exception as error:
        # The task's checks make the same call, and refuse it with its own reason or a better one.
        if exhausted(error):
            raise
        return True


def _from_fields(
    model: nn.Module,
    train: Fields,
    query: Fields,
    labels: str | None,
    inputs: Sequence[str] | None,
    shift_labels: bool | None,
) -> Adapted:
    sides = []
    for found, part in ((train, "train"), (query, "query")):
        fields, y = split_labels(found, labels, part)
        sides.append((_chosen(fields, inputs, part), y))
    (first, y), (second, yq) = sides
    _check_alike(first, second)
    check_fields(model, list(first))
    both = layout_of({name: torch.cat([first[name], second[name]]) for name in first})
    dtype = next((p.dtype for p in model.parameters()), torch.get_default_dtype())
    made = packed(model, both)
    X, Xq = both.pack(first, dtype), both.pack(second, dtype)
    y, yq = (t.to(dtype) if t.is_floating_point() else t for t in (y, yq))
    if _positions(made, X, y):
        y, yq = (
            _aligned(t, side, shift_labels, part)
            for t, side, part in ((y, first, "train"), (yq, second, "query"))
        )
    elif shift_labels:
        raise refusal(
            "E0558",
            "`shift_labels=True`, but the targets have no label for every output position",
            "leave it out: it is for causal language models",
        )
    return Adapted(made, (X, y), (Xq, yq), _mask(first), True, both)


def _chosen(
    fields: dict[str, Tensor], inputs: Sequence[str] | None, part: str
) -> dict[str, Tensor]:
    if inputs is None:
        return fields
    for name in inputs:
        if name not in fields:
            known = ", ".join(f"`{x}`" for x in fields)
            raise refusal("E0557", f"`{part}` has no field `{name}`", f"it has {known}")
    return {name: fields[name] for name in inputs}


def _check_alike(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    """Queries have the training examples' fields, in shape and kind."""
    if set(first) != set(second):
        odd = sorted(set(first) ^ set(second))[0]
        raise refusal(
            "E0557", f"only one of `train` and `query` has the field `{odd}`", "give it to both"
        )
    for name, value in first.items():
        other = second[name]
        if value.shape[1:] != other.shape[1:]:
            raise refusal(
                "E0557",
                f"field `{name}` has the shape {list(value.shape[1:])} in `train` and "
                f"{list(other.shape[1:])} in `query`",
                "pad both to one length, labels with -100",
            )
        if value.is_floating_point() != other.is_floating_point():
            raise refusal(
                "E0557",
                f"field `{name}` is integers in one of `train` and `query`, and not in the other",
                "convert one",
            )


def _positions(model: nn.Module, X: Tensor, y: Tensor) -> bool:
    """Whether the model gives logits [B, T, C] for labels [B, T]."""
    if y.ndim != 2 or y.is_floating_point() or not len(X):
        return False
    p = next(model.parameters())
    f = run_model(model, X[:1].to(p.device), "train")
    return bool(f.ndim == 3 and f.shape[1] == y.shape[1])


def _aligned(y: Tensor, fields: dict[str, Tensor], shift: bool | None, part: str) -> Tensor:
    """Labels that stand at the position that predicts them."""
    if shift is None:
        raise refusal(
            "E0558",
            "there is a label for every position: it is not said whether it is that of the next one",
            "`shift_labels=True` for a causal language model whose labels are its inputs, "
            "`shift_labels=False` where labels stand at the positions that predict them",
            notes=("`transformers` shifts labels inside the model's own loss",),
        )
    # Where a decoder reads sequences of its own, labels stand at those.
    decoder = any(name.startswith(DECODER) for name in fields)
    own = DECODER + MASK if decoder else MASK
    mask = fields.get(own)
    if mask is not None and mask.shape == y.shape:
        counted = int(((mask == 0) & (y != IGNORED)).sum())
        if counted:
            raise refusal(
                "E0558",
                f"{counted} labels of `{part}` stand at positions that `{own}` leaves out",
                f"set them to {IGNORED}: `labels[{own} == 0] = {IGNORED}`",
            )
    return next_labels(y) if shift else y


def _mask(fields: dict[str, Tensor]) -> Tensor | None:
    """The attention mask [N, T] as the task's mask, where it leaves anything out."""
    mask = fields.get(MASK)
    if mask is None or mask.ndim != 2 or bool((mask != 0).all()):
        return None
    return mask != 0
