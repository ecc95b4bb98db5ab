"""Studies of spec files: run or gone on with, merged, reported, and written to a run folder."""

from __future__ import annotations

import hashlib
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from rich.console import Console

from curvlang.diagnostics.diagnostic import Interrupted
from curvlang.diagnostics.notebook import Display
from curvlang.diagnostics.plain_arguments import validate_fields, validated
from curvlang.evaluation.question import Run, Wording, reworded
from curvlang.evaluation.result_file import plain
from curvlang.evaluation.study import study_file
from curvlang.evaluation.study.execution import StudySource, run_missing
from curvlang.evaluation.study.files import CellFolder
from curvlang.evaluation.study.run import Shard, Work, gather, part, quick, work_of
from curvlang.evaluation.study.study_result import Cell
from curvlang.language import load_studies, load_study, used_files
from curvlang.language.chain import Spec, Study
from curvlang.models.execution.precision import PrecisionLike
from curvlang.models.execution.torch_state import settled
from curvlang.operators import usable
from curvlang.reporting.notation import duration
from curvlang.reporting.study.folder import RESULT, SPEC, check_study_folder, write_study
from curvlang.reporting.study.study_report import StudyReport, check_formats, study_report
from curvlang.runtime.limits.memory import limited
from curvlang.runtime.processes.distributed import world
from curvlang.runtime.progress.display import shown
from curvlang.runtime.progress.listeners import Progress, ProgressOption
from curvlang.runtime.setup import Setup, Workers
from curvlang.storage.cache import Cache
from curvlang.version import VERSION
from curvlang.workers.hire import executor_of


@dataclass(frozen=True, slots=True, repr=False)
class StudyRun(Display):
    """A study that ran, or of which a part did.

    Args:
        result: What was found.
        damaged_cells: Kept cells that were damaged, and run again.
        damaged_files: Files of the cache that were damaged, and not used.
    """

    result: StudyReport
    damaged_cells: int
    damaged_files: int

    def _summary(self) -> str:
        return self.result._summary()

    def __str__(self) -> str:
        return str(self.result)

    def _repr_html_(self) -> str:
        return self.result._repr_html_()

    def show(self, console: Console | None = None) -> None:
        """Print the tables and the verdict.

        Args:
            console: Of `rich`; standard output where not given.
        """
        self.result.show(console)

    def notes(self) -> Iterator[str]:
        """What was damaged, a line each."""
        if self.damaged_cells:
            yield f"damaged cells, not used and run again: {self.damaged_cells}"
        if self.damaged_files:
            yield f"damaged files of the cache, not used: {self.damaged_files}"

    def to_json(self) -> Any:
        """The content of `study.json`."""
        return plain(self.result.to_json())


