"""What was run, as a result states it: the task and the protocol."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch

from curvlang.evaluation.protocol import LDS
from curvlang.evaluation.result import Protocol, TaskSummary
from curvlang.models.task import Task
from curvlang.runtime.limits.activations import forward_batch


def summary(task: Task, arguments: Mapping[str, Any]) -> TaskSummary:
    """Sizes, recipe and quality of the trained model."""
    train, query = (_quality(task, part) for part in ("train", "query"))
    return TaskSummary(
        name=task.name,
        arguments=dict(arguments),
        model=_describe(task),
        loss=task.loss.name,
        train_examples=task.N,
        query_examples=task.Q,
        parameters=task.P,
        train_loss=train[0],
        query_loss=query[0],
        query_accuracy=query[1],
        recipe=None if task.recipe is None else task.recipe.settings,
        weight_decay=task.weight_decay,
        origin=task.origin.text,
    )


def _quality(task: Task, part: str) -> tuple[float, float | None]:
    """The mean loss of a part, batch by batch, and the share of right classes where there are classes."""
    count = len(task.part(part)[0])
    # One tensor from the start: small ones that outlive a batch keep its memory from the system.
    losses = torch.empty(count, dtype=task.precision, device=task.device)
    right, of, done = torch.zeros((), dtype=torch.int64, device=task.device), 0, 0
    with torch.no_grad():
        for x, y in task.batches(forward_batch(task, part), part):
            outputs = task.model(x)
            losses[done : done + len(x)] = task.loss.per_example(outputs, y)
            done += len(x)
            if task.loss.name == "cross_entropy":
                right += (outputs.argmax(-1) == y).sum()
                of += y.numel()
    return float(losses.mean()), int(right) / of if of else None


def _describe(task: Task) -> str:
    """Layer widths of a perceptron, else the type's name and how many layers of which type."""
    owners = [m for m in task.model.modules() if any(True for _ in m.parameters(recurse=False))]
    linears = [m for m in owners if isinstance(m, torch.nn.Linear)]
    if isinstance(task.model, torch.nn.Sequential) and linears == owners:
        widths = [linears[0].in_features, *(m.out_features for m in linears)]
        others = {
            type(m).__name__.lower() for m in task.model if not isinstance(m, torch.nn.Linear)
        }
        bias = "" if linears[0].bias is not None else ", no bias"
        words = ["MLP", "–".join(map(str, widths)), *(["/".join(sorted(others))] if others else [])]
        return " ".join(words) + bias
    counts = Counter(type(m).__name__ for m in owners)
    return f"{type(task.model).__name__} of " + ", ".join(f"{n} {k}" for k, n in counts.items())


def protocol_as_run(protocol: LDS | None, queries: int) -> Protocol | None:
    """The protocol with the queries that it scored."""
    if protocol is None:
        return None
    return Protocol(
        protocol.subsets,
        protocol.keep,
        protocol.retrains,
        queries,
        protocol.initialisation,
        protocol.seed,
        protocol.bootstrap,
        groups=protocol.groups,
    )
