"""Scores under one inverse or several, streamed: no `[N, P]` matrix is ever formed."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from curvlang.attribution.blocks import scored_blocks
from curvlang.attribution.compressed import compressed, score_bound
from curvlang.attribution.factored import (
    PROBED,
    QUERIES_SHARE,
    Blocks,
    Counted,
    Preconditioner,
    QueryGradients,
    block_queries,
    block_scores,
    block_self_scores,
    product_error,
    queries_at_once,
    scores_together,
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
from curvlang.attribution.score_orders import Queries
from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.models.losses.loss import Loss, show_dtype
from curvlang.models.task import Task
from curvlang.models.tracing.blocks import LayerBlock, apart
from curvlang.models.tracing.per_position import position_count, position_gradients
from curvlang.operators import BlockDiagonal, Operator, Scaled, Sum
from curvlang.runtime.limits.memory import available, require
from curvlang.runtime.progress.listeners import Progress

TURN = 2**29
"""Bytes that scores of a few queries under several inverses, and these queries, may take."""


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


_PLAIN = Request()


def scored_by(
    inverse: Operator, task: Task, cost: Loss, request: Request = _PLAIN
) -> Tensor | dict[str, Tensor]:
    """Scores `[Q, N]` by an inverse that is known.

    Args:
        inverse: C⁻¹.
        task: Queries and training examples.
        cost: What the queries are scored by.
        request: Which scores, and how.
    """
    given = None if request.per_position else scored_blocks(inverse, task)
    layers = layer_count(inverse, task) if request.per_layer else 1
    T = position_count(task) if request.per_position else 1
    require_scores(task, request.rows(task), layers * task.N * T, gradients=given is None)
    if given is not None:
        found = _in_turns(given, task, cost, request)
    else:
        found = _by_gradients(inverse, task, cost, request)
    check_scores(found.values(), task, cost)
    return found if request.per_layer else found[""]


def layer_count(inverse: Operator, task: Task) -> int:
    """How many layers scores by layer are of: the blocks of C⁻¹, or all of the task's."""
    match inverse:
        case BlockDiagonal(names=names):
            return len(names)
        case Scaled(operator=inner):
            return layer_count(inner, task)
        case Sum(terms=terms):
            return max(layer_count(term, task) for term in terms)
        case _:
            return sum(block.count for block in task.blocks())


def require_scores(task: Task, rows: int, each: int, *, gradients: bool) -> None:
    """Refuse scores that do not fit: `each` numbers for every row, and the rows' own gradients.

    Raises:
        MachineError: E0801, before anything is computed.
    """
    size = torch.empty((), dtype=torch.float64).element_size()
    held = 2 * task.P if gradients else 0
    require(
        size * rows * (each + held),
        task.device,
        f"scoring {rows} queries",
        ("score the queries in several tasks, or in groups (`groups = …`)",),
    )


