"""`check_spec`: every law of a spec, searched for a counterexample that is as small as can be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf, isfinite
from pathlib import Path
from typing import Any

from curvlang.attribution.formulas.formula_scores import program_of
from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.ir.expr import Call, Define
from curvlang.ir.score_program import APPLY, CARRY, in_segments
from curvlang.language import load
from curvlang.language.chain import (
    Comparison,
    Curvature,
    Law,
    Property,
    Quantity,
    Relation,
    ScoreFormula,
    Spec,
    TaskSpec,
)
from curvlang.language.checking.conditions import everything, word
from curvlang.language.law import (
    PROPERTIES,
    expects_semidefinite,
    property_text,
    sampled,
)
from curvlang.language.task_notation import task_notation
from curvlang.runtime.progress.listeners import Progress
from curvlang.testing.draws import Draw, draws, needs_of, within
from curvlang.testing.gaps import Gap
from curvlang.testing.hypothesis_package import hypothesis
from curvlang.testing.measure import Bench, measure

EXAMPLES = 50
"""Tasks that a law is tried on; a law about means of sampled curvatures takes a tenth."""

SCORED_UNDER = "block_ggn"
"""The curvature whose inverse scores are checked with."""

UNIVERSAL = {
    "as_written": 1e-9,
    "symmetric": 1e-10,
    "positive_semidefinite": 1e-9,
    "solves": 1e-8,
    "verbs_agree": 1e-8,
    "any_batches": 1e-9,
    "any_order": 1e-9,
    "repeatable": 1e-12,
}
"""Tolerance of the laws that hold without being written: rounding times a few thousand."""


@dataclass(frozen=True, slots=True)
class Counterexample:
    """The smallest task found on which a law fails.

    Args:
        task: The task as a spec writes it.
        gap: What was measured there.
        batch: Examples in a batch, where the law is about batches.
        order: The order of the examples, where the law is about that.
    """

    task: str
    gap: Gap
    batch: int | None = None
    order: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a search found about one law.

    Args:
        law: The law.
        holds: Whether it held on every task, or was shown by one.
        tried: Tasks measured before anything was shrunk.
        worst: The largest gap among them.
        seed: What repeats the search.
        counterexample: Where it fails; for a law that one task must show, the task that came
            closest.
        note: Why nothing was measured, or empty.
        undetermined: Tasks among `tried` that do not decide the law: rounding alone decides the curvature, or their
            layers are not those that it cuts.
    """

    law: Law
    holds: bool
    tried: int
    worst: Gap
    seed: int
    counterexample: Counterexample | None = None
    note: str = ""
    undetermined: int = 0


def laws_of(spec: Spec) -> tuple[Law, ...]:
    """The laws that hold for every curvature, for each of the spec's, and then its own.

    Positive semidefiniteness is expected of every chain that drops the residual, unless the spec
    says that a curvature is not.
    """
    indefinite = {
        law.statement.subject.name
        for law in spec.laws
        if isinstance(law.statement, Property) and law.statement.negated
    }
    found = [
        _universal(name, curvature, kind)
        for name, curvature in spec.curvatures.items()
        for kind in PROPERTIES
        if kind != "positive_semidefinite"
        or (expects_semidefinite(curvature) and name not in indefinite)
        if not (kind == "any_order" and sampled(curvature))
    ]
    found += [_score_law(x) for x in spec.scores.values() if _readable(x)]
    texts = {law.text for law in found}
    return (*found, *(law for law in spec.laws if law.text not in texts))


def _readable(score: ScoreFormula) -> bool:
    """Whether a drawn task has what a score reads, and the direct reading what it applies."""
    applied = any(
        isinstance(x, Define) and isinstance(x.value, Call) and x.value.function in (APPLY, CARRY)
        for x in score.body
    )
    return not (applied or any(map(in_segments, score.needs)))


def _score_law(score: ScoreFormula) -> Law:
    """A score is what its text says, of checkpoints, models and optimisers too, under `block_ggn`."""
    curvature = load(SCORED_UNDER).curvatures[SCORED_UNDER]
    found = _universal(score.name, curvature, "as_written")
    statement = Property(Quantity(score.name, curvature, score=score), "as_written")
    space = everything()
    if program_of(score).doubts:
        space = word(space, "loss", "cross_entropy", False)
    return replace(found, statement=statement, space=space)


