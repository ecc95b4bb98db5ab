"""A prediction for several processes as a table: seconds, bytes sent, held and kept by stage, and the bottleneck."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from curvlang.compiler.explain.listing import binary, count
from curvlang.costs.links import Processes
from curvlang.costs.rates import measured_rates
from curvlang.costs.scaling import Cluster, ScalingPrediction, StageScaling, predicted_scaling
from curvlang.diagnostics.notebook import text_table
from curvlang.language.chain import Curvature, Evaluation
from curvlang.language.selection import chains_of
from curvlang.models.task import Task
from curvlang.reporting.costs import machine, seconds
from curvlang.runtime.prepare import prepare

COLUMNS = ("computing", "sending", "sent", "held in each", "in a store")


HESSIAN = "the Hessian and products with vectors are not shared: each process forms them by itself"
"""Said where a prediction for several processes has a stage that is not shared."""


@dataclass(frozen=True, slots=True)
class ScalingReport:
    """The part of an explanation that is about a number of processes.

    Args:
        found: What is predicted.
        assumed: Whether the rate of the link is assumed.
    """

    found: ScalingPrediction
    assumed: bool = False

    def lines(self) -> Iterator[str]:
        """A headline, a line for each stage, their sum, and what takes longest."""
        found, cluster = self.found, self.found.cluster
        plural = "es" if cluster.size > 1 else ""
        yield f"Prediction for {cluster.size} process{plural}"
        if cluster.rates is not None:
            yield f"  each as fast as {machine(cluster.rates)}"
        if cluster.size > 1:
            said = " (assumed: state yours with `--link`)" if self.assumed else ""
            link = cluster.link
            yield (
                f"  between two of them {count(link.rate, 'B/s')}{said}, "
                f"{seconds(link.latency)} before the first byte"
            )
        head = ("stage", "1 process", f"{cluster.size} process{plural}", *COLUMNS)
        table = text_table(head, [_cells(s) for s in found.stages])
        yield from (f"  {line}" for line in table.splitlines())
        yield f"  {self._sum()}"
        yield f"  {self._bottleneck()}"
        if self.note:
            yield f"  {self.note}"

    @property
    def note(self) -> str:
        """What is not shared, if anything is not."""
        alone = self.found.cluster.size > 1 and any(s.name == "Hessian" for s in self.found.stages)
        return HESSIAN if alone else ""

    def _sum(self) -> str:
        found = self.found
        if found.cluster.size == 1:
            return f"in all {seconds(found.seconds)}"
        times = found.alone / found.seconds if found.seconds else 1.0
        return (
            f"in all {seconds(found.seconds)}, and {seconds(found.alone)} in one process: "
            f"{times:.2f} times as fast"
        )

    def _bottleneck(self) -> str:
        kind, stage = self.found.bottleneck
        spent = stage.computing if kind == "computing" else stage.sending
        owner = ""
        if kind == "computing" and stage.owner and self.found.cluster.size > 1:
            owner = f"; block `{stage.owner}` has one owner"
        return f"bottleneck: {kind} in `{stage.name}`, {seconds(spent or 0.0)}{owner}"

    def to_json(self) -> dict[str, Any]:
        """All numbers, plain."""
        found, (kind, stage) = self.found, self.found.bottleneck
        return {
            "processes": found.cluster.size,
            "link": asdict(found.cluster.link) | {"assumed": self.assumed},
            "stages": [asdict(s) | {"seconds": s.seconds} for s in found.stages],
            "seconds": found.seconds,
            "seconds_alone": found.alone,
            "bottleneck": {"kind": kind, "stage": stage.name},
            "note": self.note,
        }


def _cells(stage: StageScaling) -> tuple[str, ...]:
    return (
        stage.name,
        _time(stage.alone),
        _time(stage.seconds),
        _time(stage.computing),
        _time(stage.sending) if stage.sending else "",
        binary(stage.sent) if stage.sent else "",
        "" if stage.held is None else binary(stage.held),
        binary(stage.written) if stage.written else "",
    )


def _time(value: float | None) -> str:
    return seconds(value) if value else ""


def scaling_report(
    found: Curvature, said: Evaluation | None, task: Task, processes: Processes
) -> ScalingReport:
    """The fit of whole chains, and all scores, on a number of processes.

    Args:
        found: The curvature.
        said: What the spec says of score, inverse and solver.
        task: Model and data.
        processes: How many, and the link between them.
    """
    rates = measured_rates(task.device, policy=task.policy)
    cluster = Cluster(processes.size, processes.link, rates)
    prepared = prepare(list(chains_of(found)), task, last=True)
    return ScalingReport(predicted_scaling(prepared, task, cluster, said), processes.assumed)
