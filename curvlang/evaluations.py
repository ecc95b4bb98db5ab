"""Spec files evaluated as they ask for it: every curvature, on the task that the file names for it."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from curvlang.compiler.derive.derive import describe_value
from curvlang.diagnostics.diagnostic import Interrupted
from curvlang.diagnostics.notebook import Display
from curvlang.diagnostics.plain_arguments import keyworded, validate_fields, validated
from curvlang.evaluation.experiment import Outcome, experiment
from curvlang.evaluation.preflight import Plan, check
from curvlang.evaluation.protocol import LDS, protocol_from
from curvlang.evaluation.question import Question, Run, question_of
from curvlang.fits import check_store, claims_of, trained_in
from curvlang.language import load
from curvlang.language.chain import Curvature, Evaluation, Spec, TaskSpec
from curvlang.language.selection import evaluated, evaluation_of
from curvlang.language.task_notation import part_notation
from curvlang.language.task_sources import TaskSource
from curvlang.models.builtin import TEXTS, absolute, is_trained
from curvlang.models.execution.torch_state import settled_state
from curvlang.models.task import Task
from curvlang.reporting.provenance import provenance
from curvlang.reporting.report import Report, report_of
from curvlang.reporting.runfolder import check_folder
from curvlang.runtime.limits.disk import require_space
from curvlang.runtime.limits.memory import limited
from curvlang.runtime.limits.turns import results_on_disk
from curvlang.runtime.progress.display import shown
from curvlang.runtime.progress.listeners import Progress, ProgressOption
from curvlang.runtime.setup import Setup
from curvlang.runtime.stored.session import Use, kept_in
from curvlang.runtime.stored.uses import use_of
from curvlang.storage.cache import Cache
from curvlang.storage.fits.store import unusable_store
from curvlang.version import VERSION
from curvlang.workers.executor import IN_TURN, Executor
from curvlang.workers.hire import executor_of


@keyworded
@dataclass(frozen=True, slots=True)
class EvaluationSettings:
    """How spec files are evaluated, where they do not say so themselves.

    Args:
        source: What replaces their tasks, or lines of them.
        quick: A small protocol, under half a minute on two cores.
        lds: Whether models are retrained for the LDS.
        metric: The quantity of the queries: `loss`, `margin` or `logit`.
        setup: Device, precision, memory and seed.
        step_scores: Whether run folders also hold the scores of every step.
    """

    source: TaskSource = TaskSource()
    quick: bool = False
    lds: bool = True
    metric: str = "loss"
    setup: Setup = Setup()
    step_scores: bool = False

    def __post_init__(self) -> None:
        """Refuse what is of another type.

        Raises:
            SpecError: E0563.
        """
        validate_fields(self)


_QUICK = {
    True: "--quick: a small protocol, for trying things; intervals are wide",
    False: "--quick changes nothing without the LDS: it makes the protocol small",
}


def _silent(how: EvaluationSettings) -> str:
    """What a spec without an evaluation leaves to the defaults, and the command line does not give."""
    source = how.source
    lines = source.data is not None or source.model is not None
    task = [] if source.task is not None else ["the rest of the task" if lines else "task"]
    parts = [*task, "inverse", *(["protocol"] if how.lds and not how.quick else [])]
    if parts == ["inverse"]:
        return "the spec names no evaluation: the inverse is the default shown"
    named = f"{', '.join(parts[:-1])} and {parts[-1]}"
    return f"the spec names no evaluation: {named} are the defaults shown"


@dataclass(frozen=True, slots=True, repr=False)
class EvaluationRequest(Display):
    """One curvature of a spec, to be evaluated.

    Args:
        spec: The spec.
        curvature: The curvature.
        settings: How.
        task: What it is evaluated on.
        protocol: How models are retrained; None for no LDS.
    """

    spec: Spec
    curvature: Curvature
    settings: EvaluationSettings
    task: TaskSpec
    protocol: LDS | None

    def _summary(self) -> str:
        lds = "no LDS" if self.protocol is None else f"LDS from {self.protocol.subsets} subsets"
        return f"of {self.name} on {self.task.name}, {lds}"

    @property
    def name(self) -> str:
        """What results call it."""
        return self.curvature.name or "curvature"

    @property
    def evaluation(self) -> Evaluation | None:
        """What the spec says about evaluating it."""
        return evaluation_of(self.spec, self.curvature)

    @property
    def hashed(self) -> str:
        """The name and a hash of the question: the same question has the same run folder."""
        asked = (
            self.spec.source.text,
            self.name,
            self.task,
            self.protocol,
            self.settings.setup.seed,
            str(self.settings.setup.policy),
            *(() if self.settings.metric == "loss" else (self.settings.metric,)),
            VERSION,
        )
        return f"{self.name}-{hashlib.sha256(repr(asked).encode()).hexdigest()[:8]}"

    def command(self) -> list[str]:
        """The command that repeats the run when given inside its folder."""
        how = self.settings
        one = f":{self.curvature.name}" if self.curvature.name in self.spec.curvatures else ""
        fixed = [
            "--seed",
            str(how.setup.seed),
            *how.setup.flags,
            "--device",
            str(how.setup.device),
        ]
        metric = [] if how.metric == "loss" else ["--metric", how.metric]
        flags = (
            ("--quick", how.quick),
            ("--no-lds", not how.lds),
            ("--step-scores", how.step_scores),
        )
        on = [flag for flag, given in flags if given]
        return ["curvlang", "eval", f"spec.cv{one}", *self._source(), *fixed, *metric, *on]

    def _source(self) -> list[str]:
        """The task's options; lines of the spec that name files are given with whole paths."""
        whole = self.settings.source
        if whole.data is None and self.task.data.name in ("file", TEXTS):
            part = absolute(self.task.data, ("path", "query", "tokenizer"))
            whole = replace(whole, data=part_notation(part))
        if whole.model is None and is_trained(self.task):
            part = absolute(self.task.model, ("weights", "path", "adapter"))
            whole = replace(whole, model=part_notation(part))
        return whole.options()

    def question(self) -> Question:
        """What is compared."""
        return question_of(
            self.spec,
            self.curvature,
            metric=self.settings.metric,
            arguments=self.task.arguments,
            notes=self.notes(),
        )

    def run(
        self,
        cache: Cache | None = None,
        progress: Progress | None = None,
        executor: Executor = IN_TURN,
    ) -> Run:
        """How it is compared."""
        how = self.settings
        return Run(how.setup, self.protocol, cache, progress, how.source.allow_python, executor)

    def notes(self) -> tuple[str, ...]:
        """What is printed below the result."""
        how = self.settings
        return (
            *((_QUICK[how.lds],) if how.quick else ()),
            *(() if self.evaluation else (_silent(how),)),
        )


