"""Scores as a stream: some queries at a time against some training examples at a time, never all at once."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from curvlang.attribution.blocks import scored_blocks
from curvlang.attribution.compressed import compressed, score_bound
from curvlang.attribution.factored import (
    PROBED,
    QUERIES_SHARE,
    Blocks,
    Preconditioner,
    TrainingProducts,
    block_queries,
    block_self_scores,
    product_error,
    queries_at_once,
    whole_queries,
)
from curvlang.attribution.gradients import (
    batch_size,
    check_scores,
    gradient_batches,
    product,
    query_gradients,
)
from curvlang.attribution.groups import Groups, group_matrix, group_members
from curvlang.attribution.layer_forms import split, splits
from curvlang.attribution.passes import MOST, scored_elements
from curvlang.attribution.passes import batch_size as leaf_batch_size
from curvlang.attribution.score_orders import Queries
from curvlang.attribution.streams.cut import ScoreCut, score_cut
from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.models.losses.loss import Loss, show_dtype
from curvlang.models.task import Task
from curvlang.models.tracing.blocks import LayerBlock, apart
from curvlang.models.tracing.per_position import position_count, position_gradients
from curvlang.operators import BlockDiagonal, Operator
from curvlang.runtime.limits.memory import available
from curvlang.runtime.progress.listeners import Progress

Source = Callable[[range], dict[str, Tensor]]
"""Gives the scores of some queries against some training examples, by the layer's name or under no name."""
Unit = tuple[int, int]
"""A turn of queries, and a chunk of training examples."""


class ReducedPrecision(UserWarning):
    """What products in a lower precision change."""


class CompressedQueries(UserWarning):
    """By how much scores of compressed queries may be off."""


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """Which scores are wanted, and how; every name means what it means in `influence`."""

    per_layer: bool = False
    per_position: bool = False
    groups: Groups | None = None
    reduce: str = "sum"
    chunk: int = 4096
    products: torch.dtype | None = None
    compress: float | None = None
    progress: Progress | None = None

    def rows(self, task: Task) -> int:
        """Queries, or groups of them."""
        return task.Q if self.groups is None else len(group_members(self.groups, task.Q))

    def weights(self, task: Task) -> Tensor | None:
        """[G, Q] of the queries in every group; None for the queries themselves."""
        if self.groups is None:
            return None
        found = group_matrix(self.groups, self.reduce, task.Q)
        return found.to(device=task.device, dtype=task.precision)


@dataclass(frozen=True, slots=True, eq=False)
class ScoreBatch:
    """Scores of some queries against some training examples.

    Args:
        rows: Which queries, or groups; None for self-influence.
        train: Which training examples.
        scores: [rows, train], with an axis of positions behind them where there is one, by the layer's
            name or under no name; self-influence [train].
    """

    rows: slice | None
    train: slice
    scores: Mapping[str, Tensor]

    @property
    def place(self) -> tuple[slice, ...]:
        """Where they lie among all scores."""
        return (self.train,) if self.rows is None else (self.rows, self.train)


