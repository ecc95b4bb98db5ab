"""A study from Python: `curvlang.study("depth", quick=True)`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal
from curvlang.evaluation.study.cell import Machine
from curvlang.evaluation.study.files import CellFolder
from curvlang.evaluation.study.result import StudyResult
from curvlang.evaluation.study.run import gather, quick, run_missing, work_of
from curvlang.language import load_studies
from curvlang.models.execution.torch_state import settled
from curvlang.reporting.study.folder import check_study_folder, write_study
from curvlang.storage.cache import Cache


@settled
def study(
    spec: str | Path,
    folder: str | Path | None = None,
    *,
    small: bool = False,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float64,
    cache: Cache | None = None,
    allow_python: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> StudyResult:
    """Run a study, or go on with it, and return what it found.

    Args:
        spec: A path, `path.cv:name`, or the name of a study that ships; the file has one study, or
            one is named.
        folder: The run folder, where finished cells are kept and the report is written; without one
            nothing is kept but the ground truth in the cache.
        small: One model a cell and a small protocol, as `--quick`.
        device: Where it runs.
        dtype: Precision of the analysis.
        cache: Where retrained models are kept.
        allow_python: Whether functions that the spec names may be called.
        progress: Told what is done.
    """
    whole, found = load_studies(str(spec))
    if len(found) > 1:
        names = ", ".join(f"`{s.name}`" for s in found)
        raise refusal(
            Code.E0919,
            f"`{whole.source.name}` states {len(found)} studies: {names}",
            f"name one: `{spec}:{found[0].name}`",
        )
    asked = quick(found[0]) if small else found[0]
    machine = Machine(torch.device(device), dtype, cache, allow_python=allow_python)
    work = work_of(asked, machine, small=small)
    if folder is None:
        with tempfile.TemporaryDirectory() as place:
            store = CellFolder(Path(place))
            run_missing(asked, work, store, machine, progress=progress)
            return gather(asked, work, store)
    place_ = Path(folder)
    check_study_folder(place_)
    store = CellFolder(place_)
    run_missing(asked, work, store, machine, progress=progress)
    result = gather(asked, work, store)
    write_study(place_, result, whole.source.text)
    return result
