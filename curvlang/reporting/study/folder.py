"""The run folder of a study: result, report, figures and tables, beside the cells they are made of."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal
from curvlang.evaluation.result_file import dumps
from curvlang.evaluation.study.files import CELLS
from curvlang.evaluation.study.study_file import packed_study
from curvlang.evaluation.study.study_result import StudyResult
from curvlang.reporting.study.export import csv_tables, markdown
from curvlang.reporting.study.group_figures import study_drawings
from curvlang.reporting.study.page import study_html
from curvlang.storage.atomic import Destination, probe
from curvlang.storage.leftovers import unfinished
from curvlang.storage.swap import clear_inside, recover, write_folder

RESULT = "study.json"
REPORT = "report.html"
SPEC = "spec.cv"
FIGURES = "figures"
TABLES = "tables"
MARKDOWN = "report.md"
PACKED = "study.json.gz"
FORMATS = ("md", "csv", "pdf", "gz")
_OURS = frozenset({RESULT, REPORT, SPEC, FIGURES, TABLES, MARKDOWN, PACKED, CELLS})
_INSIDE = {FIGURES: (".svg", ".pdf"), TABLES: (".csv",)}
_KEPT = (CELLS,)


def check_study_folder(folder: Path) -> None:
    """Refuse, before the work, a folder that could not be written; put right what a kill has left.

    Raises:
        SpecError: E0903 where it holds what no study wrote, E0905 where the system does not let it
            be written.
        MachineError: E0802.
    """
    target = Path(os.path.realpath(folder))
    with _destination(target).refusals():
        recover(target, _KEPT)
        for inside in (target, *(target / name for name in (CELLS, *_INSIDE))):
            clear_inside(inside)
        _check_replaceable(target)
        probe(target)


def _check_replaceable(target: Path) -> None:
    """A folder is ours to replace where it holds nothing but files of a study."""
    foreign = _foreign(target)
    if foreign:
        shown = ", ".join(f"`{name}`" for name in foreign[:3])
        raise refusal(
            Code.E0903,
            f"`{target}` holds what no study wrote: {shown}",
            "name another folder, or move them away",
        )


def _foreign(target: Path) -> list[str]:
    if not target.exists():
        return []
    if not target.is_dir():
        return [target.name]
    found = sorted(
        x.name for x in target.iterdir() if x.name not in _OURS and not unfinished(x.name)
    )
    for name, suffixes in _INSIDE.items():
        inside = target / name
        files = sorted(inside.iterdir()) if inside.is_dir() else []
        found += [
            f"{name}/{x.name}" for x in files if x.suffix not in suffixes and not unfinished(x.name)
        ]
    return found


def write_study(
    folder: Path, result: StudyResult, spec_text: str, formats: Sequence[str] = ()
) -> None:
    """Write or renew everything but the cells: the whole folder, or nothing.

    Files of formats that an earlier report was written in are renewed as well.

    Args:
        folder: The run folder.
        result: Becomes `study.json`, `report.html` and `figures/NAME.svg`.
        spec_text: The spec as run.
        formats: `md` for `report.md`, `csv` for `tables/NAME.csv`, `pdf` for `figures/NAME.pdf`, `gz` for
            `study.json.gz`.

    Raises:
        SpecError: As `check_study_folder`.
        MachineError: E0802 where the disk is full, with what was needed and what is free.
    """
    target = Path(os.path.realpath(folder))
    contents = _contents(result, spec_text, {*formats, *_formats_in(target)})
    with _destination(target).refusals(sum(map(len, contents.values()))):
        _check_replaceable(target)
        write_folder(target, contents, _KEPT)


def _contents(result: StudyResult, spec_text: str, formats: Set[str]) -> Mapping[str, bytes]:
    """Every file of the folder but the cells, by its path in it."""
    drawings = study_drawings(result)
    found = {RESULT: dumps(result.to_json()).encode()}
    if spec_text:
        found[SPEC] = spec_text.encode()
    for drawing in drawings:
        if drawing.svg is not None:
            found[f"{FIGURES}/{drawing.name}.svg"] = drawing.svg.encode()
        if drawing.pdf is not None and "pdf" in formats:
            found[f"{FIGURES}/{drawing.name}.pdf"] = drawing.pdf()
    found[REPORT] = study_html(result, drawings, spec_text).encode()
    if "gz" in formats:
        found[PACKED] = packed_study(result)
    if "md" in formats:
        found[MARKDOWN] = markdown(result).encode()
    if "csv" in formats:
        tables = csv_tables(result)
        found |= {f"{TABLES}/{name}.csv": text.encode() for name, text in tables.items()}
    return found


def _formats_in(target: Path) -> Iterator[str]:
    if (target / PACKED).exists():
        yield "gz"
    if (target / MARKDOWN).exists():
        yield "md"
    if any((target / TABLES).glob("*.csv")):
        yield "csv"
    if any((target / FIGURES).glob("*.pdf")):
        yield "pdf"


def _destination(target: Path) -> Destination:
    note = "finished cells are kept: run the same command to go on"
    return Destination(target, "folder", note)
