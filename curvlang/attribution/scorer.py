"""Scores under one inverse or several, streamed: no `[N, P]` matrix is ever formed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from curvlang.attribution.blocks import scored_blocks
from curvlang.attribution.factored import (
    Blocks,
    Preconditioner,
    QueryGradients,
    scores_together,
    whole_queries,
)
from curvlang.attribution.gradients import check_scores, product, query_gradients
from curvlang.attribution.query_shares import prepared_together
from curvlang.attribution.streams.batch import PairStream, ready
from curvlang.attribution.streams.fitting import query_bytes, share_of_queries
from curvlang.attribution.streams.gather import Counted, common, gathered
from curvlang.attribution.streams.request import Request
from curvlang.attribution.streams.score_stream import ScoreStream
from curvlang.attribution.streams.self_stream import SelfStream
from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.models.losses.loss import Loss
from curvlang.models.task import Task
from curvlang.models.tracing.per_position import position_count
from curvlang.operators import BlockDiagonal, Operator, Scaled, Sum
from curvlang.runtime.limits.memory import require
from curvlang.runtime.progress.listeners import Progress

TURN = 2**29
"""Bytes that scores of a few queries under several inverses, and these queries, may take."""


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
    layers = layer_count(inverse, task) if request.per_layer else 1
    T = position_count(task) if request.by_parts else 1
    given = None if request.by_parts else scored_blocks(inverse, task)
    if not request.per_token:
        require_scores(task, request.rows(task), layers * task.N * T, gradients=given is None)
    stream = ScoreStream(inverse, task, cost, request)
    if request.per_token:
        require_scores(task, request.rows(task), stream.cut.total, gradients=True)
    found = collected(stream)
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


def collected(stream: PairStream) -> dict[str, Tensor]:
    """All scores, in every process."""
    task = stream.task
    told = counter(stream.request.progress, stream.cut.total * stream.turns)
    found: dict[str, Tensor] = {}
    for turn in range(stream.turns):
        source = ready(stream, turn)
        (part,) = gathered(lambda x, of=source: [of(x)], stream.cut, task.device, told=told)  # type: ignore[misc]
        if stream.turns == 1:
            return part
        for name, scores in part.items():
            if name not in found:
                found[name] = scores.new_empty(stream.rows, *scores.shape[1:])
            found[name][stream.own(turn)] = scores
    return found


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


def self_scores(
    inverse: Operator, task: Task, part: str, progress: Progress | None = None
) -> Tensor:
    """`∇ℓ_nᵀ C⁻¹ ∇ℓ_n` of every example of a part, `[N]`."""
    told = counter(progress, len(task.part(part)[0]))
    stream = SelfStream(inverse, task, part)
    (found,) = gathered(
        lambda within: [{"": stream.source(within)}], stream.cut, task.device, axis=0, told=told
    )
    check_scores(found.values(), task, parts=(part,))
    return found[""]


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
        # The gradient of a query, what C⁻¹ makes of it, and its scores.
        each = [2 * query_bytes(self.task, x) + 8 * self.task.N for x in blocks]
        (limit,) = common(min(share_of_queries(self.task), TURN))
        rows = max(1, min(self.task.Q, limit // sum(each)))
        together = max(1, limit // (rows * max(each)))
        return rows, min(together, len(blocks))

    def _turn(
        self,
        some: Task,
        blocks: Sequence[Blocks | None],
        group: range,
        told: Counted | None,
    ) -> list[Tensor | SpecError]:
        asked: list[Preconditioner | SpecError] = []
        known = [x for k in group if (x := blocks[k]) is not None]
        gradients = None
        if known:
            with prepared_together([x for given in known for x in given], some.Q, some.N):
                gradients = QueryGradients(some, self.cost, known)
        whole = None
        if len(known) < len(group):
            whole = query_gradients(some, self.cost)
        for k in group:
            given, inverse = blocks[k], self.inverses[k]
            try:
                if given is not None and gradients is not None:
                    with prepared_together(given, some.Q, some.N):
                        asked.append(gradients.under(given))
                elif whole is not None:
                    moved = product(inverse, whole.to(inverse.dtype))
                    asked.append(whole_queries(inverse, moved, some))
            except SpecError as refused:
                asked.append(refused)
        ready = [x for x in asked if isinstance(x, Preconditioner)]
        scores = iter(scores_together(some, ready, told) if ready else ())
        return [
            x if isinstance(x, SpecError) else refused_alone(next(scores), self.task, self.cost)
            for x in asked
        ]


def refused_alone(scores: Tensor, task: Task, cost: Loss) -> Tensor | SpecError:
    """Scores, or their refusal where only the inverse is to blame.

    Raises:
        SpecError: E0420 where an example is.
    """
    try:
        check_scores([scores], task, cost)
    except SpecError as error:
        if {d.code for d in error.diagnostics} != {Code.E0794}:
            raise
        # The examples are finite, so that this inverse alone is to blame.
        return error
    return scores
