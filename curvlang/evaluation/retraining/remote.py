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
from curvlang.workers.executor import PortableWork

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
    spec = _spec_of(request.task)
    if not isinstance(request.metric, str):
        raise _unsendable(
            "the metric is a function of Python", "name one: `loss`, `margin`, `logit`"
        )
    text = json.dumps(
        {
            "task": _lines(spec),
            "dtype": show_dtype(request.task.dtype),
            "device": request.task.device.type,
            "protocol": asdict(request.protocol),
            "init_seed": request.init_seed,
            "metric": request.metric,
            "key": key,
        }
    )
    if _request(json.loads(text)).key() != key:
        raise _unsendable(
            "the task was changed after it was made", "write what is changed into the task's text"
        )
    return PortableWork(trained_stack, text)


def trained_stack(text: str, unit: str) -> bytes:
    """The losses of a stack, trained here.

    Args:
        text: What `portable` has made.
        unit: The stack's name.

    Raises:
        SpecError: E0846 where the task has another content here, and as `ground_truth`.
    """
    return packed(_retraining(text).trained(ModelStack.named(unit)))


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
def _retraining(text: str) -> Retraining:
    """What a text describes; its data is read once for all stacks."""
    told = json.loads(text)
    request = _request(told)
    if request.key() != told["key"]:
        raise refusal(
            Code.E0846,
            f"a worker has another `{request.task.name}` than this process: its data, its code or its "
            "first models differ",
            "give workers the same files and modules, and restart those that have loaded older ones",
        )
    return request.retraining()


def _request(told: Mapping[str, Any]) -> TruthRequest:
    about = told["task"]
    data, model, loss, train = (_part(about[x]) for x in ("data", "model", "loss", "train"))
    spec = TaskSpec(about["name"], {}, data, model, loss, train)
    # Functions that it names were allowed where it was made.
    task = task_from(
        spec,
        seed=told["init_seed"],
        dtype=getattr(torch, told["dtype"]),
        device=told["device"],
        allow_python=True,
    )
    return TruthRequest.of(task, LDS(**told["protocol"]), told["init_seed"], told["metric"])


def _spec_of(task: Task) -> TaskSpec:
    """The text that a task was made from."""
    build = task.build
    while isinstance(build, MovedBuild | PackedBuild):
        build = build.build
    if isinstance(build, Build | PretrainedBuild) and build.task is not None:
        return build.task
    raise _unsendable(
        f"`{task.name}` was made in Python",
        'make it from a text: `cv.task("digits(hidden = [16])")`, or a spec whose lines are '
        '`data python("module:function")` and `model python("module:function")`',
    )


def _unsendable(reason: str, repair: str) -> Exception:
    return refusal(
        Code.E0845,
        f"workers cannot make this task: {reason}",
        repair,
        "or retrain without workers",
        notes=("a worker gets a text that describes the work, never code or objects",),
    )


def _lines(spec: TaskSpec) -> dict[str, Any]:
    parts = {"data": spec.data, "model": spec.model, "loss": spec.loss, "train": spec.train}
    return {"name": spec.name, **{kind: _line(part) for kind, part in parts.items()}}


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
