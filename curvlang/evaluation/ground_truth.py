"""What retraining on subsets does to the queries: computed once, kept by content, resumed."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import Interrupted
from curvlang.diagnostics.refusal import label_at, refusal
from curvlang.diagnostics.source import NOWHERE, Span
from curvlang.evaluation.protocol import LDS
from curvlang.models.content import own_code
from curvlang.models.data.rows import Rows
from curvlang.models.execution.process_state import kept_streams
from curvlang.models.fingerprint import digest, parameter_parts
from curvlang.models.losses.loss import Loss
from curvlang.models.losses.metric import Metric, QueryMetric, query_metric_on
from curvlang.models.origin import Build
from curvlang.models.task import Task
from curvlang.runtime.progress.listeners import Progress
from curvlang.storage.cache import Cache
from curvlang.training.baseline import diverged as refused_diverged
from curvlang.training.built import built
from curvlang.training.retrain import CHUNK, retrain
from curvlang.training.subsets import (
    derived_seed,
    draw_subsets,
    leave_class_out,
    leave_one_out,
)
from curvlang.training.training import check_trainable, training_of
from curvlang.training.truth_cache import truth_cache

SCHEMA = "ground-truth-3"
"""Changes whenever the same key would mean other numbers."""
PROBED = 64
"""Training targets at which the loss is looked at for the key."""
UNIT = 5
"""Subsets in one file of the cache: what more subsets or repetitions later reuse."""
STACK = 25
"""Models trained in one stack on a processor: larger ones are not faster there (measured)."""
SECONDS = 20.0
"""What a stack should take at most, since what is trained in it is lost when the run is killed."""


@dataclass(frozen=True, slots=True, eq=False)
class GroundTruth:
    """Members of every subset `[K, N]` and query losses after retraining `[K, R, Q]`.

    `reused` of `trained + reused` models came from the cache.
    """

    kept: Tensor
    outcome: Tensor
    trained: int
    reused: int
    damaged: tuple[str, ...] = ()


@kept_streams()
def ground_truth(
    task: Task,
    protocol: LDS,
    init_seed: int,
    *,
    metric: str | Metric = "loss",
    cache: Cache | None = None,
    progress: Progress | None = None,
) -> GroundTruth:
    """Retrain on every subset, R times; finished units are read from the cache.

    Args:
        task: With `build` and `recipe`; its data's precision is that of the training.
        protocol: K, R, α, seeds, policy.
        init_seed: Of the baseline, which the policy `shared` starts every training from.
        metric: What the queries are asked for after retraining; its negative where it is better
            when higher.
        cache: Where finished units are kept.
        progress: Called with the number of models done.

    Raises:
        SpecError: E0503 where the task cannot be retrained, E0504 where a model diverges, E0507
            where its models are not decided by their seeds, E0753 where the seed decides nothing.
    """
    cache = cache or Cache()
    check_trainable(task, "LDS", "leave LDS out")
    kept = members(task, protocol)
    asked = None if metric == "loss" else query_metric_on(metric, task)
    rule = replace(protocol, subsets=len(kept))
    key = _key(task, rule, init_seed, asked)
    cache = truth_cache(
        cache,
        task.device,
        key,
        lambda: _key(task, rule, init_seed, asked, by_name=True),
        _own_code(task, asked),
    )
    cost = None if asked is None else asked.cost
    work = _Retraining(task, rule, init_seed, kept, cost, key, cache)
    found = {unit: held for unit in work.units if (held := work.read(*unit)) is not None}
    reused = sum(len(v) for v in found.values())
    missing = [unit for unit in work.units if unit not in found]
    if missing:
        cache.probe()
        found |= work.train(missing, reused, progress)
    outcome = torch.stack(
        [torch.cat([found[u] for u in work.units if u[0] == r]) for r in range(protocol.retrains)],
        dim=1,
    )
    return GroundTruth(kept, outcome, work.total - reused, reused, tuple(cache.damaged))


def check_retraining(
    task: Task, protocol: LDS, init_seed: int, metric: str | Metric = "loss"
) -> None:
    """Refuse, before anything is trained, what could not be retrained after it.

    Raises:
        SpecError: E0502, E0503, E0507, E0508, E0590, E0753; see `ground_truth`.
    """
    check_trainable(task, "LDS", "leave LDS out")
    members(task, protocol)
    _key(task, protocol, init_seed, None if metric == "loss" else query_metric_on(metric, task))


def members(task: Task, protocol: LDS) -> Tensor:
    """Members of every subset of a protocol, `[K, N]`."""
    match protocol.groups:
        case "one":
            return leave_one_out(task.N, protocol.subsets, protocol.seed)
        case "class":
            return leave_class_out(task.train[1])
        case _:
            return draw_subsets(task.N, protocol.subsets, protocol.keep, protocol.seed)


Unit = tuple[int, int]
"""A repetition, and the number of a file of subsets."""


@dataclass(frozen=True, slots=True, eq=False)
class _Retraining:
    """Models of all subsets and repetitions, in units that are kept."""

    task: Task
    protocol: LDS
    init_seed: int
    kept: Tensor
    cost: Loss | None
    key: str
    cache: Cache

    @property
    def total(self) -> int:
        """Models in all."""
        return self.protocol.subsets * self.protocol.retrains

    @property
    def units(self) -> list[Unit]:
        """All units in their order."""
        count = -(-self.protocol.subsets // UNIT)
        return [(r, u) for r in range(self.protocol.retrains) for u in range(count)]

    def subsets(self, unit: int) -> range:
        """The subsets of a unit."""
        return range(unit * UNIT, min((unit + 1) * UNIT, self.protocol.subsets))

    def read(self, r: int, unit: int) -> Tensor | None:
        """A unit's losses; a longer unit of an earlier, larger run serves as well."""
        count = len(self.subsets(unit))
        for held in range(count, UNIT + 1):
            value = self.cache.get(self.key, f"r{r}-u{unit}-{held}")
            if value is not None:
                return torch.from_numpy(np.ascontiguousarray(value[:count]))
        return None

    def train(
        self, missing: Sequence[Unit], done: int, progress: Progress | None
    ) -> dict[Unit, Tensor]:
        """Train units, several in one stack, and keep each as soon as its stack is done."""
        found: dict[Unit, Tensor] = {}
        waiting, at_once = list(missing), 1
        while waiting:
            units, waiting = waiting[:at_once], waiting[at_once:]
            started = time.monotonic()
            try:
                new = self._stack(units, done, progress)
            except KeyboardInterrupt as error:
                raise Interrupted(
                    f"{done} of {self.total} models are retrained and kept in `{self.cache.root}`"
                ) from error
            found |= new
            done += sum(map(len, new.values()))
            at_once = _units_at_once(self.task, (time.monotonic() - started) / len(units))
            if progress is not None:
                progress("retraining", done, self.total)
        return found

    def _stack(
        self, units: Sequence[Unit], done: int, progress: Progress | None
    ) -> dict[Unit, Tensor]:
        """Train some units at once and keep them."""
        rows = [(r, k) for r, u in units for k in self.subsets(u)]
        told = _reporter(progress, done, len(rows), self.total)
        # A stack of one takes other kernels, which round otherwise: a model trained alone after
        # a kill would differ from the same model trained among others.
        stack = rows * 2 if len(rows) == 1 else rows
        training = training_of(
            self.task,
            self.kept[[k for _, k in stack]],
            [_init_seed(self.protocol, self.init_seed, k, r) for r, k in stack],
            [derived_seed(self.protocol.seed, 2, k, r) for r, k in stack],
            self.cost,
        )
        result = retrain(training, progress=told)
        _refuse_diverged(result.diverged[: len(rows)], rows, self.task)
        sizes = [len(self.subsets(u)) for _, u in units]
        parts = result.query_loss[: len(rows)].double().cpu().split(sizes)
        for (r, u), losses in zip(units, parts, strict=True):
            self.cache.put(self.key, f"r{r}-u{u}-{len(losses)}", losses.numpy())
        return dict(zip(units, parts, strict=True))


