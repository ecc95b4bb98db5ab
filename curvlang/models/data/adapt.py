"""A model and its examples brought to one form: a tensor of inputs, a tensor of outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.models.data.collect import Source, examples_of
from curvlang.models.data.decoder_inputs import (
    lacks_decoder_inputs,
    with_decoder_inputs,
)
from curvlang.models.data.derived_rows import cast, joined_columns
from curvlang.models.data.fields import IGNORED, LABELS, Fields, next_labels, split_labels
from curvlang.models.data.rows import Pair, Rows, pieces
from curvlang.models.data.vocabulary import checked_tokens
from curvlang.models.execution.calls import exhausted, run_model
from curvlang.models.execution.packed import (
    MASK,
    Layout,
    check_fields,
    is_packed,
    layout_in,
    layout_of,
    packed,
)
from curvlang.models.losses.loss import show_shape
from curvlang.models.padding.ragged_rows import (
    PaddingRule,
    levelled,
    longest_row,
    mask_of,
    padding_token,
    varying,
)

DECODER = "decoder_"
"""What the names of a decoder's own fields begin with."""


@dataclass(frozen=True, slots=True, eq=False)
class TaskParts:
    """What a task works with.

    Args:
        model: Reads `train[0]` by rows and returns one tensor.
        train: Inputs and targets.
        query: Likewise.
        mask: Which positions of the training examples count; None for all.
        query_mask: Those of the queries, likewise.
        wrapped: Whether `model` is a copy that packs or unpacks.
        layout: Where the fields of an example stand, where it has fields.
        ragged: Whether rows came in different lengths: their padding is ours.
    """

    model: nn.Module
    train: Pair
    query: Pair
    mask: Tensor | None = None
    query_mask: Tensor | None = None
    wrapped: bool = False
    layout: Layout | None = None
    ragged: bool = False


def adapt(
    model: nn.Module,
    train: Source,
    query: Source,
    *,
    labels: str | None = None,
    inputs: Sequence[str] | None = None,
    shift_labels: bool | None = None,
) -> TaskParts:
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
        SpecError: E0407, E0409 for data of another form, E0557 for fields, E0558 for labels, E0422 and
            E0859 for tokens and lengths that the model does not have.
    """
    trained = (p.dtype for p in model.parameters() if p.requires_grad)
    dtype = next(trained, torch.get_default_dtype())
    wanted = None
    if inputs is not None:
        wanted = {*inputs, *(LABELS if labels is None else (labels,))}
    parts = tuple(
        examples_of(source, part, dtype, wanted)
        for source, part in ((train, "train"), (query, "query"))
    )
    if layout_in(model) is not None and any(isinstance(found, Fields) for found in parts):
        raise refusal(
            Code.E0557,
            "the model is that of a task, which reads fields from rows, and examples are given as dicts",
            "make a new task of your own model and the dicts: `cv.Task(model, …)`; a fitted curvature "
            "scores it too",
        )
    match parts:
        case (Fields() as first, Fields() as second) if varying(first.values, second.values):
            targets = LABELS if labels is None else (labels,)
            rule = PaddingRule(MASK, targets, IGNORED, padding_token(model))
            known = {"train": first.values, "query": second.values}
            fields, sequence, counts = levelled(known, model, rule)
            sides = [
                _side(Fields(fields[part], found.unread), labels, inputs, part)
                for part, found in (("train", first), ("query", second))
            ]
            own = _Lengths(sequence, *longest_row(counts))
            made = _from_fields(model, sides[0], sides[1], dtype, shift_labels, own)
            masks = {part: None if bool(x.all()) else x for part, x in counts.items()}
            return replace(made, mask=masks["train"], query_mask=masks["query"], ragged=True)
        case (Fields() as first, Fields() as second):
            sides = [
                _side(found, labels, inputs, part)
                for found, part in ((first, "train"), (second, "query"))
            ]
            return _from_fields(model, sides[0], sides[1], dtype, shift_labels)
        case (tuple() as first, tuple() as second):
            if labels is not None or inputs is not None or shift_labels is not None:
                raise refusal(
                    Code.E0558,
                    "`labels`, `inputs` and `shift_labels` are about examples that are dicts",
                    "leave them out: the target of a pair is its second part",
                )
            return _from_pairs(model, first, second)
        case _:
            raise refusal(
                Code.E0557,
                "one of `train` and `query` has dicts and the other pairs",
                "use one form",
            )


def _from_pairs(model: nn.Module, train: Pair, query: Pair) -> TaskParts:
    """Pairs as they are; a model that returns an object is copied to return its logits."""
    if _returns_tensor(model, train[0]):
        return TaskParts(model, train, query)
    return TaskParts(packed(model, None), train, query, wrapped=True)


def _returns_tensor(model: nn.Module, X: Rows) -> bool:
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


@dataclass(frozen=True, slots=True, eq=False)
class _Side:
    """One part's examples: the fields that the model reads, and the targets."""

    part: str
    fields: dict[str, Rows]
    y: Rows


