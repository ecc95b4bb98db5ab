"""Which examples every step of every training draws, and its learning rate."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from curvlang.models.recipe import Recipe


def epoch_order(generator: torch.Generator, size: int) -> Tensor:
    """A fresh permutation of the places of a subset: one draw per epoch."""
    return torch.randperm(size, generator=generator)


def steps_per_epoch(size: int, batch: int) -> int:
    """Batches in an epoch: the incomplete last one is dropped unless it is the only one."""
    return max(1, size // batch)


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """Learning rate of a step counted from 0: the warmup, then the schedule over what is left."""
    if step < recipe.warmup:
        return recipe.lr * (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(1, steps - recipe.warmup)
    match recipe.schedule:
        case "constant":
            return recipe.lr
        case "linear":
            return recipe.lr * (1 - done)
        case _:
            return recipe.lr / 2 * (1 + math.cos(math.pi * done))


class Orders:
    """Minibatches of several models, each from its own subset and its own seed.

    Args:
        members: `[M, n]` numbers of the examples in each subset.
        seeds: One per model.
        batch: Examples in a minibatch.
    """

    def __init__(self, members: Tensor, seeds: Sequence[int], batch: int) -> None:
        self.members = members
        self.generators = [torch.Generator().manual_seed(s) for s in seeds]
        self.steps = steps_per_epoch(members.shape[1], batch)
        self.batch = min(batch, members.shape[1])

    def epoch(self) -> Tensor:
        """Examples of the next epoch's steps, `[steps, M, batch]`."""
        size = self.members.shape[1]
        places = torch.stack([epoch_order(g, size) for g in self.generators])
        drawn = self.members.gather(1, places)[:, : self.steps * self.batch]
        return drawn.reshape(len(drawn), self.steps, self.batch).transpose(0, 1).contiguous()