@validated
def evaluation_requests(
    specs: Sequence[Spec | str | os.PathLike[str]], settings: EvaluationSettings | None = None
) -> tuple[EvaluationRequest, ...]:
    """One request for every curvature that the specs define or evaluate.

    Args:
        specs: Specs, paths, or names of specs that ship.
        settings: How they are evaluated where they do not say so; the defaults where not given.

    Raises:
        SpecError: With every problem of a spec or of the task's texts; E0206 for a spec without a
            curvature.
    """
    how = settings or EvaluationSettings()
    found = []
    for spec in [x if isinstance(x, Spec) else load(x) for x in specs]:
        for curvature in evaluated(spec):
            evaluation = evaluation_of(spec, curvature)
            task, protocol = how.source.of(evaluation), _protocol(evaluation, how)
            found.append(EvaluationRequest(spec, curvature, how, task, protocol))
    if how.setup.store is not None and len(found) > 1:
        names = ", ".join(one.name for one in found)
        raise unusable_store(
            f"a store is of one curvature, and {len(found)} are evaluated: {names}",
            f"evaluate one with it: `curvlang eval {found[0].name} --store DIR`",
        )
    return tuple(found)


def run_folders(asked: Sequence[EvaluationRequest], out: Path | None) -> list[Path]:
    """The run folder of each request: `out` itself for one, a folder in it by name for several.

    Without `out`, and where two of several have one name, the name is followed by a hash of
    the question.

    Args:
        asked: The requests.
        out: The folder that the user names, if any.

    Raises:
        SpecError: E0903, E0905 for a folder that could not be written after the work.
        MachineError: E0802 where the disk is full.
    """
    names = [one.name for one in asked]
    if out is None:
        folders = [Path("runs") / one.hashed for one in asked]
    elif len(asked) == 1:
        folders = [out]
    else:
        folders = [out / (one.name if names.count(one.name) == 1 else one.hashed) for one in asked]
    for folder in folders:
        check_folder(folder)
    return folders


