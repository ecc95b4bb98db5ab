"""What all processes agree on before a fit: that they fit the same, and how much memory each may take."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal
from curvlang.models.content import ONLY_HERE, own_code
from curvlang.models.fingerprint import digest, model_parts, parameter_parts
from curvlang.models.losses.loss import show_dtype
from curvlang.models.task import Task
from curvlang.runtime.limits.memory import available
from curvlang.runtime.processes.distributed import World

CONTENT = (
    "give all processes the same spec, seed, model, weights and data: set the seed before a model is made, or "
    "load its weights from one file"
)
PLANS = "run one release of curvlang and of torch in all processes, with the same `memory`"


def check_same(processes: World, key: str, content: Mapping[str, str]) -> None:
    """Refuse processes that do not work on the same: what they add up would not belong together.

    Args:
        processes: All of them; each calls this with its own content.
        key: Of this run.
        content: Texts or hashes, by what they are of.

    Raises:
        SpecError: E0833, naming the first process that differs from process 0, and in what.
    """
    first, *others = map(json.loads, processes.exchange(key, json.dumps(content)))
    for rank, other in enumerate(others, 1):
        different = [what for what in first if other.get(what) != first[what]]
        if different:
            raise refusal(
                Code.E0833,
                f"process {rank} differs from process 0 in its {' and its '.join(different)}",
                PLANS if "plan" in different else CONTENT,
            )


def task_content(tasks: Sequence[Task]) -> dict[str, str]:
    """What a fit reads of a task, or of a task at several models, as hashes."""
    return {
        "model": digest(*(text for task in tasks for text in _model(task.model))),
        "data": digest(*(digest(*task.train, *_mask(task)) for task in tasks)),
        "loss": digest(*(_known(task.loss.identity) for task in tasks)),
        "precision": show_dtype(tasks[0].precision),
        "kind of device": tasks[0].device.type,
    }


def agreed_memory(processes: World, task: Task) -> int:
    """Bytes that every process may take: what the one with least has available."""
    return min(map(int, processes.exchange("memory", str(available(task.device)))))


def _model(model: nn.Module) -> tuple[str, ...]:
    modes = repr([module.training for module in model.modules()])
    hashed = digest(*parameter_parts(model))
    return (*model_parts(model), modes, hashed, *map(_known, own_code(model)))


def _mask(task: Task) -> tuple[Tensor, ...]:
    return () if task.mask is None else (task.mask,)


def _known(text: str) -> str:
    """A text; nothing where it holds what only the process that made it can recognise."""
    return "" if ONLY_HERE in text else text
