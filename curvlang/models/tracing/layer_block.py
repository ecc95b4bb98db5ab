"""A block of the parameter vector, and its inputs and columns out of a trace.

The groups of a grouped convolution are matrices of one shape. They are one `LayerBlock`, whose tensors
have an axis for them in front.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from curvlang.models.layers import Input, Layer
from curvlang.models.tracing.trace import Trace, pull_back
from curvlang.models.tracing.watching import Groups, TracedLayer
from curvlang.operators.places import Places


@dataclass(frozen=True, slots=True)
class Cut:
    """How a layer's matrix is cut.

    Args:
        side: `outputs` or `inputs`.
        into: Into how many pieces of one shape.
    """

    side: str
    into: int


@dataclass(frozen=True, slots=True, eq=False)
class LayerBlock:
    """One block: entries (o, i), row-major, with the bias as the last i.

    A bare parameter is a block with i = 1: `a` is 1 and `g` its gradient, so that the sum of their
    product is the block's gradient as it is everywhere.

    With `count` > 1 it is that many blocks of one shape, each a matrix of its own: the groups of a
    layer. `a` is [G, B, T, I] then and `g` [G, B, R, T, O].

    Args:
        name: The layer's name, or the parameter's where blocks are parameter tensors; with the first
            and the last group in brackets where there are several.
        layer: The layer's name: its first module's path, `model` for the model itself.
        d_in: I, the bias column included.
        d_out: O.
        positions: T over all uses of the layer, for inputs shaped like the example.
        bias: `joint` (last column of `a` is 1), `none`, or `only` (`a` is 1 and nothing else).
        where: The block's entries in the parameter vector, O·I of them; of several blocks one after
            the other, G·O·I.
        parameters: Names of the block's parameters.
        watched: How the layer's uses are recorded; None for a bare parameter.
        part: Which of the layer's matrices.
        at_once: Of a bare parameter, whether the gradients of all examples come at once.
        reason: Why `a` and `g` mean nothing by themselves here; empty where they do.
        plain: Whether the layer's output is [B, T, O] in another order and nothing else.
        shares: The first block with the same input, columns and d_out; empty for that one.
        count: G, how many blocks of one shape these are.
        group: Which of its layer's groups a single block is; None where it is not a group.
        cut: How its layer's matrices are cut into the blocks; None where they are not.
        members: The blocks that it joins; none where it is a layer's or a parameter's.
    """

    name: str
    layer: str
    d_in: int
    d_out: int
    positions: int
    bias: str
    where: Places
    parameters: tuple[str, ...]
    watched: TracedLayer | None = None
    part: int = 0
    at_once: bool = False
    reason: str = ""
    plain: bool = False
    shares: str = ""
    count: int = 1
    group: int | None = None
    cut: Cut | None = None
    members: tuple[LayerBlock, ...] = ()

    @property
    def kind(self) -> Layer | None:
        """How the layer shows `a` and `g`; None for a bare parameter."""
        return None if self.watched is None else self.watched.kind

    @property
    def size(self) -> int:
        """O·I, of all blocks together."""
        return self.count * self.d_in * self.d_out

    @property
    def leaf_elements(self) -> int:
        """Numbers in `a` and one column of `g`, for one example."""
        a, g = (1 if leaf in self.repeated else self.count for leaf in "ag")
        return self.positions * (a * self.d_in + g * self.d_out)

    @property
    def repeated(self) -> frozenset[str]:
        """The leaves that all blocks have alike: of the side that a cut leaves whole."""
        if self.count == 1 or self.cut is None or self.cut.into < self.count:
            return frozenset()
        return frozenset("a" if self.cut.side == "outputs" else "ge")

    @property
    def names(self) -> tuple[str, ...]:
        """The name of every block: with its group in brackets where there are several."""
        if self.count == 1:
            return (self.name,)
        return group_names(self.name.removesuffix(group_range(self.count)), self.count)

    @property
    def index(self) -> Tensor:
        """Positions of the entries in the parameter vector, int64, made when they are asked for."""
        return self.where.index

    @property
    def places(self) -> Tensor:
        """The index of every block, [G, O·I]."""
        return self.index.reshape(self.count, -1)

    @property
    def factored(self) -> bool:
        """Whether `a` and `g` have a meaning of their own: every stage fits."""
        return not self.reason


def group_range(count: int) -> str:
    """How the name of all groups ends."""
    return f"[0…{count - 1}]"


def group_names(name: str, count: int) -> tuple[str, ...]:
    """The names of groups: `conv[0]`, `conv[1]` and so on."""
    return tuple(f"{name}[{k}]" for k in range(count))


def apart(block: LayerBlock) -> tuple[LayerBlock, ...]:
    """Every block by itself."""
    if block.count == 1:
        return (block,)
    named = zip(block.names, block.where.parts(block.count), strict=True)
    return tuple(
        replace(block, name=name, where=where, count=1, group=k)
        for k, (name, where) in enumerate(named)
    )


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of the problem: trainable ones, in the order of `named_parameters()`."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def first_trainable(model: nn.Module) -> nn.Parameter:
    """The first parameter of the problem, in whose precision and on whose device all are."""
    return next(p for p in model.parameters() if p.requires_grad)


def offsets(model: nn.Module) -> dict[str, int]:
    """Where every parameter begins in the vector of all of them."""
    found, start = {}, 0
    for name, p in trainable(model).items():
        found[name] = start
        start += p.numel()
    return found


def groups(blocks: Sequence[LayerBlock]) -> Groups:
    """The modules to watch for these blocks, by layer."""
    every = elementary(blocks)
    return {block.layer: block.watched for block in every if block.watched is not None}


def elementary(blocks: Sequence[LayerBlock]) -> list[LayerBlock]:
    """The blocks, and in place of one that joins others those."""
    return [own for block in blocks for own in (block.members or (block,))]


def block_inputs(blocks: Sequence[LayerBlock], found: Trace) -> dict[str, Input]:
    """a_nti of every block, [B, T, I]; one tensor for layers with one input."""
    known: dict[tuple[str, str], list[tuple[Input, ...]]] = {}
    result: dict[str, Input] = {}
    same: dict[object, str] = {}
    for block in blocks:
        if block.members and block.factored:
            (result[block.name],) = block_inputs(block.members[:1], found).values()
            continue
        if block.kind is None:
            result[block.name] = found.output.new_ones(
                len(found.output), 1, 1, dtype=found.dtype
            ).detach()
            continue
        first = same.setdefault(input_key(block, found) or block.name, block.name)
        if first != block.name:
            result[block.name] = result[first]
            continue
        key = (block.layer, block.bias)
        if key not in known:
            known[key] = [use.a_nti(block.bias) for use in found.uses[block.layer]]
        inputs: list[Any] = [use[block.part] for use in known[key]]
        whole = inputs[0] if len(inputs) == 1 else torch.cat(inputs, -2)
        result[block.name] = _grouped(whole, block, "inputs")
    return result


def input_key(block: LayerBlock, found: Trace) -> object:
    """What tells the inputs of a block's uses from others', in memory; None where `a` is more."""
    if block.kind is None or not (block.plain and block.kind.rows):
        return None
    inputs = [use.input for use in found.uses[block.layer]]
    return block.bias, *((x.data_ptr(), x.shape, x.stride(), x.dtype) for x in inputs)


def block_columns(
    blocks: Sequence[LayerBlock],
    found: Trace,
    pulled: Mapping[str, Sequence[Tensor]],
    bare: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """g_nrto of every block, [B, R, T, O].

    Args:
        blocks: The blocks.
        found: The trace.
        pulled: Cotangents of every use of the layers.
        bare: [B, R, size] of every bare parameter.
    """
    known: dict[tuple[str, str], list[tuple[Tensor, ...]]] = {}
    result: dict[str, Tensor] = {}
    for block in blocks:
        if block.members:
            result[block.name] = _joined_columns(block, found, pulled, bare)
            continue
        if block.kind is None:
            result[block.name] = bare[block.parameters[0]].unsqueeze(2)
            continue
        key = (block.layer, block.bias)
        if key not in known:
            uses = zip(found.uses[block.layer], pulled[block.layer], strict=True)
            known[key] = [use.g_nrto(grad, block.bias) for use, grad in uses]
        parts = [use[block.part] for use in known[key]]
        whole = parts[0] if len(parts) == 1 else torch.cat(parts, -2)
        result[block.name] = _grouped(whole, block, "outputs")
    return result


def _joined_columns(
    block: LayerBlock,
    found: Trace,
    pulled: Mapping[str, Sequence[Tensor]],
    bare: Mapping[str, Tensor],
) -> Tensor:
    """Columns of a block that joins others: their outputs side by side, or all their entries."""
    g = block_columns(block.members, found, pulled, bare)
    if block.factored:
        return torch.cat([g[own.name] for own in block.members], -1)
    a = block_inputs(block.members, found)
    rows = [column_rows(own, a[own.name], g[own.name]) for own in block.members]
    return torch.cat(rows, -1).unsqueeze(2)


def _grouped(part: Any, block: LayerBlock, side: str) -> Any:
    """What is a block's own of inputs or outputs: one group, or all of them."""
    part = part if block.cut is None else _pieces(part, block.cut, side)
    return part if block.group is None else part[block.group]


