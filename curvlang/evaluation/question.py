"""What an evaluation is asked, and how it is run: the two values that every part of it reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypedDict

from curvlang.diagnostics.plain_arguments import argument
from curvlang.diagnostics.values import another_type
from curvlang.evaluation.protocol import LDS, SWEEP
from curvlang.language import (
    curvature_named,
    declared,
    inverse_text,
    score_text,
    solver_text,
)
from curvlang.language.chain import (
    Chain,
    Curvature,
    InverseUse,
    Part,
    ScoreFormula,
    Solver,
    Spec,
    Study,
    TaskSpec,
)
from curvlang.language.checking.uses import study_lines
from curvlang.language.selection import evaluation_of
from curvlang.language.sums import weighted_chains
from curvlang.models.builtin import task_from
from curvlang.models.execution.precision import Precision
from curvlang.models.losses.metric import Metric
from curvlang.models.task import Task
from curvlang.runtime.progress.listeners import Progress
from curvlang.runtime.setup import Setup
from curvlang.storage.cache import Cache
from curvlang.workers.executor import IN_TURN, Executor

STUDY_LINES = {"baselines": "gradient_cosine", "measures": "mislabelled"}
"""Lines of a study that an evaluation takes as texts, with an example of each."""
REFERENCE = "hessian"
"""What errors are measured against where nothing else is named."""


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """How something is evaluated.

    Args:
        setup: Where, in which precision (of the analysis; the retraining keeps the task's own), within
            which memory, and from which seed: of the model's initialisation, and of sampling.
        protocol: How models are retrained; None for no LDS.
        cache: Where retrained models are kept.
        progress: Notified of what is done.
        allow_python: Whether functions that a spec names may be called.
        executor: What retrains.
        folded: Whether scores are divided into folds, in which a study chooses settings.
    """

    setup: Setup = Setup()
    protocol: LDS | None = None
    cache: Cache | None = None
    progress: Progress | None = None
    allow_python: bool = False
    executor: Executor = IN_TURN
    folded: bool = False

    @property
    def seed(self) -> int:
        """Of the model's initialisation, and of sampling."""
        return self.setup.seed

    @property
    def precision(self) -> Precision:
        """Of the analysis."""
        return self.setup.policy

    def fresh(self, spec: TaskSpec) -> Task:
        """The task with its model as the seed or a file of weights makes it."""
        return task_from(
            spec, seed=self.seed, device=self.setup.device, allow_python=self.allow_python
        )


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """What is compared on one trained model, and by what.

    Args:
        name: What results call it.
        curvatures: All that is compared, the steps of the path first; each has a row of its name.
        path: How many of them, from the first, are steps of one path.
        subjects: Names of those in question; the others are steps on the way, which are left
            out where they take long.
        reference: What errors are measured against; the Hessian where not given.
        inverses: What C⁻¹ means, one after the other; None is the default inverse. Without any, nothing is
            inverted: forward errors alone.
        solver: For curvatures without structure.
        sweep: λ of inverses that leave their `damping` open.
        metric: What the queries are asked for, in scores and after retraining.
        baselines: Scores of other kinds, judged beside the curvatures.
        measures: Ground truths beyond the LDS.
        arguments: The task's parameters, printed.
        notes: Printed below the result.
        score: What scores are; None for plain influence.
    """

    name: str
    curvatures: tuple[Curvature, ...]
    path: int
    subjects: frozenset[str]
    reference: Curvature | None = None
    inverses: tuple[InverseUse | None, ...] = (None,)
    solver: Solver | None = None
    sweep: tuple[float, ...] = SWEEP
    metric: str | Metric = "loss"
    baselines: tuple[Part, ...] = ()
    measures: tuple[Part, ...] = ()
    arguments: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    score: ScoreFormula | None = None

    def chains(self) -> list[Chain]:
        """Every chain of the evaluation: all are curvatures of the same parameters."""
        used = [*self.curvatures, self.reference, *(b.curvature for b in self.baselines)]
        used += [] if self.solver is None else [self.solver.preconditioner]
        return [chain for x in used if x is not None for _, chain in weighted_chains(x)]


def question_of(spec: Spec, curvature: Curvature, **changes: Any) -> Question:
    """One curvature of a spec with every step of its chain, as its `evaluate` block asks for it.

    A sum has no steps of its own: the reference is compared beside it.

    Args:
        spec: The spec.
        curvature: The curvature.
        **changes: Fields of the question in place of what the spec says.
    """
    said = evaluation_of(spec, curvature)
    against = None if said is None or said.error_against is None else said.error_against
    question = Question(
        name=curvature.name or "curvature",
        curvatures=(curvature,),
        path=1,
        subjects=frozenset({curvature.name}),
        reference=None if against is None else curvature_named(against, spec),
        inverses=(None if said is None else said.inverse,),
        solver=None if said is None else said.solver,
        score=None if said is None else said.score,
    )
    question = replace(question, **changes)
    steps = _steps(curvature, question.reference)
    return replace(
        question, curvatures=steps, path=len(steps), subjects=frozenset({steps[-1].name})
    )


class Wording(TypedDict, total=False):
    """Parts of a question as texts, for what a spec does not say.

    `reference` is the curvature that errors are measured against; `inverse` one use such as
    `tikhonov(damping = 1e-3)`, or several; `solve` a solver, `cg(tolerance = 1e-6)`; `score` a score,
    `relatif`; `baselines` and `measures` one line of a study, `relatif of ekfac`, or several.
    """

    metric: str | Metric
    reference: str | None
    inverse: str | Sequence[str] | None
    solve: str | None
    score: str | None
    baselines: str | Sequence[str]
    measures: str | Sequence[str]


def _texts(name: str, given: Any, example: str) -> tuple[str, ...]:
    """One text or several.

    Raises:
        SpecError: E0563 for anything else.
    """
    found = (given,) if isinstance(given, str) else given
    if not isinstance(found, list | tuple) or not all(isinstance(x, str) for x in found):
        raise another_type(name, given, "a text, or several", f'`{name}="{example}"`')
    return tuple(found)


def reworded(spec: Spec, words: Wording) -> dict[str, Any]:
    """Fields of a question from texts, as the spec's own file sees them.

    Raises:
        SpecError: With every problem of a text.
    """
    found: dict[str, Any] = {"metric": words.get("metric", "loss")}
    reference, inverse, solve = words.get("reference"), words.get("inverse"), words.get("solve")
    if reference is not None:
        found["reference"] = curvature_named(reference, spec)
    if inverse is not None:
        texts = _texts("inverse", inverse, "pseudo")
        if not texts:
            raise another_type("inverse", inverse, "an inverse, or several", '`inverse="pseudo"`')
        known = declared(spec)
        found["inverses"] = tuple(inverse_text(x, "<inverse>", known) for x in texts)
    if argument("solve", solve) is not None:
        found["solver"] = solver_text(str(solve), "<solve>")
    score = argument("score", words.get("score"))
    if score is not None:
        found["score"] = score_text(str(score), "<score>", declared(spec))
    for kind, example in STUDY_LINES.items():
        if given := words.get(kind):
            found[kind] = study_lines(spec, kind, _texts(kind, given, example))
    return found


def question_of_study(study: Study, task: TaskSpec, **changes: Any) -> Question:
    """All curvatures of a study on the task of one of its cells."""
    question = Question(
        name=study.name,
        curvatures=study.curvatures,
        path=len(study.path),
        subjects=frozenset(c.name for c in study.curvatures),
        inverses=() if study.inverses is None else study.inverses or (None,),
        sweep=study.damping or SWEEP,
        baselines=study.baselines,
        measures=study.measures,
        arguments=task.arguments,
    )
    return replace(question, **changes)


def _steps(curvature: Curvature, reference: Curvature | None) -> tuple[Curvature, ...]:
    if isinstance(curvature, Chain):
        return tuple(_prefixes(curvature))
    beside = curvature_named(REFERENCE) if reference is None else reference
    return (curvature,) if beside.name == curvature.name else (beside, curvature)


def _prefixes(chain: Chain) -> Iterator[Chain]:
    """The chain up to every step, each under the step's name."""
    for k, label in enumerate(chain.labels, 1):
        yield replace(chain, name=label, stages=chain.stages[:k], labels=chain.labels[:k])
