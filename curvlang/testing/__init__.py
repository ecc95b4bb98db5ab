"""For other people's suites: Hypothesis strategies of small models and tasks, and laws to check."""

from curvlang.testing.laws import assert_inverse_inverts, assert_symmetric, assert_trace
from curvlang.testing.strategies import models, operators, specs, tasks

__all__ = [
    "assert_inverse_inverts",
    "assert_symmetric",
    "assert_trace",
    "models",
    "operators",
    "specs",
    "tasks",
]
