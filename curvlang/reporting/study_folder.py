"""The run folder of a study: result, report, figures and tables, beside the cells they are made of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from curvlang.diagnostics.diagnostic import Diagnostic, SpecError
from curvlang.evaluation.study_result import StudyResult
from curvlang.reporting.schema import dumps
from curvlang.reporting.study_export import csv_tables, markdown
from curvlang.reporting.study_figures import study_drawings
from curvlang.reporting.study_files import CELLS, write_file
from curvlang.reporting.study_html import study_html

RESULT = "study.json"
REPORT = "report.html"
SPEC = "spec.cv"
FIGURES = "figures"
TABLES = "tables"
MARKDOWN = "report.md"
FORMATS = ("md", "csv", "pdf")
_OURS = frozenset({RESULT, REPORT, SPEC, FIGURES, TABLES, MARKDOWN, CELLS})


def check_study_folder(folder: Path) -> None:
    """Refuse, before the work, a folder that holds what no study wrote.

    Raises:
        SpecError: E0903.
    """
    if not folder.exists():
        return
    foreign = [] if folder.is_dir() else [folder.name]
    if folder.is_dir():
        foreign = sorted(x.name for x in folder.iterdir() if x.name not in _OURS)
    if foreign:
        shown = ", ".join(f"`{name}`" for name in foreign[:3])
        raise SpecError(
            Diagnostic(
                "E0903",
                f"`{folder}` holds what no study wrote: {shown}",
                help=("name another folder, or move them away",),
            )
        )


def write_study(
    folder: Path, result: StudyResult, spec_text: str, formats: Sequence[str] = ()
) -> None:
    """Write or renew everything but the cells, each file whole or not at all.

    Args:
        folder: The run folder.
        result: Becomes `study.json`, `report.html` and `figures/NAME.svg`.
        spec_text: The spec as run.
        formats: `md` for `report.md`, `csv` for `tables/NAME.csv`, `pdf` for `figures/NAME.pdf`.
    """
    drawings = study_drawings(result)
    write_file(folder / SPEC, spec_text.encode())
    write_file(folder / RESULT, dumps(result.to_json()).encode())
    for drawing in drawings:
        if drawing.svg is not None:
            write_file(folder / FIGURES / f"{drawing.name}.svg", drawing.svg.encode())
        if drawing.pdf is not None and "pdf" in formats:
            write_file(folder / FIGURES / f"{drawing.name}.pdf", drawing.pdf)
    write_file(folder / REPORT, study_html(result, drawings, spec_text).encode())
    if "md" in formats:
        write_file(folder / MARKDOWN, markdown(result).encode())
    if "csv" in formats:
        for name, text in csv_tables(result).items():
            write_file(folder / TABLES / f"{name}.csv", text.encode())
