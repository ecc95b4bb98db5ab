"""A study in the terminal: the verdict, the overview, and each group's tables."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console, RenderableType
from rich.text import Text

from curvlang.evaluation.study.study_result import Group, StudyResult
from curvlang.reporting.study.cells import (
    curve,
    errors,
    group_title,
    measured_names,
    measures,
    methods,
    names,
    overview,
    quality,
    steps,
)
from curvlang.reporting.study.findings import facts, notes, title, verdict
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
    yield text(group_title(group), console, "bold")
    yield pairs(facts(group), console)
    rows = names(group.rows)
    panels = [methods(group), errors(group)]
    if group.protocol is not None:
        panels.append(quality(group))
    for panel in fit(rows, panels, console):
        yield from titled(rows, panel, console)
    along = steps(group)
    if along is not None:
        column, panel = along
        yield from titled(column, panel, console)
    for panel in measures(group):
        yield from titled(measured_names(group), panel, console)
    sweep = curve(group)
    if sweep is not None:
        for panel in fill(rows, sweep, console):
            yield from titled(rows, panel, console)
        yield text("* best of its row", console, "dim")