@dataclass(frozen=True, slots=True)
class _Lengths:
    """What is known of rows that came in different lengths.

    Args:
        sequence: Names of the fields that have their positions.
        part: Where the longest of all rows is.
        row: Its number.
    """

    sequence: Sequence[str]
    part: str
    row: int


def _side(found: Fields, labels: str | None, inputs: Sequence[str] | None, part: str) -> _Side:
    fields, y = split_labels(found, labels, part)
    return _Side(part, _chosen(fields, found.unread, inputs, part), y)


def _from_fields(
    model: nn.Module,
    train: _Side,
    query: _Side,
    dtype: torch.dtype,
    shift: bool | None,
    ragged: _Lengths | None = None,
) -> TaskParts:
    if lacks_decoder_inputs(model, train.fields, train.y):
        train, query = (_with_decoder(model, side, shift) for side in (train, query))
        shift = False
    first, second = train.fields, query.fields
    _check_alike(first, second)
    check_fields(model, list(first))
    both = layout_of(
        {name: (first[name], second[name]) for name in first},
        _sequence(first) if ragged is None else [k for k in first if k in ragged.sequence],
    )
    made = packed(model, both)
    X, Xq = both.packed_rows(first, dtype), both.packed_rows(second, dtype)
    y, yq = (cast(rows, dtype) for rows in (train.y, query.y))
    shape = None
    if ragged is not None:
        shape = _outputs(made, X if ragged.part == "train" else Xq, ragged.part, ragged.row)
    elif y.ndim == 2 or shift:
        shape = _outputs(made, X, "train")
    if _positions(shape, y):
        y = _aligned(y, first, shift, "train")
        yq = _aligned(yq, second, shift, "query")
        for labels, part in ((y, "train"), (yq, "query")):
            _check_labelled(labels, part)
    elif shift:
        raise _no_positions(shape, y)
    return TaskParts(made, (X, y), (Xq, yq), _mask(first), _mask(second), True, both)


def _sequence(fields: dict[str, Rows]) -> list[str]:
    """The fields whose first axis is that of the attention mask; none where a decoder has another.

    Without a mask they are those that are as long as the tokens.
    """
    found = fields.get(MASK, fields.get("input_ids"))
    if found is None or found.ndim != 2 or any(name.startswith(DECODER) for name in fields):
        return []
    return [name for name, x in fields.items() if x.ndim > 1 and x.shape[1] == found.shape[1]]


def _with_decoder(model: nn.Module, side: _Side, shift: bool | None) -> _Side:
    """The side with inputs of the decoder, made from its labels as the model makes them.

    Raises:
        SpecError: E0558 for labels that would be moved twice, E0564 where they cannot be made.
    """
    if shift:
        raise refusal(
            Code.E0558,
            f"`shift_labels=True`, but `{type(model).__name__}` is an encoder-decoder: it moves its "
            "decoder's inputs, not the labels",
            "give `shift_labels=False`: a label stands at the position that predicts it",
        )
    return replace(side, fields=with_decoder_inputs(model, side.fields, side.y, side.part))


def _no_positions(shape: tuple[int, ...] | None, y: Rows) -> SpecError:
    """`shift_labels=True` where outputs and labels have no positions in common."""
    outputs = "none" if shape is None else show_shape((0, *shape))
    if y.ndim < 2:
        repair = "leave it out: it is for causal language models, with a label for every position"
    else:
        repair = "give labels [N, T] for outputs [B, T, C], with one T"
    return refusal(
        Code.E0558,
        "`shift_labels=True`, but the targets have no label for every output position",
        repair,
        notes=(f"outputs have the shape {outputs}, labels {show_shape(y.shape)}",),
    )


