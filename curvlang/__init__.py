"""curvlang: state a curvature approximation, compile it, and measure what each step of it costs.

The language half (`load`, `loads`, `check`, `SpecError`) needs no torch; everything that computes
numbers is imported when it is first named. The command line is written on these names alone.
"""

from __future__ import annotations

import random
from importlib import import_module
from typing import TYPE_CHECKING, Any

from curvlang.version import VERSION as __version__

if TYPE_CHECKING:
    from curvlang.applications.eigenpairs import leading_eigenpairs
    from curvlang.applications.evidence import Evidence, log_marginal_likelihood
    from curvlang.applications.natural_gradient import NaturalGradient
    from curvlang.attribution.indexed.gradient_index import GradientIndex
    from curvlang.attribution.streams.token_scores import TokenScores
    from curvlang.diagnostics.diagnostic import Diagnostic, Interrupted, MachineError, SpecError
    from curvlang.doctor import Installation, installation
    from curvlang.editors import serve as language_server
    from curvlang.editors.vscode import write_extension
    from curvlang.evaluation.named_task import task
    from curvlang.evaluation.protocol import LDS
    from curvlang.evaluation.statistics.lds import lds
    from curvlang.evaluations import (
        EvaluationRequest,
        EvaluationSettings,
        evaluate_requests,
        evaluation_requests,
        run_folders,
    )
    from curvlang.exchange.kronfluence import read_kronfluence
    from curvlang.exchange.kronfluence_folder import write_kronfluence
    from curvlang.exchange.linear_operator import to_curvlinops
    from curvlang.exchange.scores import read_scores
    from curvlang.facade import (
        benchmark,
        covered,
        evaluate,
        explain,
        explanations,
        fit,
        influence,
        self_influence,
        top,
        top_examples,
    )
    from curvlang.fits import FitReport, FitRequest, fit_request, store_report
    from curvlang.indexing import IndexReport, IndexRequest, index, index_request, load_index
    from curvlang.language import load, loads, search
    from curvlang.language.chain import Spec
    from curvlang.language.spec_files import CheckedFile, check, format_file
    from curvlang.language.task_sources import TaskSource
    from curvlang.models.data.rows import StoredRows
    from curvlang.models.execution.precision import Precision
    from curvlang.models.losses.losses import BinaryCrossEntropy, CrossEntropy
    from curvlang.models.losses.metric import Metric
    from curvlang.models.recipe import Recipe
    from curvlang.models.sources.rows_in_files import rows
    from curvlang.models.task import Task
    from curvlang.models.tracing.coverage import coverage
    from curvlang.models.trainers import task_from
    from curvlang.models.trajectory import Trajectory
    from curvlang.precision_report import PrecisionErrors, precision_errors
    from curvlang.reporting.report import Report
    from curvlang.reporting.study.study_report import StudyReport
    from curvlang.runtime.fitted import FittedOperator
    from curvlang.runtime.limits.memory import exhausted
    from curvlang.runtime.processes.distributed import World, world
    from curvlang.runtime.progress.display import Bars
    from curvlang.runtime.setup import Setup
    from curvlang.runtime.stored.operator import load as load_operator
    from curvlang.score_report import ScoreReport
    from curvlang.score_words import Scoring
    from curvlang.scoring import ScoreRequest, score_request
    from curvlang.starter import first_files
    from curvlang.storage.cache import Cache
    from curvlang.storage.score_file import check_score_file
    from curvlang.studies import (
        StudyRequest,
        StudyRun,
        read_study,
        study,
        study_folders,
        study_requests,
    )
    from curvlang.testing.verdicts import LawReport, check_laws, small_task

