"""How far two curvatures agree: errors of products, of norms, of preconditioned gradients; shares of a path."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from curvlang.attribution.gradients import product
from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.operators.operator import Operator

TOO_LARGE = Code.E0603
"""The refusal of a matrix with more rows than are formed."""
PROBES = 32
"""Random vectors behind an estimated norm."""
FEWEST = 8
"""With fewer probes nothing is estimated."""
AT_ONCE = 16
"""Probes that are multiplied at once."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number; where it is estimated, its standard error and the probes or gradients behind it."""

    value: float
    error: float | None = None
    probes: int | None = None


def cosines(found: Tensor, reference: Tensor) -> Tensor:
    """Cosine of each row with the reference's: preconditioned gradients `[n, P]` of two curvatures."""
    return torch.nn.functional.cosine_similarity(found, reference, dim=-1)


def residuals(reference: Operator, preconditioned: Tensor, gradients: Tensor) -> Tensor:
    """‖H C⁻¹v − v‖² of each row.

    Args:
        reference: H.
        preconditioned: `[n, P]` rows C⁻¹v.
        gradients: `[n, P]` rows v.
    """
    return (product(reference, preconditioned) - gradients).square().sum(-1)


def inverse_error(residual: Tensor, norms: Tensor, *, estimated: bool) -> Estimate:
    """Mean over examples of ‖H C⁻¹v − v‖² / ‖v‖²; rows of zero gradient are left out.

    Args:
        residual: `[n]`, the numerators.
        norms: `[n]`, the denominators.
        estimated: Whether the standard error of the mean is told: where n is small.
    """
    kept = norms > 0
    values = residual[kept] / norms[kept]
    mean = float(values.mean()) if len(values) else 0.0
    if not estimated or len(values) < 2:
        return Estimate(mean)
    return Estimate(mean, float(values.std() / len(values) ** 0.5), len(values))


def exact_forward_error(operator: Operator, reference: Operator) -> Estimate | None:
    """‖C − H‖_F/‖H‖_F from the structures; None where they do not give it."""
    if operator is reference:
        return Estimate(0.0)
    if not (operator.spectrum_known and reference.spectrum_known):
        return None
    try:
        return Estimate(float(operator.distance(reference) / reference.frobenius()))
    except SpecError as error:
        # The two structures have no rule in common, and their entries do not fit.
        if {d.code for d in error.diagnostics} == {TOO_LARGE}:
            return None
        raise


def estimated_forward_errors(
    operators: Sequence[Operator], reference: Operator, probes: int, seed: int
) -> list[Estimate]:
    """‖C − H‖_F/‖H‖_F of every C from products with vectors of random signs, the same for all.

    E‖Mz‖² = ‖M‖_F² (Hutchinson 1990). The standard error of the ratio of both means is by the delta
    method: numerator and denominator are of the same probes.

    Args:
        operators: Every C.
        reference: H.
        probes: Vectors.
        seed: Of their signs.
    """
    generator = torch.Generator().manual_seed(seed)
    squares: list[list[Tensor]] = [[] for _ in operators]
    whole: list[Tensor] = []
    for start in range(0, probes, AT_ONCE):
        shape = (min(AT_ONCE, probes - start), reference.size)
        signs = 2.0 * torch.randint(0, 2, shape, generator=generator) - 1.0
        z = signs.to(reference.device, torch.float64)
        wanted = product(reference, z)
        whole.append(wanted.square().sum(1))
        for own, operator in zip(squares, operators, strict=True):
            own.append((product(operator, z) - wanted).square().sum(1))
    return [_ratio(torch.cat(own), torch.cat(whole)) for own in squares]


def _ratio(above: Tensor, below: Tensor) -> Estimate:
    """√(mean above / mean below) with its standard error."""
    a, b = float(above.mean()), float(below.mean())
    if not a or not b:
        return Estimate(0.0 if not a else float("inf"), 0.0, len(above))
    value = (a / b) ** 0.5
    spread = float((above / a - below / b).std()) / len(above) ** 0.5
    return Estimate(value, value * spread / 2, len(above))


LEAST_WHOLE = 0.1
"""Of the steps' sizes together, how much must be left of them for shares to be told."""


def shares(values: list[float | None]) -> Iterator[float | None]:
    """(e_k − e_{k−1}) / (e_last − e_first) for every step; the first step has none.

    Where the steps nearly cancel, their sum does not measure them: no step has a share.
    """
    known = [v for v in values if v is not None]
    total = known[-1] - known[0] if len(known) == len(values) and known else 0.0
    if abs(total) < LEAST_WHOLE * sum(abs(b - a) for a, b in itertools.pairwise(known)):
        total = 0.0
    yield None
    for before, after in itertools.pairwise(values):
        if before is None or after is None or total == 0.0:
            yield None
        else:
            yield (after - before) / total


def sampled(count: int, at_most: int, seed: int) -> Tensor:
    """Which training examples the inverse error is averaged over, in ascending order."""
    if count <= at_most:
        return torch.arange(count)
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(count, generator=generator)[:at_most].sort().values