def _universal(name: str, curvature: Curvature, kind: str) -> Law:
    statement = Property(Quantity(name, curvature), kind)
    return Law(
        statement, everything(), property_text(statement), UNIVERSAL[kind], universal=True
    )  # fmt: skip


def check_spec(
    spec: Spec | str | Path,
    *,
    examples: int = EXAMPLES,
    seed: int = 0,
    law: str = "",
    task: TaskSpec | None = None,
    progress: Progress | None = None,
) -> tuple[Verdict, ...]:
    """Check the laws of a spec on drawn tasks; the same seed finds the same.

    Args:
        spec: A spec, a path, or the name of one that ships.
        examples: Tasks drawn for each law.
        seed: Of the search.
        law: Only laws whose text contains this.
        task: Check on this one task instead of drawing any.
        progress: Called after every task.

    Raises:
        SpecError: E0750 where no law's text contains `law`; and where a curvature cannot be
            fitted on a drawn task, with its own reason.
    """
    whole = spec if isinstance(spec, Spec) else load(str(spec))
    chosen = [x for x in laws_of(whole) if law in x.text]
    if not chosen:
        raise _nothing(whole, law)
    bench = Bench()
    return tuple(
        check_law(x, examples=examples, seed=seed, task=task, bench=bench, progress=progress)
        for x in chosen
    )


def _nothing(spec: Spec, law: str) -> SpecError:
    laws = laws_of(spec)
    if not laws:
        headline = f"`{spec.source.name}` states no law and defines no curvature"
        return refusal(Code.E0750, headline, "add `curvature mine = …` or `law …`")
    shown = ", ".join(f"`{x.text}`" for x in laws[-3:])
    return refusal(Code.E0750, f"no law contains `{law}`", f"laws are for example {shown}")


def check_law(
    law: Law,
    *,
    examples: int = EXAMPLES,
    seed: int = 0,
    task: TaskSpec | None = None,
    bench: Bench | None = None,
    progress: Progress | None = None,
) -> Verdict:
    """Check one law; arguments as of `check_spec`."""
    search = _Search(law, bench or Bench(), _count(law, examples), seed, progress)
    if task is not None:
        return search.only(task)
    return search.exists() if law.exists else search.holds()


def _averages(law: Law) -> bool:
    statement = law.statement
    return isinstance(statement, Comparison) and statement.relation is Relation.AVERAGES_TO


