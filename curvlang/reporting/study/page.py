"""A study as one HTML page: no script, no network, figures inside; legible on a phone and on paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from curvlang.evaluation.study.study_result import Group, StudyResult
from curvlang.reporting.figures.style import Drawing
from curvlang.reporting.html import Grid, environment, flat, grid_of, pictures
from curvlang.reporting.study.cells import names, overview, tables
from curvlang.reporting.study.findings import (
    CHOSEN,
    facts,
    heading,
    notes,
    pair_sentence,
    title,
    verdict,
)

_WIDE = 6.0
"""Inches from which a figure takes the page's whole width."""


@dataclass(frozen=True, slots=True)
class _Picture:
    title: str
    caption: str
    reason: str
    svg: str | None
    wide: bool


@dataclass(frozen=True, slots=True)
class _Section:
    title: str
    facts: tuple[tuple[str, str], ...]
    grids: tuple[Grid, ...]
    pairs: tuple[tuple[str, tuple[str, ...]], ...]


def study_html(result: StudyResult, drawings: Sequence[Drawing], spec_text: str) -> str:
    """The whole page: an HTML document that needs nothing outside itself."""
    found = overview(result) if len(result.groups) > 1 else None
    return (
        environment()
        .get_template("study.html.jinja")
        .render(
            title=title(result),
            question=result.question or f"What does the study `{result.name}` find?",
            verdict=verdict(result),
            overview=None if found is None else grid_of(names(result.groups[0].rows), found),
            drawings=[(_picture(d), svg) for d, svg in pictures(drawings)],
            groups=[_section(g) for g in result.groups],
            notes=notes(result),
            spec=spec_text,
            provenance=list(flat(result.provenance)),
            version=result.version,
        )
    )


def _picture(drawing: Drawing) -> _Picture:
    wide = drawing.svg is not None and _inches(drawing.svg) > _WIDE
    return _Picture(drawing.title, drawing.caption, drawing.reason, drawing.svg, wide)


def _inches(svg: str) -> float:
    """The width that the figure was drawn in: SVG counts 72 points to the inch."""
    head = svg.partition('width="')[2].partition('pt"')[0]
    return float(head or 0) / 72


def _section(group: Group) -> _Section:
    pairs = []
    if group.honest_pairs:
        pairs.append((f"all pairs, each at {CHOSEN}", group.honest_pairs))
    if group.best_pairs and len(group.sweep) > 1:
        pairs.append(("all pairs, each at its own best λ", group.best_pairs))
    if group.pairs:
        where = "all pairs at one λ" if len(group.sweep) > 1 else "all pairs"
        pairs.append((where, group.pairs))
    return _Section(
        heading(group),
        facts(group),
        tuple(grid_of(*x) for x in tables(group).every),
        tuple((name, tuple(pair_sentence(p) for p in items)) for name, items in pairs),
    )
