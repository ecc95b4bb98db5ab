"""What `cv.study` returns: a study that shows itself as tables, in a notebook, and as a run folder."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from html import escape
from pathlib import Path
from typing import Any

from rich.console import Console

from curvlang.diagnostics.notebook import frame, html_list, html_table
from curvlang.diagnostics.values import another_type
from curvlang.evaluation.study.study_result import Group, StudyResult
from curvlang.reporting.figures.style import Drawing, named_figure
from curvlang.reporting.report import WIDTH, content, html_panel
from curvlang.reporting.study.cells import names, overview, tables
from curvlang.reporting.study.export import points
from curvlang.reporting.study.findings import facts, heading, notes, title, verdict
from curvlang.reporting.study.folder import FORMATS, check_study_folder, write_study
from curvlang.reporting.study.group_figures import STUDY_FIGURES
from curvlang.reporting.study.terminal import show_study


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class StudyReport(StudyResult):
    """A study's result, with the spec that it is of.

    `print(report)` shows the tables of `curvlang study`; its fields are those of `StudyResult`.
    """

    spec: str = field(default="", kw_only=True)

    def __eq__(self, other: object) -> bool:
        """Equal to a result with the same fields, whatever the text of its spec."""
        if not isinstance(other, StudyResult):
            return NotImplemented
        return all(getattr(self, f.name) == getattr(other, f.name) for f in fields(StudyResult))

    __hash__ = None  # type: ignore[assignment]

    def table(self, width: int = WIDTH) -> str:
        """The tables and the verdict as plain text.

        Args:
            width: Characters that a line may have.
        """
        file = io.StringIO()
        self.show(Console(file=file, width=width, force_terminal=False, color_system=None))
        return file.getvalue()

    def show(self, console: Console | None = None) -> None:
        """Print the tables and the verdict, in the width and the character set that the console has.

        Args:
            console: Of `rich`; standard output where not given.
        """
        show_study(self, console or Console(highlight=False))

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame` with a row for every curvature at every λ of every group.

        Raises:
            SpecError: E0757 where pandas is not installed.
        """
        head, rows = points(self)
        return frame({name: [row[k] for row in rows] for k, name in enumerate(head)})

    def figure(self, name: str) -> Drawing:
        """One figure of the report: a notebook shows it, `save("lds-damping.svg")` writes it.

        Args:
            name: `lds-damping`, `lds-error`, `lds-sweep`, `lds-cost`, `lds-methods`, `shares`, `forward`,
                `spectra` or `attributed`.

        Raises:
            SpecError: E0722 for another name, and where the study has nothing to draw.
        """
        repair = (
            "`report.html` and `study.figure` draw what the study has: sweep, protocol and models"
        )
        return named_figure(STUDY_FIGURES, self.plain(), name, repair)

    def save(self, folder: str | os.PathLike[str], *, formats: Sequence[str] = ()) -> Path:
        """Write the run folder that `curvlang study` writes, but for its cells.

        Args:
            folder: Where. What a study wrote there is replaced, anything else is left alone.
            formats: `md`, `csv`, `pdf` and `gz`, for files beside the report.

        Returns:
            The folder, absolute.

        Raises:
            SpecError: E0903 where the folder holds files that no study wrote, E0905 where the system
                does not let it be written, E0563 for another format.
            MachineError: E0802 where the disk is full.
        """
        if not isinstance(folder, str | os.PathLike):
            raise another_type("folder", folder, "a path", '`result.save("runs/mine")`')
        check_formats(formats)
        check_study_folder(Path(folder))
        write_study(Path(folder), self.plain(), self.spec, formats)
        return Path(os.path.realpath(folder))

    def plain(self) -> StudyResult:
        """The result alone, as `study.json` has it."""
        return StudyResult(**content(StudyResult, self))

    def to_json(self) -> dict[str, Any]:
        """The content of `study.json`."""
        return self.plain().to_json()

    def __str__(self) -> str:
        return self.table()

    def _repr_html_(self) -> str:
        return "".join(_html(self))


def study_report(result: StudyResult, spec: str = "") -> StudyReport:
    """A study's result as it shows itself.

    Args:
        result: The result.
        spec: The text of its spec, where it is known.
    """
    return StudyReport(**content(StudyResult, result), spec=spec)


def check_formats(formats: Sequence[str]) -> None:
    """Refuse formats that a study is not written in.

    Raises:
        SpecError: E0563.
    """
    if isinstance(formats, str):
        raise another_type("formats", formats, "a list of formats", f'`["{FORMATS[0]}"]`')
    for name in formats:
        if name not in FORMATS:
            raise another_type("formats", name, "a format", " or ".join(FORMATS))


def _html(result: StudyResult) -> Iterator[str]:
    """The verdict, the overview, then each group's tables, folded where there are several."""
    yield f"<h4>{escape(title(result))}</h4>"
    yield f"<p>{escape(result.question)}</p>" if result.question else ""
    yield html_list("verdict", verdict(result))
    several = len(result.groups) > 1
    found = overview(result) if several else None
    if found is not None:
        yield html_panel(names(result.groups[0].rows), found)
    for group in result.groups:
        inside = "".join(_group(group))
        head = f"<summary>{escape(heading(group))}</summary>"
        yield f"<details>{head}{inside}</details>" if several else inside
    yield html_list("notes", notes(result))


def _group(group: Group) -> Iterator[str]:
    yield html_table(("", ""), facts(group))
    for column, panel in tables(group).every:
        yield html_panel(column, panel)
