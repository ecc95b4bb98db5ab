"""What retraining on subsets does to the queries: computed once, kept by content, resumed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from curvlang.diagnostics.diagnostic import Diagnostic, SpecError
from curvlang.evaluation.cache import Cache
from curvlang.evaluation.protocol import LDS
from curvlang.evaluation.retrain import CHUNK, retrain
from curvlang.evaluation.subsets import derived_seed, draw_subsets
from curvlang.models.task import Task

SCHEMA = "ground-truth-1"
"""Changes whenever the same key would mean other numbers."""
UNIT = 25
"""Subsets in one file of the cache: what more subsets or repetitions later reuse."""

Progress = Callable[[str, int, int], None]


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
    cache: Cache | None = None,
    progress: Progress | None = None,
) -> GroundTruth:
    """Retrain on every subset, R times; finished units are read from the cache.

    Args:
        task: With `build` and `recipe`; its data's precision is that of the training.
        protocol: K, R, α, seeds, policy.
        init_seed: Of the baseline, which the policy `shared` starts every training from.
        cache: Where finished units are kept.
        progress: Told how many models are done.

    Raises:
        SpecError: E0503 where the task cannot be retrained, E0504 where a model diverges.
    """
    cache = cache or Cache()
    if task.build is None or task.recipe is None:
        raise SpecError(_not_trainable(task))
    kept = draw_subsets(task.N, protocol.subsets, protocol.keep, protocol.seed)
    key = _key(task, protocol, init_seed)
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
    _train_missing(task, protocol, init_seed, kept, key, cache, missing, found, reused, progress)
    outcome = torch.stack(
        [
            torch.cat([found[r, u] for u in range(-(-protocol.subsets // UNIT))])
            for r in range(protocol.retrains)
        ],
        dim=1,
    )
    total = protocol.subsets * protocol.retrains
    return GroundTruth(kept, outcome, total - reused, reused, tuple(cache.damaged))


def _train_missing(
    task: Task,
    protocol: LDS,
    init_seed: int,
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
    at_once = max(1, CHUNK // UNIT)
    for start in range(0, len(missing), at_once):
        units = missing[start : start + at_once]
        rows = [
            (r, k) for r, u in units for k in range(u * UNIT, min((u + 1) * UNIT, protocol.subsets))
        ]
        told = _reporter(progress, done, len(rows), total)
        result = retrain(
            task.build,
            task.loss.name,
            task.train,
            task.query,
            kept[[k for _, k in rows]],
            task.recipe,
            [_init_seed(protocol, init_seed, k, r) for r, k in rows],
            [derived_seed(protocol.seed, 2, k, r) for r, k in rows],
            progress=told,
        )
        _refuse_diverged(result.diverged, rows, task)
        losses = result.query_loss.double().cpu()
        at = 0
        for r, u in units:
            count = min(UNIT, protocol.subsets - u * UNIT)
            found[r, u] = losses[at : at + count]
            cache.put(key, f"r{r}-u{u}-{count}", found[r, u].numpy())
            at += count
        done += len(rows)
        if progress is not None:
            progress("retraining", done, total)


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


def _key(task: Task, protocol: LDS, init_seed: int) -> str:
    """What the losses depend on, and nothing else: not K, not R."""
    shared = init_seed if protocol.initialisation == "shared" else None
    build: Any = getattr(task.build, "part", repr(type(task.build)))
    parts = (
        SCHEMA,
        task.data_fingerprint(),
        repr(build) if not hasattr(build, "name") else f"{build.name}{dict(build.arguments)}",
        repr(task.recipe),
        repr((protocol.keep, protocol.seed, protocol.initialisation, shared, task.N)),
        str(task.dtype),
    )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _not_trainable(task: Task) -> Diagnostic:
    lacks = [n for n, v in (("build", task.build), ("recipe", task.recipe)) if v is None]
    return Diagnostic(
        "E0503",
        f"LDS retrains the model, and the task lacks {' and '.join(f'`{x}`' for x in lacks)}",
        help=(
            "give `Task(…, build=make_model, recipe=Recipe(…))`, where `make_model(seed)` returns "
            "a fresh model, or leave LDS out",
        ),
    )


def _refuse_diverged(diverged: Tensor, rows: list[tuple[int, int]], task: Task) -> None:
    if not bool(diverged.any()):
        return
    first = rows[int(diverged.nonzero()[0, 0])]
    assert task.recipe is not None
    raise SpecError(
        Diagnostic(
            "E0504",
            f"{int(diverged.sum())} of {len(rows)} models diverged in training "
            f"(the first on subset {first[1]}, repetition {first[0]}): their losses grew without bound",
            help=(f"lower the learning rate (`lr = {task.recipe.lr:g}`)",),
            notes=("a diverged model says nothing about its training data, so nothing is scored",),
        )
    )