_NAMES = {
    "curvlang.applications.eigenpairs": "leading_eigenpairs",
    "curvlang.applications.evidence": "Evidence log_marginal_likelihood",
    "curvlang.applications.natural_gradient": "NaturalGradient",
    "curvlang.attribution.indexed.gradient_index": "GradientIndex",
    "curvlang.attribution.streams.token_scores": "TokenScores",
    "curvlang.diagnostics.diagnostic": "Diagnostic Interrupted MachineError SpecError",
    "curvlang.editors.vscode": "write_extension",
    "curvlang.evaluation.named_task": "task",
    "curvlang.evaluation.protocol": "LDS",
    "curvlang.evaluation.statistics.lds": "lds",
    "curvlang.evaluations": (
        "EvaluationRequest EvaluationSettings evaluate_requests evaluation_requests run_folders"
    ),
    "curvlang.exchange.kronfluence": "read_kronfluence",
    "curvlang.exchange.kronfluence_folder": "write_kronfluence",
    "curvlang.exchange.linear_operator": "to_curvlinops",
    "curvlang.exchange.scores": "read_scores",
    "curvlang.facade": (
        "benchmark covered evaluate explain explanations fit influence self_influence top top_examples"
    ),
    "curvlang.starter": "first_files",
    "curvlang.fits": "FitReport FitRequest fit_request store_report",
    "curvlang.indexing": "IndexReport IndexRequest index index_request load_index",
    "curvlang.doctor": "Installation installation",
    "curvlang.language": "load loads search",
    "curvlang.language.chain": "Spec",
    "curvlang.language.spec_files": "CheckedFile check format_file",
    "curvlang.language.task_sources": "TaskSource",
    "curvlang.models.data.rows": "StoredRows",
    "curvlang.models.execution.precision": "Precision",
    "curvlang.models.losses.losses": "BinaryCrossEntropy CrossEntropy",
    "curvlang.models.losses.metric": "Metric",
    "curvlang.models.recipe": "Recipe",
    "curvlang.models.trajectory": "Trajectory",
    "curvlang.models.sources.rows_in_files": "rows",
    "curvlang.models.task": "Task",
    "curvlang.models.tracing.coverage": "coverage",
    "curvlang.models.trainers": "task_from",
    "curvlang.precision_report": "PrecisionErrors precision_errors",
    "curvlang.reporting.report": "Report",
    "curvlang.reporting.study.study_report": "StudyReport",
    "curvlang.runtime.fitted": "FittedOperator",
    "curvlang.runtime.limits.memory": "exhausted",
    "curvlang.runtime.processes.distributed": "World world",
    "curvlang.runtime.progress.display": "Bars",
    "curvlang.runtime.setup": "Setup",
    "curvlang.score_report": "ScoreReport",
    "curvlang.score_words": "Scoring",
    "curvlang.scoring": "ScoreRequest score_request",
    "curvlang.storage.cache": "Cache",
    "curvlang.storage.score_file": "check_score_file",
    "curvlang.studies": "StudyRequest StudyRun read_study study study_folders study_requests",
    "curvlang.testing.verdicts": "LawReport check_laws small_task",
}
"""Public names by the module that defines them under that name."""
_WHERE = {name: (module, name) for module, names in _NAMES.items() for name in names.split()} | {
    "language_server": ("curvlang.editors", "serve"),
    "load_operator": ("curvlang.runtime.stored.operator", "load"),
}
_FORMER = {
    "compile": "`cv.explain(spec, task)` shows the plan and the code, `cv.fit(spec, task)` runs it"
}
"""Names that are gone, and what to use."""

__all__ = [
    "LDS",
    "Bars",
    "BinaryCrossEntropy",
    "Cache",
    "CheckedFile",
    "CrossEntropy",
    "Diagnostic",
    "EvaluationRequest",
    "EvaluationSettings",
    "Evidence",
    "FitReport",
    "FitRequest",
    "FittedOperator",
    "GradientIndex",
    "IndexReport",
    "IndexRequest",
    "Installation",
    "Interrupted",
    "LawReport",
    "MachineError",
    "Metric",
    "NaturalGradient",
    "Precision",
    "PrecisionErrors",
    "Recipe",
    "Report",
    "ScoreReport",
    "ScoreRequest",
    "Scoring",
    "Setup",
    "Spec",
    "SpecError",
    "StoredRows",
    "StudyReport",
    "StudyRequest",
    "StudyRun",
    "Task",
    "TaskSource",
    "TokenScores",
    "Trajectory",
    "World",
    "__version__",
    "benchmark",
    "check",
    "check_laws",
    "check_score_file",
    "coverage",
    "covered",
    "evaluate",
    "evaluate_requests",
    "evaluation_requests",
    "exhausted",
    "explain",
    "explanations",
    "first_files",
    "fit",
    "fit_request",
    "format_file",
    "index",
    "index_request",
    "influence",
    "installation",
    "language_server",
    "lds",
    "leading_eigenpairs",
    "load",
    "load_index",
    "load_operator",
    "loads",
    "log_marginal_likelihood",
    "precision_errors",
    "read_kronfluence",
    "read_scores",
    "read_study",
    "rows",
    "run_folders",
    "score_request",
    "search",
    "self_influence",
    "small_task",
    "store_report",
    "study",
    "study_folders",
    "study_requests",
    "task",
    "task_from",
    "to_curvlinops",
    "top",
    "top_examples",
    "world",
    "write_extension",
    "write_kronfluence",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _WHERE:
        instead = f": {_FORMER[name]}" if name in _FORMER else ""
        raise AttributeError(f"module `curvlang` has no attribute `{name}`{instead}")
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
