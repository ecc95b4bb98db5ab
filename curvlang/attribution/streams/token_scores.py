"""Scores of tokens, the training examples one behind the other, with the place where each begins."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class TokenScores:
    """A score for every query and every token of the training examples.

    A token's score is that of the part of the example's loss which the outputs at its position carry: where
    a position predicts the next token, that prediction's. A row's scores add up to the row's own score.

    Args:
        scores: [Q, tokens], the tokens of all training examples one example behind the other, without
            padding.
        offsets: [N + 1]: example n has the tokens `offsets[n]` to `offsets[n + 1] - 1`.
    """

    scores: Tensor
    offsets: Tensor

    def __len__(self) -> int:
        """Training examples."""
        return len(self.offsets) - 1

    def row(self, n: int) -> Tensor:
        """Scores of one training example's tokens, [Q, T_n].

        Args:
            n: The training example; from the end where negative.
        """
        n = range(len(self))[n]
        return self.scores[:, int(self.offsets[n]) : int(self.offsets[n + 1])]

    def totals(self) -> Tensor:
        """Scores of the training examples, [Q, N]."""
        lengths = self.offsets.diff()
        rows = torch.arange(len(self)).repeat_interleave(lengths).to(self.scores.device)
        found = self.scores.new_zeros(len(self.scores), len(self))
        return found.index_add_(1, rows, self.scores)

    def __repr__(self) -> str:
        Q, tokens = self.scores.shape
        return f"TokenScores({Q} queries, {len(self)} examples of {tokens} tokens)"
