"""A study in sentences, none stronger than its intervals: what is better, what cannot be told.

A verdict counts only where the paired interval leaves 0 out and the p-value, corrected by Holm for
all pairs of its table, is below .05. Names of curvatures stand in backticks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from curvlang.evaluation.statistics.comparison import Pair
from curvlang.evaluation.statistics.interval import Interval, one_query_note
from curvlang.evaluation.study.study_result import Group, Row, Spot, StudyResult
from curvlang.language.registry import NONE
from curvlang.reporting.notation import (
    MISSING,
    bounds,
    correlation,
    difference,
    estimate,
    known,
    setting,
    settings,
)
from curvlang.reporting.tables.words import LOW_CEILING, counted, left_out

TOLD_APART = "cannot be told apart"
CHOSEN = "a λ chosen by cross-validation"


def title(result: StudyResult) -> str:
    """`study depth`, and how much of it is there where it is not whole."""
    part = "" if result.done == result.cells else f" ({result.done} of {result.cells} cells so far)"
    return f"study {result.name}{part}"


def place(group: Group) -> str:
    """`depth = 4`; the study's task where nothing is swept."""
    return settings(group.values) or group.task.name


def heading(group: Group) -> str:
    """The group's place and inverse."""
    return place(group) if group.inverse == NONE else f"{place(group)} · {group.inverse}"


def spot_of(row: Row, at: int | None) -> Spot | None:
    """The row at a setting; None where there is none."""
    return row.spots[at] if at is not None and row.spots else None


def has_lds(result: StudyResult) -> bool:
    """Whether any group has an LDS."""
    return any(g.protocol is not None for g in result.groups)


def facts(group: Group) -> tuple[tuple[str, str], ...]:
    """What was run in a group, as (label, text)."""
    task = group.task
    lines = [
        (
            "task",
            f"{task.model} · {task.loss} · N = {task.train_examples}, Q = {task.query_examples}, "
            f"P = {task.parameters}",
        ),
        ("models", f"{len(group.seeds)} (seeds {', '.join(map(str, group.seeds))})"),
    ]
    if task.query_accuracy is not None:
        accuracy = f"query accuracy {100 * task.query_accuracy:.1f} %"
        lines.append(("first model", f"train loss {task.train_loss:.3g}, {accuracy}"))
    if group.protocol is not None:
        p = group.protocol
        lines.append(
            (
                "LDS",
                f"K = {p.subsets} subsets, {left_out(p)}, R = {p.retrains} "
                f"({p.initialisation} initialisation), {counted(p.queries, 'query', 'queries')}, "
                f"{100 * p.level:g} % intervals from {p.bootstrap} resamples",
            )
        )
        lines.append(("ceiling", ceilings(group)))
    return tuple(lines)


def ceilings(group: Group) -> str:
    """The noise ceiling and the datamodel ceiling, each with what it is."""
    parts = []
    if group.ceiling is not None and known(group.ceiling.estimate):
        best = max(0.0, group.ceiling.estimate) ** 0.5
        parts.append(
            f"the ground truth's reliability is {estimate(group.ceiling)}: a predictor without "
            f"noise has LDS {correlation(best)}"
        )
    if group.additive is not None:
        parts.append(
            f"an additive predictor learned from the subsets themselves has {estimate(group.additive)}"
        )
    return "; ".join(parts) or "not known: split halves need at least two retrains"


def verdict(result: StudyResult) -> tuple[str, ...]:
    """The answer to the study's question, sentence by sentence; empty without LDS."""
    groups = [g for g in result.groups if g.best_pairs]
    if not groups:
        return tuple(_without_lds(result))
    return (
        *_path_verdict(result, groups),
        *_steps_verdict(result, groups),
        *_power(groups),
        *_optimism(groups),
        *_best(groups),
    )


def _without_lds(result: StudyResult) -> Iterator[str]:
    """How the forward error moves along the sweep, the mean over models with all of them."""
    for group in result.groups:
        for row in group.rows[1:]:
            if row.forwards:
                low, high = min(row.forwards), max(row.forwards)
                yield (
                    f"{place(group)}: the forward error of `{row.label}` is {correlation(row.forward)} "
                    f"({len(row.forwards)} models, from {correlation(low)} to {correlation(high)})."
                )


