"""Limits and parameters that several tables share."""

from __future__ import annotations

from curvlang.language.registry.entry import NONE, Parameter
from curvlang.language.registry.kinds import Integer, Limits, Real, String

POSITIVE = Real(Limits(0, above=True))
NOT_NEGATIVE = Real(Limits(0))
SHARE = Real(Limits(0, 1, above=True, below=True))
BELOW_ONE = Real(Limits(0, 1, below=True))
COUNT = Integer(Limits(1))
COUNT_OR_ZERO = Integer(Limits(0))
AT_LEAST_TWO = Integer(Limits(2))


def seed(of: str) -> Parameter:
    """A seed of random numbers.

    Args:
        of: What is drawn with it.
    """
    return Parameter(COUNT_OR_ZERO, 0, f"seed of {of}")


WEIGHTS = Parameter(String(), NONE, "file of the model's parameters; the model is not trained then")
QUERY_SHARE = Parameter(SHARE, 0.1, "share of the examples that become queries")
