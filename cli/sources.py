"""Where a task comes from on the command line: `--task`, `--data`, `--model`, `--allow-python`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import torch

    from curvlang.language.chain import Evaluation, Part, TaskSpec
    from curvlang.models.task import Task

TaskOption = Annotated[str | None, typer.Option(help="A task, as a spec writes it.")]
DataOption = Annotated[
    str | None,
    typer.Option(
        help="A file of examples (npz, csv, tsv, parquet, safetensors), a folder of "
        "`save_to_disk`, or a data line as a spec "
        'writes it: `file("x.csv", target = label)`.'
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        help="A file of weights for the task's model (safetensors, pt), a folder of "
        "`save_pretrained`, or a model line as a spec "
        "writes it: `mlp(hidden = [32])`."
    ),
]
PythonOption = Annotated[
    bool,
    typer.Option("--allow-python", help="Functions that the spec names may be called."),
]


@dataclass(frozen=True, slots=True)
class Sources:
    """What the command line says about the task."""

    task: str | None = None
    data: str | None = None
    model: str | None = None
    allow_python: bool = False

    def options(self) -> list[str]:
        """The same on the command line; paths as they are valid anywhere."""
        found: list[str] = []
        for name, value in (("--task", self.task), ("--data", self.data), ("--model", self.model)):
            if value is not None:
                found += [name, str(Path(value).resolve()) if _exists(value) else value]
        return [*found, "--allow-python"] if self.allow_python else found


def task_of(evaluation: Evaluation | None, sources: Sources) -> TaskSpec:
    """The task of the command line, else of the spec, else the default one.

    `--data` and `--model` replace its data line and its model line, or the model's weights.

    Raises:
        SpecError: With every problem of an option's text; E0550 for a function that would run
            without `--allow-python`.
    """
    from curvlang.language import default_task, task_text

    if sources.task is not None:
        task = task_text(sources.task, "<--task>")
    else:
        task = evaluation.task if evaluation is not None else default_task()
    return with_lines(task, sources)


def with_lines(task: TaskSpec, sources: Sources) -> TaskSpec:
    """The task with the data line and the model line of the command line.

    Raises:
        SpecError: As above.
    """
    from curvlang.diagnostics.diagnostic import SpecError
    from curvlang.language.user_files import code_in

    if sources.data is not None:
        data = _data(sources.data)
        task = replace(task, data=data, name=_data_name(data))
    if sources.model is not None:
        task = replace(task, model=_model(sources.model, task.model))
    problems = [] if sources.allow_python else code_in(task)
    if problems:
        raise SpecError(problems)
    return task


def _data(text: str) -> Part:
    """The data line; a path alone is that of a file with the defaults of `file`."""
    from curvlang.language import part_text

    return part_text("data", f'file("{text}")' if _is_path(text) else text, "<--data>")


def _data_name(data: Part) -> str:
    """What results call the data: the file, the function, or the data set that ships."""
    source = data.arguments.get("path", data.arguments.get("function"))
    return data.name if source is None else Path(str(source)).name


def _model(text: str, own: Part) -> Part:
    """The model line; a path alone is that of weights for the task's own model."""
    from curvlang.language import part_text

    if not _is_path(text):
        return part_text("model", text, "<--model>")
    weights: Any = str(Path(text).resolve())
    return replace(own, arguments={**own.arguments, "weights": weights})


def _is_path(text: str) -> bool:
    """Whether a text is a path: a file or folder that is there, or a name with a suffix and no brackets."""
    from curvlang.language.registry import DATA, MODELS

    if text in DATA or text in MODELS:
        return False
    return _exists(text) or ("(" not in text and bool(Path(text).suffix))


def _exists(text: str) -> bool:
    """Whether there is such a file or folder; no file has the name of a long line of a spec."""
    try:
        return Path(text).exists()
    except (OSError, ValueError):
        return False


def fresh_task(wanted: TaskSpec, sources: Sources, *, seed: int, device: torch.device) -> Task:
    """The task with its model as the seed or a file of weights makes it."""
    from curvlang.models.builtin import task_from

    return task_from(wanted, seed=seed, device=device, allow_python=sources.allow_python)


def trained_task(fresh: Task, seed: int, progress: Any) -> Task:
    """The task with a trained model: one that came trained, else trained by its recipe."""
    from curvlang.training.baseline import train_baseline

    return fresh if fresh.origin.trained else train_baseline(fresh, seed, progress)
