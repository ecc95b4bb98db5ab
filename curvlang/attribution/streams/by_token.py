"""Scores of every token of the training examples, one example behind the other: of each position's part of the loss."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from curvlang.attribution.gradients import batch_size
from curvlang.attribution.passes import HELD, MOST, model_bytes
from curvlang.attribution.streams.cut import ScoreCut, score_cut
from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.models.derivatives.difference_quotient import limit_of, tried
from curvlang.models.derivatives.token_products import token_products
from curvlang.models.execution.torch_state import product_state
from curvlang.models.losses.finite import in_part
from curvlang.models.padding.spans import Batch
from curvlang.models.padding.tokens import Tokens, whole_rows
from curvlang.models.sources.transfers import moved
from curvlang.models.task import Task
from curvlang.models.tracing.blocks import LayerBlock
from curvlang.models.tracing.half_precision import exact_gradients
from curvlang.models.tracing.per_position import position_count, position_gradients

TOGETHER = 8
"""Queries whose tangents are formed at once."""
LEAST = 16
"""Rows that a chunk of tokens has at least: those that two chunks share are computed twice."""


class TokenScoring:
    """What scores by token are taken with: the tokens, and how the loss at each moves along a query.

    Args:
        task: The training examples; of models in half precision a copy in float32 is used.
    """

    def __init__(self, task: Task) -> None:
        self.task = task.exact()
        self.positions = position_count(self.task)

    @cached_property
    def blocks(self) -> tuple[LayerBlock, ...]:
        """The model's blocks."""
        return self.task.blocks()

    @cached_property
    def tokens(self) -> Tokens:
        """Those positions of every row that are not padding; all, where the outputs have others."""
        padding = self.task.padding()
        if padding is None or padding.spans.width != self.positions:
            return Tokens(whole_rows(self.task.N, self.positions))
        return Tokens(padding.spans)

    @cached_property
    def cuts(self) -> bool:
        """Whether outputs and targets are cut with the rows."""
        padding = self.task.padding()
        return padding is not None and not padding.kept and padding.targets

    @cached_property
    def by_tangents(self) -> bool:
        """Whether tangents of this model are right: they add up to a product with the gradient."""
        gap, _ = tried(self._gap)
        return gap is not None and gap <= limit_of(self.task.dtype)

    def _gap(self) -> float:
        """How far tangents along a random direction are from the product with the gradient."""
        task, few = self.task, min(2, self.task.N)
        X, y = (part[:few].to(task.device) for part in task.train)
        generator = torch.Generator().manual_seed(0)
        v = torch.randn(1, task.P, generator=generator, dtype=torch.float64)
        v = v.to(device=task.device, dtype=task.dtype)
        found = self._products(X, y, v)[0].sum(-1)
        right = exact_gradients(task.model, task.loss, X, y, self.blocks).to(v.dtype) @ v[0]
        scale = float(right.norm())
        return float((found - right).norm()) / scale if scale else 0.0

    def cut(self, queries: int) -> ScoreCut:
        """The chunks that tokens are scored in, for so many queries at a time."""
        tokens = self.tokens
        mean = max(1, tokens.count // self.task.N)
        return score_cut(tokens.count, max(LEAST, self._rows_at(1.0)) * mean, queries)

    def over(self, u: Tensor, within: range) -> Tensor:
        """Scores of preconditioned queries `[Q, P]` against consecutive tokens, `[Q, tokens]`.

        Raises:
            SpecError: E0864 where padding carries a part of the loss.
        """
        task, tokens = self.task, self.tokens
        found = u.new_zeros(len(u), len(within))
        lost = torch.zeros((), dtype=torch.bool, device=u.device)
        rows = tokens.rows_of(within)
        for cut in task.cuts(self._rows_at, "train", rows, whole=not self.cuts):
            batch = task.read(cut)
            start = 0 if batch.window is None else batch.window.start
            with in_part(task.model, batch.X, "train", batch.start):
                scores = self._of_batch(batch, u.to(task.dtype)).to(u.dtype)
            own, places = tokens.flat(batch.rows, start, scores.shape[2])
            flat, kept = scores.flatten(1), own.flatten()
            if not self.cuts:
                lost |= _chosen(flat, _numbers(~kept)).any()
            wanted = (places >= within.start) & (places < within.stop)
            place = moved(places[wanted] - within.start, u.device)
            found.index_copy_(1, place, _chosen(flat, _numbers(kept)[wanted]))
        if bool(lost):
            raise _padded_loss()
        return found

    def _of_batch(self, batch: Batch, u: Tensor) -> Tensor:
        """[Q, B, T]."""
        task = self.task
        if not self.by_tangents:
            v = position_gradients(task.model, task.loss, batch.X, batch.y, self.blocks)
            return torch.tensordot(u, v.to(u.dtype), ([1], [2]))
        held = self._bytes() * len(batch) * batch.X.shape[1] // max(1, task.train[0].shape[1])
        step = max(1, min(TOGETHER, HELD // max(1, held)))
        parts = [self._products(batch.X, batch.y, u[k : k + step]) for k in range(0, len(u), step)]
        return torch.cat(parts)

    def _products(self, X: Tensor, y: Tensor, u: Tensor) -> Tensor:
        with product_state(self.task.model):
            return token_products(self.task.model, self.task.loss, X, y, u)

    def _rows_at(self, share: float) -> int:
        if not self.by_tangents:
            return batch_size(self.task, max(1, round(share * self.positions)))
        return max(1, min(MOST, int(HELD // max(1.0, share * self._bytes()))))

    def _bytes(self) -> int:
        """What the model holds for an example, with a tangent of everything."""
        return 2 * model_bytes(self.task, self.blocks)


def _numbers(marked: Tensor) -> Tensor:
    """Where a mask is true. It is on the host, which would wait for a card to count."""
    return marked.nonzero()[:, 0]


def _chosen(scores: Tensor, places: Tensor) -> Tensor:
    return scores.index_select(1, moved(places, scores.device))


def _padded_loss() -> SpecError:
    return refusal(
        Code.E0864,
        "positions that the mask leaves out carry a part of the loss",
        "give them the label -100; or ask for `per_position`, which scores all positions",
    )
