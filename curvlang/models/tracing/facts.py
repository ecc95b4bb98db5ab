"""What is known of a model's layers, and the blocks that follow from it."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from curvlang.models.layers.embedding import Embedding
from curvlang.models.layers.layer import Part
from curvlang.models.tracing.layer_block import (
    LayerBlock,
    group_range,
    input_key,
    offsets,
    scale_and_shift,
    trainable,
)
from curvlang.models.tracing.survey import CoveredLayer, OutsideParameter, Survey
from curvlang.models.tracing.trace import Trace, trace
from curvlang.models.tracing.watching import Groups, TracedLayer
from curvlang.operators.places import Places


@dataclass(frozen=True, slots=True)
class Facts:
    """What trying a model on a few examples has shown of its layers.

    Args:
        outside: Layers whose `a` and `g` do not give the gradient, with the reason: their parameters
            are outside any layer's weight matrix.
        constant: Layers whose input is the same for every example.
        folds: Of layers whose examples and positions stand on the first axis together, how many
            rows an example has.
        second: Layers that read positions on the first axis and examples on the second.
        at_once: Whether gradients of parameters outside any layer come from all examples of a batch
            at once; else from one example after the other.
        picks: Whether the model picks rows by their values, so that other examples may be read in
            another way: some batches are then checked as these examples were.
    """

    outside: Mapping[str, str] = field(default_factory=dict)
    constant: frozenset[str] = frozenset()
    folds: Mapping[str, frozenset[int]] = field(default_factory=dict)
    second: frozenset[str] = frozenset()
    at_once: bool = False
    picks: bool = False

    def without(self, outside: Mapping[str, str]) -> Facts:
        """The same with further layers outside."""
        return replace(self, outside={**self.outside, **outside})

    def split(self, found: Survey) -> tuple[list[CoveredLayer], list[OutsideParameter]]:
        """The layers that show `a` and `g`, and all parameters outside them."""
        shown = [layer for layer in found.layers if layer.name not in self.outside]
        bare = list(found.bare)
        for layer in found.layers:
            why = self.outside.get(layer.name)
            if why is not None:
                kind = type(layer.module).__name__
                names = [name for name in (layer.weight, layer.bias) if name]
                bare += [OutsideParameter(name, layer.name, kind, why) for name in names]
        return shown, bare

    def watched(self, layers: Sequence[CoveredLayer], *, trying: bool = False) -> Groups:
        """The layers to watch; with any fold while they are tried."""
        return {x.name: self.watching(x, trying=trying) for x in layers}

    def watching(self, layer: CoveredLayer, *, trying: bool = False) -> TracedLayer:
        """How a layer's uses are recorded; with any fold while it is tried."""
        return TracedLayer(
            layer.modules,
            layer.kind,
            layer.inside,
            layer.name in self.constant,
            None if trying else self.folds.get(layer.name, frozenset()),
            None if trying else layer.name in self.second,
        )


def made_blocks(
    model: nn.Module,
    X: Tensor,
    facts: Facts,
    layers: Sequence[CoveredLayer],
    apart: Container[str] = (),
    *,
    traced: Trace | None = None,
) -> tuple[list[LayerBlock], Trace]:
    """The blocks of the layers that are shown, and the trace that they are read from; made where not given.

    Weight and bias of the layers `apart` are blocks of their own.
    """
    traced = traced or trace(model, X, facts.watched(layers))
    starts = offsets(model)
    made = [
        block
        for layer in layers
        for block in _layer_blocks(layer, traced, starts, layer.name in apart, facts)
    ]
    made.sort(key=lambda block: block.where.first)
    return _sharing(made, traced), traced


WORDS = "its inputs or outputs are the words of a vocabulary, which stand apart"


def without_vocabulary(
    made: Sequence[LayerBlock], model: nn.Module, found: Trace
) -> list[LayerBlock]:
    """The blocks, those of embeddings and of the layer that predicts their rows outside any weight matrix."""
    predicts = _last_layer(found) if found.output.shape[-1] in _words(made, model, found) else None
    return [
        replace(block, reason=block.reason or WORDS)
        if isinstance(block.kind, Embedding) or block.layer == predicts
        else block
        for block in made
    ]


def _words(made: Sequence[LayerBlock], model: nn.Module, found: Trace) -> set[int]:
    """Rows of the tables that words are looked up in: not of positions, and not of kinds of words.

    A classifier of two classes predicts no words because there are two kinds of segments.
    """
    tables = {
        name: x.num_embeddings
        for name, x in model.named_modules()
        if isinstance(x, nn.Embedding | nn.EmbeddingBag)
    }
    groups = {block.layer: block.watched for block in made if block.watched is not None}
    asked = {
        module: use.input
        for block in made
        if isinstance(block.kind, Embedding)
        for module, use in zip(groups[block.layer].modules, found.uses[block.layer], strict=False)
    }
    other = {
        name
        for name, x in asked.items()
        if len(x) == 1 != len(found.output)
        or _counts_up(x)
        or _beside_words(name, asked, tables, found)
    }
    return {size for name, size in tables.items() if name not in other}


