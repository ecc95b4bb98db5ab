"""Eigenvalues of every curvature, whole and block by block, at a few ranks each: what a figure needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from curvlang.operators import BlockDiagonal, Operator
from curvlang.runtime.fit import FittedStage

RANKS = 20
"""Ranks at most of a spectrum that are kept."""
WHOLE = "all parameters"


@dataclass(frozen=True, slots=True)
class Spectrum:
    """Eigenvalues of a curvature, or of one of its blocks, the largest first.

    Args:
        curvature: Its name.
        part: The block's name; `all parameters` for the whole.
        size: How many eigenvalues there are.
        negative: How many are negative beyond rounding.
        values: Those at `ranks(size)`, to four digits.
    """

    curvature: str
    part: str
    size: int
    negative: int
    values: tuple[float, ...]


def ranks(size: int, most: int = RANKS) -> tuple[int, ...]:
    """1 … size, evenly on a logarithmic axis, the ends among them.

    >>> ranks(5), ranks(1000, 4)
    ((1, 2, 3, 4, 5), (1, 10, 100, 1000))
    """
    spread = np.geomspace(1, max(size, 1), most)
    return tuple(int(r) for r in np.unique(spread.round().astype(int)) if r <= size)


def spectra(stages: Sequence[FittedStage]) -> tuple[Spectrum, ...]:
    """The spectrum of every curvature that has one: those known by products alone have none."""
    return tuple(
        _spectrum(stage.label, part, values)
        for stage in stages
        if stage.operator.spectrum_known
        for part, values in _parts(stage.operator)
    )


def _parts(operator: Operator) -> Iterator[tuple[str, Tensor]]:
    if not isinstance(operator, BlockDiagonal):
        yield WHOLE, operator.eigenvalues()
        return
    parts = [(part.count, part.eigenvalues()) for part in operator.parts]
    found = [own for count, values in parts for own in values.reshape(count, -1)]
    yield WHOLE, torch.cat(found)
    yield from zip(operator.names, found, strict=True)


def _spectrum(curvature: str, part: str, values: Tensor) -> Spectrum:
    ordered = values.detach().sort(descending=True).values.cpu()
    rounding = torch.finfo(ordered.dtype).eps * len(ordered) * float(ordered.abs().max())
    kept = ordered[[r - 1 for r in ranks(len(ordered))]].tolist()
    return Spectrum(
        curvature,
        part,
        len(ordered),
        int((ordered < -rounding).sum()),
        tuple(float(f"{x:.4g}") for x in kept),
    )
