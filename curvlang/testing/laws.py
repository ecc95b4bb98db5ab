"""Laws that hold for every curvature, as assertions for other people's suites.

Each takes a fitted operator, or a spec and a task, and raises `AssertionError` with what was
measured. Under Hypothesis a failing task shrinks as the strategy that drew it says.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from curvlang.language import curvature_named, load
from curvlang.language.chain import Curvature, Spec
from curvlang.models.task import Task
from curvlang.operators import Operator
from curvlang.runtime.fitted import FittedOperator
from curvlang.testing.check import EXAMPLES, UNIVERSAL, Verdict, check_spec
from curvlang.testing.gaps import (
    Gap,
    asymmetry,
    changed_by_use,
    disagreement,
    negativity,
    plain_gap,
    unsolved,
)
from curvlang.testing.measure import fitted, reordered
from curvlang.testing.reading import read

Fitted = FittedOperator | Operator
TOLERANCE = 1e-8
"""Relative; float64 with the condition numbers of small random tasks."""


def _operator(op: Fitted) -> Operator:
    return op.operator if isinstance(op, FittedOperator) else op


def _assert(gap: Gap, tolerance: float, law: str) -> None:
    if not gap.size <= tolerance:
        raise AssertionError(f"{law}: measured {gap.size:.3g} > {tolerance:g} ({gap.where})")


def assert_symmetric(op: Fitted, tolerance: float = TOLERANCE) -> None:
    """C = Cᵀ: ‖C − Cᵀ‖ ≤ tolerance · ‖C‖."""
    _assert(asymmetry(op.dense()), tolerance, "symmetric")


def assert_positive_semidefinite(op: Fitted, tolerance: float = TOLERANCE) -> None:
    """No eigenvalue below −tolerance times the largest."""
    _assert(negativity(op.dense()), tolerance, "positive semidefinite")


def assert_inverse_inverts(op: Fitted, tolerance: float = TOLERANCE) -> None:
    """(C + λI)⁻¹ (C + λI) v = v for small, middle and large λ, relative to the spectrum."""
    _assert(unsolved(_operator(op)), tolerance, "inverse inverts")


def assert_verbs_agree(op: Fitted, tolerance: float = TOLERANCE) -> None:
    """Products, trace, diagonal, eigenvalues, norm, logdet, inverse and distance as the dense ones."""
    _assert(disagreement(_operator(op)), tolerance, "verbs agree with the dense matrix")


def assert_trace(op: Fitted, tolerance: float = TOLERANCE) -> None:
    """Tr C = Σ C_pp = Σ s."""
    dense = op.dense().trace()
    _assert(plain_gap(op.trace(), dense), tolerance, "trace equals the dense one")
    _assert(plain_gap(op.eigenvalues().sum(), dense), tolerance, "eigenvalues add up to the trace")


def assert_unchanged_by_use(op: Fitted, tolerance: float = UNIVERSAL["repeatable"]) -> None:
    """Calling verbs changes nothing."""
    _assert(changed_by_use(_operator(op)), tolerance, "use changes nothing")


def assert_equal(left: Fitted, right: Fitted, tolerance: float = TOLERANCE) -> None:
    """‖C − D‖ ≤ tolerance · max(‖C‖, ‖D‖)."""
    _assert(plain_gap(left.dense(), right.dense()), tolerance, "equal")


def assert_as_written(
    spec: Spec | str | Path, task: Task, *, curvature: str | None = None, seed: int = 0
) -> None:
    """The compiled curvature is the direct reading of its expressions; for small tasks."""
    found = _curvature(spec, curvature)
    entries = fitted(found, task, seed=seed).dense()
    gap = plain_gap(entries, read(found, task, seed=seed))
    _assert(gap, UNIVERSAL["as_written"], "as written")


def assert_any_batches(
    spec: Spec | str | Path, task: Task, batch: int, *, curvature: str | None = None
) -> None:
    """Batches of `batch` examples and one batch of all give the same."""
    found = _curvature(spec, curvature)
    a, b = (fitted(found, task, batch=size).dense() for size in (batch, task.N))
    _assert(plain_gap(a, b), UNIVERSAL["any_batches"], f"batches of {batch}")


def assert_any_order(
    spec: Spec | str | Path, task: Task, order: Sequence[int], *, curvature: str | None = None
) -> None:
    """Another order of the examples gives the same; not a law of sampled labels."""
    found = _curvature(spec, curvature)
    a, b = (fitted(found, t).dense() for t in (task, reordered(task, tuple(order))))
    _assert(plain_gap(a, b), UNIVERSAL["any_order"], f"order {list(order)}")


def assert_laws(
    spec: Spec | str | Path, *, examples: int = EXAMPLES, seed: int = 0, law: str = ""
) -> tuple[Verdict, ...]:
    """Every law of a spec, its own and those of every curvature, as `curvlang test` checks them.

    Raises:
        AssertionError: With each failing law and the smallest task that shows it.
    """
    verdicts = check_spec(spec, examples=examples, seed=seed, law=law)
    failed = [v for v in verdicts if not v.holds]
    if failed:
        raise AssertionError("\n".join(_told(v) for v in failed))
    return verdicts


def _told(verdict: Verdict) -> str:
    shown = f"{verdict.law.text}: measured {verdict.worst.size:.3g} ({verdict.worst.where})"
    counter = verdict.counterexample
    return shown if counter is None else f"{shown} on\n{counter.task}"


def _curvature(spec: Spec | str | Path, name: str | None) -> Curvature:
    whole = spec if isinstance(spec, Spec) else load(str(spec))
    return curvature_named(name or next(reversed(list(whole.curvatures))), whole)
