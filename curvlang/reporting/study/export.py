"""A study's tables for papers: Markdown as the report has them, CSV with every number at full length."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence

from curvlang.evaluation.statistics.interval import Interval
from curvlang.evaluation.study.study_result import Group, StudyResult
from curvlang.reporting.notation import value
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
from curvlang.reporting.tables.view import Column, Panel

Cells = Sequence[object]


def markdown(result: StudyResult) -> str:
    """The report without its figures."""
    return "\n".join(_markdown(result)) + "\n"


def _markdown(result: StudyResult) -> Iterator[str]:
    yield f"# {title(result)}\n"
    if result.question:
        yield f"{result.question}\n"
    yield from (f"* {sentence}" for sentence in verdict(result))
    found = overview(result)
    if found is not None and len(result.groups) > 1:
        yield f"\n## {found.title}\n"
        yield from _table(names(result.groups[0].rows), found)
    for group in result.groups:
        yield f"\n## {heading(group)}\n"
        yield from (f"* {label}: {text}" for label, text in facts(group))
        for column, panel in tables(group).every:
            yield f"\n### {panel.heading}\n"
            yield from _table(column, panel)
        if group.honest_pairs:
            yield f"\n### all pairs, each at {CHOSEN}\n"
            yield from (f"* {pair_sentence(p)}" for p in group.honest_pairs)
        if group.best_pairs:
            yield "\n### all pairs, each at its own best λ\n"
            yield from (f"* {pair_sentence(p)}" for p in group.best_pairs)
    yield "\n## Notes\n"
    yield from (f"* {note}" for note in notes(result))


def _table(column: Column, panel: Panel) -> Iterator[str]:
    columns = (column, *panel.columns)
    yield "| " + " | ".join(c.head for c in columns) + " |"
    yield "|" + "|".join("--:" if c.right else "---" for c in columns) + "|"
    for k in range(len(column.cells)):
        cells = (f"**{c.cells[k]}**" if k in c.strong else c.cells[k] for c in columns)
        yield "| " + " | ".join(cells) + " |"


def csv_tables(result: StudyResult) -> dict[str, str]:
    """`points` (a row for each curvature and λ), `pairs`, `steps`, `models` and `chosen` λ, by name."""
    axes = tuple(result.axes)
    head, rows = points(result)
    return {
        "points": _csv(head, iter(rows)),
        "pairs": _csv((*axes, *_PAIRS), _pairs(result)),
        "steps": _csv((*axes, *_STEPS), _steps(result)),
        "models": _csv((*axes, *_MODELS), _models(result)),
        "chosen": _csv((*axes, *_CHOSEN), _chosen(result)),
    }


def points(result: StudyResult) -> tuple[tuple[str, ...], list[Cells]]:
    """Names of the columns, and a row for each curvature and λ of each group."""
    return (*result.axes, *_POINTS), list(_points(result))


_POINTS = (
    "inverse", "curvature", "damping", "forward_error", "inverse_error", "influence_error", "cosine",
    "lds", "lds_low", "lds_high", "ceiling", "datamodel", "flops", "memory",
)  # fmt: skip
_PAIRS = (
    "inverse", "at", "first", "second", "first_damping", "second_damping", "difference", "low", "high",
    "p_holm", "verdict", "detectable",
)  # fmt: skip
_STEPS = (
    "inverse", "step", "forward_share", "inverse_share", "lds_share", "lds_change", "low", "high",
)  # fmt: skip
_CHOSEN = (
    "inverse", "curvature", "lds", "lds_low", "lds_high", "optimism", "optimism_low", "optimism_high",
    "damping",
)  # fmt: skip
_MODELS = ("inverse", "curvature", "damping", "seed", "forward_error", "lds")


def _csv(head: Sequence[str], rows: Iterator[Cells]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(["" if x is None else x for x in row] for row in rows)
    return file.getvalue()


def _place(group: Group) -> tuple[str, ...]:
    return (*(value(x) for x in group.values.values()), group.inverse)


def _ends(interval: Interval | None) -> tuple[float | None, float | None, float | None]:
    return (None,) * 3 if interval is None else (interval.estimate, interval.low, interval.high)


def _points(result: StudyResult) -> Iterator[Cells]:
    for group in result.groups:
        ceiling, additive = _ends(group.ceiling)[0], _ends(group.additive)[0]
        for row in group.rows:
            for s in row.spots:
                numbers = (s.damping, row.forward, s.inverse, s.influence, s.cosine, *_ends(s.lds))
                cost = (ceiling, additive, row.flops, row.memory)
                yield (*_place(group), row.label, *numbers, *cost)


def _pairs(result: StudyResult) -> Iterator[Cells]:
    for group in result.groups:
        ways = (("shared", group.pairs), ("best", group.best_pairs), ("chosen", group.honest_pairs))
        for where, pairs in ways:
            for p in pairs:
                names_ = (p.first, p.second, p.first_at, p.second_at)
                said = (*_ends(p.difference), p.p, p.verdict, p.detectable)
                yield (*_place(group), where, *names_, *said)


def _steps(result: StudyResult) -> Iterator[Cells]:
    for group in result.groups:
        for s in group.shares:
            yield (*_place(group), s.label, s.forward, s.inverse, s.lds_share, *_ends(s.lds))


def _models(result: StudyResult) -> Iterator[Cells]:
    for group in result.groups:
        for row in group.rows:
            for s in row.spots:
                for k, seed in enumerate(group.seeds):
                    forward = row.forwards[k] if row.forwards else None
                    lds = s.per_seed[k] if s.per_seed else None
                    yield (*_place(group), row.label, s.damping, seed, forward, lds)


def _chosen(result: StudyResult) -> Iterator[Cells]:
    """`damping` is the λ that most folds choose."""
    for group in result.groups:
        for row in group.rows:
            if row.honest is not None:
                most = row.honest.chosen[0][0]
                gained = _ends(row.honest.optimism)
                yield (*_place(group), row.label, *_ends(row.honest.lds), *gained, most)
