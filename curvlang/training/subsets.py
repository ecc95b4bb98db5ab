"""Random subsets of the training examples, each from its own seed."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.models.data.rows import Rows
from curvlang.models.task import Task


def draw_subsets(examples: int, subsets: int, keep: float, seed: int) -> Tensor:
    """Members of K subsets, `[K, N]` of bool, exactly round(keep · N) in each.

    Subset k depends on the seed and on k alone: more subsets extend fewer.

    Raises:
        SpecError: E0502 where a subset would hold no example, or all of them.
    """
    size = round(keep * examples)
    if not 0 < size < examples:
        raise refusal(
            Code.E0502,
            f"`keep = {keep:g}` of {examples} examples keeps {size} of them",
            "choose `keep` so that subsets differ and are not empty",
        )
    kept = torch.zeros(subsets, examples, dtype=torch.bool)
    for k in range(subsets):
        members = np.random.default_rng([seed, k]).permutation(examples)[:size]
        kept[k, torch.from_numpy(members)] = True
    return kept


def leave_one_out(examples: int, subsets: int, seed: int) -> Tensor:
    """Members of K subsets `[K, N]` that leave out one example each, drawn without replacement."""
    rows = np.random.default_rng([seed, 31]).permutation(examples)[:subsets]
    kept = torch.ones(len(rows), examples, dtype=torch.bool)
    kept[torch.arange(len(rows)), torch.from_numpy(rows)] = False
    return kept


def are_classes(targets: Rows) -> bool:
    """Whether targets are one class number for every example."""
    return not targets.is_floating_point() and targets.ndim == 1


def without_classes(what: str, task: Task) -> SpecError:
    """The refusal of what is about classes, on a task that has none.

    Args:
        what: What needs them, as the beginning of a sentence.
        task: Its loss is named.
    """
    return refusal(
        Code.E0508,
        f"{what}, and the targets of `{task.name}` (loss `{task.loss.name}`) are not class numbers",
        "use a task with `loss cross_entropy` and one class per example, or leave it out",
    )


def leave_class_out(targets: Rows) -> Tensor:
    """Members of one subset for each class `[C, N]`: all examples but those of the class.

    Raises:
        SpecError: E0508 where the targets are not classes.
    """
    if not are_classes(targets):
        raise refusal(
            Code.E0508,
            "`groups = class` leaves out a class, and the targets are not class numbers",
            "use `groups = random` or `groups = one`",
        )
    labels = targets[:]
    return torch.stack([labels != c for c in labels.unique()]).cpu()


def derived_seed(*parts: int) -> int:
    """A seed for a generator from several numbers, without collisions in practice."""
    return int(np.random.SeedSequence(list(parts)).generate_state(1, np.uint64)[0] >> 1)
