"""The work behind `curvlang study`: cells run or read, merged, shown and written."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import Interrupted
from curvlang.diagnostics.refusal import refusal
from curvlang.diagnostics.render import render
from curvlang.evaluation.result_file import plain
from curvlang.evaluation.study.cell import Machine
from curvlang.evaluation.study.files import CellFolder
from curvlang.evaluation.study.result import CellFound, StudyResult
from curvlang.evaluation.study.run import Shard, Work, gather, part, quick, run_missing, work_of
from curvlang.language import analyse, load_studies, used_files
from curvlang.language.chain import Spec, Study
from curvlang.reporting.notation import duration
from curvlang.reporting.study.folder import FORMATS, check_study_folder, write_study
from curvlang.reporting.study.terminal import show_study
from curvlang.storage.cache import Cache
from curvlang.version import VERSION

from .color import use_color
from .progress import Bars
from .running import device_of, dtype_of
from .study import Options


def study_all(given: str, options: Options) -> list[Any]:
    """Every study of a file, or the one named; all is checked before anything runs."""
    spec, studies = load_studies(given)
    device, dtype = device_of(options.device), dtype_of(options.dtype)
    machine = Machine(device, dtype, Cache(), allow_python=options.allow_python)
    shard = None if options.shard is None else Shard.read(options.shard)
    formats = formats_of(options.formats)
    if not options.quiet:
        found = analyse(spec.source)[1]
        if found:
            print(render(found, color=use_color()), file=sys.stderr)
    folders = [_folder(spec, study, options, len(studies)) for study in studies]
    for folder in folders:
        check_study_folder(folder)
    return [
        _one(spec, study, folder, machine, shard, formats, options)
        for study, folder in zip(studies, folders, strict=True)
    ]


def formats_of(text: str) -> tuple[str, ...]:
    """`md,csv` as a list.

    Raises:
        SpecError: E0708 for a format that is not written.
    """
    found = tuple(x.strip() for x in text.split(",") if x.strip())
    for name in found:
        if name not in FORMATS:
            raise refusal(
                Code.E0708,
                f"`--format {name}` is not known",
                f"use {', '.join(FORMATS)}, or several: `md,csv`",
            )
    return found


def _one(
    spec: Spec,
    study: Study,
    folder: Path,
    machine: Machine,
    shard: Shard | None,
    formats: tuple[str, ...],
    options: Options,
) -> Any:
    if options.quick:
        study = quick(study)
    work = work_of(study, machine, small=options.quick)
    store = CellFolder(folder)
    start = time.perf_counter()
    try:
        if not options.report:
            with Bars(options.quiet) as bars:
                told = None if options.quiet else _teller(start)
                run_missing(study, part(work, shard), store, machine, told=told, progress=bars)
    except Interrupted as error:
        _write(spec, study, work, store, folder, formats, options)
        raise Interrupted(f"{error}; a report of them is in `{folder}/`") from error
    result = _write(spec, study, work, store, folder, formats, options)
    if not options.json:
        show_study(result, Console(highlight=False))
        if not options.quiet:
            _after(store, folder, machine)
    return plain(result.to_json())


def _write(
    spec: Spec,
    study: Study,
    work: tuple[Work, ...],
    store: CellFolder,
    folder: Path,
    formats: tuple[str, ...],
    options: Options,
) -> StudyResult:
    notes = ["--quick: a small protocol and one model a cell; intervals are wide"]
    result = gather(
        study,
        work,
        store,
        provenance=_provenance(spec, study, options),
        notes=notes if options.quick else (),
    )
    write_study(folder, result, spec.source.text, formats)
    return result


def _teller(start: float) -> Callable[[int, int, Work, CellFound | None], None]:
    """A line for each finished cell, with what is left at the pace so far."""
    notes = Console(stderr=True, highlight=False, soft_wrap=True)

    def told(k: int, total: int, work: Work, cell: CellFound | None) -> None:
        if cell is None:
            return
        spent = time.perf_counter() - start
        left = spent / (k + 1) * (total - k - 1)
        rest = f", about {duration(left)} left" if left else ""
        took = duration(sum(cell.seconds.values()))
        notes.print(f"cell {k + 1} of {total}: {work.title}, {took}{rest}", style="dim")

    return told


def _after(store: CellFolder, folder: Path, machine: Machine) -> None:
    notes = Console(stderr=True, highlight=False, soft_wrap=True)
    if store.damaged:
        notes.print(f"damaged cells, not used and run again: {len(store.damaged)}")
    if machine.cache is not None and machine.cache.damaged:
        notes.print(f"damaged files of the cache, not used: {len(machine.cache.damaged)}")
    notes.print(f"written to {folder}/ (open report.html)")


def _folder(spec: Spec, study: Study, options: Options, count: int) -> Path:
    """`--out` itself for one study, a folder in it for several; else by name and hash."""
    if options.out is not None:
        return options.out if count == 1 else options.out / study.name
    asked = (spec.source.text, study.name, options.quick, options.dtype, VERSION)
    return Path("runs") / f"{study.name}-{hashlib.sha256(repr(asked).encode()).hexdigest()[:8]}"


def _provenance(spec: Spec, study: Study, options: Options) -> dict[str, Any]:
    """All that is needed to repeat the study."""
    flags = ["--quick"] if options.quick else []
    flags += ["--allow-python"] if options.allow_python else []
    return {
        "command": ["curvlang", "study", *sys.argv[2:]],
        "repeat": ["curvlang", "study", f"spec.cv:{study.name}", "--dtype", options.dtype, *flags],
        "versions": {
            "curvlang": VERSION,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        "spec": hashlib.sha256(spec.source.text.encode()).hexdigest(),
        "used files": used_files(spec.source),
        "device": str(device_of(options.device)),
        "dtype": options.dtype,
        "threads": torch.get_num_threads(),
        "processors": os.cpu_count(),
    }
