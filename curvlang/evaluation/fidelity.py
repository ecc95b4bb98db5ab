"""Errors, scores and predicted effects of every stage of a chain at every setting of the inverse.

Nothing of N × P numbers is held: scores are streamed (`attribution.scorer`), a few queries at a time under
all inverses at once, and reduced as they come; gradients of the sampled examples go through in batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from curvlang.attribution.formulas.curvatures import FittedElsewhere, InverseElsewhere
from curvlang.attribution.formulas.formula_scores import FormulaScorer
from curvlang.attribution.formulas.points import Point, Points
from curvlang.attribution.formulas.surroundings import ALONE, Surroundings
from curvlang.attribution.gradients import gradient_batches, product
from curvlang.attribution.scorer import Scorer
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.evaluation.errors import (
    FEWEST,
    PROBES,
    Estimate,
    cosines,
    estimated_forward_errors,
    exact_forward_error,
    inverse_error,
    residuals,
    sampled,
)
from curvlang.evaluation.inverses.effort import affordable, product_count, too_long
from curvlang.evaluation.protocol import GRADIENTS, GRADIENTS_BY_PRODUCTS
from curvlang.evaluation.result import Solve
from curvlang.evaluation.statistics.lds import predictions
from curvlang.evaluation.statistics.spearman import spearman
from curvlang.ir.score_program import ScoreProgram
from curvlang.language import default_inverse, with_damping
from curvlang.language.chain import InverseUse
from curvlang.models.execution.widened import accumulation_dtype
from curvlang.models.losses.loss import Loss
from curvlang.models.task import Task
from curvlang.operators import ExampleMean, Operator, SolveRecord
from curvlang.runtime.fit import FittedStage
from curvlang.runtime.fitted import FittedOperator
from curvlang.runtime.inverse import decomposed, invert
from curvlang.runtime.limits.activations import forward_batch
from curvlang.runtime.limits.memory import allowance
from curvlang.runtime.progress.listeners import Progress
from curvlang.runtime.solver import FittedSolver

KEPT = 2**28
"""Bytes up to which scores at every setting stay in memory; beyond, those of one setting do."""
PIECE = 2**25
"""Bytes of the sampled gradients that are preconditioned at once."""
PIECE_SHARE = 16
"""Share of the user's limit that they may take."""


@dataclass(frozen=True, slots=True)
class Setting:
    """An inverse with every parameter set; `damping` is λ where the evaluation sweeps it."""

    use: InverseUse
    damping: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Scoring:
    """What is scored, and under which inverses.

    Args:
        task: Queries and training examples, in the precision of the analysis.
        cost: What the queries are scored by.
        chosen: Settings of the inverse.
        queries: The first of the queries, as many as are scored; None for all.
        seed: Of the training examples that the inverse error is averaged over, and of probes.
        solver: The spec's `solve` line, for stages without structure.
        kept: Members `[K, N]` of the subsets whose effects scores predict; None for no predictions.
        shared: Without `kept`, the setting whose scores are wanted.
        unasked: Labels of stages known by products alone that are there to be compared with.
        progress: Notified of every stage and setting.
        program: What scores are computed by; None for plain influence.
        around: Other models that they read.
        elsewhere: Curvatures at those, by the label of the stage; the reference's by an empty one.
    """

    task: Task
    cost: Loss
    chosen: Sequence[Setting]
    queries: int | None = None
    seed: int = 0
    solver: FittedSolver | None = None
    kept: Tensor | None = None
    shared: int | None = None
    unasked: frozenset[str] = frozenset()
    progress: Progress | None = None
    program: ScoreProgram | None = None
    around: Surroundings = ALONE
    elsewhere: Mapping[str, FittedElsewhere] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """How many queries are scored."""
        return min(self.queries or self.task.Q, self.task.Q)

    @property
    def scored(self) -> Task:
        """The task with these queries."""
        return self.task.queries(slice(self.rows))


@dataclass(frozen=True, slots=True, eq=False)
class Fidelity:
    """One stage at one setting; a reason instead of numbers where the inverse is refused.

    Args:
        source: Gives scores `[Q, N]`: those in memory, or computed again; None where there are none.
        predicted: Effects `[Q, K]` of leaving subsets out; None without subsets.
        inverse: Inverse error.
        influence: Influence error.
        cosine: Of preconditioned gradients.
        note: Why there are no numbers.
        solve: What the solver took.
    """

    source: Callable[[], Tensor] | None = None
    predicted: Tensor | None = None
    inverse: Estimate | None = None
    influence: float | None = None
    cosine: float | None = None
    note: str = ""
    solve: Solve | None = None

    @property
    def scores(self) -> Tensor | None:
        """`[Q, N]`; computed again where many settings did not fit into memory."""
        return None if self.source is None else self.source()