def _path_verdict(result: StudyResult, groups: Sequence[Group]) -> Iterator[str]:
    """The exact curvature against the roughest of the path, over all groups."""
    if len(result.path) < 2:
        return
    first, last = result.path[0], result.path[-1]
    for where, pairs in _ways(groups):
        found = [p for group in pairs for p in group if (p.first, p.second) == (first, last)]
        if found:
            yield f"{where}, `{first}` is {_counts(found)} `{last}`{_span(found)}."


def _steps_verdict(result: StudyResult, groups: Sequence[Group]) -> Iterator[str]:
    """What each step of the path does, where it can be told at all."""
    for where, pairs in _ways(groups):
        parts = []
        for before, after in pairwise(result.path):
            found = [p for g in pairs for p in g if (p.first, p.second) == (before, after)]
            lost = sum(p.verdict == "better" for p in found)
            won = sum(p.verdict == "worse" for p in found)
            if lost or won:
                said = [f"costs LDS in {lost}"] if lost else []
                said += [f"gains LDS in {won}"] if won else []
                parts.append(f"the step to `{after}` {' and '.join(said)} of {len(found)}")
        steps = len(result.path) - 1
        if parts:
            yield f"{where}, {'; '.join(parts)}."
        elif steps > 1:
            yield f"{where}, no single step of the path can be told apart from none."


def _ways(groups: Sequence[Group]) -> Iterator[tuple[str, list[tuple[Pair, ...]]]]:
    """The ways of comparing, each with the pairs of the groups that it is about."""
    swept = [g for g in groups if len(g.sweep) > 1]
    given = [g for g in groups if len(g.sweep) <= 1]
    if any(g.honest_pairs for g in swept):
        yield f"With each curvature at {CHOSEN}", [g.honest_pairs for g in swept]
    if swept:
        yield "With each curvature at its own best λ", [g.best_pairs for g in swept]
        yield "With one λ for all", [g.pairs for g in swept]
    for inverse in dict.fromkeys(g.inverse for g in given):
        yield f"Under `{inverse}`", [g.pairs for g in given if g.inverse == inverse]


def _power(groups: Sequence[Group]) -> Iterator[str]:
    """What difference could have been seen, for every way of comparing."""
    for where, pairs in _ways(groups):
        sizes = [p.detectable for group in pairs for p in group if p.detectable is not None]
        if sizes:
            span = correlation(max(sizes))
            if len(sizes) > 1:
                span = f"{correlation(min(sizes))} to {span}, depending on the pair,"
            yield f"{where}, a difference of LDS of {span} would have been told apart in four cases of five."


def _optimism(groups: Sequence[Group]) -> Iterator[str]:
    """What choosing λ on the data that it is scored on has added to an LDS."""
    found = [r.honest.optimism.estimate for g in groups for r in g.rows if r.honest is not None]
    if found:
        yield (
            f"Choosing λ on the subsets and queries it is scored on adds {difference(max(found))} to an LDS "
            f"at most, {difference(sum(found) / len(found))} on average."
        )


def _counts(found: Sequence[Pair]) -> str:
    """`better in 2, worse in 0 and cannot be told apart in 1 of 3 cases from`."""
    words = ("better", "worse", TOLD_APART)
    counts = [sum(p.verdict == w for p in found) for w in words]
    if len(found) == 1:
        word = found[0].verdict
        return f"{word} than" if word != TOLD_APART else "not told apart from"
    better, worse, neither = counts
    return (
        f"better in {better}, worse in {worse} and not told apart in {neither} of {len(found)} "
        "cases, against"
    )


def _span(found: Sequence[Pair]) -> str:
    """The difference where there is one case, its range over several."""
    if len(found) == 1:
        return f": LDS {signed(found[0].difference)}"
    values = [p.difference.estimate for p in found]
    return f" (differences of LDS from {difference(min(values))} to {difference(max(values))})"


