"""The public laws hold on the public strategies, and fail where they must."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings

from curvlang.operators import Dense
from curvlang.runtime.fitted import FittedOperator
from curvlang.testing import assert_inverse_inverts, assert_symmetric, assert_trace, operators


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(operators())
def test_laws_hold(op):
    assert_symmetric(op)
    assert_trace(op)
    assert_inverse_inverts(op)


def test_laws_can_fail():
    crooked = torch.tensor([[1.0, 2.0], [0.0, 1.0]], dtype=torch.float64)
    with pytest.raises(AssertionError, match="symmetric"):
        assert_symmetric(FittedOperator(Dense(crooked), ("w",)))
    with pytest.raises(AssertionError, match="inverts"):
        assert_inverse_inverts(FittedOperator(Dense(crooked), ("w",)))
