"""Errors, scores and LDS of every stage of a chain at every setting of the inverse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from curvlang.attribution.gradients import gradients
from curvlang.attribution.scores import product, scores
from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.evaluation.errors import cosine, influence_error, inverse_error
from curvlang.evaluation.protocol import GRADIENTS, GRADIENTS_BY_PRODUCTS
from curvlang.evaluation.result import Solve
from curvlang.evaluation.statistics.lds import predictions
from curvlang.language import default_inverse, swept, with_damping
from curvlang.language.chain import InverseUse
from curvlang.models.losses.loss import Loss
from curvlang.models.task import Task
from curvlang.operators import ExampleMean, Operator, SolveRecord
from curvlang.runtime.execute import accumulation_dtype
from curvlang.runtime.fit import FittedStage, Progress
from curvlang.runtime.inverse import decomposed, invert
from curvlang.runtime.solver import FittedSolver

FLOPS = 8
"""Multiplications and additions per parameter and example of a product: a tangent and its way back."""
EXPECTED = 50
"""Products per vector and setting that are counted on before the iteration is known."""
UNASKED = 1e13
"""Floating-point operations that are spent on a stage without a `solve` line: minutes on two cores."""
UNASKED_ON_DEVICE = 1e15
"""The same where an accelerator computes them."""


TOO_LARGE = Code.E0603
"""The refusal of a matrix with more rows than are formed."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number, with its standard error where it is estimated."""

    value: float
    error: float | None = None


@dataclass(frozen=True, slots=True)
class Setting:
    """An inverse with every parameter set; `damping` is λ where the evaluation sweeps it."""

    use: InverseUse
    damping: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Fidelity:
    """One stage at one setting; a reason instead of numbers where the inverse is refused.

    Args:
        scores: `[Q, N]`.
        predicted: Effects `[Q, K]` of leaving subsets out; None without subsets.
        inverse: Inverse error.
        influence: Influence error.
        cosine: Of preconditioned gradients.
        note: Why there are no numbers.
        solve: What the solver took.
    """

    scores: Tensor | None = None
    predicted: Tensor | None = None
    inverse: Estimate | None = None
    influence: float | None = None
    cosine: float | None = None
    note: str = ""
    solve: Solve | None = None


def settings(use: InverseUse | None, sweep: Sequence[float]) -> tuple[Setting, ...]:
    """The inverse at every λ of the sweep where the spec leaves its damping open, else as it is.

    Without an inverse the default one is swept.
    """
    chosen = use if use is not None else default_inverse()
    if not swept(chosen):
        return (Setting(chosen),)
    return tuple(Setting(with_damping(chosen, x), x) for x in sweep)


def _forward_error(operator: Operator, reference: Operator) -> float | None:
    """‖C − H‖_F/‖H‖_F; None where one of the two is known by its products alone, or too large to form."""
    if not (operator.spectrum_known and reference.spectrum_known):
        return None
    if operator is reference:
        return 0.0
    try:
        return float(operator.distance(reference) / reference.frobenius())
    except SpecError as error:
        # The two structures have no rule in common, and their entries do not fit.
        if {d.code for d in error.diagnostics} == {TOO_LARGE}:
            return None
        raise