@validated
def evaluate_requests(
    asked: Sequence[EvaluationRequest],
    *,
    cache: Cache | None = None,
    progress: ProgressOption = True,
) -> Iterator[Report]:
    """A report for every request, in order; requests about one task share its trained model.

    Args:
        asked: What `evaluation_requests` gave.
        cache: Where retrained models are kept.
        progress: Shown on standard error; `False` for nothing, or a function that is called as work
            proceeds (`curvlang.runtime.progress`).

    Raises:
        SpecError: Where a curvature does not fit its task, before any model is trained.
        Interrupted: On Ctrl-C, with what is kept.
    """
    try:
        workers = next((one.settings.setup.workers for one in asked), None)
        with shown(progress, "cv.evaluate_requests") as told, executor_of(workers) as executor:
            yield from _evaluated(asked, cache, told, executor)
    except Interrupted:
        raise
    except KeyboardInterrupt as error:
        where = (cache or Cache()).root
        raise Interrupted(f"finished retraining is kept in `{where}`") from error


def _evaluated(
    asked: Sequence[EvaluationRequest],
    cache: Cache | None,
    progress: Progress | None,
    executor: Executor,
) -> Iterator[Report]:
    tasks: dict[str, Task] = {}
    plans: list[Plan] = []
    for one in asked:
        setup = one.settings.setup
        on_disk = results_on_disk(setup.store is not None)
        with limited(setup.memory), settled_state(), on_disk:
            fresh = tasks.get(_key(one.task)) or one.run().fresh(one.task)
            tasks[_key(one.task)] = fresh
            check_store(setup, one.curvature, fresh)
            plans.append(check(one.question(), fresh, one.run(executor=executor)))
            require_space(*claims_of(setup, one.question().chains(), fresh))
    for one, plan in zip(asked, plans, strict=True):
        start = time.perf_counter()
        run = one.run(cache, progress, executor)
        with limited(run.setup.memory), settled_state():
            store = run.setup.store
            base = trained_in(run.setup, tasks[_key(one.task)], progress)
            tasks[_key(one.task)] = base
            training = time.perf_counter() - start
            with kept_in(store, partial(_use_of, one, base)):
                done = experiment(one.question(), base, run, plan)
        done.times = {
            "training": training,
            **done.times,
            "total": time.perf_counter() - start,
        }
        yield _report(one, done, run)


def _use_of(one: EvaluationRequest, base: Task) -> Use:
    """What a store is opened for: every curvature of the evaluation."""
    setup = one.settings.setup
    task, chains = base.to(precision=setup.policy), one.question().chains()
    return use_of(one.spec, one.curvature, task, setup.seed, chains)


def _key(task: TaskSpec) -> str:
    """What a trained model depends on: requests that agree in it share one."""
    extras = (task.checkpoints, task.models)
    return repr((task.name, task.data, task.model, task.loss, task.train, *filter(None, extras)))


def _report(one: EvaluationRequest, done: Outcome, run: Run) -> Report:
    left = provenance(done, one.spec, run, one.settings.metric)
    whole = {**left, "repeat": one.command(), "task": _as_written(one.task, done.bench.base)}
    return report_of(done, one.spec, whole)


def _as_written(wanted: TaskSpec, task: Task) -> dict[str, object]:
    """The task's lines with every argument, and where its parameters come from."""
    parts = {
        kind: {"name": part.name, **{k: describe_value(v) for k, v in part.arguments.items()}}
        for kind, part in (
            ("data", wanted.data),
            ("model", wanted.model),
            ("loss", wanted.loss),
            ("train", wanted.train),
        )
    }
    return {"name": wanted.name, **parts, "parameters": task.origin.text}


def _protocol(evaluation: Evaluation | None, how: EvaluationSettings) -> LDS | None:
    """The LDS protocol of the spec, else the default one; a small one where that is requested."""
    if not how.lds:
        return None
    found = protocol_from((evaluation.lds or {}) if evaluation is not None else {})
    return found.quick() if how.quick else found
