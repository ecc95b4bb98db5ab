"""Random subsets of the training examples, each from its own seed."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from curvlang.diagnostics.diagnostic import Diagnostic, SpecError


def draw_subsets(examples: int, subsets: int, keep: float, seed: int) -> Tensor:
    """Members of K subsets, `[K, N]` of bool, exactly round(keep · N) in each.

    Subset k depends on the seed and on k alone: more subsets extend fewer.

    Raises:
        SpecError: E0502 where a subset would hold no example, or all of them.
    """
    size = round(keep * examples)
    if not 0 < size < examples:
        raise SpecError(
            Diagnostic(
                "E0502",
                f"`keep = {keep:g}` of {examples} examples keeps {size} of them",
                help=("choose `keep` so that subsets differ and are not empty",),
            )
        )
    kept = torch.zeros(subsets, examples, dtype=torch.bool)
    for k in range(subsets):
        members = np.random.default_rng([seed, k]).permutation(examples)[:size]
        kept[k, torch.from_numpy(members)] = True
    return kept


def derived_seed(*parts: int) -> int:
    """A seed for a generator from several numbers, without collisions in practice."""
    return int(np.random.SeedSequence(list(parts)).generate_state(1, np.uint64)[0] >> 1)