def forward_errors(
    stages: Sequence[FittedStage], reference: Operator, given: Scoring
) -> list[Estimate | None]:
    """‖C − H‖_F/‖H‖_F of every stage; None where it is not known."""
    found = [_forward_error(stage.operator, reference) for stage in stages]
    return [None if x is None else Estimate(x) for x in found]


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
        progress: Notified of every stage and setting.
    """

    task: Task
    cost: Loss
    chosen: Sequence[Setting]
    queries: int | None = None
    seed: int = 0
    solver: FittedSolver | None = None
    kept: Tensor | None = None
    shared: int | None = None
    progress: Progress | None = None

    @property
    def rows(self) -> int:
        """How many queries are scored."""
        return min(self.queries or self.task.Q, self.task.Q)


def predicted_effects(scores: Tensor, kept: Tensor | None) -> Tensor | None:
    """Effects of leaving subsets out that scores `[Q, N]` predict, `[Q, K]`; None without subsets."""
    return None if kept is None else predictions(scores.cpu(), kept)


def scores_at(measured: Sequence[Sequence[Fidelity]], shared: int) -> list[Tensor | None]:
    """Scores `[Q, N]` of every stage at one setting; None where the inverse is refused."""
    return [row[shared].scores for row in measured]


def measure(
    stages: Sequence[FittedStage], reference: Operator, given: Scoring
) -> list[list[Fidelity]]:
    """Every stage at every setting, against the reference at the same setting.

    Args:
        stages: Fitted stages of the chain.
        reference: H.
        given: What is scored.
    """
    task, chosen, solver, progress = given.task, given.chosen, given.solver, given.progress
    exact_kind = accumulation_dtype(task.device)
    train = gradients(task, "train").to(exact_kind)
    query = gradients(task, "query", given.cost)[: given.rows].to(exact_kind)
    formed = all(x.spectrum_known for x in (reference, *(s.operator for s in stages)))
    count = GRADIENTS if formed else GRADIENTS_BY_PRODUCTS
    sample = train[sampled(task.N, count, given.seed).to(train.device)]
    rule = chosen[0].use
    work = len(chosen) * (len(query) + len(sample)) * len(train)
    forms = [
        _Form(
            decomposed(s.operator, rule, solver),
            solver,
            s.by_example,
            too_long(s.operator, solver, work),
        )
        for s in stages
    ]
    known = next((k for k, s in enumerate(stages) if s.operator is reference), None)
    # What errors are measured against is exact where it can be, whatever solves the stages.
    exact = known is None or (solver is not None and reference.spectrum_known)
    own_solver = None if reference.spectrum_known else solver
    target = (
        _Form(
            decomposed(reference, rule, own_solver),
            own_solver,
            None,
            too_long(reference, own_solver, work),
        )
        if exact
        else forms[known or 0]
    )
    out: list[list[Fidelity]] = [[] for _ in stages]
    done = 0
    for setting in chosen:
        goal = _scored(target, setting, query, train, sample)
        for k, form in enumerate(forms):
            own = goal if form is target else _scored(form, setting, query, train, sample)
            out[k].append(_compare(own, goal, reference, sample, given.kept))
            done += 1
            if progress is not None:
                progress("scores", done, len(chosen) * len(forms))
    return out


@dataclass(frozen=True, slots=True, eq=False)
class _Scored:
    scores: Tensor | None
    preconditioned: Tensor | None
    note: str = ""
    solve: Solve | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Form:
    """An operator ready to be inverted at every setting."""

    operator: Operator
    solver: FittedSolver | None = None
    by_example: ExampleMean | None = None
    skipped: str = ""


def too_long(operator: Operator, solver: FittedSolver | None, work: int) -> str:
    """Why a curvature known by its products alone is not inverted unasked; empty where it is.

    Args:
        operator: The curvature.
        solver: With a solver the spec has asked for it, however long it takes.
        work: Settings times vectors times training examples.
    """
    if solver is not None or operator.spectrum_known:
        return ""
    flops = FLOPS * EXPECTED * work * operator.size
    if flops <= (UNASKED if operator.device.type == "cpu" else UNASKED_ON_DEVICE):
        return ""
    return (
        f"not inverted: {operator.size} rows known by products alone would take about "
        f"{flops:.0e} floating-point operations; ask for it by a line `solve cg` in the evaluation"
    )


def _scored(form: _Form, setting: Setting, query: Tensor, train: Tensor, sample: Tensor) -> _Scored:
    if form.skipped:
        return _Scored(None, None, form.skipped)
    took: list[SolveRecord] = []
    try:
        inverse = invert(
            form.operator, setting.use, form.solver, by_example=form.by_example, report=took.append
        )
        found = scores(inverse, query, train)
        preconditioned = product(inverse, sample)
        return _Scored(found, preconditioned, "", _summed(took, form.solver))
    except SpecError as error:
        # A refused inverse (singular, or indefinite under conjugate gradients) is a result about
        # this setting, shown with its reason; the other settings stand.
        return _Scored(None, None, "; ".join(d.headline for d in error.diagnostics))


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


def _compare(
    own: _Scored, goal: _Scored, reference: Operator, sample: Tensor, kept: Tensor | None
) -> Fidelity:
    if own.scores is None or own.preconditioned is None:
        return Fidelity(note=own.note)
    inverse = Estimate(inverse_error(reference, own.preconditioned, sample))
    predicted = predicted_effects(own.scores, kept)
    if goal.scores is None or goal.preconditioned is None:
        note = f"no reference: {goal.note}"
        return Fidelity(own.scores, predicted, inverse, note=note, solve=own.solve)
    return Fidelity(
        own.scores,
        predicted,
        inverse,
        influence_error(own.scores, goal.scores),
        cosine(own.preconditioned, goal.preconditioned),
        "",
        own.solve,
    )


def sampled(count: int, at_most: int, seed: int) -> Tensor:
    """Which training examples the inverse error is averaged over, in ascending order."""
    if count <= at_most:
        return torch.arange(count)
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(count, generator=generator)[:at_most].sort().values
