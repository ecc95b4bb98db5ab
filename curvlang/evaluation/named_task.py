"""A task by the text that names it, its model trained once: of several processes the first sends it to the others."""

from __future__ import annotations

import torch

from curvlang.diagnostics.plain_arguments import validated
from curvlang.diagnostics.values import another_type
from curvlang.language import task_text
from curvlang.language.chain import TaskSpec
from curvlang.language.task_sources import TaskSource
from curvlang.models.builtin import task_from
from curvlang.models.execution.torch_state import settled
from curvlang.models.origin import Origin
from curvlang.models.task import Task
from curvlang.operators import usable
from curvlang.runtime.processes.distributed import World, world
from curvlang.runtime.progress.listeners import Progress
from curvlang.training import baseline

_MODEL, _ORIGIN = "trained model", "origin of the model"
"""Keys by which processes wait for it."""


@settled
@validated
def task(
    text: str | TaskSpec | TaskSource,
    *,
    train: bool = False,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    allow_python: bool = False,
) -> Task:
    """The task that a text such as `digits_cnn(groups = 2)` names, or that a spec describes.

    Args:
        text: A task that ships, with arguments; `spec.evaluations[0].task` of a
            spec; or a `TaskSource`, for data and weights in files.
        train: Train its model by its recipe; otherwise it stays as the seed initialises it.
            A model with `weights` is not trained, nor one that a function gives for every seed alike.
        seed: Of the initialisation, and of the minibatches.
        dtype: Precision of model and data; the training's too.
        device: Where both live.
        allow_python: Whether functions that the spec names may be called.

    Raises:
        SpecError: With every problem of the text; E0610 for a device that cannot be used here.
    """
    if not isinstance(text, str | TaskSpec | TaskSource):
        raise another_type("text", text, "a task's text", '`"digits(hidden = [16])"`')
    device = usable(device)
    if isinstance(text, TaskSource):
        spec, allow_python = text.of(None), allow_python or text.allow_python
    else:
        spec = task_text(text, "<task>") if isinstance(text, str) else text
    made = task_from(spec, seed=seed, dtype=dtype, device=device, allow_python=allow_python)
    return trained(made, seed) if train else made


def trained(fresh: Task, seed: int = 0, progress: Progress | None = None) -> Task:
    """A task with a trained model: one that came with parameters as it is, else trained by its recipe.

    Every process has the same parameters, bit for bit.

    Args:
        fresh: A task whose model is initialised.
        seed: Of the initialisation and of the minibatches.
        progress: Notified of every epoch.
    """
    if fresh.origin.trained:
        return fresh
    place = world()
    if place.size == 1:
        return baseline.train_baseline(fresh, seed, progress)
    with place.run():
        return (
            _sent(fresh, seed, place) if not place.first else _given(fresh, seed, place, progress)
        )


def _given(fresh: Task, seed: int, place: World, progress: Progress | None) -> Task:
    """Train it, and send it to the others."""
    task = baseline.train_baseline(fresh, seed, progress)
    place.tell(_ORIGIN, task.origin.text)
    parameters = {n: p.detach() for n, p in task.model.named_parameters()}
    place.share(_MODEL, parameters, 0, task.device)
    return task


def _sent(fresh: Task, seed: int, place: World) -> Task:
    """The model that the first process has trained."""
    text = place.wait(_ORIGIN, 0)
    parameters = place.share(_MODEL, None, 0, fresh.device)
    return baseline.filled(fresh, seed, parameters, Origin(text, seed=seed))
