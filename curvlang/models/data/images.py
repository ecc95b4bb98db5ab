"""A task's inputs as images, where they are images."""

from __future__ import annotations

from curvlang.language.chain import TaskSpec
from curvlang.models.data.data import digits
from curvlang.models.data.rows import Pair
from curvlang.models.task import Task


def pictures(spec: TaskSpec, task: Task) -> Pair | None:
    """Training and query inputs [N, H, W] or [N, C, H, W]; None where they are not images.

    Digits are given as they were scanned, whatever they are scaled to.
    """
    if spec.data.name == "digits":
        said = {**spec.data.arguments, "scale": "none"}
        data = digits(**said)  # type: ignore[arg-type]
        return data.train[0][:].reshape(-1, 8, 8), data.query[0][:].reshape(-1, 8, 8)
    X, Xq = task.train[0], task.query[0]
    seen = X.is_floating_point() and X.ndim == 4 and X.shape[1] in (1, 3)
    return (X, Xq) if seen else None
