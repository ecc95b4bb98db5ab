"""How many columns an example has, and what exact ones cost before any of them is formed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch

from curvlang.compiler.derive.program import Fisher, Partition
from curvlang.compiler.planning.plan import Plan
from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import Diagnostic, MachineError
from curvlang.models.task import Task
from curvlang.models.tracing.blocks import LayerBlock
from curvlang.runtime.limits.memory import available, gibibytes, last_repair, left

MANY = 1000
"""Columns of one example above which a repair names drawn labels: as many go backward for every example."""


def column_count(fisher: Fisher, task: Task, outputs: int) -> int:
    """R: columns of the factor, drawn labels, or the true label alone."""
    match fisher.kind:
        case "exact":
            return task.loss.columns(outputs)
        case "mc":
            return fisher.samples
        case _:
            return 1


def require_columns(
    plans: Sequence[Plan],
    blocks: Mapping[Partition, Sequence[LayerBlock]],
    task: Task,
    outputs: int,
    ways: Iterable[str],
) -> None:
    """Refuse exact columns of which those of one example do not fit.

    The factor S takes F numbers for each of R columns, and its pull-backs as many as all layers
    have outputs at all positions. Plans that only multiply with the whole matrix form none.

    Args:
        plans: All plans of the run.
        blocks: The model's blocks for each partition.
        task: Model and data; only shapes are read.
        outputs: F, numbers that the model gives for an example.
        ways: What to write instead, asked for where they are refused.

    Raises:
        MachineError: E0801, with columns, bytes and backward passes.
    """
    exact = [p for p in plans if _reads_exact_columns(p)]
    if not exact:
        return
    R = task.loss.columns(outputs)
    needed = max(exact_bytes(task, blocks[p.reads[0]], outputs) for p in exact)
    have = available(task.device)
    if needed > have:
        passes = max(p.passes for p in exact)
        raise MachineError(_too_many(R, needed, passes, task, ways))


def exact_bytes(task: Task, layers: Sequence[LayerBlock], outputs: int) -> int:
    """Bytes of the exact columns of one example and of what they are pulled back to."""
    size = torch.empty((), dtype=task.precision).element_size()
    return size * task.loss.columns(outputs) * (outputs + _pulled_back(layers))


def many_columns(task: Task, most: int = MANY) -> str:
    """Why exact columns are not for this task; empty where they are.

    Args:
        task: Model, loss and data.
        most: Columns of one example that are not many.
    """
    layers = task.blocks()
    with torch.no_grad():
        outputs = task.model(task.few[:1]).numel()
    R = task.loss.columns(outputs)
    needed, have = exact_bytes(task, layers, outputs), available(task.device)
    if needed > have:
        return f"{R} exact columns for each example, which do not fit"
    return f"{R} exact columns for each example" if most < R else ""


def _reads_exact_columns(p: Plan) -> bool:
    adds = any(p.adds(number) for number in range(1, p.passes + 1))
    return adds and p.program.fisher is not None and p.program.fisher.kind == "exact"


def _pulled_back(layers: Sequence[LayerBlock]) -> int:
    """Numbers of one column in all layers."""
    return sum(b.count * b.positions * b.d_out for b in layers)


def _too_many(R: int, needed: int, passes: int, task: Task, ways: Iterable[str]) -> Diagnostic:
    return Diagnostic(
        Code.E0801,
        f"the {R} exact columns of one example need {gibibytes(needed)}, and {left(task.device)}",
        help=(*ways, last_repair()),
        notes=(
            f"every output has a column: {R * task.N} go backward through the model for "
            f"{task.N} examples, in each of {passes} pass{'es' if passes > 1 else ''} over the data",
        ),
    )
