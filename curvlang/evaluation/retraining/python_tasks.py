"""Tasks that were made in Python, as data: the names of their functions, and their tensors as safetensors."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal
from curvlang.models.losses.losses import LOSSES
from curvlang.models.losses.user_loss import AutodiffLoss
from curvlang.models.origin import MovedBuild
from curvlang.models.recipe import Recipe
from curvlang.models.task import Task
from curvlang.models.user_code import function_named

MOST = 1 << 30
"""Bytes of examples that are sent."""


def described_task(task: Task) -> tuple[dict[str, Any], bytes]:
    """A task as a text's content, and its examples.

    Args:
        task: With `build` and `recipe`.

    Raises:
        SpecError: E0845 where one of its parts has no name that another process finds, or where its
            examples cannot be sent.
    """
    assert task.recipe is not None
    build: Any = task.build
    while isinstance(build, MovedBuild):
        build = build.build
    loss: Any = task.loss
    builtin = LOSSES.get(loss.name) == loss
    about = {
        "name": task.name,
        "recipe": asdict(task.recipe),
        "build": _named(build, "its `build`"),
        "loss": None
        if builtin
        else _named(loss.function if isinstance(loss, AutodiffLoss) else loss, "its loss"),
        "builtin": loss.name if builtin else None,
    }
    return about, save(_examples(task))


def made_task(about: Mapping[str, Any], examples: bytes, seed: int, dtype: torch.dtype) -> Task:
    """The task that was described.

    Args:
        about: Its names.
        examples: Its tensors.
        seed: Of its model.
        dtype: Precision of its model.

    Raises:
        SpecError: E0551 for a function that is not found here.
    """
    found = load(examples)
    build = _function(about["build"])
    train, query = ((found[f"{part} X"], found[f"{part} y"]) for part in ("train", "query"))
    return Task(
        build(seed).to(dtype),
        about["builtin"] or _function(about["loss"]),
        train,
        query,
        recipe=Recipe(**about["recipe"]),
        name=about["name"],
        build=build,
    )


def unsendable(reason: str, *repairs: str) -> Exception:
    """The refusal of a task that workers cannot make."""
    return refusal(
        Code.E0845,
        f"workers cannot make this task: {reason}",
        *repairs,
        "or retrain without workers",
        notes=("a worker gets texts and tensors that describe the work, never objects of Python",),
    )


def _examples(task: Task) -> dict[str, Tensor]:
    pairs = {"train": task.train, "query": task.query}
    found = {f"{p} {n}": x for p, xy in pairs.items() for n, x in zip("Xy", xy, strict=True)}
    tensors = {n: _own(x) for n, x in found.items() if isinstance(x, Tensor)}
    if len(tensors) < len(found) or task.mask is not None or task.query_mask is not None:
        raise unsendable(
            "its examples are padded, or are read from files",
            "make it from a text that names the files",
        )
    if sum(x.nbytes for x in tensors.values()) > MOST:
        raise unsendable(
            f"its examples are larger than {MOST >> 30} GiB", "make it from a text that names files"
        )
    return tensors


def _own(x: Tensor) -> Tensor:
    """The tensor in memory of its own: queries may be examples, and targets inputs."""
    return x.detach().cpu().clone(memory_format=torch.contiguous_format)


def _named(function: Any, what: str) -> list[Any]:
    """`[module:function, keywords]` of a function of a module, or of a `partial` of one."""
    keywords: dict[str, Any] = {}
    inner = function
    while hasattr(inner, "function") and type(inner).__module__.startswith("curvlang."):
        # A function of batches, such as those of torch, as one of examples.
        inner = inner.function
    while isinstance(inner, partial) and not inner.args:
        keywords = inner.keywords | keywords
        inner = inner.func
    module, name = (getattr(inner, x, None) for x in ("__module__", "__qualname__"))
    found: Any = sys.modules.get(module or "")
    for part in (name or "").split("."):
        found = getattr(found, part, None)
    if found is not inner or module == "__main__" or not _is_data(keywords):
        raise unsendable(
            f"{what} is not a function of a module, which another process could import by name",
            "put it into a module: `from my_models import make`, "
            "`functools.partial(make, width=8)` for arguments",
            'or make the task from a text: `cv.task("digits(hidden = [16])")`',
        )
    return [f"{module}:{name}", keywords]


def _is_data(keywords: Mapping[str, Any]) -> bool:
    try:
        return bool(json.loads(json.dumps(keywords)) == keywords)
    except (TypeError, ValueError):
        return False


def _function(named: tuple[str, Mapping[str, Any]]) -> Callable[..., Any]:
    name, keywords = named
    function = function_named(name)
    return partial(function, **keywords) if keywords else function
