"""The tables of a study as plain text cells: the terminal, the page, Markdown and CSV read these."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from curvlang.diagnostics.amounts import size
from curvlang.evaluation.statistics.interval import Interval
from curvlang.evaluation.study.study_result import Group, Honest, Row, StudyResult
from curvlang.reporting.notation import MISSING, bounds, correlation, quantity, setting, share
from curvlang.reporting.study.findings import place, signed, spot_of
from curvlang.reporting.tables.view import Column, Panel


def names(rows: Sequence[Row]) -> Column:
    """The column that names the curvatures."""
    return Column("curvature", tuple(r.label for r in rows), right=False)


def overview(result: StudyResult) -> Panel | None:
    """The best LDS of every curvature in every group, the largest of a group marked."""
    groups = [g for g in result.groups if g.protocol is not None]
    if not groups:
        return None
    columns = []
    for group in groups:
        spots = [spot_of(r, r.best) for r in group.rows]
        values = [None if s is None or s.lds is None else s.lds.estimate for s in spots]
        known = [v for v in values if v is not None]
        top = frozenset(k for k, v in enumerate(values) if known and v == max(known))
        columns.append(
            Column(_head(group, result), tuple(correlation(v) for v in values), strong=top)
        )
    return Panel("best LDS", tuple(columns))


def _head(group: Group, result: StudyResult) -> str:
    """The place alone where there is one inverse, else the inverse's name with it."""
    if len({g.inverse for g in result.groups}) == 1:
        return place(group)
    return f"{place(group)} {inverse_name(group)}"


def inverse_name(group: Group) -> str:
    """`tikhonov`, `pseudo(rtol = 1e-4)`: the inverse without what the default adds."""
    return group.inverse.partition(" (default)")[0].partition(":")[0]


@dataclass(frozen=True, slots=True)
class GroupTables:
    """The tables of a group.

    Args:
        rows: Names the curvatures.
        panels: What each curvature is, its errors and its LDS.
        others: Steps of the path and further measures, each with the column that names its rows.
        curve: LDS at every λ; None without a sweep or without LDS.
    """

    rows: Column
    panels: tuple[Panel, ...]
    others: tuple[tuple[Column, Panel], ...]
    curve: Panel | None

    @property
    def every(self) -> Iterator[tuple[Column, Panel]]:
        """All tables, each with the column that names its rows."""
        yield from ((self.rows, panel) for panel in self.panels)
        yield from self.others
        if self.curve is not None:
            yield self.rows, self.curve


def tables(group: Group) -> GroupTables:
    """The tables of a group, in the order of the report."""
    own = (methods(group), errors(group))
    panels = own if group.protocol is None else (*own, quality(group))
    chosen, named = held_out(group), measured_names(group)
    panels = panels if chosen is None else (*panels, chosen)
    along = [x for x in (steps(group), own_steps(group)) if x is not None]
    others = (*along, *((named, x) for x in measures(group)))
    return GroupTables(names(group.rows), panels, others, curve(group))


def methods(group: Group) -> Panel:
    """What each curvature is and costs."""
    rows = group.rows
    columns = (
        Column("structure", tuple(r.structure for r in rows), right=False),
        Column("memory", tuple(size(r.memory) for r in rows)),
        Column("passes", tuple(str(r.passes) for r in rows)),
        Column("FLOPs", tuple(MISSING if r.flops is None else f"{r.flops:.1e}" for r in rows)),
    )
    return Panel("cost", columns)


def errors(group: Group) -> Panel:
    """Errors at the shared setting, averaged over models, with the path's shares."""
    spots = [spot_of(r, group.shared) for r in group.rows]
    forward, inverse = _step_shares(group)
    columns = [
        Column("forward", tuple(quantity(r.forward) for r in group.rows)),
        *([Column("share", forward)] if forward else []),
        Column("inverse", tuple(quantity(None if s is None else s.inverse) for s in spots)),
        *([Column("share", inverse)] if inverse else []),
        Column("influence", tuple(quantity(None if s is None else s.influence) for s in spots)),
    ]
    return Panel("error against hessian", _told(columns), at(group))


def quality(group: Group) -> Panel:
    """LDS at the shared setting and at each curvature's best one."""
    shared = [spot_of(r, group.shared) for r in group.rows]
    best = [spot_of(r, r.best) for r in group.rows]
    columns = [
        Column("LDS", tuple(MISSING if s is None or s.lds is None else correlation(s.lds.estimate) for s in shared)),
        Column("interval", tuple(MISSING if s is None else bounds(s.lds) for s in shared)),
    ]  # fmt: skip
    if len(group.sweep) > 1:
        columns += [
            Column("best", tuple(MISSING if s is None or s.lds is None else correlation(s.lds.estimate) for s in best)),
            Column("interval", tuple(MISSING if s is None else bounds(s.lds) for s in best)),
            Column("at λ", tuple(MISSING if s is None or s.damping is None else setting(s.damping) for s in best)),
        ]  # fmt: skip
    return Panel("LDS", tuple(columns), at(group))