def _pieces(part: Any, cut: Cut, side: str) -> Tensor:
    """Inputs or outputs of a layer that is cut, its pieces in front: the same ones for all where the other is cut."""
    x: Tensor = part if isinstance(part, Tensor) else part.dense()
    # Axes are [n, t, i] and [n, r, t, o]; in front of n stands that of a layer's own groups.
    lead = x.dim() - (3 if side == "inputs" else 4)
    if cut.side == side:
        x = x.unflatten(-1, (cut.into, -1)).movedim(-2, lead)
    else:
        x = x.unsqueeze(lead).expand(*x.shape[:lead], cut.into, *x.shape[lead:])
    return x.flatten(0, 1) if lead else x


def bare_names(blocks: Sequence[LayerBlock]) -> list[str]:
    """Parameters whose gradients autograd has to give."""
    return [block.parameters[0] for block in elementary(blocks) if block.kind is None]


def bare_at_once(blocks: Sequence[LayerBlock]) -> bool:
    """Whether it gives them for all examples of a batch at once."""
    return all(block.at_once for block in elementary(blocks) if block.kind is None)


def scale_and_shift(module: nn.Module) -> str:
    """Why the parameters of a normalisation are outside any layer's weight matrix."""
    return f"{type(module).__name__} has a scale and a shift, not a matrix"


def gradients_of(blocks: Sequence[LayerBlock], found: Trace, columns: Tensor) -> dict[str, Tensor]:
    """Σ_t g a of every layer's blocks for one column, by parameter places: [B, size]."""
    shown = [block for block in blocks if block.kind is not None]
    pulled = pull_back(found, columns)
    g = block_columns(shown, found, pulled, {})
    a = block_inputs(shown, found)
    return {b.name: column_rows(b, a[b.name], g[b.name])[:, 0] for b in shown}


def column_rows(block: LayerBlock, a: Input, g: Tensor) -> Tensor:
    """Σ_t g[n,r,t,o] a[n,t,i], the columns on the block's entries: [B, R, size]."""
    lead = "" if block.count == 1 else "b"
    return torch.einsum(f"{lead}nrto,{lead}nti->nr{lead}oi", g, a).flatten(2)
