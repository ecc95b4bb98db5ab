"""What was run, as a result states it: the task and the protocol."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch

from curvlang.evaluation.protocol import LDS
from curvlang.evaluation.result import Protocol, TaskSummary
from curvlang.models.task import Task


def summary(task: Task, arguments: Mapping[str, Any]) -> TaskSummary:
    """Sizes, recipe and quality of the trained model."""
    with torch.no_grad():
        train = task.loss.per_example(task.model(task.train[0]), task.train[1])
        outputs = task.model(task.query[0])
        query = task.loss.per_example(outputs, task.query[1])
    accuracy = None
    if task.loss.name == "cross_entropy":
        accuracy = float((outputs.argmax(-1) == task.query[1]).double().mean())
    return TaskSummary(
        name=task.name,
        arguments=dict(arguments),
        model=_describe(task),
        loss=task.loss.name,
        train_examples=task.N,
        query_examples=task.Q,
        parameters=task.P,
        train_loss=float(train.mean()),
        query_loss=float(query.mean()),
        query_accuracy=accuracy,
        recipe=None if task.recipe is None else task.recipe.settings,
        weight_decay=task.weight_decay,
        origin=task.origin.text,
    )


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
        return f"MLP {'–'.join(map(str, widths))} {'/'.join(sorted(others))}{bias}"
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
