"""Where a task comes from: a spec's own lines, or texts and files that replace them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import Diagnostic, Label, SpecError
from curvlang.diagnostics.plain_arguments import keyworded, text, validate_fields
from curvlang.diagnostics.refusal import refusal
from curvlang.diagnostics.source import NOWHERE
from curvlang.diagnostics.suggestion import suggestion
from curvlang.language.chain import Evaluation, Part, Spec, TaskSpec
from curvlang.language.checking.arguments import completed
from curvlang.language.checking.spec import DEFAULT_TASK
from curvlang.language.checking.uses import part_text, task_in, task_text, whole
from curvlang.language.registry import DATA, MODELS

_EXAMPLES = {"task": "digits", "data": "flowers.csv", "model": "weights.safetensors"}

_TEXTS = (".jsonl", ".json")
"""Files that are data sets of texts, whatever the model."""
_CHECKPOINT = ("config.json", "adapter_config.json")
"""What `save_pretrained` writes beside the tensors."""


@keyworded
@dataclass(frozen=True, slots=True)
class TaskSource:
    """What replaces a spec's task, or lines of it: the options `--task`, `--data`, `--model`.

    Args:
        task: A task as a spec writes it, `digits(hidden = [16] * 8)`; the spec's where not given.
        data: A file of examples or texts, a folder of `save_to_disk`, or a data line as a spec writes it.
        model: A folder of `save_pretrained`, a file of weights for the task's model, or a model line
            as a spec writes it.
        allow_python: Whether functions that the task names may be called.
    """

    task: str | None = None
    data: str | None = None
    model: str | None = None
    allow_python: bool = False

    def __post_init__(self) -> None:
        """Refuse what is not a text.

        Raises:
            SpecError: E0563.
        """
        validate_fields(self)
        for name, example in _EXAMPLES.items():
            text(example)(name, getattr(self, name))

    @property
    def given(self) -> bool:
        """Whether anything replaces the spec's own lines."""
        return (self.task, self.data, self.model) != (None, None, None)

    def of(self, evaluation: Evaluation | None) -> TaskSpec:
        """The task given here, else an evaluation's, else the default one; with the lines given here.

        Raises:
            SpecError: With every problem of a text; E0550 for a function that is not allowed.
        """
        if self.task is not None:
            return self._with_lines(task_text(self.task, "<--task>"))
        if evaluation is not None:
            return self._with_lines(evaluation.task)
        return self._with_lines(task_text(DEFAULT_TASK, "<default>"))

    def within(self, spec: Spec) -> TaskSpec:
        """The task given here, which may name one that the spec's file defines.

        Raises:
            SpecError: As for `of`.
        """
        return self.of(None) if self.task is None else self._with_lines(task_in(spec, self.task))

    def options(self) -> list[str]:
        """The same on a command line; paths are whole, which mean the same from any folder."""
        found: list[str] = []
        for name, value in (("--task", self.task), ("--data", self.data), ("--model", self.model)):
            if value is not None:
                found += [name, str(Path(value).resolve()) if _exists(value) else value]
        return [*found, "--allow-python"] if self.allow_python else found

    def _with_lines(self, task: TaskSpec) -> TaskSpec:
        if self.model is not None:
            task = _with_model(task, _model(self.model, task.model))
        if self.data is not None:
            data = _data(self.data, task.model)
            task = replace(task, data=data, name=_data_name(data))
        problems = [] if self.allow_python else code_in(task)
        if problems:
            raise SpecError(problems)
        return task


def code_in(task: TaskSpec) -> list[Diagnostic]:
    """E0550 for each line of a task that would run a function of the user's."""
    lines = ((task.data, DATA), (task.model, MODELS))
    return [
        Diagnostic(
            Code.E0550,
            f"`{part.name}` calls `{part.arguments.get('function')}`, and that is not allowed here",
            () if part.span is NOWHERE else (Label(part.span, "would run code"),),
            ("add `--allow-python` where you trust the spec and the function",),
            ("a spec from elsewhere runs no code unasked",),
        )
        for part, table in lines
        if part.name in table and table[part.name].runs_code
    ]


def _data(text: str, model: Part) -> Part:
    """The data line; a path alone means that file with the defaults of `file`, or of `dataset`."""
    if not _is_path(text):
        return part_text("data", text, "<--data>")
    span = whole("<--data>", text)
    lines = Path(text).suffix.lower() in _TEXTS
    name = "dataset" if lines or model.name == "pretrained" else "file"
    return Part(name, completed(name, {"path": text}, DATA[name], span), span)


def _data_name(data: Part) -> str:
    """What results call the data: the file, the function, or the data set that ships."""
    source = data.arguments.get("path", data.arguments.get("function"))
    return data.name if source is None else Path(str(source)).name


def _model(text: str, own: Part) -> Part:
    """The model line; a path alone means a checkpoint, or weights for the task's own model."""
    span = whole("<--model>", text)
    if not _is_path(text):
        if "(" not in text and text.strip() not in MODELS:
            raise refusal(
                Code.E0715,
                f"unknown model `{text}`, and there is no folder of that name",
                'give a folder that `save_pretrained` has written, or of a hub `pretrained("NAME")`',
                *suggestion(text, MODELS),
                labels=(Label(span, "neither"),),
            )
        return part_text("model", text, "<--model>")
    found = any((Path(text) / name).is_file() for name in _CHECKPOINT)
    if own.name != "python" and (found or not (_exists(text) or Path(text).suffix)):
        path = {"path": text}
        return Part("pretrained", completed("pretrained", path, MODELS["pretrained"], span), span)
    weights = str(Path(text).resolve())
    return replace(own, arguments={**own.arguments, "weights": weights}, span=span)


def _with_model(task: TaskSpec, model: Part) -> TaskSpec:
    """The task with another model; a loss that was written beside the earlier one gives way to a checkpoint's."""
    loss = replace(task.loss, span=NOWHERE) if model.name == "pretrained" else task.loss
    return replace(task, model=model, loss=loss)


def _is_path(text: str) -> bool:
    """Whether a text is a path: a file or folder that exists, or a name with a suffix or a `/` and no brackets."""
    if text in DATA or text in MODELS:
        return False
    return _exists(text) or ("(" not in text and ("/" in text or bool(Path(text).suffix)))


def _exists(text: str) -> bool:
    """Whether there is such a file or folder; no file has the name of a long line of a spec."""
    try:
        return Path(text).exists()
    except (OSError, ValueError):
        return False
