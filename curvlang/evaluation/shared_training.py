"""A task's own model, trained once: of several processes the first trains it, and the others are sent it."""

from __future__ import annotations

from curvlang.models.task import Origin, Task
from curvlang.runtime.processes.distributed import World, world
from curvlang.runtime.progress.listeners import Progress
from curvlang.training import baseline

_MODEL, _ORIGIN = "trained model", "origin of the model"
"""Keys by which processes wait for it."""


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