def _in_turns(given: Blocks, task: Task, cost: Loss, request: Request) -> dict[str, Tensor]:
    """Block by block; queries that do not fit into memory together take turns."""
    rows, weights = request.rows(task), request.weights(task)
    at_once = rows if weights is not None else min(rows, queries_at_once(task, given))
    told = counter(request.progress, task.N * -(-rows // at_once))
    turns = []
    for start in range(0, rows, at_once):
        own = slice(start, start + at_once)
        some = task if at_once == rows else task.queries(own)
        queries = block_queries(some, cost, given, weights, ranked=request.compress is None)
        if request.compress is not None:
            queries = _compressed(some, given, queries, request.compress)
        turns.append(_by_blocks(some, given, queries, told, request))
    if len(turns) == 1:
        return turns[0]
    return {name: torch.cat([turn[name] for turn in turns]) for name in turns[0]}


def _by_blocks(
    task: Task,
    given: Blocks,
    queries: Mapping[str, Queries],
    told: Counted | None,
    request: Request,
) -> dict[str, Tensor]:
    """Scores from inputs and output gradients, of every block or of all under no name."""
    products = request.products
    if products is not None and products != task.precision:
        error = product_error(task, given, queries, products)
        warnings.warn(
            f"products in {show_dtype(products)}: scores of {min(PROBED, task.N)} training examples differ by at "
            f"most {error:.1g} of the largest",
            ReducedPrecision,
            stacklevel=2,
        )
    return block_scores(task, given, queries, told, products, apart=request.per_layer)


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


def check_products(name: str | None) -> None:
    """Refuse products in a precision that scores do not have.

    Raises:
        SpecError: E0594.
    """
    if name not in (None, "bfloat16"):
        raise refusal(
            Code.E0594,
            f"there are no products in `{name}`",
            "use `bfloat16`, or leave `products` out",
        )


def no_use(option: str) -> SpecError:
    """The refusal of an option beside `own`."""
    return refusal(
        Code.E0595,
        f"`own` and `{option}` exclude each other: each example is scored against itself alone",
        f"leave `{option}` out",
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


def _by_gradients(inverse: Operator, task: Task, cost: Loss, request: Request) -> dict[str, Tensor]:
    """Scores of a C⁻¹ that is one matrix, and scores by position."""
    parts = _parts(inverse, task, request.per_layer)
    _check_options(request)
    query = query_gradients(task, cost, request.weights(task)).to(inverse.dtype)
    chunk = request.chunk
    moved = {
        name: torch.cat(
            [product(block, query[k : k + chunk, index]) for k in range(0, len(query), chunk)]
        )
        for name, (block, index) in parts.items()
    }
    del query
    if request.per_layer or request.per_position:
        return _against_training(task, moved, parts, request)
    asked = whole_queries(inverse, moved.pop(""), task)
    return {"": scores_together(task, [asked], counter(request.progress, task.N))[0]}


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


def _against_training(
    task: Task,
    moved: dict[str, Tensor],
    parts: dict[str, tuple[Operator, Tensor | slice]],
    request: Request,
) -> dict[str, Tensor]:
    """Products of preconditioned queries with gradients of a few training examples at a time."""
    found: dict[str, list[Tensor]] = {name: [] for name in parts}
    told = counter(request.progress, task.N)
    for v in _training(task, request.per_position):
        for name, (_, index) in parts.items():
            u = moved[name]
            found[name].append(torch.tensordot(u, v[..., index].to(u.dtype), ([1], [v.ndim - 1])))
        if told is not None:
            told(len(v))
    return {name: torch.cat(pieces, 1) for name, pieces in found.items()}


def _training(task: Task, per_position: bool) -> Iterator[Tensor]:
    """Gradients `[B, P]`, or `[B, T, P]` by output position."""
    if not per_position:
        yield from gradient_batches(task, task.loss, "train")
        return
    found: Sequence[LayerBlock] = task.blocks()
    T = position_count(task)
    for x, y in task.batches(batch_size(task, T)):
        yield position_gradients(task.model, task.loss, x, y, found)


def self_scores(
    inverse: Operator, task: Task, part: str, progress: Progress | None = None
) -> Tensor:
    """`∇ℓ_nᵀ C⁻¹ ∇ℓ_n` of every example of a part, `[N]`."""
    told = counter(progress, len(task.part(part)[0]))
    given = scored_blocks(inverse, task)
    if given is not None:
        own = block_self_scores(task, given, part, told)
    else:
        found = []
        for v in gradient_batches(task, task.loss, part):
            v = v.to(inverse.dtype)
            found.append((product(inverse, v) * v).sum(-1))
            if told is not None:
                told(len(v))
        own = torch.cat(found)
    check_scores([own], task, parts=(part,))
    return own


def counter(progress: Progress | None, total: int) -> Counted | None:
    """Adds up what is scored."""
    if progress is None:
        return None
    done = 0

    def told(more: int) -> None:
        nonlocal done
        done += more
        progress("scores", done, total)

    return told


@dataclass(frozen=True, slots=True, eq=False)
class Scorer:
    """Scores of one set of queries under several inverses, a few queries at a time.

    The data are read once in every turn for all inverses of the same layers, and what a layer shows is
    rotated once into every basis. Where the queries of all inverses do not fit, inverses take turns too.

    Args:
        task: Queries and training examples.
        cost: What the queries are scored by.
        inverses: Every C⁻¹.
        progress: Notified how many training examples are scored.
    """

    task: Task
    cost: Loss
    inverses: Sequence[Operator]
    progress: Progress | None = None

    def __iter__(self) -> Iterator[list[Tensor | SpecError]]:
        """Scores `[B, N]` of consecutive queries under every inverse; a refusal in place of some."""
        blocks = [scored_blocks(x, self.task) for x in self.inverses]
        rows, together = self._sizes(blocks)
        groups = [range(k, min(k + together, len(blocks))) for k in range(0, len(blocks), together)]
        turns = range(0, self.task.Q, rows)
        told = counter(self.progress, self.task.N * len(turns) * len(groups))
        for start in turns:
            own = slice(start, start + rows)
            some = self.task
            if len(turns) > 1:
                some = self.task.queries(own)
            yield [x for group in groups for x in self._turn(some, blocks, group, told)]

    def _sizes(self, blocks: Sequence[Blocks | None]) -> tuple[int, int]:
        """Queries of a turn, and inverses that share a pass."""
        each = [self._row(x) for x in blocks]
        limit = min(available(self.task.device) // QUERIES_SHARE, TURN)
        rows = max(1, min(self.task.Q, limit // max(1, sum(each))))
        together = max(1, limit // max(1, rows * max(each)))
        return rows, min(together, len(blocks))

    def _row(self, blocks: Blocks | None) -> int:
        """Bytes of one query under an inverse, with its scores."""
        own = torch.empty((), dtype=self.task.precision).element_size()
        if blocks is None:
            return 8 * self.task.N + 2 * (own + 8) * self.task.P
        held = sum(
            x.layer.d_in + x.layer.d_out if x.by_leaves else 2 * x.layer.size for x in blocks
        )
        return 8 * self.task.N + own * held

    def _turn(
        self,
        some: Task,
        blocks: Sequence[Blocks | None],
        group: range,
        told: Counted | None,
    ) -> list[Tensor | SpecError]:
        asked: list[Preconditioner | SpecError] = []
        known = [x for k in group if (x := blocks[k]) is not None]
        gradients = QueryGradients(some, self.cost, known) if known else None
        whole = None
        if len(known) < len(group):
            whole = query_gradients(some, self.cost)
        for k in group:
            given, inverse = blocks[k], self.inverses[k]
            try:
                if given is not None and gradients is not None:
                    asked.append(gradients.under(given))
                elif whole is not None:
                    moved = product(inverse, whole.to(inverse.dtype))
                    asked.append(whole_queries(inverse, moved, some))
            except SpecError as refused:
                asked.append(refused)
        ready = [x for x in asked if isinstance(x, Preconditioner)]
        scores = iter(scores_together(some, ready, told) if ready else ())
        return [x if isinstance(x, SpecError) else self._checked(next(scores)) for x in asked]

    def _checked(self, scores: Tensor) -> Tensor | SpecError:
        try:
            check_scores([scores], self.task, self.cost)
        except SpecError as error:
            if {d.code for d in error.diagnostics} != {Code.E0794}:
                raise
            # The examples are finite, so that this inverse alone is to blame.
            return error
        return scores
