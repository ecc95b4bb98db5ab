"""Which models are trained in one stack: a function of the protocol and the task alone, never of time or workers.

A model's last digits depend on its place in a stack, and on how many stand in it: products of small matrices
depend on where these lie in memory. So a command always trains the same stacks, whoever trains them and whatever
was trained before, and a stack is kept in one file: it is there as a whole or not at all.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

UNIT = 5
"""Subsets in a file of earlier versions."""

_NAME = re.compile(r"k(\d+)-(\d+)-r(\d+)-(\d+)")

Read = Callable[[str], Tensor | None]
"""What a file of a name holds, a row of losses for each model; None where it is absent or damaged."""


@dataclass(frozen=True, slots=True)
class ModelStack:
    """Models that are trained together: some subsets, each in some repetitions.

    Args:
        first: The first subset.
        subsets: How many subsets.
        repetition: The first repetition.
        repetitions: How many repetitions.
    """

    first: int
    subsets: int
    repetition: int = 0
    repetitions: int = 1

    @property
    def name(self) -> str:
        """What its file is called: it says which models these are, all of them."""
        return f"k{self.first}-{self.subsets}-r{self.repetition}-{self.repetitions}"

    @staticmethod
    def named(name: str) -> ModelStack:
        """The stack of a name."""
        found = _NAME.fullmatch(name)
        assert found is not None, name
        return ModelStack(*map(int, found.groups()))

    @property
    def models(self) -> int:
        """How many models are trained."""
        return self.repetitions * self.subsets

    @property
    def rows(self) -> list[tuple[int, int]]:
        """Repetition and subset of every model, in their order."""
        return [
            (self.repetition + r, self.first + k)
            for r in range(self.repetitions)
            for k in range(self.subsets)
        ]

    def read(self, content: Read) -> Tensor | None:
        """Losses `[models, Q]` that are kept, here or as an earlier version kept them; None where some are not.

        Args:
            content: Of the files.
        """
        found = content(self.name)
        if found is not None:
            return found
        parts = []
        for r in range(self.repetition, self.repetition + self.repetitions):
            for start in range(self.first, self.first + self.subsets, UNIT):
                count = min(UNIT, self.first + self.subsets - start)
                part = _earlier(content, r, start // UNIT, count)
                if part is None:
                    return None
                parts.append(part)
        return torch.cat(parts)


def _earlier(content: Read, repetition: int, unit: int, count: int) -> Tensor | None:
    """The first models of five subsets; those of a larger run serve as well."""
    for held in range(count, UNIT + 1):
        found = content(f"r{repetition}-u{unit}-{held}")
        if found is not None:
            return found[:count]
    return None


def stacks(subsets: int, repetitions: int, most: int) -> list[ModelStack]:
    """All models in stacks of at most so many: of one repetition, and of several where subsets are few.

    Args:
        subsets: K.
        repetitions: R.
        most: Models in a stack, a multiple of five.
    """
    found = []
    for first in range(0, subsets, most):
        count = min(most, subsets - first)
        at_once = max(1, most // count)
        for r in range(0, repetitions, at_once):
            found.append(ModelStack(first, count, r, min(at_once, repetitions - r)))
    return found


def outcome_of(found: dict[ModelStack, Tensor], subsets: int, repetitions: int) -> Tensor:
    """Losses `[K, R, Q]` from those of all stacks."""
    queries = next(iter(found.values())).shape[1]
    outcome = torch.empty(subsets, repetitions, queries, dtype=torch.float64)
    for stack, losses in found.items():
        for (r, k), row in zip(stack.rows, losses, strict=True):
            outcome[k, r] = row
    return outcome
