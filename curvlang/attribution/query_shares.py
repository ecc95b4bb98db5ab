"""Queries prepared by all processes together: each factors some spectra and brings some queries back.

Both are done inside a part that all processes go through in step; elsewhere, and in one process, each does
all of it itself. What a process finds is the same to the last bit either way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from curvlang.attribution.blocks import ScoredBlock
from curvlang.attribution.score_orders import Factors, rank_of, searched
from curvlang.runtime.processes.in_step import Steps, in_step, steps

WIDE = 384
"""Outputs and inputs together from which on bringing a query back takes longer than sending it."""
LARGE = 2**16
"""Numbers of a spectrum from which on its factors take longer to find than to send."""


def worth_sharing(
    given: Sequence[ScoredBlock], queries: int, examples: int, *, ranked: bool = True
) -> bool:
    """Whether processes share what queries are prepared with, under one inverse.

    Args:
        given: C⁻¹ by layers.
        queries: How many.
        examples: Training examples.
        ranked: Whether spectra may be factored.
    """
    pairs = queries * examples if ranked else 0
    return any(_searches(x, pairs) or _returns(x, queries, examples) for x in given)


@contextmanager
def prepared_together(given: Sequence[ScoredBlock], queries: int, examples: int) -> Iterator[None]:
    """A part that all processes go through in step, where they share something in it."""
    if not worth_sharing(given, queries, examples):
        yield
        return
    with in_step():
        yield


def factors_of(given: Sequence[ScoredBlock], pairs: int) -> dict[str, Factors | None]:
    """What `rank_of` finds for every block with one position, by the layer's name.

    Args:
        given: C⁻¹ by layers.
        pairs: Queries times training examples; 0 where no spectrum is factored.
    """
    spectra = {x.layer.name: x.spectrum for x in given if x.by_leaves and x.spectrum is not None}
    names = [x.layer.name for x in given if _searches(x, pairs)]
    step = steps()
    if step is None or not names:
        return {name: rank_of(s, pairs) for name, s in spectra.items()}
    found = _shared_factors(step, {name: spectra[name] for name in names}, pairs)
    return {
        name: found[name] if name in found else rank_of(s, pairs) for name, s in spectra.items()
    }


def _searches(x: ScoredBlock, pairs: int) -> bool:
    if not x.by_leaves or x.spectrum is None:
        return False
    return x.spectrum.numel() >= LARGE and searched(x.spectrum, pairs)


def _shared_factors(
    step: Steps, spectra: dict[str, Tensor], pairs: int
) -> dict[str, Factors | None]:
    """Of every spectrum, found by one process: the largest first, each by who has least."""
    key = step.next(f"factors of {len(spectra)}")
    owners, taken = {}, [0] * step.processes.size
    for name, s in sorted(spectra.items(), key=lambda x: -x[1].numel()):
        owners[name] = taken.index(min(taken))
        taken[owners[name]] += s.numel()
    own = {
        name: rank_of(spectra[name], pairs)
        for name, rank in owners.items()
        if rank == step.processes.rank
    }
    device = next(iter(spectra.values())).device
    found = dict(own)
    for rank in sorted({*owners.values()}):
        mine = _tensors(own) if rank == step.processes.rank else None
        shared = step.processes.share(f"{key} {rank}", mine, rank, device)
        for name in (n for n, r in owners.items() if r == rank and mine is None):
            found[name] = _factors(name, shared)
    return found


def _tensors(found: dict[str, Factors | None]) -> dict[str, Tensor]:
    """Factors as tensors by name; a spectrum without factors has none."""
    tensors: dict[str, Tensor] = {}
    for name, factors in found.items():
        if factors is not None:
            error = torch.tensor([factors.error], dtype=torch.float64)
            parts = {"left": factors.left, "right": factors.right, "error": error}
            tensors |= {f"{part} {name}": x for part, x in parts.items()}
    return tensors


def _factors(name: str, shared: dict[str, Tensor]) -> Factors | None:
    if f"left {name}" not in shared:
        return None
    error = float(shared[f"error {name}"])
    return Factors(shared[f"left {name}"], shared[f"right {name}"], error)


def returned(x: ScoredBlock, gradients: Tensor) -> Tensor:
    """C⁻¹ applied to gradients [Q, O, I] of its basis, and they brought back from it, in their place."""
    step = steps() if _wide(x) else None
    if step is None:
        return x.back(x.preconditioned(gradients))
    key = step.next(f"{len(gradients)} queries of {x.layer.name}")
    rows = [step.processes.owned(len(gradients), r) for r in range(step.processes.size)]
    own = rows[step.processes.rank]
    if own:
        x.back(x.preconditioned(gradients[own.start : own.stop]))
    for rank, part in enumerate(rows):
        if part:
            there = gradients[part.start : part.stop]
            mine = {"": there} if rank == step.processes.rank else None
            shared = step.processes.share(f"{key} {rank}", mine, rank, gradients.device)
            if mine is None:
                there.copy_(shared[""])
    return gradients


def _wide(x: ScoredBlock) -> bool:
    """Whether what is computed for a number of a query is more than the time to send it."""
    return x.spectrum is not None and sum(x.shape[-2:]) >= WIDE


def _returns(x: ScoredBlock, queries: int, examples: int) -> bool:
    return _wide(x) and x.rotates_back(queries, examples)
