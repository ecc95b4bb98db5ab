"""Retraining on another machine: a task as a text that it is made from there, and losses as bytes."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal
from curvlang.evaluation.protocol import LDS
from curvlang.evaluation.retraining.python_tasks import described_task, made_task, unsendable
from curvlang.evaluation.retraining.retraining import Retraining
from curvlang.evaluation.retraining.stacks import ModelStack
from curvlang.evaluation.retraining.truth_request import TruthRequest
from curvlang.language.chain import Part, TaskSpec, Value
from curvlang.models.builtin import Build, folder_of, task_from
from curvlang.models.execution.packed import PackedBuild
from curvlang.models.language_models.pretrained import PretrainedBuild
from curvlang.models.losses.loss import show_dtype
from curvlang.models.origin import MovedBuild
from curvlang.models.task import Task
from curvlang.workers.executor import Description, PortableWork

FILES = ("path", "query", "weights", "adapter", "tokenizer")
"""Arguments that may name files and folders."""


def portable(request: TruthRequest, key: str) -> PortableWork:
    """The retraining as a worker gets it.

    Args:
        request: What is retrained.
        key: Of its content.

    Raises:
        SpecError: E0845 where the task or the metric was made in Python.
    """
    if not isinstance(request.metric, str):
        raise unsendable(
            "the metric is a function of Python", "name one: `loss`, `margin`, `logit`"
        )
    spec, python, data = _spec_of(request.task), None, b""
    if spec is None:
        python, data = described_task(request.task)
    text = json.dumps(
        {
            "task": None if spec is None else _lines(spec),
            "python": python,
            "dtype": show_dtype(request.task.dtype),
            "device": request.task.device.type,
            "protocol": asdict(request.protocol),
            "init_seed": request.init_seed,
            "metric": request.metric,
            "key": key,
        }
    )
    about = Description(text, data)
    if _request(about).key() != key:
        raise unsendable(
            "it is another when it is made again",
            "write what was changed after it was made into its text, its `build` or its loss",
        )
    return PortableWork(trained_stack, about)


def trained_stack(about: Description, unit: str) -> bytes:
    """The losses of a stack, trained here.

    Args:
        about: What `portable` has made.
        unit: The stack's name.

    Raises:
        SpecError: E0846 where the task has another content here, and as `ground_truth`.
    """
    return packed(_retraining(about).trained(ModelStack.named(unit)))


def packed(losses: Tensor) -> bytes:
    """Losses as bytes."""
    buffer = io.BytesIO()
    np.save(buffer, losses.numpy(), allow_pickle=False)
    return buffer.getvalue()


def unpacked(content: bytes) -> NDArray[np.float64]:
    """The losses again."""
    found: NDArray[np.float64] = np.load(io.BytesIO(content), allow_pickle=False)
    return found


@lru_cache(maxsize=1)
def _retraining(about: Description) -> Retraining:
    """What is described; its data is read once for all stacks."""
    request = _request(about)
    if request.key() != json.loads(about.text)["key"]:
        raise refusal(
            Code.E0846,
            f"a worker has another `{request.task.name}` than this process: its data, its code or its "
            "first models differ",
            "give workers the same files and modules, and restart those that have loaded older ones",
        )
    return request.retraining()


def _request(about: Description) -> TruthRequest:
    told = json.loads(about.text)
    dtype, seed = getattr(torch, told["dtype"]), told["init_seed"]
    if told["task"] is None:
        made = made_task(told["python"], about.data, seed, dtype)
    else:
        name, lines = told["task"]
        data, model, loss, train = map(_part, lines)
        # Functions that it names were allowed where it was made.
        made = task_from(TaskSpec(name, {}, data, model, loss, train), seed=seed, allow_python=True)
    task = made.to(dtype=dtype, device=told["device"])
    return TruthRequest.of(task, LDS(**told["protocol"]), seed, told["metric"])


def _spec_of(task: Task) -> TaskSpec | None:
    """The text that a task was made from; None for one that was made in Python."""
    build = task.build
    while isinstance(build, MovedBuild | PackedBuild):
        build = build.build
    return build.task if isinstance(build, Build | PretrainedBuild) else None


def _lines(spec: TaskSpec) -> list[Any]:
    return [spec.name, [_line(x) for x in (spec.data, spec.model, spec.loss, spec.train)]]


def _line(part: Part) -> list[Any]:
    """A line with whole paths, which mean the same from any folder."""
    found = dict(part.arguments)
    for name in FILES:
        given = found.get(name)
        if isinstance(given, str) and (place := folder_of(part) / given).exists():
            found[name] = str(place.resolve())
    return [part.name, found]


def _part(told: tuple[str, Mapping[str, Any]]) -> Part:
    name, arguments = told
    return Part(name, {k: _value(x) for k, x in arguments.items()})


def _value(told: Any) -> Value:
    return tuple(_value(x) for x in told) if isinstance(told, list) else told
