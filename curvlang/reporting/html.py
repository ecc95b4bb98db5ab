"""The report as one HTML page: no script, no network, figures inside.

The page is the template `report.html.jinja` over the same text cells as the terminal's tables.
Everything that comes from a result, a spec or provenance is escaped; only our own SVG is not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import jinja2
from markupsafe import Markup, escape

from curvlang.evaluation.result import Result
from curvlang.reporting.figures.figures import drawings
from curvlang.reporting.figures.style import Drawing
from curvlang.reporting.notation import duration, value
from curvlang.reporting.tables.view import Column, Panel, chain, curve, joined, steps
from curvlang.reporting.tables.words import comparison, finding, header, notes, title

_CODE = re.compile(r"`([^`]+)`")


@dataclass(frozen=True, slots=True)
class Head:
    """A column's head: its text and whether its numbers stand to the right."""

    text: str
    right: bool


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell: its text, where it stands, and whether it is the best of its row."""

    text: str
    right: bool
    strong: bool


@dataclass(frozen=True, slots=True)
class Grid:
    """A table for the page; the first cell of every row names the step."""

    title: str
    heads: tuple[Head, ...]
    rows: tuple[tuple[Cell, ...], ...]


def to_html(
    result: Result,
    *,
    spec_text: str = "",
    provenance: Mapping[str, object] | None = None,
    times: Mapping[str, float] | None = None,
) -> str:
    """The whole page.

    Args:
        result: What the evaluation found.
        spec_text: The spec as run; empty leaves its section out.
        provenance: What would repeat the run; nested mappings become dotted names.
        times: Seconds of each phase, in order.

    Returns:
        An HTML document that needs nothing outside itself.
    """
    sweep = curve(result)
    return (
        environment()
        .get_template("report.html.jinja")
        .render(
            result=result,
            title=title(result),
            question=_question(result),
            finding=finding(result),
            header=header(result),
            grids=_grids(result),
            sweep=None if sweep is None else grid_of(steps(result), sweep),
            drawings=pictures(drawings(result)),
            comparisons=[comparison(item) for item in result.comparisons],
            notes=notes(result),
            blocks=[(step.label, list(step.structures.items())) for step in result.steps],
            times=_times(times or {}),
            spec=spec_text,
            provenance=list(flat(provenance or {})),
        )
    )


def environment() -> jinja2.Environment:
    """Templates of this folder: everything is escaped, nothing undefined is printed."""
    found = jinja2.Environment(
        loader=jinja2.PackageLoader("curvlang.reporting", package_path=""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["code"] = _code
    found.filters["tight"] = _tight
    return found


def flat(items: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted names and texts of a nested mapping.

    >>> list(flat({"seed": 0, "versions": {"torch": "2.13.0"}}))
    [('seed', '0'), ('versions.torch', '2.13.0')]
    """
    for name, item in items.items():
        if isinstance(item, Mapping) and item:
            yield from flat(item, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value(item)


def _question(result: Result) -> str:
    """What the page answers, as one sentence."""
    if len(result.steps) < 2:
        return f"How well does `{result.name}` attribute predictions to training examples?"
    first, last = result.steps[0].label, result.steps[-1].label
    return f"What does each step from `{first}` to `{last}` cost?"


def _grids(result: Result) -> list[Grid]:
    """What the steps are, their errors and their LDS: a table for each title."""
    runs = groupby(chain(result), key=lambda panel: panel.title)
    return [grid_of(steps(result), joined(list(panels))) for _, panels in runs]


def grid_of(names: Column, panel: Panel) -> Grid:
    """A panel with the column that names its rows."""
    columns = (names, *panel.columns)
    heads = tuple(Head(column.head, column.right) for column in columns)
    rows = tuple(
        tuple(Cell(column.cells[k], column.right, k in column.strong) for column in columns)
        for k in range(len(names.cells))
    )
    return Grid(panel.heading, heads, rows)


def pictures(found: Sequence[Drawing]) -> list[tuple[Drawing, Markup]]:
    """Figures with their SVG, named for people who cannot see them; said reasons once."""
    shown, reasons = [], set()
    for drawing in found:
        if drawing.svg is None and drawing.reason in reasons:
            continue
        reasons.add(drawing.reason)
        label = escape(f"{drawing.title}. {drawing.caption}")
        named = (drawing.svg or "").replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
        shown.append((drawing, Markup(named)))
    return shown


def _times(times: Mapping[str, float]) -> list[tuple[str, str]]:
    rows = [(name, duration(seconds)) for name, seconds in times.items()]
    if len(rows) < 2 or "total" in times:
        return rows
    return [*rows, ("total", duration(sum(times.values())))]


def _code(text: str) -> Markup:
    """Escaped text in which `names in backticks` are set as code."""
    return Markup(_CODE.sub(r"<code>\1</code>", str(escape(text))))


def _tight(text: str) -> str:
    """No line break between a number and its percent sign, nor around an equals sign."""
    return text.replace(" %", "\u00a0%").replace(" = ", "\u00a0=\u00a0")
