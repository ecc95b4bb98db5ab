"""A study in the terminal: the verdict, the overview, and each group's tables."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console, RenderableType
from rich.text import Text

from curvlang.evaluation.study.study_result import Group, StudyResult
from curvlang.reporting.study.cells import names, overview, tables
from curvlang.reporting.study.findings import facts, heading, notes, title, verdict
from curvlang.reporting.tables.table import fill, fit, listed, pairs, printed, text, titled


def show_study(result: StudyResult, console: Console) -> None:
    """Print the study on a console, in the width and the character set that it has."""
    printed(list(_parts(result, console)), console)


def _parts(result: StudyResult, console: Console) -> Iterator[RenderableType]:
    yield text(title(result), console, "bold")
    if result.question:
        yield text(result.question, console)
    for group in result.groups:
        yield from _group(group, console)
    found = overview(result)
    if found is not None and len(result.groups) > 1:
        rows = names(result.groups[0].rows)
        for panel in fill(rows, found, console):
            yield from titled(rows, panel, console)
        yield text("* largest of its column", console, "dim")
    yield from listed("verdict", verdict(result), console)
    yield from listed("notes", notes(result), console)


def _group(group: Group, console: Console) -> Iterator[RenderableType]:
    yield Text()
    yield text(heading(group), console, "bold")
    yield pairs(facts(group), console)
    found = tables(group)
    for panel in fit(found.rows, found.panels, console):
        yield from titled(found.rows, panel, console)
    for column, panel in found.others:
        yield from titled(column, panel, console)
    if found.curve is not None:
        for panel in fill(found.rows, found.curve, console):
            yield from titled(found.rows, panel, console)
        yield text("* best of its row", console, "dim")