def without_inverse(scores: Tensor, kept: Tensor | None) -> Fidelity:
    """A method that knows no inverse: its scores are the same at every setting."""
    return Fidelity(lambda: scores, predicted_effects(scores, kept))


def predicted_effects(scores: Tensor, kept: Tensor | None) -> Tensor | None:
    """Effects of leaving subsets out that scores `[Q, N]` predict, `[Q, K]`; None without subsets."""
    return None if kept is None else predictions(scores.cpu(), kept)


def scores_at(measured: Sequence[Sequence[Fidelity]], shared: int) -> list[Tensor | None]:
    """Scores `[Q, N]` of every stage at one setting; None where the inverse is refused."""
    return [row[shared].scores for row in measured]


def settings(use: InverseUse | None, sweep: Sequence[float]) -> tuple[Setting, ...]:
    """The inverse at every λ of the sweep where the spec leaves its damping open, else as it is.

    Without an inverse the default one is swept.
    """
    chosen = use if use is not None else default_inverse()
    if not chosen.damping_open:
        return (Setting(chosen),)
    return tuple(Setting(with_damping(chosen, x), x) for x in sweep)


def forward_errors(
    stages: Sequence[FittedStage], reference: Operator, given: Scoring
) -> list[Estimate | None]:
    """‖C − H‖_F/‖H‖_F of every stage, exact where the structures give it, else estimated by products.

    None where products would take more than `ESTIMATED` operations.
    """
    found = [exact_forward_error(stage.operator, reference) for stage in stages]
    open_ = [k for k, x in enumerate(found) if x is None]
    each = sum(product_count(x) for x in (reference, *(stages[k].operator for k in open_)))
    probes = min(PROBES, affordable(each, given.task))
    if open_ and probes >= FEWEST:
        operators = [stages[k].operator for k in open_]
        estimates = estimated_forward_errors(operators, reference, probes, given.seed)
        for k, estimate in zip(open_, estimates, strict=True):
            found[k] = estimate
    return found


def measure(
    stages: Sequence[FittedStage], reference: Operator, given: Scoring
) -> list[list[Fidelity]]:
    """Every stage at every setting, against the reference at the same setting.

    Args:
        stages: Fitted stages of the chain.
        reference: H.
        given: What is scored.
    """
    forms, target = _forms(stages, reference, given)
    table = [[_Attempt(form, setting) for setting in given.chosen] for form in forms]
    sample = _Sample(given, reference, stages)
    sample.compare(table[: len(stages)], table[target])
    _score(table, table[target], given)
    return [
        [own.result(goal, sample) for own, goal in zip(row, table[target], strict=True)]
        for row in table[: len(stages)]
    ]


def scored_alone(stage: FittedStage, given: Scoring) -> list[Fidelity]:
    """Scores of one curvature at every setting, without errors."""
    form = _forms([stage], stage.operator, given)[0][0]
    row = [_Attempt(form, setting) for setting in given.chosen]
    _score([row], row, given)
    return [
        Fidelity(x.source, torch.cat(x.predicted) if x.predicted else None, note=x.note)
        for x in row
    ]


@dataclass(frozen=True, slots=True, eq=False)
class _Form:
    """An operator ready to be inverted at every setting, or why it is not to be."""

    operator: Operator
    solver: FittedSolver | None = None
    by_example: ExampleMean | None = None
    skipped: str = ""
    elsewhere: FittedElsewhere | None = None


def _forms(
    stages: Sequence[FittedStage], reference: Operator, given: Scoring
) -> tuple[list[_Form], int]:
    """The stages, the reference behind them unless it is one of them, and its place."""
    rule, solver = given.chosen[0].use, given.solver
    forms = [
        _Form(
            decomposed(s.operator, rule, solver),
            solver,
            s.by_example,
            _skipped(s.operator, given, asked=s.label not in given.unasked),
            given.elsewhere.get(s.label),
        )
        for s in stages
    ]
    known = next((k for k, s in enumerate(stages) if s.operator is reference), None)
    # What errors are measured against is exact where it can be, whatever solves the stages.
    if known is not None and not (solver is not None and reference.spectrum_known):
        return forms, known
    own = None if reference.spectrum_known else solver
    why = _skipped(reference, given, asked=False)
    goal = _Form(decomposed(reference, rule, own), own, None, why, given.elsewhere.get(""))
    return [*forms, goal], len(forms)


