"""Scores that a formula states, as a stream: some queries at a time against some training examples at a time."""

from __future__ import annotations

from math import floor

import torch

from curvlang.attribution.blocks import scored_blocks
from curvlang.attribution.formulas.evaluation import (
    Evaluation,
    computed_by_products,
    of_pairs,
)
from curvlang.attribution.formulas.indexed_tensors import IndexedTensor, Reader
from curvlang.attribution.formulas.points import Points
from curvlang.attribution.formulas.product_source import Queries
from curvlang.attribution.gradients import batch_size
from curvlang.attribution.passes import batch_size as leaf_batch_size
from curvlang.attribution.passes import scored_load
from curvlang.attribution.streams.batch import Source
from curvlang.attribution.streams.cut import LARGEST, ScoreCut, score_cut
from curvlang.attribution.streams.fitting import queries_at_once, query_bytes, score_bytes
from curvlang.attribution.streams.gather import common
from curvlang.attribution.streams.in_turns import StreamInTurns
from curvlang.attribution.streams.request import Request
from curvlang.ir import expr as ir
from curvlang.ir.score_program import (
    EXAMPLE,
    PARAMETER,
    QUERY,
    ScoreProgram,
    asks_by_rows,
    passes_of,
    reads_of,
)
from curvlang.models.losses.loss import Loss


class FormulaStream(StreamInTurns):
    """Scores of a formula, as they come.

    Args:
        program: The formula's program.
        points: The model with its inverse, and its checkpoints and other models.
        cost: What the queries are scored by.
        request: Groups of queries, and who is told.
        turn: Queries of a turn; as many as fit where not given.
        size: Training examples of a chunk; by shapes where not given.
    """

    def __init__(
        self,
        program: ScoreProgram,
        points: Points,
        cost: Loss,
        request: Request,
        *,
        turn: int | None = None,
        size: int | None = None,
    ) -> None:
        self.program = program
        self.points = points
        self.cost = cost
        self.request = request
        self.task, self.inverse = points.final.task, points.final.inverse
        self.rows = request.rows(self.task)
        self.tokens = None
        fits = self.rows
        if request.groups is None and not program.all_queries:
            # A formula holds its products, and as many numbers that follow from them.
            scores = score_bytes(self.task, 2 * max(1, len(program.products)))
            fits = min(fits, queries_at_once(self.task, self._query_bytes(), scores))
            fits = min(fits, turn or fits)
        (self.turn,) = common(max(1, fits))
        if points.kept is not None:
            self.cut = points.kept.cut
        else:
            self.cut = self._cut() if size is None else ScoreCut(self.task.N, size)

    @property
    def _by_products(self) -> bool:
        return computed_by_products(self.program, self.points)

    @property
    def of_pairs(self) -> bool:
        """Whether there is a score for every query, not only for every training example."""
        return self.program.pairs

    @property
    def in_step(self) -> bool:
        """Whether the processes share products of the inverse, or sums over the training examples."""
        return super().in_step or bool(passes_of(self.program))

    @property
    def names(self) -> tuple[str, ...]:
        """Scores are of all layers together."""
        return ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Of all scores."""
        return (self.rows, self.cut.total) if self.of_pairs else (self.cut.total,)

    def source(self, turn: int) -> Source:
        """The queries of a turn, ready to meet training examples."""
        found = self.evaluation(turn)
        return lambda within: {"": found.scores(within)}

    def evaluation(self, turn: int) -> Evaluation:
        """The arithmetic of a turn; what is known of its queries and of all training examples is found here."""
        own, points = self.own(turn), self.points
        if self.request.groups is None and self.turns > 1:
            points = points.queries(own)
        queries = Queries(points, self.cost, self.request.weights(self.task))
        return Evaluation(self.program, queries, self.cut, self.lengths(own.stop - own.start))

    def lengths(self, queries: int) -> dict[str, int]:
        """How many values every index takes, in a turn of some queries."""
        lengths = {
            QUERY: queries,
            EXAMPLE: self.task.N,
            PARAMETER: self.inverse.size,
            **self.points.lengths,
        }
        reader = Reader(_no_tensor, lengths, torch.empty(0, dtype=torch.float64))
        for space in self.program.spaces:
            lengths[space.letter] = floor(float(reader.evaluate(space.length).values))
        return lengths

    def _query_bytes(self) -> int:
        """Bytes of a query's rows."""
        pairs = sum(map(of_pairs, self.program.products))
        by_rows = sum(map(asks_by_rows, self.program.products))
        if by_rows:
            pairs = (1 + by_rows) * max((1, *self.points.lengths.values()))
        pairs = max(1, pairs)
        blocks = None
        if self._by_products and not by_rows:
            blocks = scored_blocks(self.inverse, self.task)
        if blocks is None:
            return query_bytes(self.task, None, 1 + pairs)
        return pairs * query_bytes(self.task, blocks)

    def _cut(self) -> ScoreCut:
        task = self.task
        if not self._by_products:
            columns = sum(1 for x in reads_of(self.program) if x.partition("@")[0] == "v")
            contexts = max(1, *(n for n in (1, *self.points.lengths.values())))
            # Rows of all examples of a chunk are formed: it is one batch.
            return score_cut(task.N, batch_size(task, contexts * (2 + columns)), LARGEST)
        blocks = scored_blocks(self.inverse, task)
        layers = task.blocks() if blocks is None else [x.layer for x in blocks]
        most = leaf_batch_size(task, layers, scored_load(task, layers, self.turn))
        return score_cut(task.N, most, self.turn)


def _no_tensor(ref: ir.Ref) -> IndexedTensor:
    raise AssertionError(f"the length of a space reads `{ref.name}`")