@dataclass(frozen=True, slots=True, repr=False)
class StudyRequest(Display):
    """A study of a spec file, to be run.

    Args:
        spec: The spec.
        study: One of its studies.
        setup: Device, precision and memory; the seeds are the study's.
        quick: One model a cell and a small protocol.
        allow_python: Whether functions that the spec names may be called.
        cache: Where retrained models are kept.
        command: The command line that asked for it, if there was one.
        shard: A part of the work, `2/3`; the whole where not given.
        formats: What is written beside the report: `md`, `csv`, `pdf`, `gz`.
        words: What the language has no words for in a study: `metric`, `reference`, `solve`; or in
            place of what it says.

    Raises:
        SpecError: E0918 for another shard, E0563 for another format.
    """

    spec: Spec
    study: Study
    setup: Setup
    quick: bool = False
    allow_python: bool = False
    cache: Cache | None = None
    command: tuple[str, ...] = ()
    shard: str | None = None
    formats: tuple[str, ...] = ()
    words: Wording = field(default_factory=Wording)

    def _summary(self) -> str:
        return f"of {self.study.name}{', quick' if self.quick else ''}"

    def __post_init__(self) -> None:
        """Refuse parts and formats that do not exist."""
        validate_fields(self)
        if self.shard is not None:
            Shard.read(self.shard)
        check_formats(self.formats)

    @property
    def hashed(self) -> str:
        """The name and a hash of the question: the same question has the same run folder."""
        words = (repr(self.words),) if self.words else ()
        asked = (
            self.spec.source.text,
            self.study.name,
            self.quick,
            str(self.setup.policy),
            VERSION,
            *words,
        )
        return f"{self.study.name}-{hashlib.sha256(repr(asked).encode()).hexdigest()[:8]}"

    def run(
        self,
        folder: str | os.PathLike[str],
        *,
        notify: Callable[[str], None] | None = None,
        progress: ProgressOption = True,
    ) -> StudyRun:
        """Run the cells that the folder does not hold, and write the report into it.

        Args:
            folder: The run folder, where finished cells are kept.
            notify: Called with a line about every finished cell.
            progress: What is done inside a cell, shown on standard error; `False` for nothing, or a
                function that is called as work proceeds.

        Raises:
            SpecError: E0903 for a folder that holds files of others.
            Interrupted: On Ctrl-C, after a report of the finished cells is written.
        """
        mine = None if self.shard is None else Shard.read(self.shard)
        place = Path(folder)
        check_study_folder(place)
        work, store = self._work(), CellFolder(place)
        teller = None if notify is None else _teller(notify)
        try:
            with (
                limited(self.setup.memory),
                shown(progress, "cv.study") as told,
                executor_of(self.setup.workers) as executor,
            ):
                run = replace(self._run(told), executor=executor)
                run_missing(part(work, mine), store, run, told=teller, source=self._source)
        except Interrupted as error:
            self._write(work, store, place)
            raise Interrupted(f"{error}; a report of them is in `{place}/`") from error
        return self._write(work, store, place)

    def report(self, folder: str | os.PathLike[str]) -> StudyRun:
        """Run nothing: write the report of the cells that the folder holds.

        Args:
            folder: The run folder.
        """
        place = Path(folder)
        check_study_folder(place)
        return self._write(self._work(), CellFolder(place), place)

    @property
    def _source(self) -> StudySource:
        text, path = self.spec.source.text, self.spec.source.name
        return StudySource(text, path, self.study.name, self.quick, self.words)

    @property
    def _study(self) -> Study:
        return quick(self.study) if self.quick else self.study

    def _run(self, progress: Progress | None = None) -> Run:
        return Run(self.setup, None, self.cache, progress, self.allow_python)

    def _work(self) -> tuple[Work, ...]:
        changes = reworded(self.spec, self.words) if self.words else {}
        return work_of(self._study, self._run(), small=self.quick, **changes)

    def _write(self, work: tuple[Work, ...], store: CellFolder, folder: Path) -> StudyRun:
        notes = ("--quick: a small protocol and one model a cell; intervals are wide",)
        result = gather(
            self._study,
            work,
            store,
            provenance=self._provenance(),
            notes=notes if self.quick else (),
        )
        if world().first:
            write_study(folder, result, self.spec.source.text, self.formats)
        damaged = 0 if self.cache is None else len(self.cache.damaged)
        shown = study_report(result, self.spec.source.text)
        return StudyRun(shown, len(store.damaged), damaged)

    def _provenance(self) -> dict[str, Any]:
        """All that is needed to repeat the study."""
        flags = ["--quick"] if self.quick else []
        flags += ["--allow-python"] if self.allow_python else []
        name = f"spec.cv:{self.study.name}"
        return {
            **({"command": [*self.command]} if self.command else {}),
            "repeat": ["curvlang", "study", name, *self.setup.flags, *flags],
            "versions": {
                "curvlang": VERSION,
                "python": platform.python_version(),
                "torch": torch.__version__,
                "numpy": np.__version__,
            },
            "spec": hashlib.sha256(self.spec.source.text.encode()).hexdigest(),
            "used files": used_files(self.spec.source),
            "device": str(self.setup.device),
            "dtype": str(self.setup.policy),
            "threads": torch.get_num_threads(),
            "processors": os.cpu_count(),
        }