def _chosen(
    fields: dict[str, Rows], unread: Sequence[str], inputs: Sequence[str] | None, part: str
) -> dict[str, Rows]:
    if inputs is None:
        return fields
    for name in inputs:
        if name not in fields:
            known = ", ".join(f"`{x}`" for x in (*fields, *unread))
            raise refusal(Code.E0557, f"`{part}` has no field `{name}`", f"it has {known}")
    return {name: fields[name] for name in inputs}


def _check_alike(first: dict[str, Rows], second: dict[str, Rows]) -> None:
    """Queries have the training examples' fields, in shape and kind."""
    if set(first) != set(second):
        odd = sorted(set(first) ^ set(second))[0]
        raise refusal(
            Code.E0557, f"only one of `train` and `query` has the field `{odd}`", "give it to both"
        )
    for name, value in first.items():
        other = second[name]
        if value.shape[1:] != other.shape[1:]:
            raise refusal(
                Code.E0557,
                f"field `{name}` has the shape {list(value.shape[1:])} in `train` and "
                f"{list(other.shape[1:])} in `query`",
                "pad both to one length, labels with -100"
                if value.ndim == 2 and not value.is_floating_point()
                else "give both one shape",
            )
        if value.is_floating_point() != other.is_floating_point():
            raise refusal(
                Code.E0557,
                f"field `{name}` is integers in one of `train` and `query`, and not in the other",
                "convert one",
            )


def _outputs(
    model: nn.Module, X: Rows, part: str, longest: int | None = None
) -> tuple[int, ...] | None:
    """The shape of one example's outputs; None without an example, or for what is not a tensor.

    Args:
        model: It reads rows.
        X: All inputs of a part.
        part: `train` or `query`.
        longest: The row that is longest, where rows came in different lengths.

    Raises:
        SpecError: E0422 for tokens that a table does not have, E0859 for rows that are too long, E0408
            with what else the model raises by itself.
    """
    p = next(model.parameters(), None)
    if p is None or not len(X):
        return None
    row = longest or 0
    few = X[row : row + 1].to(p.device)
    with checked_tokens(model, X, few, part):
        f = run_model(model, few, part, longest)
    return tuple(f.shape[1:]) if isinstance(f, Tensor) else None


def _positions(shape: tuple[int, ...] | None, y: Rows) -> bool:
    """Whether logits are [B, T, C] for labels [B, T]."""
    labels = y.ndim == 2 and not y.is_floating_point()
    return labels and shape is not None and len(shape) == 2 and shape[0] == y.shape[1]


def _aligned(y: Rows, fields: dict[str, Rows], shift: bool | None, part: str) -> Rows:
    """Labels that stand at the position that predicts them."""
    if shift is None:
        raise refusal(
            Code.E0558,
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
        both = joined_columns((mask, y), _left_out, y.shape[1:], torch.bool)
        counted = sum(int(piece.sum()) for _, piece in pieces(both))
        if counted:
            raise refusal(
                Code.E0558,
                f"{counted} labels of `{part}` stand at positions that `{own}` leaves out",
                f"set them to {IGNORED}: `labels[{own} == 0] = {IGNORED}`",
            )
    if not shift:
        return y
    moved = next_labels(y)
    if mask is None or mask.shape != y.shape:
        return moved
    # Padding before a row predicts nothing, also not the row's first token.
    return joined_columns((moved, mask), _ignored, y.shape[1:], y.dtype)


def _left_out(mask: Tensor, y: Tensor) -> Tensor:
    return (mask == 0) & (y != IGNORED)


def _ignored(y: Tensor, mask: Tensor) -> Tensor:
    return y.masked_fill(mask == 0, IGNORED)


def _check_labelled(y: Rows, part: str) -> None:
    """Some position has something to predict.

    Raises:
        SpecError: E0558.
    """
    if all(bool((labels == IGNORED).all()) for _, labels in pieces(y)):
        raise refusal(
            Code.E0558,
            f"no position of `{part}` has a label that takes part: all are {IGNORED}",
            "give rows of two tokens or more where a position predicts the next one, and labels other than "
            f"{IGNORED} where something is to be learned",
        )


def _mask(fields: dict[str, Rows]) -> Tensor | None:
    """The attention mask [N, T] as the task's mask, where it leaves anything out."""
    mask = fields.get(MASK)
    if mask is None or mask.ndim != 2:
        return None
    found = mask_of(mask)
    return None if bool(found.all()) else found
