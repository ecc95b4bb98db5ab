"""The findings that the evidence counts, and the cases that they are counted in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from curvlang.evaluation.statistics.comparison import Pair
from curvlang.evaluation.statistics.interval import Interval
from curvlang.evaluation.study.study_result import Group, Row, StudyResult
from curvlang.reporting.notation import bounds, correlation, difference
from curvlang.reporting.study.findings import spot_of

SHARED, OWN, PSEUDO = "shared", "own", "pseudo"


@dataclass(frozen=True)
class Case:
    """One place of a study's sweep under one inverse."""

    study: str
    group: Group


@dataclass(frozen=True)
class Finding:
    """A claim about two curvatures under one way of comparing: is the first better?"""

    title: str
    sentence: str
    short: str
    first: str
    second: str
    way: str

    def pair(self, group: Group) -> Pair | None:
        """Its comparison in a group; None where there is none."""
        pairs = {
            SHARED: group.pairs if _swept(group) else (),
            OWN: (group.honest_pairs or group.best_pairs) if _swept(group) else (),
            PSEUDO: group.pairs if group.inverse.startswith("pseudo") else (),
        }[self.way]
        return next((p for p in pairs if (p.first, p.second) == (self.first, self.second)), None)


def _swept(group: Group) -> bool:
    """Whether it is the damped inverse, λ added to the matrix."""
    return len(group.sweep) > 1 and group.inverse.startswith("tikhonov")


FINDINGS = (
    Finding("H above K-FAC at one λ for all", "At one λ for all curvatures the Hessian against K-FAC is", "", "hessian", "kfac", SHARED),
    Finding("H above K-FAC, each at its own λ", "With each curvature at its own λ, chosen by cross-validation where that was run, the Hessian against K-FAC is", "", "hessian", "kfac", OWN),
    Finding("H above K-FAC under a pseudo-inverse", "Under a pseudo-inverse the Hessian against K-FAC is", "", "hessian", "kfac", PSEUDO),
    Finding("H above GGN, own λ", "", "the Hessian against the Gauss–Newton matrix is", "hessian", "ggn", OWN),
    Finding("block GGN above EK-FAC, own λ", "", "the block-diagonal Gauss–Newton matrix against EK-FAC is", "block_ggn", "ekfac", OWN),
    Finding("EK-FAC above K-FAC, own λ", "", "EK-FAC against K-FAC is", "ekfac", "kfac", OWN),
    Finding("GGN above block GGN, own λ", "", "", "ggn", "block_ggn", OWN),
)  # fmt: skip


def cases(results: Mapping[str, StudyResult]) -> list[Case]:
    """Every group with an LDS of a study that compares along the path."""
    return [
        Case(name, group)
        for name, result in results.items()
        if "kfac" in result.path
        for group in result.groups
        if group.protocol is not None
    ]


def compared(found: Sequence[Case], finding: Finding) -> Iterator[tuple[Case, Pair]]:
    """The cases that a finding is about."""
    for case in found:
        pair = finding.pair(case.group)
        if pair is not None:
            yield case, pair


def told(found: Sequence[Case], finding: Finding) -> list[str]:
    """Verdicts of a finding, one for each case that it is about."""
    return [pair.verdict for _, pair in compared(found, finding)]


def counted(verdicts: Sequence[str]) -> str:
    """`better in 2, worse in 1 and not told apart in 3 of 6 cases`."""
    better, worse = (sum(v == w for v in verdicts) for w in ("better", "worse"))
    rest = len(verdicts) - better - worse
    return f"better in {better}, worse in {worse} and not told apart in {rest} of {len(verdicts)} cases"


def span(pairs: Sequence[Pair]) -> str:
    """The least and the largest difference."""
    values = [p.difference.estimate for p in pairs]
    return f"{difference(min(values))} to {difference(max(values))}" if values else ""


def with_ends(interval: Interval) -> str:
    """`.574 [.551, .595]`."""
    return f"{correlation(interval.estimate)} {bounds(interval)}".strip()


def own(row: Row) -> Interval | None:
    """The LDS at the curvature's own λ: held out where it was chosen so, else at its best one."""
    if row.honest is not None:
        return row.honest.lds
    spot = spot_of(row, row.best)
    return None if spot is None else spot.lds