def _count(law: Law, examples: int) -> int:
    return max(1, examples // 10) if _averages(law) else examples


def _open(law: Law, error: SpecError) -> bool:
    """Whether a task does not decide a law.

    Its layers are not those that the curvature cuts or splits, or a matrix that it inverts is singular; of a
    law about scores, its training diverges.
    """
    scored = any(q.score is not None for q in law.quantities)
    codes = {d.code for d in error.diagnostics}
    return codes <= UNCUT | ({Code.E0504} if scored else set())


UNCUT = {Code.E0335, Code.E0344, Code.E0427, Code.E0429, Code.E0431}
"""Of what a curvature asks of a model, and a drawn network may not have."""


class _LawFailedError(Exception):
    """The law fails on a drawn task (or holds on it, where one is enough)."""


class _Search:
    """One run of Hypothesis: draws, measures, and keeps what the verdict needs."""

    def __init__(
        self, law: Law, bench: Bench, count: int, seed: int, progress: Progress | None
    ) -> None:
        self.law = law
        self.bench = bench
        self.count = count
        self.seed = seed
        self.progress = progress
        self.tried = 0
        self.undetermined = 0
        self.worst: tuple[float, Gap, Draw | None] = (-1.0, Gap(0.0), None)
        self.last: tuple[Draw, Gap] | None = None

    def holds(self) -> Verdict:
        """Every task obeys; the one that does not is shrunk."""
        if not self._run(
            [hypothesis.Phase.generate, hypothesis.Phase.shrink],
            lambda gap: not gap.size <= self.law.bound,
        ):
            worst, open_ = self.worst[1], self.undetermined
            if open_ == self.tried:
                return self._undecided()
            return Verdict(self.law, True, self.tried, worst, self.seed, undetermined=open_)
        assert self.last is not None
        draw, gap = self.last
        return Verdict(self.law, False, self.tried, gap, self.seed, self._counterexample(draw, gap))

    def exists(self) -> Verdict:
        """One task shows it."""
        found = self._run(
            [hypothesis.Phase.generate],
            lambda gap: isfinite(gap.size) and gap.size > self.law.bound,
        )
        _, gap, draw = self.worst
        if found:
            return Verdict(self.law, True, self.tried, gap, self.seed)
        if self.undetermined == self.tried:
            return self._undecided()
        nearest = None if draw is None else self._counterexample(draw, gap)
        return Verdict(self.law, False, self.tried, gap, self.seed, nearest)

    def _undecided(self) -> Verdict:
        """Nothing is known of the law: no drawn task decides it."""
        _, gap, _ = self.worst
        return Verdict(
            self.law,
            True,
            self.tried,
            gap,
            self.seed,
            note=f"no drawn task decides it: {gap.where}",
        )

    def only(self, task: TaskSpec) -> Verdict:
        """The law on one task, in batches of one and in reverse order."""
        if not within(self.law.space, task):
            note = "the task does not meet its conditions"
            return Verdict(self.law, True, 0, Gap(0.0), self.seed, note=note)
        count = self.bench.task(task).N
        draw = Draw(task, 1, tuple(reversed(range(count))))
        gap = self._measure(draw)
        passed = gap.size > self.law.bound if self.law.exists else gap.size <= self.law.bound
        counter = None if passed else self._counterexample(draw, gap)
        return Verdict(self.law, passed, 1, gap, self.seed, counter)

    def _run(self, phases: Sequence[hypothesis.Phase], stop: Callable[[Gap], bool]) -> bool:
        """Whether a drawn task stops the search; the last one that did is the smallest."""

        def body(draw: Draw) -> None:
            gap = self._measure(draw)
            if self.last is None:
                self._note(draw, gap)
            if stop(gap):
                self.last = (draw, gap)
                raise _LawFailedError

        search: Any = hypothesis.given(draws(self.law.space, needs_of(self.law)))(body)
        search = hypothesis.settings(
            max_examples=self.count,
            phases=phases,
            database=None,
            deadline=None,
            derandomize=False,
            print_blob=False,
            report_multiple_bugs=False,
            verbosity=hypothesis.Verbosity.quiet,
            suppress_health_check=list(hypothesis.HealthCheck),
        )(search)
        try:
            hypothesis.seed(self.seed)(search)()
        except _LawFailedError:
            return True
        return False

    def _note(self, draw: Draw, gap: Gap) -> None:
        self.tried += 1
        self.undetermined += gap.undetermined
        rank = gap.size if gap.size == gap.size else inf
        if rank > self.worst[0]:
            self.worst = (rank, gap, draw)
        if self.progress is not None:
            self.progress(self.law.text, min(self.tried, self.count), self.count)

    def _measure(self, draw: Draw) -> Gap:
        try:
            return measure(self.law, draw, self.bench)
        except SpecError as error:
            if _open(self.law, error):
                return Gap(0.0, error.diagnostics[0].headline, undetermined=True)
            note = f"on the task\n{task_notation(draw.task)}"
            raise SpecError(
                [replace(d, notes=(*d.notes, note)) for d in error.diagnostics]
            ) from error
        except (
            RuntimeError,
            ValueError,
            ArithmeticError,
            LookupError,
            TypeError,
            AssertionError,
        ) as error:
            # A crash of the compiled code is a failure of the law, and shrinks like one.
            return Gap(
                inf, f"{type(error).__name__}: {(str(error).strip() or '-').splitlines()[0]}"
            )

    def _counterexample(self, draw: Draw, gap: Gap) -> Counterexample:
        word = self.law.statement.word if isinstance(self.law.statement, Property) else ""
        return Counterexample(
            task_notation(draw.task),
            gap,
            draw.batch if word == "any_batches" else None,
            draw.order if word == "any_order" else None,
        )
