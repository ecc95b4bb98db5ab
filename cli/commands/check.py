"""`curvlang check`: parse and check, no torch; with `--task` also which parameters are covered."""

from __future__ import annotations

from typing import Annotated

import curvlang as cv
from curvlang.diagnostics.render import as_data

from ..options import (
    DataOption,
    Excludes,
    JsonOption,
    ModelOption,
    PythonOption,
    Specs,
    TaskOption,
)
from ..terminal import print_json, show_problems

EXAMPLES = (
    ("curvlang check mine.cv yours.cv", "every problem of both files"),
    ("curvlang check ekfac_lm --task characters", "which parameters of a model a chain covers"),
)
PLURAL = {"curvature": "curvatures", "score": "scores", "study": "studies"}


def command(
    specs: Specs,
    task: TaskOption = None,
    data: DataOption = None,
    model: ModelOption = None,
    allow_python: PythonOption = False,
    as_json: Annotated[JsonOption, Excludes("task", "data", "model")] = False,
) -> int:
    """Parse and check specs: every problem of every file, exit 2 where there is an error.

    With `--task`, `--data` or `--model` the model is built and its first gradients are computed: which
    parameters are covered, which not and why, and the share of the squared gradient norm that each carries.
    """
    checked = [cv.check(given, allow_python=allow_python) for given in dict.fromkeys(specs)]
    problems = [d for one in checked for d in one.problems]
    failed = any(one.failed for one in checked)
    if as_json:
        rows = [{"spec": one.name, **as_data(d)} for one in checked for d in one.problems]
        print_json(rows)
    elif problems:
        show_problems(problems)
    if failed or as_json:
        return 2 if failed else 0
    for one in checked:
        print(f"{one.name}: {_contents(one.spec)}, no errors")
    source = cv.TaskSource(task, data, model, allow_python)
    if not source.given:
        return 0
    report = cv.covered([one.spec for one in checked if one.spec is not None], source)
    print(f"\n{report}")
    if report.problems:
        show_problems(report.problems)
    return 2 if report.problems else 0


def _contents(spec: cv.Spec | None) -> str:
    """`2 curvatures, 1 study`."""
    count = 0 if spec is None else len(spec.curvatures)
    others = [] if spec is None else [(len(spec.scores), "score"), (len(spec.studies), "study")]
    found = [(n, word) for n, word in others if n]
    parts = [*([(count, "curvature")] if count or not found else []), *found]
    return ", ".join(f"{n} {PLURAL[word] if n != 1 else word}" for n, word in parts)
