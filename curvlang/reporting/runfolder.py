"""The run folder: everything that `curvlang eval` leaves behind, written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.evaluation.measures.grid import MeasureTable
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


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """How a result was made.

    Args:
        scores: `[Q, N]` of the curvature itself at the shared setting, becomes `scores.npy`; None where
            it has none.
        step_scores: The same for every step, by label, becomes `step_scores.npz`.
        spec_text: The spec as run, becomes `spec.cv`.
        provenance: What would repeat the run, in plain values, becomes `provenance.json`.
        times: Seconds of each part, for the report.
        problem: Why there are no scores.
        others: The results under further inverses.
        measures: Ground truths beyond the LDS by name, a table of curvatures and settings for every
            inverse.
    """

    scores: Scores | None
    step_scores: Mapping[str, Scores] = field(default_factory=dict)
    spec_text: str = ""
    provenance: Mapping[str, object] = field(default_factory=dict)
    times: Mapping[str, float] = field(default_factory=dict)
    problem: SpecError | None = None
    others: tuple[Result, ...] = ()
    measures: Mapping[str, tuple[MeasureTable, ...]] = field(default_factory=dict)

    @property
    def models(self) -> Any:
        """How many models were retrained, read from the cache, damaged; None without LDS."""
        return self.provenance.get("models")


def write_run(folder: str | os.PathLike[str], result: Result, run: Record) -> Path:
    """Write a run folder: complete, or not at all.

    The files are written into a hidden sibling and flushed to the disk; then it takes the
    folder's name. A run folder of that name is replaced, anything else is left alone.

    Args:
        folder: Where; folders above it are made.
        result: Becomes `result.json` (schema in `docs/result.md`) and `report.html`.
        run: Becomes the other files.

    Returns:
        The folder, absolute.

    Raises:
        SpecError: E0903 where the folder holds files that no run wrote, E0904 where the scores do
            not fit the result, E0905 where the system does not let it be written.
        MachineError: E0802 where the disk is full, with what was needed and what is free.
    """
    target = Path(os.path.realpath(folder))
    own = {} if run.scores is None else {"scores": run.scores}
    _check_scores(result, {**own, **run.step_scores})
    _check_labels(result, run.step_scores)
    report = to_html(
        result, spec_text=run.spec_text, provenance=run.provenance, times=run.times or None
    )
    contents: dict[str, Content] = {
        RESULT: dumps(result.to_json()).encode(),
        SPEC: run.spec_text.encode(),
        PROVENANCE: dumps(run.provenance).encode(),
        REPORT: report.encode(),
    }
    if run.scores is not None:
        contents[SCORES] = partial(write_npy, array=run.scores)
    if run.step_scores:
        contents[STEP_SCORES] = partial(write_npz, arrays=run.step_scores)
    needed = sum(len(content) for content in contents.values() if isinstance(content, bytes))
    needed += sum(array.nbytes for array in (*own.values(), *run.step_scores.values()))
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
    with _destination(Path(folder)).refusals():
        target = Path(os.path.realpath(folder))
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
