"""Which positions of a layer are those of a mask: by the shape of its inputs, and by trying.

A layer has as many positions as the mask in one axis or in several that stand together; that alone does
not make them the mask's ([B, T, heads, d] with T heads; a decoder as long as its encoder). On a few
examples that have padding it is tried what belongs to padding alone: inputs of the layer that change
with padded inputs of the model, and no others; and gradients that are zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal
from curvlang.models.data.adapt import DECODER
from curvlang.models.data.fields import IGNORED
from curvlang.models.data.rows import pieces
from curvlang.models.execution.packed import MASK, layout_in
from curvlang.models.layers import Input
from curvlang.models.layers.one_hot import OneHot
from curvlang.models.padding.spans import Batch
from curvlang.models.padding.trial import Padding
from curvlang.models.task import Task
from curvlang.models.tracing.blocks import LayerBlock, groups
from curvlang.models.tracing.checks import check_mask_length
from curvlang.models.tracing.independence import spread
from curvlang.models.tracing.leaves import LeafRequest, leaves
from curvlang.models.tracing.trace import input_shapes
from curvlang.models.tracing.watching import OutsideError

TRIED = 4
"""Examples with padding that are looked at."""
SHAPED = 5
"""Examples whose numbers of positions are compared."""
MOVED = 5
"""Positions that are changed one by one."""
SHARE = 0.25
"""What changes at the position itself is at least this much of what changes most."""
GROUPED = 4
"""Axes of the leaves of several blocks of one shape: they stand in front."""
ROUNDING = 1e4
"""Units of rounding, of the largest entry, below which nothing has changed."""


@dataclass(frozen=True, slots=True, eq=False)
class Alignment:
    """The positions of one call of a layer.

    Args:
        positions: How many.
        mask: [N, T], where they are the mask's; None where all count.
        before: Axes before the mask's, as one.
        after: Axes after it.
        own: Positions of the mask that count, over all examples.
    """

    positions: int
    mask: Tensor | None = None
    before: int = 1
    after: int = 1
    own: int = 0

    def counted(self, batch: Batch, like: Tensor) -> Tensor:
        """1 for every position that counts, 0 for padding, [B, T']."""
        if self.mask is None:
            return like.new_ones(len(batch), self.positions)
        own = self.mask[batch.places]
        own = own if batch.window is None else own[:, batch.window]
        return laid(own.to(like), self.before, self.after)


def laid(mask: Tensor, before: int, after: int) -> Tensor:
    """A mask [B, T] over the axes around its own, [B, before · T · after]."""
    whole = mask[:, None, :, None].expand(-1, before, -1, after)
    return whole.reshape(len(mask), -1)


@dataclass(frozen=True, slots=True, eq=False)
class _Mask:
    """A mask of the training examples and what is known of the layers on some of them.

    Args:
        mask: [N, T].
        rows: Examples with padding.
        plain: Inputs and output gradients of the layers.
        padded: Inputs when what is padded is other; None where it cannot be told from the rest.
        foreign: Inputs when the sequences of the decoder are other; None where there are none.
        moved: Inputs when one position is other, and which.
    """

    mask: Tensor
    rows: Tensor
    plain: Mapping[str, Mapping[str, Input]]
    padded: Mapping[str, Mapping[str, Input]] | None
    foreign: Mapping[str, Mapping[str, Input]] | None
    moved: Sequence[tuple[int, Mapping[str, Mapping[str, Input]]]]


def alignments(task: Task, blocks: Sequence[LayerBlock]) -> dict[str, tuple[Alignment, ...]]:
    """For every layer the positions of its calls, one behind the other.

    Args:
        task: The task.
        blocks: Its blocks by layer.

    Raises:
        SpecError: E0424 where it cannot be told whether a layer's positions are the mask's, E0416 for a
            mask of positions that nothing has.
    """
    shown = [block for block in blocks if block.factored]
    masks = [_looked_at(task, shown, *given) for given in _masks(task)]
    shapes = input_shapes(task.model, task.few, groups(shown))
    by_name = {block.name: block.layer for block in shown}
    found: dict[str, tuple[Alignment, ...]] = {}
    for block in shown:
        if block.layer in found:
            continue
        if block.shares and by_name[block.shares] in found:
            found[block.layer] = found[by_name[block.shares]]
            continue
        at, made = 0, []
        for dims in _calls(block, shapes[block.layer]):
            made.append(_aligned(block, dims, slice(at, at + prod(dims)), masks))
            at += prod(dims)
        found[block.layer] = tuple(made)
    laid_on = any(call.mask is not None for layer in found.values() for call in layer)
    if shown and task.mask is not None and not laid_on:
        check_mask_length(task.mask, task.train, layout_in(task.model))
    return found


def _masks(task: Task) -> Iterator[tuple[Tensor, bool]]:
    """The task's mask, and the decoder's where the examples have one; whether it is the decoder's."""
    if task.mask is not None:
        yield task.mask.to(task.device), False
    layout = layout_in(task.model)
    if layout is not None and DECODER + MASK in layout.names:
        field = DECODER + MASK
        parts = [layout.unpack(rows)[field] != 0 for _, rows in pieces(task.train[0])]
        mask = torch.cat(parts)
        if mask.ndim == 2 and not bool(mask.all()):
            yield mask.to(task.device), True


def follows(aligned: Mapping[str, Sequence[Alignment]], padding: Padding) -> bool:
    """Whether every layer whose positions are those of the rows has them by the mask too.

    Elsewhere means over its positions would change with the padding that is left out.
    """
    scaled = padding.scaled or {}
    return all(
        len(calls) == len(scaled[layer])
        and all((x.mask is not None) == own for x, own in zip(calls, scaled[layer], strict=True))
        for layer, calls in aligned.items()
        if layer in scaled
    )


def has_padding(task: Task) -> bool:
    """Whether positions of the training examples are left out by a mask."""
    return next(_masks(task), None) is not None


def _calls(block: LayerBlock, shapes: Sequence[torch.Size]) -> tuple[tuple[int, ...], ...]:
    """The axes of positions of every call of a layer."""
    # Inside an attention positions come before the examples.
    strips = (lambda s: s[1:-1], lambda s: s[1:], lambda s: s[:-1], lambda s: s)
    for strip in () if block.watched and block.watched.inside else strips:
        dims = tuple(tuple(strip(shape)) for shape in shapes)
        if sum(map(prod, dims)) == block.positions:
            return dims
    if block.positions % len(shapes):
        return ((block.positions,),)
    return ((block.positions // len(shapes),),) * len(shapes)


def _aligned(
    block: LayerBlock, dims: Sequence[int], own: slice, masks: Sequence[_Mask]
) -> Alignment:
    """How the positions of one call stand to the masks."""
    size = prod(dims)
    for given in masks:
        places = _candidates(dims, given.mask.shape[1])
        found = _chosen(block, places, own, given) if places else None
        if found is not None:
            return Alignment(size, given.mask, *found, int(given.mask.sum()))
    return Alignment(size)


def _candidates(dims: Sequence[int], length: int) -> tuple[tuple[int, int], ...]:
    """Where axes that stand together have a length: the product of those before, and after."""
    found = {
        (prod(dims[:i]), prod(dims[j:]))
        for i in range(len(dims))
        for j in range(i + 1, len(dims) + 1)
        if prod(dims[i:j]) == length
    }
    return tuple(sorted(found))


def _chosen(
    block: LayerBlock, places: Sequence[tuple[int, int]], own: slice, given: _Mask
) -> tuple[int, int] | None:
    """The place of the mask among the positions; None where they are not the mask's."""
    plain = given.plain[block.name]
    if bool(given.mask.all()):
        return None
    if given.foreign is not None and bool(_changed(plain, given.foreign[block.name], own).any()):
        return None
    outside = {place: ~laid(~given.mask[given.rows], *place).bool() for place in places}
    silent = _silent(plain["e"], own)
    without = [p for p in places if bool((silent | outside[p]).all())]
    if given.padded is None:
        if len(without) == 1 or tuple(places) == ((1, 1),):
            return without[0] if len(without) == 1 else places[0]
        return _followed(block, without or places, own, given)
    changed = _changed(plain, given.padded[block.name], own)
    if not bool(changed.any()):
        # Padding is cut off before this layer, or it has positions of its own.
        return (
            _followed(block, without, own, given) if len(without) > 1 else next(iter(without), None)
        )
    inside = [p for p in places if not bool((changed & outside[p]).any())]
    return inside[0] if len(inside) == 1 else _followed(block, inside or places, own, given)


def _followed(
    block: LayerBlock, places: Sequence[tuple[int, int]], own: slice, given: _Mask
) -> tuple[int, int]:
    """The one place at which what changes most with one position of the examples is that position.

    Raises:
        SpecError: E0424 where there is none, or several.
    """
    found = [place for place in places if _follows(block, place, own, given)]
    if len(found) == 1:
        return found[0]
    raise refusal(
        Code.E0424,
        f"it cannot be told whether the {block.positions} positions of `{block.layer}` are the "
        f"{given.mask.shape[1]} of the mask",
        "give examples of one length, or use a stage without means over `t`, as `diagonal` is",
        notes=("padding is told by what changes with it and by gradients that are zero there",),
    )


def _follows(block: LayerBlock, place: tuple[int, int], own: slice, given: _Mask) -> bool:
    """Whether changes of the layer's inputs move along with the position that changes in the examples."""
    T = given.mask.shape[1]
    reached = torch.full((len(given.rows),), -1.0, dtype=torch.float64, device=given.mask.device)
    places = torch.arange(T, dtype=torch.float64, device=given.mask.device)
    for position, other in given.moved:
        size = _apart(given.plain[block.name], other[block.name], own)
        size = size.reshape(len(size), place[0], T, place[1]).sum((1, 3))
        seen = size.sum(1) > 0
        centre = (size @ places) / size.sum(1).clamp_min(torch.finfo(size.dtype).tiny)
        late = (centre > reached) & (size[:, position] >= SHARE * size.amax(1))
        if not bool((late | ~seen).all()):
            return False
        reached = torch.where(seen, centre, reached)
    return bool((reached >= 0).any())


def _looked_at(task: Task, blocks: Sequence[LayerBlock], mask: Tensor, decoder: bool) -> _Mask:
    """What the layers show of some examples with padding."""
    padded = (~mask).any(1).nonzero().flatten()[:TRIED].cpu()
    rows = padded if len(padded) else torch.arange(min(TRIED, task.N))
    X, y = (part[rows].to(task.device) for part in task.train)

    def inputs(given: Tensor | None) -> Mapping[str, Mapping[str, Input]] | None:
        if given is None:
            return None
        return leaves(task.model, task.loss, given, y, blocks, LeafRequest({"a"}))

    T = mask.shape[1]
    foreign = _foreign(task, X, decoder)
    moved = []
    for position in sorted(set(spread(MOVED, T))):
        one = torch.zeros_like(mask[rows])
        one[:, position] = True
        other = inputs(_replaced(task, X, one, decoder))
        if other is not None:
            moved.append((position, other))
    return _Mask(
        mask,
        rows.to(mask.device),
        leaves(
            task.model,
            task.loss,
            X,
            _unlabelled(task, y, mask[rows], foreign),
            blocks,
            LeafRequest({"a", "e"}),
        ),
        inputs(_replaced(task, X, ~mask[rows], decoder)),
        inputs(foreign),
        moved,
    )


def _unlabelled(task: Task, y: Tensor, mask: Tensor, foreign: Tensor | None) -> Tensor:
    """Targets without those at padding: where padding comes first, it predicts the first token."""
    if foreign is not None or y.shape != mask.shape or y.dtype != torch.int64:
        return y
    return y.masked_fill(~mask, getattr(task.loss, "ignore_index", IGNORED))


def _replaced(task: Task, X: Tensor, where: Tensor, decoder: bool) -> Tensor | None:
    """Inputs with other values where a position is marked; None where positions are not known."""
    layout = layout_in(task.model)
    if layout is None:
        if X.dim() < 2 or X.shape[1] != where.shape[1]:
            return None
        return _others(X, where)
    fields = layout.unpack(X)
    chosen = [
        name
        for name, x in fields.items()
        if name.startswith(DECODER) == decoder and _sequence(name, x, where.shape[1])
    ]
    if not chosen:
        return None
    for name in chosen:
        fields[name] = _others(fields[name], where)
    return layout.pack(fields, X.dtype)


def _foreign(task: Task, X: Tensor, decoder: bool) -> Tensor | None:
    """Inputs with other values in the sequences of the other side: a decoder's, or its encoder's."""
    layout = layout_in(task.model)
    if layout is None or decoder:
        return None
    fields = layout.unpack(X)
    chosen = [n for n, x in fields.items() if n.startswith(DECODER) and _sequence(n, x, None)]
    if not chosen:
        return None
    for name in chosen:
        x = fields[name]
        fields[name] = _others(x, torch.ones(x.shape[:2], dtype=torch.bool, device=x.device))
    return layout.pack(fields, X.dtype)


def _sequence(name: str, x: Tensor, length: int | None) -> bool:
    """Whether a field has a value for every position, and is not itself a mask or a place."""
    if name.endswith(("mask", "position_ids")) or x.dtype == torch.bool or x.dim() < 2:
        return False
    return length is None or x.shape[1] == length


def _others(x: Tensor, where: Tensor) -> Tensor:
    """Other values of the same kind where marked: of integers those that the examples have."""
    at = where.reshape(*where.shape, *[1] * (x.dim() - 2))
    if x.is_floating_point():
        return torch.where(at, 0.5 * x + 0.7 * x.abs().amax().clamp_min(1), x)
    known = x.unique()
    place = torch.searchsorted(known, x.contiguous())
    return torch.where(at, known[(place + 1) % len(known)], x)


def _silent(e: Input, own: slice) -> Tensor:
    """Where the gradient is zero but for rounding, [B, T']."""
    size = _rows(e, own).abs().amax(-1)
    return size <= ROUNDING * torch.finfo(size.dtype).eps * size.max()


def _rows(x: Input, own: slice) -> Tensor:
    """Entries of the positions of one call, [B, T', ·]; the places of one-hot rows."""
    whole = x.index if isinstance(x, OneHot) else x
    if whole.ndim == GROUPED:
        whole = whole.movedim(0, 2).flatten(2)
    return whole[:, own]


def _apart(plain: Mapping[str, Input], other: Mapping[str, Input], own: slice) -> Tensor:
    """Squared differences of the inputs at every position, [B, T']."""
    x, y = _rows(plain["a"], own).double(), _rows(other["a"], own).double()
    return (x - y).square().flatten(2).sum(-1)


def _changed(plain: Mapping[str, Input], other: Mapping[str, Input], own: slice) -> Tensor:
    """Where the inputs differ by more than rounding, [B, T']."""
    x = _rows(plain["a"], own)
    if not x.is_floating_point():
        return _apart(plain, other, own) > 0
    least = ROUNDING * torch.finfo(x.dtype).eps * float(x.abs().max())
    return _apart(plain, other, own).sqrt() > least


def check_lengths(task: Task, blocks: Sequence[LayerBlock]) -> None:
    """Layers have as many positions for an example alone as in a batch.

    Raises:
        OutsideError: For those that have not: a mean over positions would depend on the batch, and code
            is made for one number of them.
    """
    watched = groups([block for block in blocks if block.factored])
    few = torch.tensor(sorted(set(spread(SHAPED, task.N))))
    X = task.train[0][few].to(task.device)
    whole = input_shapes(task.model, X, watched)
    odd: set[str] = set()
    for row in X.split(1):
        alone = input_shapes(task.model, row, watched)
        for layer, shapes in whole.items():
            same = len(shapes) == len(alone[layer])
            if not same or not all(map(_alike, shapes, alone[layer], [len(X)] * len(shapes))):
                odd.add(layer)
    if odd:
        raise varying(*sorted(odd))


def _alike(shape: torch.Size, one: torch.Size, batch: int) -> bool:
    """Whether a shape is that of one example, with a batch or the same for all."""
    return shape == one or shape.numel() == batch * one.numel()


def varying(*layers: str) -> OutsideError:
    """Layers whose number of positions is the batch's, not the data's: they are outside."""
    why = (
        "the number of its positions depends on the batch, and a mean over them would too; a model that "
        "keeps all positions, with a `mask` of those that count, has none of this"
    )
    return OutsideError(dict.fromkeys(layers, why))