@validated
def study_requests(
    spec: str | os.PathLike[str], setup: Setup | None = None, **options: Any
) -> tuple[StudyRequest, ...]:
    """A request for every study that a file states, or for the one named.

    Args:
        spec: A path, `path.cv:name`, or the name of a study that ships.
        setup: Device, precision and memory.
        options: Other fields of the request: `quick`, `shard`, `formats`, `cache` and so on.

    Raises:
        SpecError: With every problem of the file; E0919 where it states no such study.
    """
    whole, found = load_studies(os.fspath(spec))
    return tuple(StudyRequest(whole, one, setup or Setup(), **options) for one in found)


def study_folders(asked: Sequence[StudyRequest], out: Path | None) -> list[Path]:
    """The run folder of each study: `out` itself for one, a folder in it by name for several.

    Args:
        asked: The requests.
        out: The folder that the user names; below `runs` where None.

    Raises:
        SpecError: E0903, E0905 for a folder that could not be written after the work.
    """
    if out is None:
        folders = [Path("runs") / one.hashed for one in asked]
    else:
        folders = [out if len(asked) == 1 else out / one.study.name for one in asked]
    for folder in folders:
        check_study_folder(folder)
    return folders


def _teller(notify: Callable[[str], None]) -> Callable[[int, int, Work, Cell | None], None]:
    """A line for each finished cell, with what is left at the pace so far."""
    start = time.perf_counter()

    def tell(k: int, total: int, work: Work, cell: Cell | None) -> None:
        if cell is None:
            return
        spent = time.perf_counter() - start
        left = spent / (k + 1) * (total - k - 1)
        rest = f", about {duration(left)} left" if left else ""
        took = duration(sum(cell.seconds.values()))
        notify(f"cell {k + 1} of {total}: {work.title}, {took}{rest}")

    return tell


@settled
@validated
def study(
    spec: str | Path,
    folder: str | Path | None = None,
    *,
    small: bool = False,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    precision: PrecisionLike | None = None,
    cache: Cache | None = None,
    allow_python: bool = False,
    workers: Workers = None,
    progress: ProgressOption = True,
    **words: Unpack[Wording],
) -> StudyReport:
    """Run a study, or go on with it, and return what it found.

    Args:
        spec: A path, `path.cv:name`, or the name of a study that ships; the file has one study, or
            one is named.
        folder: The run folder, where finished cells are kept and the report is written; without one
            nothing is kept but the ground truth in the cache.
        small: One model a cell and a small protocol, as `--quick`.
        device: Where it runs.
        dtype: Precision of the analysis, by its older name.
        precision: What passes, decompositions and products are computed in; float64 where not given.
        cache: Where retrained models are kept.
        allow_python: Whether functions that the spec names may be called.
        workers: Workers of Dask that retrain models and run cells: how many are started here, or the
            address of a scheduler that has some.
        progress: Shown on standard error; `False` for nothing, or a function that is called as work
            proceeds (`curvlang.runtime.progress`).
        **words: As for `evaluate`: `metric`, `reference` and `solve`, for which a study has no
            lines, and others in place of its lines.

    Raises:
        SpecError: With every problem of the file; E0919 where it states no such study, E0903 for a folder of other files.
        MachineError: E0802 where the disk is full, E0841 where the cells that are left will not fit.
    """
    whole, one = load_study(str(spec))
    setup = Setup(usable(device), dtype, workers=workers, precision=precision)
    asked = StudyRequest(
        whole, one, setup, quick=small, allow_python=allow_python, cache=cache, words=words
    )
    if folder is not None:
        return asked.run(folder, progress=progress).result
    with tempfile.TemporaryDirectory() as place:
        return asked.run(Path(place) / "study", progress=progress).result


def read_study(path: str | os.PathLike[str]) -> StudyReport:
    """Read a study's result: `study.json`, a packed one, or the run folder that holds one.

    Args:
        path: The file or folder.

    Raises:
        SpecError: E0512 where it is missing, damaged, or not the result of a study.
    """
    place = Path(path)
    file = place / RESULT if place.is_dir() else place
    return study_report(study_file.read_study(file), _text_beside(file))


def _text_beside(file: Path) -> str:
    """The spec that lies beside a result; empty without one."""
    spec = file.with_name(SPEC)
    return spec.read_text(encoding="utf-8") if spec.is_file() else ""
