"""Scores as a stream: some queries at a time against some training examples at a time, never all at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from curvlang.attribution.blocks import scored_blocks, scored_in
from curvlang.attribution.factored import (
    Preconditioner,
    TrainingProducts,
    block_queries,
    whole_queries,
)
from curvlang.attribution.gradients import (
    batch_size,
    gradient_batches,
    product,
    query_gradients,
)
from curvlang.attribution.layer_forms import split
from curvlang.attribution.passes import batch_size as leaf_batch_size
from curvlang.attribution.passes import scored_load
from curvlang.attribution.query_shares import worth_sharing
from curvlang.attribution.streams.batch import Source
from curvlang.attribution.streams.by_token import TokenScoring
from curvlang.attribution.streams.cut import ScoreCut, score_cut
from curvlang.attribution.streams.fitting import queries_at_once, query_bytes, score_bytes
from curvlang.attribution.streams.gather import common
from curvlang.attribution.streams.in_turns import StreamInTurns
from curvlang.attribution.streams.reduced import compressed_queries, warn_of_products
from curvlang.attribution.streams.request import Request, check_options, check_parts, without_layers
from curvlang.models.losses.loss import Loss
from curvlang.models.task import Task
from curvlang.models.tracing.blocks import LayerBlock, apart
from curvlang.models.tracing.per_position import position_count, position_gradients
from curvlang.operators import BlockDiagonal, Operator


class ScoreStream(StreamInTurns):
    """Scores under one inverse, as they come.

    Queries that do not fit into memory together take turns, and in each the training examples are read
    chunk by chunk.

    Args:
        inverse: C⁻¹.
        task: Queries and training examples.
        cost: What the queries are scored by.
        request: Which scores, and how.
        turn: Queries of a turn; as many as fit where not given.
        size: Training examples of a chunk; by shapes where not given.
    """

    def __init__(
        self,
        inverse: Operator,
        task: Task,
        cost: Loss,
        request: Request,
        *,
        turn: int | None = None,
        size: int | None = None,
    ) -> None:
        self.inverse = inverse
        self.task = task
        self.cost = cost
        self.request = request
        self.rows = request.rows(task)
        check_parts(request)
        self.tokens = TokenScoring(task) if request.per_token else None
        self.given = None if request.by_parts else scored_blocks(inverse, task)
        self._parts = None if self.given is not None else self._by_gradients()
        fits = self.rows
        if request.groups is None:
            fits = min(
                fits, queries_at_once(task, query_bytes(task, self.given), self._chunk_bytes)
            )
        (self.turn,) = common(max(1, min(self.rows, turn or fits)))
        self.cut = self._cut() if size is None else ScoreCut(self._total, size)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the layers; empty where scores are added up over them."""
        if not self.request.per_layer:
            return ()
        if self.given is not None:
            return tuple(name for x in self.given for name in x.layer.names)
        return tuple(self._parts or ())

    @property
    def in_step(self) -> bool:
        """Whether the processes share products that the inverse is solved by, or prepare queries together."""
        if super().in_step or self.given is None:
            return super().in_step
        ranked = self.request.compress is None
        return worth_sharing(self.given, self.turn, self.task.N, ranked=ranked)

    @property
    def positions(self) -> int:
        """Output positions, where scores are by position or token; else 1."""
        return position_count(self.task) if self.request.by_parts else 1

    @property
    def _total(self) -> int:
        """Training examples, or their tokens."""
        return self.task.N if self.tokens is None else self.tokens.tokens.count

    @property
    def shape(self) -> tuple[int, ...]:
        """Of all scores, or of each layer's."""
        behind = (self.positions,) if self.request.per_position else ()
        return (self.rows, self.cut.total, *behind)

    def source(self, turn: int) -> Source:
        """The queries of a turn, preconditioned, ready to meet training examples."""
        request, own = self.request, self.own(turn)
        some = self.task
        if request.groups is None and self.turns > 1:
            some = self.task.queries(own)
        weights = request.weights(self.task)
        if self.given is None:
            return self._against_gradients(some, weights)
        queries = block_queries(
            some, self.cost, self.given, weights, ranked=request.compress is None
        )
        if request.compress is not None:
            queries = compressed_queries(some, self.given, queries, request.compress)
        kind = request.products or scored_in(some)
        warn_of_products(some, self.given, queries, kind)
        for name in queries:
            # One by one, so that queries in both precisions never stand side by side.
            queries[name] = queries[name].ready(kind)
        asked = [Preconditioner(self.given, queries)]
        found = TrainingProducts(some, asked, kind, apart=request.per_layer)
        return lambda within: found.over(within)[0]

    def _by_gradients(self) -> dict[str, tuple[Operator, Tensor | slice]]:
        """What a C⁻¹ that is one matrix, or scores by position, are taken with."""
        parts = _parts(self.inverse, self.task, self.request.per_layer)
        check_options(self.request)
        return parts

    @property
    def _chunk_bytes(self) -> int:
        """Bytes of the scores of a query with a chunk of training examples, at most."""
        return score_bytes(self.task, max(1, len(self.names)) * self.positions)

    def _cut(self) -> ScoreCut:
        task, request = self.task, self.request
        if self.tokens is not None:
            return self.tokens.cut(self.turn)
        if self.given is None and (request.per_layer or request.per_position):
            return score_cut(task.N, batch_size(task, self.positions), self.turn * self.positions)
        layers = task.blocks() if self.given is None else [x.layer for x in self.given]
        most = leaf_batch_size(task, layers, scored_load(task, layers, self.turn))
        return score_cut(task.N, most, self.turn * max(1, len(self.names)))

    def _against_gradients(self, some: Task, weights: Tensor | None) -> Source:
        """Scores of a C⁻¹ that is one matrix, and scores by position."""
        assert self._parts is not None
        query = query_gradients(some, self.cost, weights).to(self.inverse.dtype)
        chunk = self.request.chunk
        moved = {
            name: torch.cat(
                [product(block, query[k : k + chunk, index]) for k in range(0, len(query), chunk)]
            )
            for name, (block, index) in self._parts.items()
        }
        del query
        by_token = self.tokens
        if by_token is not None:
            return lambda within: {"": by_token.over(moved[""], within)}
        if self.request.per_layer or self.request.per_position:
            return lambda within: self._met(some, moved, within)
        found = TrainingProducts(some, [whole_queries(self.inverse, moved.pop(""), some)])
        return lambda within: found.over(within)[0]

    def _met(self, some: Task, moved: Mapping[str, Tensor], within: range) -> dict[str, Tensor]:
        """Products of preconditioned queries with gradients of a few training examples at a time."""
        assert self._parts is not None
        found: dict[str, list[Tensor]] = {name: [] for name in self._parts}
        for v in _training(some, self.request.per_position, within):
            for name, (_, index) in self._parts.items():
                u = moved[name]
                met = torch.tensordot(u, v[..., index].to(u.dtype), ([1], [v.ndim - 1]))
                found[name].append(met)
        return {name: torch.cat(pieces, 1) for name, pieces in found.items()}


def _parts(
    inverse: Operator, task: Task, per_layer: bool
) -> dict[str, tuple[Operator, Tensor | slice]]:
    """Blocks by name with their places, or the whole under no name."""
    if not per_layer:
        return {"": (inverse, slice(None))}
    if isinstance(inverse, BlockDiagonal):
        named = zip(inverse.names, inverse.blocks, inverse.index, strict=True)
        return {name: (block, index) for name, block, index in named}
    layers = [own for block in task.blocks() for own in apart(block)]
    parts = split(inverse, layers)
    if parts is None:
        raise without_layers()
    return {x.name: (part, x.index) for x, part in zip(layers, parts, strict=True)}


def _training(task: Task, per_position: bool, within: range) -> Iterator[Tensor]:
    """Gradients `[B, P]`, or `[B, T, P]` by output position."""
    if not per_position:
        yield from gradient_batches(task, task.loss, "train", within)
        return
    found: Sequence[LayerBlock] = task.blocks()
    T = position_count(task)
    for x, y in task.batches(batch_size(task, T), "train", within):
        yield position_gradients(task.model, task.loss, x, y, found)