def _best(groups: Sequence[Group]) -> Iterator[str]:
    """In every group the largest LDS, and what cannot be told apart from it."""
    for group in groups:
        rows = [r for r in group.rows if (s := spot_of(r, r.best)) is not None and s.lds]
        if len(rows) < 2:
            continue
        top = max(rows, key=lambda r: _lds(r))
        spot = spot_of(top, top.best)
        assert spot is not None
        at = "" if spot.damping is None else f" at λ = {setting(spot.damping)}"
        same = [
            f"`{p.second if p.first == top.label else p.first}`"
            for p in group.best_pairs
            if top.label in (p.first, p.second) and p.verdict == TOLD_APART
        ]
        tail = (
            "every other one is worse" if not same else f"not told apart from it: {', '.join(same)}"
        )
        yield (
            f"{heading(group)}: `{top.label}` has the largest LDS, {estimate(spot.lds)}{at}; {tail}."
        )


def _lds(row: Row) -> float:
    spot = spot_of(row, row.best)
    return spot.lds.estimate if spot is not None and spot.lds is not None else float("-inf")


def signed(interval: Interval | None) -> str:
    """A difference of LDS with its interval."""
    if interval is None or not known(interval.estimate):
        return MISSING
    return f"{difference(interval.estimate)} {bounds(interval)}"


def pair_sentence(pair: Pair) -> str:
    """One comparison: who, by how much, with which corrected p-value."""
    p = "p < .001" if pair.p < 1e-3 else f"p = {correlation(pair.p)}"
    tail = f"LDS {signed(pair.difference)}, {p}"
    if pair.detectable is not None:
        tail += f", detectable {correlation(pair.detectable)}"
    if pair.verdict == TOLD_APART:
        return f"`{pair.first}` and `{pair.second}` cannot be told apart: {tail}"
    return f"`{pair.first}` is {pair.verdict} than `{pair.second}`: {tail}"


def notes(result: StudyResult) -> tuple[str, ...]:
    """What a reader of the numbers has to know."""
    return tuple(dict.fromkeys([*result.notes, *_cautions(result)]))


def _cautions(result: StudyResult) -> Iterator[str]:
    if result.done < result.cells:
        yield (
            f"{result.done} of {result.cells} cells are there; run the same command to go on, the "
            "finished ones are kept"
        )
    if not has_lds(result):
        return
    if any(len(g.seeds) == 1 for g in result.groups if g.protocol):
        yield (
            "one model in a cell: its intervals are over subsets and queries and say nothing about "
            "other models of the task"
        )
    yield from dict.fromkeys(
        note for g in result.groups if g.protocol and (note := one_query_note(g.protocol.queries))
    )
    if any(len(g.seeds) > 1 for g in result.groups if g.protocol):
        yield (
            "intervals: hierarchical bootstrap over models, subsets and queries, widened for the "
            "few models; verdicts: corrected for all pairs of a table (Holm)"
        )
    low = [place(g) for g in result.groups if g.ceiling and g.ceiling.estimate < LOW_CEILING]
    if low:
        yield (
            f"the ground truth's reliability is below {correlation(LOW_CEILING)} at "
            f"{'; '.join(dict.fromkeys(low))}: raise `retrains` before ranking there"
        )
    if any(len(g.sweep) > 1 for g in result.groups):
        yield (
            "the best λ is chosen on the subsets it is scored on, so the best LDS is optimistic; `held out` is "
            "the LDS at a λ chosen in other folds of subsets and queries, in every resample again"
        )
    if any(g.additive for g in result.groups):
        yield (
            "the datamodel is learned from four fifths of the subsets: a lower bound of what "
            "additive predictors can reach, which grows with K"
        )
    for group in result.groups:
        for row in group.rows:
            said = dict.fromkeys(s.note for s in row.spots if s.note)
            for note in said:
                yield f"{heading(group)}, `{row.label}`: {note}"
        for item in group.measures:
            yield from (f"{heading(group)}, {item.name}: {note}" for note in item.notes)
