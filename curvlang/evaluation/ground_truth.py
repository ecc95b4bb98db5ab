"""What retraining on subsets does to the queries: computed once, kept by content, resumed."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import Interrupted, SpecError
from curvlang.diagnostics.refusal import label_at, refusal
from curvlang.diagnostics.source import NOWHERE, Span
from curvlang.evaluation.protocol import LDS
from curvlang.models.content import own_code
from curvlang.models.fingerprint import digest, parameter_parts
from curvlang.models.losses.loss import Loss
from curvlang.models.losses.metric import Metric, QueryMetric, query_metric_on
from curvlang.models.task import Build, Task
from curvlang.runtime.fit import Progress
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
        progress: Told how many models are done.

    Raises:
        SpecError: E0503 where the task cannot be retrained, E0504 where a model diverges, E0507
            where its models are not decided by their seeds, E0753 where the seed decides nothing.
    """
    cache = cache or Cache()
    if task.build is None or task.recipe is None:
        raise _not_trainable(task)
    kept = members(task, protocol)
    protocol = replace(protocol, subsets=len(kept))
    asked = None if metric == "loss" else query_metric_on(metric, task)
    key = _key(task, protocol, init_seed, asked)
    cache = truth_cache(
        cache,
        task.device,
        key,
        lambda: _key(task, protocol, init_seed, asked, by_name=True),
        _own_code(task, asked),
    )
    cost = None if asked is None else asked.cost
    found: dict[tuple[int, int], Tensor] = {}
    missing: list[tuple[int, int]] = []
    for r in range(protocol.retrains):
        for unit in range(-(-protocol.subsets // UNIT)):
            held = _read(cache, key, r, unit, min(UNIT, protocol.subsets - unit * UNIT))
            if held is None:
                missing.append((r, unit))
            else:
                found[r, unit] = held
    reused = sum(len(v) for v in found.values())
    if missing:
        cache.probe()
    _train_missing(
        task, protocol, init_seed, cost, kept, key, cache, missing, found, reused, progress
    )
    outcome = torch.stack(
        [
            torch.cat([found[r, u] for u in range(-(-protocol.subsets // UNIT))])
            for r in range(protocol.retrains)
        ],
        dim=1,
    )
    total = protocol.subsets * protocol.retrains
    return GroundTruth(kept, outcome, total - reused, reused, tuple(cache.damaged))


def members(task: Task, protocol: LDS) -> Tensor:
    """Members of every subset of a protocol, `[K, N]`."""
    match protocol.groups:
        case "one":
            return leave_one_out(task.N, protocol.subsets, protocol.seed)
        case "class":
            return leave_class_out(task.train[1])
        case _:
            return draw_subsets(task.N, protocol.subsets, protocol.keep, protocol.seed)


def _train_missing(
    task: Task,
    protocol: LDS,
    init_seed: int,
    cost: Loss | None,
    kept: Tensor,
    key: str,
    cache: Cache,
    missing: list[tuple[int, int]],
    found: dict[tuple[int, int], Tensor],
    reused: int,
    progress: Progress | None,
) -> None:
    """Train missing units, several in one stack, and keep each as soon as its stack is done."""
    assert task.build is not None
    assert task.recipe is not None
    total = protocol.subsets * protocol.retrains
    done = reused
    waiting, at_once = list(missing), 1
    while waiting:
        units, waiting = waiting[:at_once], waiting[at_once:]
        started = time.monotonic()
        rows = [
            (r, k) for r, u in units for k in range(u * UNIT, min((u + 1) * UNIT, protocol.subsets))
        ]
        told = _reporter(progress, done, len(rows), total)
        # A stack of one takes other kernels, which round otherwise: a model trained alone after
        # a kill would differ from the same model trained among others.
        stack = rows * 2 if len(rows) == 1 else rows
        try:
            result = retrain(
                task.build,
                task.loss,
                task.train,
                task.query,
                kept[[k for _, k in stack]],
                task.recipe,
                [_init_seed(protocol, init_seed, k, r) for r, k in stack],
                [derived_seed(protocol.seed, 2, k, r) for r, k in stack],
                progress=told,
                asked=cost,
            )
            _refuse_diverged(result.diverged[: len(rows)], rows, task)
            losses = result.query_loss.double().cpu()
            at = 0
            for r, u in units:
                count = min(UNIT, protocol.subsets - u * UNIT)
                found[r, u] = losses[at : at + count]
                cache.put(key, f"r{r}-u{u}-{count}", found[r, u].numpy())
                at += count
                done += count
        except KeyboardInterrupt as error:
            raise Interrupted(
                f"{done} of {total} models are retrained and kept in `{cache.root}`"
            ) from error
        at_once = _units_at_once(task, (time.monotonic() - started) / len(units))
        if progress is not None:
            progress("retraining", done, total)


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


def _read(cache: Cache, key: str, r: int, unit: int, count: int) -> Tensor | None:
    """A unit's losses; a longer unit of an earlier, larger run serves as well."""
    for held in range(count, UNIT + 1):
        value = cache.get(key, f"r{r}-u{unit}-{held}")
        if value is not None:
            return torch.from_numpy(np.ascontiguousarray(value[:count]))
    return None


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


def _initial(build: Build, seed: int, other: int, x: Tensor) -> str:
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
            "let it draw the parameters: a network that is trained already is no start",
            "where all trainings are to start alike, say so: `initialisation = shared`",
            *(["or leave the LDS out, on the command line by `--no-lds`"] if span.end else []),
            labels=label_at(span, "the same for every seed"),
        )
    return first


def loss_values(loss: Loss, task: Task) -> str:
    """Digest of a loss, or a metric, of a few training targets at random outputs."""
    x, y = task.train[0][:PROBED], task.train[1][:PROBED]
    with torch.no_grad():
        like = task.model(x[:1])
        generator = torch.Generator().manual_seed(0)
        f = torch.randn((len(x), *like.shape[1:]), generator=generator).to(like)
        return digest(loss.per_example(f, y))


def _not_trainable(task: Task) -> SpecError:
    lacks = [n for n, v in (("build", task.build), ("recipe", task.recipe)) if v is None]
    return refusal(
        Code.E0503,
        f"LDS retrains the model, and the task lacks {' and '.join(f'`{x}`' for x in lacks)}",
        "give `Task(…, build=make_model, recipe=Recipe(…))`, where `make_model(seed)` returns "
        "a fresh model, or leave LDS out",
    )


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
