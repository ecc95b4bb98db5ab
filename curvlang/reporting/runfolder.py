"""The run folder: everything that `curvlang eval` leaves behind, written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal
from curvlang.evaluation.result import Result
from curvlang.evaluation.result_file import dumps, loads
from curvlang.reporting.html import to_html
from curvlang.storage.arrays import write_npy, write_npz
from curvlang.storage.atomic import Destination, probe
from curvlang.storage.swap import Content, recover, write_folder

Scores = NDArray[np.floating[Any]]

RESULT = "result.json"
SCORES = "scores.npy"
STEP_SCORES = "step_scores.npz"
SPEC = "spec.cv"
PROVENANCE = "provenance.json"
REPORT = "report.html"
FILES = frozenset({RESULT, SCORES, STEP_SCORES, SPEC, PROVENANCE, REPORT})


def write_run(
    folder: str | os.PathLike[str],
    result: Result,
    scores: Scores | None,
    spec_text: str,
    provenance: Mapping[str, object],
    *,
    step_scores: Mapping[str, Scores] | None = None,
    times: Mapping[str, float] | None = None,
) -> Path:
    """Write a run folder: complete, or not at all.

    The files are written into a hidden sibling and flushed to the disk; then it takes the
    folder's name. A run folder of that name is replaced, anything else is left alone.

    Args:
        folder: Where; folders above it are made.
        result: Becomes `result.json` (schema in `docs/result.md`) and `report.html`.
        scores: [Q, N], becomes `scores.npy`; None where the curvature has none.
        spec_text: The spec as run, becomes `spec.cv`.
        provenance: Plain values, becomes `provenance.json`.
        step_scores: Scores [Q, N] by label of the step, becomes `step_scores.npz`.
        times: Seconds of each phase, for the report.

    Returns:
        The folder, absolute.

    Raises:
        SpecError: E0903 where the folder holds files that no run wrote, E0904 where the scores do
            not fit the result, E0905 where the system does not let it be written.
        MachineError: E0802 where the disk is full, with what was needed and what is free.
    """
    target = Path(os.path.realpath(folder))
    own = {} if scores is None else {"scores": scores}
    _check_scores(result, {**own, **(step_scores or {})})
    _check_labels(result, step_scores or {})
    report = to_html(result, spec_text=spec_text, provenance=provenance, times=times)
    contents: dict[str, Content] = {
        RESULT: dumps(result.to_json()).encode(),
        SPEC: spec_text.encode(),
        PROVENANCE: dumps(provenance).encode(),
        REPORT: report.encode(),
    }
    if scores is not None:
        contents[SCORES] = partial(write_npy, array=scores)
    if step_scores:
        contents[STEP_SCORES] = partial(write_npz, arrays=step_scores)
    needed = sum(len(content) for content in contents.values() if isinstance(content, bytes))
    needed += sum(array.nbytes for array in (*own.values(), *(step_scores or {}).values()))
    with _destination(target).refusals(needed):
        _check_replaceable(target)
        write_folder(target, contents)
    return target


def check_folder(folder: str | os.PathLike[str]) -> None:
    """Refuse, before the work, a run folder that could not be written; put right what a kill has left.

    Raises:
        SpecError: E0903, E0905 as `write_run` does.
        MachineError: E0802.
    """
    target = Path(os.path.realpath(folder))
    with _destination(target).refusals():
        recover(target)
        _check_replaceable(target)
        probe(target)


def read_result(path: str | os.PathLike[str]) -> Result:
    """Read a result back, from a run folder or from its `result.json`.

    NaN was written as null: a field that may be None comes back as None, a number as NaN.

    Raises:
        SpecError: E0901 where the file is not a result of this schema, E0902 where there is none.
    """
    place = Path(path)
    file = place / RESULT if place.is_dir() else place
    try:
        content = file.read_bytes()
    except OSError as error:
        raise refusal(
            Code.E0902, f"`{file}` cannot be read: {error.strerror}", "name a run folder"
        ) from error
    return loads(content, str(file))


def _check_scores(result: Result, scores: Mapping[str, Scores]) -> None:
    task = result.task
    queries = {task.query_examples} | ({result.protocol.queries} if result.protocol else set())
    for name, matrix in scores.items():
        fits = matrix.ndim == 2 and matrix.shape[0] in queries
        if not fits or matrix.shape[1] != task.train_examples:
            raise refusal(
                Code.E0904,
                f"`{name}` has shape {list(matrix.shape)}, the result has Q = "
                f"{task.query_examples} queries and N = {task.train_examples} training examples",
                "give scores as [Q, N], queries first",
            )


def _check_labels(result: Result, scores: Mapping[str, Scores]) -> None:
    labels = [step.label for step in result.steps]
    for name in scores:
        if name not in labels:
            raise refusal(
                Code.E0904, f"`{name}` is not a step of the result", f"use {', '.join(labels)}"
            )


def _check_replaceable(target: Path) -> None:
    """A folder is ours to replace where it holds nothing but files of a run."""
    if not target.exists():
        return
    if not target.is_dir():
        raise refusal(Code.E0903, f"`{target}` is a file", "name another folder")
    foreign = sorted(entry.name for entry in target.iterdir() if entry.name not in FILES)
    if foreign:
        shown = ", ".join(f"`{name}`" for name in foreign[:3])
        more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
        raise refusal(
            Code.E0903,
            f"`{target}` holds what no run wrote: {shown}{more}",
            "name another folder, or move them away",
        )


def _destination(target: Path) -> Destination:
    note = "nothing was left behind, and an earlier run of that name is unchanged"
    return Destination(target, "folder", note)
