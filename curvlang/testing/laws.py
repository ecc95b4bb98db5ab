"""Laws that hold for every curvature, as assertions."""

from __future__ import annotations

import torch

from curvlang.runtime.fitted import FittedOperator

TOLERANCE = 1e-8
"""Relative; float64 with the condition numbers of small random tasks."""


def _assert_close(found: torch.Tensor, wanted: torch.Tensor, law: str) -> None:
    gap = float((found - wanted).abs().max())
    if gap > TOLERANCE * max(1.0, float(wanted.abs().max())):
        raise AssertionError(f"{law}: largest difference {gap:.3g}")


def assert_symmetric(op: FittedOperator) -> None:
    """C = Cᵀ."""
    matrix = op.dense()
    _assert_close(matrix, matrix.T, "symmetric")


def assert_trace(op: FittedOperator) -> None:
    """The trace: tr C = Σ C_pp = Σ s."""
    _assert_close(op.trace(), op.dense().trace(), "trace equals the dense one")
    _assert_close(op.eigenvalues().sum(), op.trace(), "eigenvalues add up to the trace")


def assert_inverse_inverts(op: FittedOperator, damping: float = 0.1) -> None:
    """(C + λI)⁻¹ (C + λI) = I."""
    eye = torch.eye(op.shape[0], dtype=torch.float64)
    shifted = op.dense() + damping * eye
    _assert_close(op.inverse(damping) @ shifted, eye, "inverse inverts")