def _units_at_once(task: Task, seconds: float) -> int:
    """Units in the next stack, where one of them took so long in the last."""
    most = (STACK if task.device.type == "cpu" else CHUNK) // UNIT
    return max(1, min(most, int(SECONDS / max(seconds, 1e-9))))


def _reporter(
    progress: Progress | None, done: int, models: int, total: int
) -> Callable[[int, int], None] | None:
    if progress is None:
        return None
    return lambda at, of: progress("retraining", done + at * models // of, total)


def _init_seed(protocol: LDS, shared: int, k: int, r: int) -> int:
    return shared if protocol.initialisation == "shared" else derived_seed(protocol.seed, 1, k, r)


def _key(
    task: Task,
    protocol: LDS,
    init_seed: int,
    asked: QueryMetric | None = None,
    *,
    by_name: bool = False,
) -> str:
    """What the losses depend on, and nothing else: not K, not R.

    `build` counts by what it gives, the first model's parameters before training; the loss and the
    metric by their content, and by values at fixed outputs.

    Args:
        task: The task.
        protocol: Of retraining.
        init_seed: Of the first model.
        asked: The metric, where it is not the loss.
        by_name: The key of earlier versions, for which own code counted by its name alone.
    """
    assert task.build is not None
    first, second = (_init_seed(protocol, init_seed, k, 0) for k in (0, 1))
    shared = init_seed if protocol.initialisation == "shared" else None
    parts = (
        SCHEMA,
        task.data_fingerprint(by_name=by_name),
        _initial(task.build, first, second, task.train[0]),
        loss_values(task.loss, task),
        repr(task.recipe),
        repr((protocol.keep, protocol.seed, protocol.initialisation, shared, task.N)),
        str(task.dtype),
        *([] if protocol.groups == "random" else [protocol.groups]),
        *(() if asked is None else (asked.name, loss_values(asked.cost, task))),
        *(() if by_name or asked is None else _content(asked.cost)),
    )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _content(loss: Loss) -> tuple[str, ...]:
    """What a loss is beyond its name, where it is the user's."""
    return () if loss.identity == repr(loss) else (loss.identity,)


def _own_code(task: Task, asked: QueryMetric | None) -> str:
    """All content of the user's that the numbers depend on."""
    costs = (task.loss,) if asked is None else (task.loss, asked.cost)
    return "\n".join([*own_code(task.model), *(cost.identity for cost in costs)])


def _initial(build: Build, seed: int, other: int, x: Rows) -> str:
    """Digest of the parameters that a seed gives.

    Raises:
        SpecError: E0507 where they differ from call to call, E0753 where they are those of another
            seed.
    """
    made = built(build, [seed, seed, other], x)
    first, second, third = (digest(*parameter_parts(model)) for model in made)
    if first != second:
        raise refusal(
            Code.E0507,
            f"`build` makes two different models from the seed {seed}",
            "draw the parameters from the seed: `torch.manual_seed(seed)` in `build`",
            notes=("a retraining that cannot be repeated cannot be kept or resumed",),
        )
    if seed != other and first == third:
        span: Span = getattr(build, "span", NOWHERE)
        raise refusal(
            Code.E0753,
            "`build` makes the same model for every seed, and LDS retrains from fresh "
            "initialisations",
            "let it draw the parameters: a trained network cannot be the start",
            "where all trainings are to start alike, say so: `initialisation = shared`",
            *(["or leave the LDS out, on the command line by `--no-lds`"] if span.end else []),
            labels=label_at(span, "the same for every seed"),
        )
    return first


def loss_values(loss: Loss, task: Task) -> str:
    """Digest of a loss, or a metric, of a few training targets at random outputs."""
    x, y = (part[:PROBED].to(task.device) for part in task.train)
    with torch.no_grad():
        like = task.model(x[:1])
        generator = torch.Generator().manual_seed(0)
        f = torch.randn((len(x), *like.shape[1:]), generator=generator).to(like)
        return digest(loss.per_example(f, y))


def _refuse_diverged(diverged: Tensor, rows: list[tuple[int, int]], task: Task) -> None:
    if not bool(diverged.any()):
        return
    first = rows[int(diverged.nonzero()[0, 0])]
    assert task.recipe is not None
    raise refused_diverged(
        f"{int(diverged.sum())} of {len(rows)} models diverged in training "
        f"(the first on subset {first[1]}, repetition {first[0]}): their losses grew without bound",
        task.recipe,
        "a diverged model says nothing about its training data, so nothing is scored",
    )
