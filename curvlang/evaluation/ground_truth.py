"""What retraining on subsets does to the queries: computed once, kept by content, resumed."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from curvlang.evaluation.protocol import LDS
from curvlang.evaluation.retraining.kept_stacks import KeptStacks
from curvlang.evaluation.retraining.remote import portable
from curvlang.evaluation.retraining.truth_request import TruthRequest
from curvlang.models.execution.process_state import kept_streams
from curvlang.models.losses.metric import Metric
from curvlang.models.task import Task
from curvlang.storage.cache import Cache
from curvlang.training.truth_cache import truth_cache
from curvlang.workers.dask_workers import DaskWorkers
from curvlang.workers.executor import Execution, Executor

_HERE = Execution()
"""One stack after the other, in this process."""


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
    execution: Execution = _HERE,
) -> GroundTruth:
    """Retrain on every subset, R times; finished stacks of models are read from the cache.

    Args:
        task: With `build` and `recipe`; its data's precision is that of the training.
        protocol: K, R, α, seeds, policy.
        init_seed: Of the baseline, which the policy `shared` starts every training from.
        metric: What the queries are asked for after retraining; its negative where it is better
            when higher.
        cache: Where finished stacks are kept.
        execution: Who trains them, and who is notified of the number of models done.

    Raises:
        SpecError: E0503 where the task cannot be retrained, E0504 where a model diverges, E0507
            where its models are not decided by their seeds, E0753 where the seed decides nothing.
    """
    request = TruthRequest.of(task, protocol, init_seed, metric)
    key = request.key()
    cache = truth_cache(
        cache or Cache(),
        task.device,
        key,
        lambda: request.key(by_name=True),
        request.own_code(),
    )
    work = KeptStacks(request, key, cache, execution)
    missing = work.read(request.stacks())
    reused = work.done
    if missing:
        cache.probe()
    work.train(missing)
    kept, trained = request.kept, work.total - reused
    return GroundTruth(kept, work.outcome, trained, reused, tuple(cache.damaged))


def check_retraining(
    task: Task,
    protocol: LDS,
    init_seed: int,
    metric: str | Metric = "loss",
    executor: Executor | None = None,
) -> None:
    """Refuse, before anything is trained, what could not be retrained after it.

    Args:
        task: The task.
        protocol: Of retraining.
        init_seed: Of the baseline.
        metric: What the queries are asked for.
        executor: What will retrain.

    Raises:
        SpecError: E0502, E0503, E0507, E0508, E0590, E0753; see `ground_truth`. E0845 where workers
            cannot be sent the task.
    """
    request = TruthRequest.of(task, protocol, init_seed, metric)
    key = request.key()
    if isinstance(executor, DaskWorkers):
        portable(request, key)