class ScoreStream:
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
        self.given = None if request.per_position else scored_blocks(inverse, task)
        self._parts = None if self.given is not None else self._by_gradients()
        fits = self.rows
        if request.groups is None:
            fits = min(fits, self._fitting(), self._scored_at_once())
        self.turn = max(1, min(self.rows, turn or fits))
        self.cut = self._cut() if size is None else ScoreCut(task.N, size)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the layers; empty where scores are added up over them."""
        if not self.request.per_layer:
            return ()
        if self.given is not None:
            return tuple(name for x in self.given for name in x.layer.names)
        return tuple(self._parts or ())

    @property
    def positions(self) -> int:
        """Output positions, where scores are by position; else 1."""
        return position_count(self.task) if self.request.per_position else 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Of all scores, or of each layer's."""
        behind = (self.positions,) if self.request.per_position else ()
        return (self.rows, self.cut.total, *behind)

    @property
    def turns(self) -> int:
        """How many turns the queries take."""
        return -(-self.rows // self.turn)

    @property
    def units(self) -> list[Unit]:
        """Every turn with every chunk of the training examples."""
        return [(t, k) for t in range(self.turns) for k in range(self.cut.count)]

    def own(self, turn: int) -> slice:
        """The queries of a turn."""
        return slice(turn * self.turn, min((turn + 1) * self.turn, self.rows))

    def batches(self, units: Collection[Unit] | None = None) -> Iterator[ScoreBatch]:
        """Scores of every unit, or of some; the queries of a turn are preconditioned when it begins.

        Raises:
            SpecError: E0420 or E0794 for scores that are not finite.
        """
        wanted = sorted(self.units if units is None else units)
        for turn in sorted({t for t, _ in wanted}):
            source = self.source(turn)
            for k in (k for t, k in wanted if t == turn):
                within = self.cut.chunk(k)
                scores = source(within)
                check_scores(scores.values(), self.task, self.cost)
                yield ScoreBatch(self.own(turn), slice(within.start, within.stop), scores)

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
            queries = _compressed(some, self.given, queries, request.compress)
        _warn_of_products(some, self.given, queries, request.products)
        asked = [Preconditioner(self.given, queries)]
        found = TrainingProducts(some, asked, request.products, apart=request.per_layer)
        return lambda within: found.over(within)[0]

    def _by_gradients(self) -> dict[str, tuple[Operator, Tensor | slice]]:
        """What a C⁻¹ that is one matrix, or scores by position, are taken with."""
        parts = _parts(self.inverse, self.task, self.request.per_layer)
        _check_options(self.request)
        return parts

    def _fitting(self) -> int:
        """Queries whose preconditioned gradients take a share of what is available."""
        if self.given is not None:
            return queries_at_once(self.task, self.given)
        size = torch.empty((), dtype=torch.float64).element_size()
        share = available(self.task.device) // QUERIES_SHARE
        return max(1, share // (2 * size * self.task.P))

    def _scored_at_once(self) -> int:
        """Queries whose scores of a chunk take a share of what is available."""
        return max(1, available(self.task.device) // QUERIES_SHARE // chunk_bytes(self))

    def _cut(self) -> ScoreCut:
        task, request = self.task, self.request
        if self.given is None and (request.per_layer or request.per_position):
            return score_cut(task.N, batch_size(task, self.positions), self.turn * self.positions)
        layers = task.blocks() if self.given is None else [x.layer for x in self.given]
        most = leaf_batch_size(task, layers, scored_elements(layers, self.turn))
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


def chunk_bytes(stream: ScoreStream) -> int:
    """Bytes of the scores of one query against a chunk of training examples, at most."""
    return least_bytes(stream.task, max(1, len(stream.names)) * stream.positions)


def least_bytes(task: Task, numbers: int) -> int:
    """Bytes of the scores of one query, or group, that are held at the same time.

    Args:
        task: The training examples.
        numbers: Of a pair: one for each layer and position.
    """
    size = torch.empty((), dtype=torch.float64).element_size()
    return size * numbers * min(task.N, MOST)


class SelfStream:
    """`∇ℓ_nᵀ C⁻¹ ∇ℓ_n` of the examples of a part, as they come.

    Args:
        inverse: C⁻¹.
        task: Its examples.
        part: `train` or `query`.
        size: Examples of a chunk; by shapes where not given.
    """

    def __init__(
        self, inverse: Operator, task: Task, part: str = "train", size: int | None = None
    ) -> None:
        self.inverse = inverse
        self.task = task
        self.part = part
        self.given = scored_blocks(inverse, task)
        total = len(task.part(part)[0])
        if size is not None:
            self.cut = ScoreCut(total, size)
        elif self.given is None:
            self.cut = score_cut(total, batch_size(task), 1)
        else:
            layers = [x.layer for x in self.given]
            formed = max((x.layer.size for x in self.given if not x.by_leaves), default=0)
            self.cut = score_cut(total, leaf_batch_size(task, layers, formed), 1)

    @property
    def turns(self) -> int:
        """There are no queries that could take turns."""
        return 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Of all scores."""
        return (self.cut.total,)

    @property
    def names(self) -> tuple[str, ...]:
        """Scores are added up over layers."""
        return ()

    @property
    def units(self) -> list[Unit]:
        """Every chunk."""
        return [(0, k) for k in range(self.cut.count)]

    def batches(self, units: Collection[Unit] | None = None) -> Iterator[ScoreBatch]:
        """Scores of every unit, or of some.

        Raises:
            SpecError: E0420 or E0794 for scores that are not finite.
        """
        for _, k in self.units if units is None else sorted(units):
            within = self.cut.chunk(k)
            scores = self.source(within)
            check_scores([scores], self.task, parts=(self.part,))
            yield ScoreBatch(None, slice(within.start, within.stop), {"": scores})

    def source(self, within: range) -> Tensor:
        """Of some examples, [B]."""
        if self.given is not None:
            return block_self_scores(self.task, self.given, self.part, within)
        found = []
        for v in gradient_batches(self.task, self.task.loss, self.part, within):
            v = v.to(self.inverse.dtype)
            found.append((product(self.inverse, v) * v).sum(-1))
        return torch.cat(found)


Stream = ScoreStream | SelfStream


def _warn_of_products(
    task: Task, given: Blocks, queries: Mapping[str, Queries], products: torch.dtype | None
) -> None:
    if products is None or products == task.precision:
        return
    error = product_error(task, given, queries, products)
    warnings.warn(
        f"products in {show_dtype(products)}: scores of {min(PROBED, task.N)} training examples differ by at "
        f"most {error:.1g} of the largest",
        ReducedPrecision,
        stacklevel=2,
    )


def check_share(share: float) -> None:
    """Refuse a `compress` that is not a share.

    Raises:
        SpecError: E0594.
    """
    if not 0 < share < 1:
        raise refusal(
            Code.E0594,
            f"`compress = {share:g}` is not a share of a query",
            "give a number between 0 and 1, `1e-3`",
        )


def _compressed(
    task: Task, given: Blocks, queries: Mapping[str, Queries], share: float
) -> dict[str, Queries]:
    """Queries of low rank; a warning says what that may change."""
    check_share(share)
    found = {name: compressed(u, share) for name, u in queries.items()}
    bound = float(score_bound(task, given, found).max())
    warnings.warn(
        f"queries of low rank: no score is off by more than {bound:.2g}",
        CompressedQueries,
        stacklevel=2,
    )
    return {name: x.queries for name, x in found.items()}


def _without_blocks(option: str, what: str, per_position: bool) -> SpecError:
    why = "by position" if per_position else "of a curvature without blocks by layer"
    return refusal(
        Code.E0594,
        f"scores {why} have no {what}",
        f"leave `{option}` out, or use a chain with `block_diagonal(by = layer)`",
    )


def check_blocks(inverse: Operator, request: Request) -> None:
    """Refuse scores that only a curvature of blocks has.

    The structure of C⁻¹ is enough: known before anything is fitted.

    Raises:
        SpecError: E0710 for scores by layer, E0594 for an option that scores by layers have.
    """
    whole = not splits(inverse)
    if request.per_layer and whole:
        raise _without_layers()
    if whole or request.per_position:
        _check_options(request)


def _check_options(request: Request) -> None:
    for option, what in (
        ("products", "products in another precision"),
        ("compress", "queries of low rank"),
    ):
        if getattr(request, option) is not None:
            raise _without_blocks(option, what, request.per_position)


def _without_layers() -> SpecError:
    return refusal(
        Code.E0710,
        "the curvature is one matrix, which has no scores per layer",
        "put `block_diagonal(by = layer)` into the chain",
    )


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
        raise _without_layers()
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