def _skipped(operator: Operator, given: Scoring, *, asked: bool) -> str:
    """Why an operator is not inverted; empty where it is."""
    if operator.spectrum_known or given.solver is not None:
        return ""
    if not asked:
        return "known by products alone; a line `solve cg` in the evaluation gives its scores"
    vectors = given.rows + GRADIENTS_BY_PRODUCTS
    return too_long(operator, given.solver, len(given.chosen) * vectors * given.task.N)


class _Attempt:
    """The inverse of a form at a setting, with what is found under it; a reason where it is refused."""

    def __init__(self, form: _Form, setting: Setting) -> None:
        self.form, self.setting = form, setting
        self.solver = form.solver
        self.took: list[SolveRecord] = []
        self.note = form.skipped
        self.inverse: Operator | None = None
        self.errors: list[Tensor] = []
        self.cosines: list[Tensor] = []
        self.agreement: list[Tensor] = []
        self.predicted: list[Tensor] = []
        self.source: Callable[[], Tensor] | None = None
        if not self.note:
            with self:
                self.inverse = invert(
                    form.operator,
                    setting.use,
                    form.solver,
                    by_example=form.by_example,
                    report=self.took.append,
                )

    def __enter__(self) -> None:
        """A refused inverse (singular, or indefinite under conjugate gradients) is a result.

        It is about this setting, shown with its reason; the other settings stand.
        """

    def __exit__(self, kind: object, error: object, trace: object) -> bool:
        if not isinstance(error, SpecError):
            return False
        self.refuse(error)
        return True

    def refuse(self, error: SpecError) -> None:
        """Keep the reason alone."""
        self.note = "; ".join(d.headline for d in error.diagnostics)
        self.inverse = self.source = None

    def preconditioned(self, v: Tensor) -> Tensor | None:
        """C⁻¹v for rows v; None where it is refused."""
        if self.inverse is None:
            return None
        with self:
            return product(self.inverse, v)
        return None

    def points(self, given: Scoring, task: Task) -> Points | None:
        """The models that scores read, C⁻¹ at each of them; None where it is refused."""
        if self.inverse is None:
            return None
        with self:
            elsewhere = self.form.elsewhere
            inverses = None if elsewhere is None else InverseElsewhere(elsewhere, self._inverted)
            form = self.form
            fitted = FittedOperator(
                form.operator, task.parameters, None, "", form.solver, form.by_example
            )
            return given.around.points(Point(task, self.inverse, fitted=fitted), inverses)
        return None

    def _inverted(self, fitted: FittedOperator, _: Task) -> Operator:
        return invert(
            fitted.operator,
            self.setting.use,
            fitted.solver if self.form.solver is not None else None,
            by_example=fitted.by_example,
            report=self.took.append,
        )

    def result(self, goal: _Attempt, sample: _Sample) -> Fidelity:
        """What was found, against the reference at the same setting."""
        if self.inverse is None:
            return Fidelity(note=self.note)
        error = sample.error(self.errors) if self.errors else None
        predicted = torch.cat(self.predicted) if self.predicted else None
        solve = _summed(self.took, self.solver)
        if goal.inverse is None:
            note = f"no reference: {goal.note}"
            return Fidelity(self.source, predicted, error, note=note, solve=solve)
        influence = float(1 - torch.cat(self.agreement).mean()) if self.agreement else None
        cosine = float(torch.cat(self.cosines).mean()) if self.cosines else None
        return Fidelity(self.source, predicted, error, influence, cosine, "", solve)


