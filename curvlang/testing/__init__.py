"""For other people's suites: Hypothesis strategies of small models and tasks, and laws to check.

`docs/testing.md` shows both in a suite of another project.
"""

from curvlang.language.task_notation import task_notation
from curvlang.testing.check import Counterexample, Verdict, check_law, check_spec, laws_of
from curvlang.testing.comparison import assert_compiled_equals_interpreted, compare
from curvlang.testing.draws import built as build_task
from curvlang.testing.laws import (
    assert_any_batches,
    assert_any_order,
    assert_as_written,
    assert_equal,
    assert_inverse_inverts,
    assert_laws,
    assert_positive_semidefinite,
    assert_symmetric,
    assert_trace,
    assert_unchanged_by_use,
    assert_verbs_agree,
)
from curvlang.testing.programs import programs
from curvlang.testing.score_comparison import assert_score_as_written, scores_as_written
from curvlang.testing.strategies import models, operators, specs, task_specs, tasks

__all__ = [
    "Counterexample",
    "Verdict",
    "assert_any_batches",
    "assert_any_order",
    "assert_as_written",
    "assert_compiled_equals_interpreted",
    "assert_equal",
    "assert_inverse_inverts",
    "assert_laws",
    "assert_positive_semidefinite",
    "assert_score_as_written",
    "assert_symmetric",
    "assert_trace",
    "assert_unchanged_by_use",
    "assert_verbs_agree",
    "build_task",
    "check_law",
    "check_spec",
    "compare",
    "laws_of",
    "models",
    "operators",
    "programs",
    "scores_as_written",
    "specs",
    "task_notation",
    "task_specs",
    "tasks",
]
