"""curvlang: state a curvature approximation, compile it, and measure what each step of it costs.

The language half (`load`, `loads`, `SpecError`) needs no torch; everything that computes numbers
is imported when it is first named.
"""

from __future__ import annotations

import random
from importlib import import_module
from typing import TYPE_CHECKING, Any

from curvlang.version import VERSION as __version__

if TYPE_CHECKING:
    from curvlang.diagnostics.diagnostic import Diagnostic, MachineError, SpecError
    from curvlang.evaluation.named_task import task
    from curvlang.evaluation.protocol import LDS
    from curvlang.evaluation.statistics.lds import lds
    from curvlang.facade import compile_spec as compile
    from curvlang.facade import evaluate, explain, fit, influence, self_influence, study, top
    from curvlang.language import load, loads
    from curvlang.models.losses.losses import BinaryCrossEntropy, CrossEntropy
    from curvlang.models.losses.metric import Metric
    from curvlang.models.recipe import Recipe
    from curvlang.models.task import Task
    from curvlang.models.tracing.coverage import coverage
    from curvlang.runtime.fitted import FittedOperator
    from curvlang.runtime.fitted import load_fitted as load_operator

_WHERE = {
    "BinaryCrossEntropy": ("curvlang.models.losses.losses", "BinaryCrossEntropy"),
    "CrossEntropy": ("curvlang.models.losses.losses", "CrossEntropy"),
    "Diagnostic": ("curvlang.diagnostics.diagnostic", "Diagnostic"),
    "FittedOperator": ("curvlang.runtime.fitted", "FittedOperator"),
    "LDS": ("curvlang.evaluation.protocol", "LDS"),
    "MachineError": ("curvlang.diagnostics.diagnostic", "MachineError"),
    "Metric": ("curvlang.models.losses.metric", "Metric"),
    "Recipe": ("curvlang.models.recipe", "Recipe"),
    "SpecError": ("curvlang.diagnostics.diagnostic", "SpecError"),
    "Task": ("curvlang.models.task", "Task"),
    "compile": ("curvlang.facade", "compile_spec"),
    "coverage": ("curvlang.models.tracing.coverage", "coverage"),
    "evaluate": ("curvlang.facade", "evaluate"),
    "explain": ("curvlang.facade", "explain"),
    "fit": ("curvlang.facade", "fit"),
    "influence": ("curvlang.facade", "influence"),
    "lds": ("curvlang.evaluation.statistics.lds", "lds"),
    "load": ("curvlang.language", "load"),
    "load_operator": ("curvlang.runtime.fitted", "load_fitted"),
    "loads": ("curvlang.language", "loads"),
    "task": ("curvlang.evaluation.named_task", "task"),
    "self_influence": ("curvlang.facade", "self_influence"),
    "study": ("curvlang.facade", "study"),
    "top": ("curvlang.facade", "top"),
}

__all__ = [
    "LDS",
    "BinaryCrossEntropy",
    "CrossEntropy",
    "Diagnostic",
    "FittedOperator",
    "MachineError",
    "Metric",
    "Recipe",
    "SpecError",
    "Task",
    "__version__",
    "compile",
    "coverage",
    "evaluate",
    "explain",
    "fit",
    "influence",
    "lds",
    "load",
    "load_operator",
    "loads",
    "self_influence",
    "study",
    "task",
    "top",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _WHERE:
        raise AttributeError(f"module `curvlang` has no attribute `{name}`")
    module, attribute = _WHERE[name]
    # Packages that are imported on the way may draw numbers: the caller's stream goes on as it was.
    state = random.getstate()
    try:
        return getattr(import_module(module), attribute)
    finally:
        random.setstate(state)


def __dir__() -> list[str]:
    """Public names."""
    return __all__
