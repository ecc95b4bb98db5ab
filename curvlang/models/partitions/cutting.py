"""Blocks finer and coarser than layers: heads of attention, groups of output units, parameters by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal
from curvlang.diagnostics.suggestion import suggestion
from curvlang.language.partition import Partition, matcher
from curvlang.models.layers.embedding import Embedding
from curvlang.models.partitions.attention_heads import attention_cuts, part_shape
from curvlang.models.tracing.layer_block import Cut, LayerBlock, group_range, input_key
from curvlang.models.tracing.survey import CoveredLayer
from curvlang.models.tracing.trace import Trace
from curvlang.operators.places import Places

T = TypeVar("T")
SEVERAL = "it holds parameters of several layers"

Cuts = Mapping[str, Cut]
"""How layers are cut, by their names."""


@dataclass(frozen=True, slots=True)
class Membership:
    """Which block a parameter is in: the number of its group, and what `{*}` stands for in its name."""

    number: int
    captured: tuple[str, ...]
    name: str


def cuts_of(partition: Partition, layers: Sequence[CoveredLayer]) -> Cuts:
    """How the layers are cut by heads or by units; none for other partitions.

    Args:
        partition: What a block is of.
        layers: Those that show `a` and `g`.

    Raises:
        SpecError: E0427 where a count does not divide, E0429 where a model has no layer of attention,
            E0431 where a pattern matches no layer.
    """
    if partition.kind not in ("head", "unit"):
        return {}
    chosen = [x for x in layers if x.kind.factored and not isinstance(x.kind, Embedding)]
    if partition.of:
        chosen = _matched(partition, chosen)
    if partition.kind == "head" and not partition.of:
        return attention_cuts(partition, chosen)
    return {x.name: _by_outputs(x, partition) for x in chosen}


def _matched(partition: Partition, layers: Sequence[CoveredLayer]) -> list[CoveredLayer]:
    found: dict[str, CoveredLayer] = {}
    for pattern in partition.of:
        own = {x.name: x for x in layers if matcher(pattern).fullmatch(x.name)}
        if not own:
            raise _matches_nothing(pattern, "layer with a weight matrix", [x.name for x in layers])
        found |= own
    return list(found.values())


def _by_outputs(layer: CoveredLayer, partition: Partition) -> Cut:
    """A layer's outputs in groups of units, or in as many groups as heads."""
    outputs, _ = part_shape(layer)
    units = partition.kind == "unit"
    if outputs % partition.count:
        raise refusal(
            Code.E0427,
            f"`{partition.written}` does not divide the {outputs} outputs of `{layer.name}`",
            "take a number that divides the outputs of every layer that is cut",
            'or say which layers are cut, for example `of = "*.query"`; others are a block each',
        )
    return Cut("outputs", outputs // partition.count if units else partition.count)


def cut(block: LayerBlock, how: Cut | None) -> LayerBlock:
    """A layer's block, or several of one shape, as the blocks that it is cut into."""
    if how is None or how.into == 1:
        return block
    base = block.name.removesuffix(group_range(block.count)) if block.count > 1 else block.name
    index = block.index
    if how.side == "inputs":
        index = index.reshape(block.count, block.d_out, how.into, -1).transpose(1, 2).reshape(-1)
    count = block.count * how.into
    small = {
        "outputs": (block.d_out // how.into, block.d_in),
        "inputs": (block.d_out, block.d_in // how.into),
    }
    d_out, d_in = small[how.side]
    return replace(
        block,
        name=base + group_range(count),
        d_in=d_in,
        d_out=d_out,
        where=Places.of(index),
        plain=False,
        shares="",
        count=count,
        cut=how,
    )


def memberships(partition: Partition, names: Sequence[str]) -> dict[str, Membership]:
    """The group of every parameter that a pattern matches.

    Args:
        partition: Its groups; a partition without any has no members.
        names: All trainable parameters.

    Raises:
        SpecError: E0431 where a pattern matches none, E0433 where two groups match one.
    """
    found: dict[str, Membership] = {}
    for number, group in enumerate(partition.groups):
        for pattern in group:
            matches = {name: m for name in names if (m := matcher(pattern).fullmatch(name))}
            if not matches:
                raise _matches_nothing(pattern, "trainable parameter", names)
            for name, match in matches.items():
                made = Membership(number, match.groups(), _group_name(group, match.groups()))
                if found.setdefault(name, made) != made:
                    raise _overlap(name, found[name], made)
    return found


def _group_name(group: Sequence[str], captured: Sequence[str]) -> str:
    """The patterns with what `{*}` stands for."""
    shown = []
    for pattern in group:
        text = pattern
        for part in captured:
            text = text.replace("{*}", part, 1)
        shown.append(text)
    return " + ".join(shown)


def _matches_nothing(pattern: str, what: str, names: Sequence[str]) -> Exception:
    return refusal(
        Code.E0431,
        f'`"{pattern}"` matches no {what}',
        *suggestion(pattern, tuple(names)),
        "`*` stands for any text, `{*}` for one part of a name between dots",
    )


def _overlap(name: str, first: Membership, second: Membership) -> Exception:
    return refusal(
        Code.E0433,
        f"`{name}` is in two blocks: `{first.name}` and `{second.name}`",
        "write patterns of which one alone matches it",
        notes=("blocks on the diagonal of a matrix have no row in common",),
    )


def grouped(
    made: Sequence[LayerBlock], members: Mapping[str, Membership], found: Trace
) -> list[LayerBlock]:
    """The blocks, those of one group as one.

    Args:
        made: Blocks whose parameters are in one group each, or in none.
        members: The group of every parameter that has one.
        found: The trace that they are read from.
    """
    together: dict[object, list[LayerBlock]] = {}
    for block in made:
        own = members.get(block.parameters[0])
        together.setdefault(block.name if own is None else (own.number, own.captured), []).append(
            block
        )
    return [
        blocks[0]
        if len(blocks) == 1 and blocks[0].count == 1
        else _joined(members[blocks[0].parameters[0]].name, blocks, found)
        if blocks[0].parameters[0] in members
        else blocks[0]
        for blocks in together.values()
    ]


def _joined(name: str, blocks: Sequence[LayerBlock], found: Trace) -> LayerBlock:
    """Several blocks as one: one matrix where they have one input, else their entries as one index."""
    index = torch.cat([block.index for block in blocks])
    parameters = tuple(dict.fromkeys(p for block in blocks for p in block.parameters))
    first = blocks[0]
    keys = [input_key(block, found) for block in blocks]
    one_input = None not in keys and len(set(keys)) == 1
    if one_input and all(block.factored and block.count == 1 for block in blocks):
        outputs = sum(block.d_out for block in blocks)
        return replace(
            first,
            name=name,
            d_out=outputs,
            where=Places.of(index),
            parameters=parameters,
            plain=False,
            shares="",
            members=tuple(blocks),
        )
    return LayerBlock(
        name,
        name,
        1,
        len(index),
        1,
        "none",
        Places.of(index),
        parameters,
        reason=SEVERAL,
        members=tuple(blocks),
    )


def split_layers(
    layers: Sequence[CoveredLayer], cuts: Cuts, members: Mapping[str, Membership]
) -> Iterator[str]:
    """Layers whose weight and bias are blocks of their own.

    They are those that are cut by inputs, where the bias has a column for all heads, and those of
    which a group has one without the other.
    """
    for layer in layers:
        names = [name for name in (layer.weight, layer.bias) if name]
        if len(names) < 2:
            continue
        how = cuts.get(layer.name)
        apart = how is not None and how.side == "inputs" and how.into > 1
        keys = {(m.number, m.captured) if (m := members.get(n)) else None for n in names}
        if apart or len(keys) > 1:
            yield layer.name
