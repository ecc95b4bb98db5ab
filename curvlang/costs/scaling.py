"""What a fit and its scores will take on several processes, stage by stage: T(W) of a machine that one may not have.

    T(W) = largest computation of a process + Σ over messages (α + bytes · c(W) / β) + largest owner + writing

Every process computes as fast as this machine. Passes and rows of scores are shared; sums are folded along a
tree of processes, log2(W) messages deep; a block's decompositions have one owner, who shows them to the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from math import ceil, log2

import torch

from curvlang.compiler.algebra import shapes
from curvlang.compiler.planning.plan import BlockPlan, ResultPlan, inside
from curvlang.costs.links import Connection
from curvlang.costs.planned_scores import predicted_score
from curvlang.costs.predicted import decomposition_seconds, predicted_fit, predicted_trial
from curvlang.costs.rates import Rates
from curvlang.ir.functions import FUNCTIONS
from curvlang.language.chain import Evaluation
from curvlang.models.task import Task
from curvlang.runtime.limits.disk import disk_use
from curvlang.runtime.limits.footprint import finished_bytes, sum_bytes
from curvlang.runtime.prepare import Preparation

_EXACT = 8
"""Bytes of a statistic and of a score."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """Processes, the link between them, and how fast each of them is.

    Args:
        size: Number of processes.
        link: α and β between two of them.
        rates: Of each; None for bytes alone.
    """

    size: int
    link: Connection
    rates: Rates | None

    @property
    def depth(self) -> int:
        """Messages from the farthest process to the first: c(W)."""
        return ceil(log2(self.size)) if self.size > 1 else 0

    def share(self, count: int) -> float:
        """The largest contiguous share of `count` units, of all of them."""
        return ceil(count / self.size) / count


@dataclass(frozen=True, slots=True)
class StageScaling:
    """A stage on one process and on several. Seconds that cannot be predicted are None.

    Args:
        name: Of the stage.
        alone: Seconds of one process.
        computing: Seconds of the process that computes longest.
        sending: Seconds of messages, one after the other.
        sent: Bytes that the first process sends or receives.
        held: Bytes that each process holds; None where that is not predicted.
        written: Bytes that lie in a store after it, or while it runs.
        owner: The block whose owner is the last, if it has one.
    """

    name: str
    alone: float | None
    computing: float | None
    sending: float = 0.0
    sent: int = 0
    held: int | None = None
    written: int = 0
    owner: str = ""

    @property
    def seconds(self) -> float | None:
        """Of all processes together."""
        return None if self.computing is None else self.computing + self.sending


@dataclass(frozen=True, slots=True)
class ScalingPrediction:
    """All stages, and what they need most of."""

    cluster: Cluster
    stages: tuple[StageScaling, ...]

    @property
    def alone(self) -> float:
        """Seconds of one process, as far as they can be predicted."""
        return sum(s.alone for s in self.stages if s.alone is not None)

    @property
    def seconds(self) -> float:
        """Seconds of all processes, as far as they can be predicted."""
        return sum(s.seconds for s in self.stages if s.seconds is not None)

    @property
    def bottleneck(self) -> tuple[str, StageScaling]:
        """`computing` or `sending`, and the stage in which most time goes into it."""
        kinds = [
            (seconds or 0.0, kind, s)
            for s in self.stages
            for kind, seconds in (("computing", s.computing), ("sending", s.sending))
        ]
        _, kind, stage = max(kinds, key=lambda x: x[0])
        return kind, stage


def predicted_scaling(
    prepared: Preparation, task: Task, cluster: Cluster, said: Evaluation | None = None
) -> ScalingPrediction:
    """A fit, its inverse and the scores of all queries on several processes.

    Args:
        prepared: Plans of the fit, of whole chains.
        task: Model and data; the model is timed on a few examples.
        cluster: The processes.
        said: What the spec says of score, inverse and solver.
    """
    held = {phase.name: phase.bytes for phase in prepared.phases}
    stages = [
        _fit_stage(p.name, p.seconds, prepared, cluster, held)
        for p in (
            predicted_trial(prepared, task, cluster.rates),
            *predicted_fit(prepared, task, cluster.rates),
        )
    ]
    stages += [_inverse_stage(prepared, cluster), _scores_stage(prepared, task, cluster, said)]
    return ScalingPrediction(cluster, tuple(stages))


def _fit_stage(
    name: str, alone: float | None, prepared: Preparation, cluster: Cluster, held: dict[str, int]
) -> StageScaling:
    plans, known = prepared.plans, held.get(name)
    number = int(name.rsplit(" ", 1)[-1]) if name[-1].isdigit() else 0
    if name.startswith("pass"):
        sums = sum(sum_bytes(p)[number - 1] for p in plans if p.passes >= number)
        share = cluster.share(max(p.chunks for p in plans))
        sending = cluster.depth * cluster.link.seconds(sums)
        own = None if alone is None else share * alone
        return StageScaling(name, alone, own, sending, cluster.depth * sums, known, sums)
    if name.startswith("after"):
        found = sum(finished_bytes(p, number) for p in plans if p.passes >= number)
        blocks = decomposition_seconds(plans, number, cluster.rates)
        longest, owner = makespan(blocks, cluster.size)
        sending = cluster.depth * (len(blocks) * cluster.link.latency + found / cluster.link.rate)
        own = None if alone is None else longest
        moved = found if cluster.size > 1 else 0
        return StageScaling(name, alone, own, sending, moved, known, found, owner)
    written = disk_use(prepared).results if name == "results" else 0
    return StageScaling(name, alone, alone, held=known, written=written)


def makespan(blocks: Sequence[tuple[str, float]], size: int) -> tuple[float, str]:
    """Seconds until the last owner is done, the longest block given away first; and that owner's longest block.

    >>> makespan([("a", 5.0), ("b", 3.0), ("c", 3.0)], 2)
    (6.0, 'b')
    """
    loads = [(0.0, rank, "") for rank in range(size)]
    heapify(loads)
    for name, seconds in sorted(blocks, key=lambda x: -x[1]):
        load, rank, first = heappop(loads)
        heappush(loads, (load + seconds, rank, first or name))
    load, _, name = max(loads)
    return load, name


def _inverse_stage(prepared: Preparation, cluster: Cluster) -> StageScaling:
    """Every process decomposes what the inverse asks for."""
    if cluster.rates is None:
        return StageScaling("inverse", None, None)
    seconds = sum(
        _inverted(result, block, cluster.rates) for block, result in _last_results(prepared)
    )
    return StageScaling("inverse", seconds, seconds)


def _inverted(result: ResultPlan, block: BlockPlan, rates: Rates) -> float:
    sizes = block.geometry.sizes
    match inside(result.shape):
        case shapes.KroneckerShape():
            sides = {"left": sizes["o"], "right": sizes["i"]}
            flops = {side: float(FUNCTIONS["eigh"].flops(n, n)) for side, n in sides.items()}
            return sum(
                block.component_copies(result, name) * rates.decomposition(x)
                for name, x in flops.items()
            )
        case shapes.DenseShape() | shapes.LeafShape() | shapes.GramShape():
            return block.count * rates.product(block.geometry.rows**3 / 3, torch.float64)
        case _:
            return 0.0


def _scores_stage(
    prepared: Preparation, task: Task, cluster: Cluster, said: Evaluation | None
) -> StageScaling:
    """Rows of scores are shared; the queries are seen by all, and the first process is sent the rows."""

    def seconds(part: Task) -> float | None:
        found = predicted_score(said, prepared, part, cluster.rates)
        return None if found is None else found.stage.seconds

    written = _EXACT * task.N * task.Q
    own = max(1, ceil(task.N / cluster.size))
    alone = computing = seconds(task)
    if own < task.N:
        computing = seconds(task.examples(slice(own)))
    sent = _EXACT * (task.N - own) * task.Q if cluster.size > 1 else 0
    messages = (cluster.size - 1) * cluster.link.latency
    sending = messages + sent / cluster.link.rate
    return StageScaling("scores", alone, computing, sending, sent, written=written)


def _last_results(prepared: Preparation) -> Iterator[tuple[BlockPlan, ResultPlan]]:
    """Every block of the last stage of every chain."""
    for chain in prepared.chains:
        for part in chain[-1].parts:
            for block in prepared.plan_of(part).blocks:
                yield block, block.results[part.value]