def _counts_up(x: Tensor) -> bool:
    """Whether rows are asked for one behind the other, or one alone: positions, or a kind that all have."""
    steps = x.reshape(len(x), -1).diff()
    return steps.numel() > 1 and any(bool((steps == k).all()) for k in (0, 1))


def _beside_words(
    name: str, asked: Mapping[str, Tensor], tables: Mapping[str, int], found: Trace
) -> bool:
    """Whether what is predicted has no positions, and a larger table is asked for rows at the same ones."""
    return found.output.ndim == 2 and any(
        x.shape == asked[name].shape and tables[other] > tables[name] for other, x in asked.items()
    )


def _last_layer(found: Trace) -> str | None:
    """The layer that gives the model's output, but for functions of single numbers behind it."""
    edges = {
        use.edge.node: layer
        for layer, uses in found.uses.items()
        for use in uses
        if use.edge is not None
    }
    node = found.output.grad_fn
    while node is not None and node not in edges:
        before = [x for x, _ in node.next_functions if x is not None]
        node = before[0] if len(before) == 1 else None
    return None if node is None else edges[node]


def _layer_blocks(
    layer: CoveredLayer, found: Trace, starts: Mapping[str, int], apart: bool, facts: Facts
) -> Iterator[LayerBlock]:
    """The layer's blocks, one for each part of it; or its weight's and its bias's."""
    together = [name for name in (layer.weight, layer.bias) if name]
    chosen = [(name,) for name in together] if apart else [tuple(together)]
    parts = layer.kind.parts(layer.module)
    watched = facts.watching(layer)
    whole = not (watched.inside or watched.constant or watched.folds or watched.second)
    # Under an autocast of the model's own an output has another precision than tangents added to it.
    alike = all(use.dtype == found.dtype for use in found.uses[layer.name])
    plain = layer.kind.dense_rows(layer.module) and whole and alike
    for names in chosen:
        name = names[0] if apart else layer.name
        bias = _columns(layer, names)
        seen = [use.a_nti(bias) for use in found.uses[layer.name]]
        for k, part in enumerate(parts):
            index = _index(layer, names, part, starts)
            count = len(index) if index.dim() == 3 else 1
            yield LayerBlock(
                name if count == 1 else name + group_range(count),
                layer.name,
                index.shape[-1],
                index.shape[-2],
                sum(int(use[k].shape[-2]) for use in seen),
                bias,
                Places.of(index.reshape(-1)),
                names,
                watched,
                k,
                reason="" if layer.kind.factored else scale_and_shift(layer.module),
                plain=plain,
                count=count,
            )


def _columns(layer: CoveredLayer, parameters: tuple[str, ...]) -> str:
    """Which columns of `a` the block of some of a layer's parameters has."""
    if layer.weight not in parameters:
        return "only"
    return "joint" if layer.bias in parameters else "none"


def _index(
    layer: CoveredLayer, parameters: tuple[str, ...], part: Part, starts: Mapping[str, int]
) -> Tensor:
    """Places of a part's entries in the parameter vector, [O, I] or [G, O, I]."""
    columns = []
    if layer.weight in parameters:
        columns.append(part.weight + starts[layer.weight])
    if layer.bias in parameters:
        columns.append(part.bias.unsqueeze(-1) + starts[layer.bias])
    return torch.cat(columns, -1)


def bare_blocks(
    items: Sequence[OutsideParameter], model: nn.Module, facts: Facts
) -> Iterator[LayerBlock]:
    """A block for every parameter outside the layers; one without entries has none."""
    own, starts = trainable(model), offsets(model)
    for item in items:
        p, name = own[item.parameter], item.parameter
        if p.numel():
            index = torch.arange(p.numel(), device=p.device) + starts[name]
            yield LayerBlock(
                name,
                name,
                1,
                p.numel(),
                1,
                "none",
                Places.of(index),
                (name,),
                at_once=facts.at_once,
                reason=item.reason,
            )


def _sharing(made: Sequence[LayerBlock], found: Trace) -> list[LayerBlock]:
    """The blocks, each with the name of the first one that has its input and its sizes."""
    first: dict[object, str] = {}
    result = []
    for block in made:
        same = input_key(block, found)
        name = block.name if same is None else first.setdefault((same, block.d_out), block.name)
        result.append(block if name == block.name else replace(block, shares=name))
    return result