class _Sample:
    """Training gradients that the inverse error is averaged over, a few at a time."""

    def __init__(self, given: Scoring, reference: Operator, stages: Sequence[FittedStage]) -> None:
        formed = all(x.spectrum_known for x in (reference, *(s.operator for s in stages)))
        self.reference = reference
        self.estimated = not reference.spectrum_known
        count = GRADIENTS if formed else GRADIENTS_BY_PRODUCTS
        if self.estimated:
            count = min(count, affordable(len(stages) * len(given.chosen), given.task))
        # Where products take too long even for two gradients, there is no inverse error.
        self.task, self.rows = given.task, torch.empty(0, dtype=torch.int64)
        if count >= min(2, given.task.N):
            self.rows = sampled(given.task.N, count, given.seed)
        self.norms: list[Tensor] = []

    def __iter__(self) -> Iterator[Tensor]:
        """Gradients `[B, P]`, at most `PIECE` bytes of them."""
        task = self.task
        exact = accumulation_dtype(task.device)
        size = max(1, allowance(PIECE, PIECE_SHARE) // (8 * task.P))
        at_once = forward_batch(task)
        for own in self.rows.split(at_once) if len(self.rows) else ():
            some = task.examples(own.to(task.device))
            for v in gradient_batches(some, some.loss, "train"):
                for piece in v.split(size):
                    yield piece.to(exact)

    def compare(self, table: Sequence[Sequence[_Attempt]], target: Sequence[_Attempt]) -> None:
        """Residuals and cosines of every attempt."""
        for v in self:
            self.norms.append(v.square().sum(-1))
            for k, goal in enumerate(target):
                wanted = goal.preconditioned(v)
                for row in table:
                    own = row[k]
                    found = wanted if own is goal else own.preconditioned(v)
                    if found is None:
                        continue
                    own.errors.append(residuals(self.reference, found, v))
                    if wanted is not None:
                        own.cosines.append(cosines(found, wanted))

    def error(self, residual: Sequence[Tensor]) -> Estimate:
        """The inverse error, with its standard error where H is known by products."""
        return inverse_error(
            torch.cat(list(residual)), torch.cat(self.norms), estimated=self.estimated
        )


def _score(table: Sequence[Sequence[_Attempt]], target: Sequence[_Attempt], given: Scoring) -> None:
    """Scores under every inverse where they are needed: reduced as they come, kept where they fit."""
    wanted = [
        (own, target[k])
        for row in table
        for k, own in enumerate(row)
        if own.inverse is not None
        and (
            target[k].inverse is not None
            or given.kept is not None
            or given.shared is None
            or k == given.shared
        )
    ]
    task = given.scored
    ready = [(x, goal, points) for x, goal in wanted if (points := x.points(given, task))]
    wanted = [(x, goal) for x, goal, _ in ready]
    scorer = _scorer(given, [points for *_, points in ready], given.progress)
    fits = 8 * len(wanted) * task.Q * task.N <= KEPT
    last = None if given.shared is None else [row[given.shared] for row in table]
    kept: dict[int, list[Tensor]] = {
        id(x): [] for x, _ in wanted if fits or (last is not None and x in last)
    }
    for turn in scorer if wanted else ():
        scores = {id(x): found for (x, _), found in zip(wanted, turn, strict=True)}
        for own, goal in wanted:
            found = scores[id(own)]
            if isinstance(found, SpecError):
                own.refuse(found)
                continue
            if id(own) in kept:
                kept[id(own)].append(found)
            _reduce(own, found, scores.get(id(goal)), given.kept)
    for own, _ in wanted:
        if own.inverse is not None:
            parts = kept.get(id(own))
            own.source = _source(own, task, given, parts)


def _scorer(
    given: Scoring, points: Sequence[Points], progress: Progress | None
) -> Iterable[list[Tensor | SpecError]]:
    """Scores `[B, N]` of consecutive queries under every inverse."""
    if given.program is None:
        inverses = [x.final.inverse for x in points]
        return Scorer(given.scored, given.cost, inverses, progress)
    return FormulaScorer(given.program, points, given.cost, progress)


def _reduce(
    own: _Attempt, found: Tensor, wanted: Tensor | SpecError | None, kept: Tensor | None
) -> None:
    if isinstance(wanted, Tensor):
        own.agreement.append(spearman(found, wanted))
    predicted = predicted_effects(found, kept)
    if predicted is not None:
        own.predicted.append(predicted)


def _source(
    own: _Attempt, task: Task, given: Scoring, parts: list[Tensor] | None
) -> Callable[[], Tensor]:
    """Gives scores: those that were kept, or the same again."""
    if parts is not None:
        scores = torch.cat(parts) if len(parts) > 1 else parts[0]
        parts.clear()
        return lambda: scores

    def again() -> Tensor:
        points = own.points(given, task)
        assert points is not None
        found = [x for (x,) in _scorer(given, [points], None)]
        refused = [x for x in found if isinstance(x, SpecError)]
        if refused:
            raise refused[0]
        return torch.cat([x for x in found if isinstance(x, Tensor)])

    return again


def _summed(took: Sequence[SolveRecord], solver: FittedSolver | None) -> Solve | None:
    """What the solves of one stage at one setting took together; None for closed forms."""
    if not took:
        return None
    return Solve(
        solver.solver.name if solver is not None else "cg",
        max(x.iterations for x in took),
        sum(x.products for x in took),
        max(x.residual for x in took),
    )
