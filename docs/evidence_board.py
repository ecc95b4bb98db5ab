"""The board of the evidence: every method of a result with its LDS, its cost and its other measures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from evidence_cases import counted, own, with_ends

from curvlang.diagnostics.amounts import size
from curvlang.evaluation.statistics.comparison import Pair
from curvlang.evaluation.study.study_result import Group, Measure, Row, StudyResult
from curvlang.reporting.notation import MISSING, correlation, duration
from curvlang.reporting.study.findings import pair_sentence, place

Results = Mapping[str, StudyResult]
BESIDE = ("zoo", "baselines", "mnist")
"""Results that show many methods, beside those of `board`."""


def board(results: Results) -> Iterator[str]:
    """A table for every group of the board, the largest LDS first."""
    for name, result in results.items():
        if name.startswith("board_") or name in BESIDE:
            for group in result.groups:
                yield "\n".join(_table(name, group))


def _table(name: str, group: Group) -> Iterator[str]:
    task, ceiling = group.task, group.ceiling
    reach = (
        ""
        if ceiling is None
        else f", noise ceiling {correlation(max(0.0, ceiling.estimate) ** 0.5)}"
    )
    learned = (
        "" if group.additive is None else f", datamodel {correlation(group.additive.estimate)}"
    )
    yield (
        f"**{name}**, {place(group)}: {task.model.strip()}, N = {task.train_examples}, P = {task.parameters}, "
        f"{len(group.seeds)} models{reach}{learned}; all of it took {duration(group.seconds)}.\n"
    )
    yield "| | LDS at its own λ | FLOPs of the fit | memory |" + "".join(
        f" {_word(m)} |" for m in group.measures
    )
    yield "|---|--:|--:|--:|" + "--:|" * len(group.measures)
    known = [(x.estimate, k) for k, r in enumerate(group.rows) if (x := own(r)) is not None]
    for _, k in sorted(known, reverse=True):
        yield _line(group.rows[k], k, group.measures)


def _word(measure: Measure) -> str:
    return measure.name.replace("_", " ")


def _line(row: Row, place: int, measures: tuple[Measure, ...]) -> str:
    lds = own(row)
    assert lds is not None
    cost = MISSING if row.flops is None else f"{row.flops:.1e}"
    memory = size(row.memory) if row.memory else MISSING
    others = []
    for measure in measures:
        values = measure.values[place] if place < len(measure.values) else ()
        found = [x.estimate for x in values if x is not None]
        others.append(correlation(max(found)) if found else MISSING)
    cells = [with_ends(lds), cost, memory, *others]
    return f"| {row.label} | {' | '.join(cells)} |"


SOURCE, TRAK = ("source", "source of ekfac"), ("projected_ensemble", "trak")
"""Two methods by their names: in results that are kept, and in studies as they are now."""
ORDERS = (
    ("The Gauss–Newton matrix solved to the end, where iterations that EK-FAC preconditions converge to (arXiv:2507.14740), above EK-FAC", ("ggn",), ("ekfac",)),
    ("SOURCE above influence at the end of training (arXiv:2405.12186)", SOURCE, ("ekfac",)),
    ("SOURCE above TRAK", SOURCE, TRAK),
    ("EK-FAC above TRAK", ("ekfac",), TRAK),
    ("EK-FAC above the dot product of gradients", ("ekfac",), ("identity",)),
    ("EK-FAC above the empirical Fisher's EK-FAC", ("ekfac",), ("ekfac_empirical",)),
    ("exact curvature above one sampled label, K-FAC", ("kfac",), ("kfac_1",)),
    ("Influence with a curvature above TracIn (dattri's tables, arXiv:2410.04555)", ("hessian", "ggn", "ekfac"), ("tracin",)),
)  # fmt: skip
MANY = 6
"""Beyond this, comparisons are counted, not written out."""
TURNED = {"better": "worse", "worse": "better", "cannot be told apart": "cannot be told apart"}


def orders(results: Results) -> Iterator[str]:
    """Published orders of methods, and what every comparison of the results says of them."""
    yield "Published orders, and every case in which both methods were run, each at its own λ:\n"
    for title, first, second in ORDERS:
        found = list(_pairs(results, first, second))
        if found:
            yield f"* **{title}**: {_said(found, first)}."
    yield from _ensembles(results)


def _said(found: Sequence[tuple[str, Pair]], first: Sequence[str]) -> str:
    """Every comparison, or where there are many how often the first is the better one."""
    if len(found) <= MANY:
        return "; ".join(f"{where}: {pair_sentence(pair)}" for where, pair in found)
    told = [pair.verdict if pair.first in first else TURNED[pair.verdict] for _, pair in found]
    return counted(told)


def _ensembles(results: Results) -> Iterator[str]:
    """LDS of TRAK by the number of its models."""
    groups = results["ensembles"].groups if "ensembles" in results else ()
    if not groups:
        return
    named = [(place(g), {r.label: x for r in g.rows if (x := own(r)) is not None}) for g in groups]
    grown = [f"{where} {with_ends(rows[TRAK[1]])}" for where, rows in named]
    yield (
        f"* **TRAK grows with its models (arXiv:2303.14186)**: `ensembles`, {', '.join(grown)}; "
        f"EK-FAC of one model {with_ends(named[0][1]['ekfac'])}."
    )


def _pairs(
    results: Results, first: Sequence[str], second: Sequence[str]
) -> Iterator[tuple[str, Pair]]:
    for name, result in results.items():
        for group in result.groups:
            swept = len(group.sweep) > 1
            for pair in (group.honest_pairs or group.best_pairs) if swept else ():
                names = pair.first, pair.second
                if any({a, b} == set(names) for a in first for b in second):
                    yield f"`{name}`, {place(group)}", pair