def held_out(group: Group) -> Panel | None:
    """LDS at a λ that other folds choose, and what the best λ seems to add; None without a choice."""
    found = [r.honest for r in group.rows]
    if not any(h is not None for h in found):
        return None
    columns = (
        Column("held out", tuple(MISSING if h is None else correlation(h.lds.estimate) for h in found)),
        Column("interval", tuple(MISSING if h is None else bounds(h.lds) for h in found)),
        Column("mostly at λ", tuple(_most(h) for h in found)),
        Column("optimism of the best λ", tuple(signed(None if h is None else h.optimism) for h in found)),
    )  # fmt: skip
    return Panel("LDS at a λ chosen by cross-validation", columns)


def _most(found: Honest | None) -> str:
    """The λ that most folds choose, with their share where it is not all of them."""
    if found is None or (damping := found.chosen[0][0]) is None:
        return MISSING
    part = found.chosen[0][1]
    return setting(damping) if part == 1 else f"{setting(damping)} ({100 * part:.0f} %)"


def own_steps(group: Group) -> tuple[Column, Panel] | None:
    """How the LDS changes along the path where each curvature has its own λ; None without a sweep."""
    rows = group.shares
    if not any(s.honest is not None for s in rows):
        return None
    columns = (
        Column("held out", tuple(signed(s.honest) for s in rows), right=False),
        Column("at best λ", tuple(signed(s.best) for s in rows), right=False),
    )
    named = Column("step to", tuple(s.label for s in rows), right=False)
    return named, Panel("steps of the path: change of LDS, each at its own λ", columns)


def steps(group: Group) -> tuple[Column, Panel] | None:
    """What each step of the path adds; None where there is no path."""
    if not group.shares:
        return None
    rows = group.shares
    columns = [
        Column("forward", tuple(share(s.forward) for s in rows)),
        Column("inverse", tuple(share(s.inverse) for s in rows)),
    ]
    if group.protocol is not None:
        columns += [
            Column("LDS share", tuple(share(s.lds_share) for s in rows)),
            Column("LDS change", tuple(signed(s.lds) for s in rows), right=False),
        ]
        if len(group.sweep) > 1 and not any(s.honest is not None for s in rows):
            columns.append(Column("at best λ", tuple(signed(s.best) for s in rows), right=False))
    return Column("step to", tuple(s.label for s in rows), right=False), Panel(
        "steps of the path: shares of the total error and change of LDS", _told(columns), at(group)
    )


def _told(columns: Sequence[Column]) -> tuple[Column, ...]:
    """Those that say anything: without inverses there is no error of them."""
    return tuple(c for c in columns if not {"", MISSING}.issuperset(c.cells))


def measures(group: Group) -> list[Panel]:
    """Measures beyond the LDS: at the shared setting and at each curvature's best one."""
    found = []
    for item in group.measures:
        shared = [row[group.shared] for row in item.values]
        best = [_largest(row) for row in item.values]
        columns = [
            Column(
                "value", tuple(MISSING if x is None else correlation(x.estimate) for x in shared)
            ),
            Column("interval", tuple(bounds(x) for x in shared)),
        ]
        if len(group.sweep) > 1:
            tops = [None if k is None else row[k] for row, k in zip(item.values, best, strict=True)]
            columns += [
                Column(
                    "best", tuple(MISSING if x is None else correlation(x.estimate) for x in tops)
                ),
                Column(
                    "at λ", tuple(MISSING if k is None else setting(group.sweep[k]) for k in best)
                ),
            ]
        found.append(Panel(item.name.replace("_", " "), tuple(columns), at(group)))
    return found


def measured_names(group: Group) -> Column:
    """The column that names the curvatures of a measure: baselines have none."""
    count = len(group.measures[0].values) if group.measures else 0
    return Column("curvature", tuple(r.label for r in group.rows[:count]), right=False)


def _largest(row: Sequence[Interval | None]) -> int | None:
    known = [(x.estimate, k) for k, x in enumerate(row) if x is not None]
    return max(known)[1] if known else None


def curve(group: Group) -> Panel | None:
    """LDS at every λ, the best of each row marked; None without a sweep or without LDS."""
    if len(group.sweep) < 2 or group.protocol is None:
        return None
    columns = []
    for k, damping in enumerate(group.sweep):
        cells = tuple(
            MISSING if (lds := r.spots[k].lds) is None else correlation(lds.estimate)
            for r in group.rows
        )
        strong = frozenset(n for n, r in enumerate(group.rows) if r.best == k)
        columns.append(Column(f"λ = {setting(damping)}", cells, strong=strong))
    return Panel("LDS by λ", tuple(columns))


def at(group: Group) -> str:
    """The λ of the comparison; empty where the inverse is as given."""
    return f"λ = {setting(group.sweep[group.shared])}" if group.sweep else ""


def _step_shares(group: Group) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Share cells beside the path's rows; empty cells beside all others."""
    if not group.shares:
        return (), ()
    rest = len(group.rows) - len(group.shares) - 1
    forward = ("", *(share(s.forward) for s in group.shares), *[""] * rest)
    inverse = ("", *(share(s.inverse) for s in group.shares), *[""] * rest)
    return forward, inverse
