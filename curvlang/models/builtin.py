"""Tasks that a spec describes: built-in data and models by name, ready for training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import Label, SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.diagnostics.source import NOWHERE, Span
from curvlang.language import registry
from curvlang.language.chain import Part, TaskSpec
from curvlang.language.task_sources import code_in
from curvlang.models.architectures.cnn import Convolutions, cnn
from curvlang.models.architectures.decoder import DecoderSizes, decoder
from curvlang.models.architectures.mlp import mlp
from curvlang.models.architectures.self_attention import attention
from curvlang.models.architectures.weights import with_weights
from curvlang.models.arguments import arguments, located, placed
from curvlang.models.data.characters import characters
from curvlang.models.data.data import Data, digits
from curvlang.models.data.derived_rows import mapped
from curvlang.models.data.diabetes import diabetes
from curvlang.models.data.random_data import random_data
from curvlang.models.data.rows import Pair
from curvlang.models.files.file_data import FileColumns, file_data
from curvlang.models.fingerprint import digest, parameter_parts
from curvlang.models.language_models.checkpoint import Checkpoint
from curvlang.models.language_models.pretrained import PretrainedBuild, pretrained_build
from curvlang.models.language_models.text_data import TextSource, text_data, text_source
from curvlang.models.losses.loss import Loss
from curvlang.models.losses.losses import LOSSES, loss_from
from curvlang.models.origin import Origin
from curvlang.models.recipe import Recipe
from curvlang.models.task import Task
from curvlang.models.trajectory import trajectory_from
from curvlang.models.user_code import user_data, user_model


def _mlp(
    data: Data, generator: Generator, positions: str, hidden: Sequence[int], **values: Any
) -> nn.Module:
    # A single position has no axis of its own, and nothing to be averaged over.
    kept = positions if data.positions > 1 else "kept"
    widths = [data.inputs, *hidden, data.outputs]
    return mlp(widths, generator=generator, positions=kept, **values)


def _cnn(data: Data, generator: Generator, **values: Any) -> nn.Module:
    return cnn(data.shape, data.outputs, Convolutions(**values), generator)


def _decoder(data: Data, generator: Generator, **values: Any) -> nn.Module:
    if data.train[0].is_floating_point() or len(data.shape) != 1:
        raise refusal(
            Code.E0412,
            f"`decoder` reads numbers of tokens [N, T], not examples of shape {list(data.shape)}",
            "write `data characters`",
        )
    return decoder(data.outputs, data.shape[0], DecoderSizes(**values), generator)


def _attention(data: Data, generator: Generator, **values: Any) -> nn.Module:
    return attention((data.inputs, data.outputs), generator=generator, **values)


def _python(data: Data, generator: Generator, function: str, **values: Any) -> nn.Module:
    return user_model(function, values, generator.initial_seed())


DATA: Mapping[str, Callable[..., Data]] = {
    "digits": digits,
    "diabetes": diabetes,
    "characters": characters,
    "random": random_data,
    "file": file_data,
    "dataset": text_data,
    "python": user_data,
}
"""What makes the data of each entry in the registry, from its parameters."""

MODELS: Mapping[str, Callable[..., nn.Module]] = {
    "mlp": _mlp,
    "cnn": _cnn,
    "decoder": _decoder,
    "attention": _attention,
    "python": _python,
}
"""What makes the model of each entry, from the data, a generator and its parameters; a checkpoint is read."""


PRETRAINED, TEXTS = "pretrained", "dataset"
"""The model that is a checkpoint, and the data that are texts for one."""


@dataclass(frozen=True, slots=True, eq=False)
class Build:
    """A fresh, untrained model for a seed, float32 on the CPU.

    Args:
        task: Whose model it is.
        data: Of the task.
    """

    task: TaskSpec
    data: Data

    @property
    def part(self) -> Part:
        """The line of the model."""
        return self.task.model

    @property
    def span(self) -> Span:
        """Where the model is written."""
        return self.part.span

    def __call__(self, seed: int) -> nn.Module:
        """The model whose parameters a generator with this seed draws."""
        values = arguments(self.part, "model", registry.MODELS)
        del values["weights"]
        with placed(self.part.span):
            return MODELS[self.part.name](self.data, Generator().manual_seed(seed), **values)


def task_from(
    spec: TaskSpec,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    allow_python: bool = False,
) -> Task:
    """The task that a spec describes, its model initialised with `seed`, or from a file of weights.

    Args:
        spec: The task with every parameter known.
        seed: Of the model's initialisation; the data's own seed is part of the spec.
        dtype: Precision of model and data.
        device: Where both live.
        allow_python: Whether functions that the spec names may be called.

    Returns:
        A task whose `build` makes fresh models and whose `recipe` says how to train them.

    Raises:
        SpecError: E0715 for an unknown name, E0703 to E0707 and E0412 for arguments, E0550 for a
            function that is not allowed, E0551 to E0556 for functions and files, E0890 to E0899 for
            checkpoints and texts, E0865 and E0866 for losses and images of
            checkpoints, at the line of the task.
    """
    problems = [] if allow_python else code_in(spec)
    if problems:
        raise SpecError(problems)
    loss = loss_from(spec.loss)
    recipe = recipe_from(spec.train)
    pretrained = _pretrained(spec)
    data = _data(spec.data, loss.name, pretrained)
    given = data.given
    loss = loss if given is None or given.loss is None else _own_loss(spec.loss, loss, given.loss)
    build = pretrained or Build(spec, data)
    origin = Origin(f"initialised with the seed {seed}, not trained", trained=False)
    if pretrained is not None:
        model, origin = pretrained.load(), Origin(pretrained.said)
    else:
        model = build(seed)
    if pretrained is None and is_trained(spec):
        with placed(spec.model.span):
            path = folder_of(spec.model) / str(spec.model.arguments["weights"])
            model = with_weights(model, path)
        origin = Origin(f"read from `{path}`", instead="leave out `weights`")
    elif spec.model.name == "python" and _given_alike(build, model, seed):
        function = spec.model.arguments["function"]
        text = f"as given by `python({function})`, for every seed alike; not trained here"
        origin = Origin(text, instead=f"let `{function}` make another initialisation for each seed")
    with _placed_in(spec):
        task = Task(
            model,
            loss,
            given.train if given else _part("train", data.train, data, model, loss.name),
            given.query if given else _part("query", data.query, data, model, loss.name),
            recipe=recipe,
            name=spec.name,
            build=build,
            origin=origin,
            trajectory=trajectory_from(spec.checkpoints, spec.models),
            **(given.options if given else {}),
        )
    return task.to(dtype=dtype, device=device)


_OF_MODEL = (
    Code.E0403, Code.E0410, Code.E0413, Code.E0417, Code.E0425, Code.E0792,
)  # fmt: skip
"""What is wrong with a model, whatever the examples."""
_OF_LOSS = (Code.E0580, Code.E0581, Code.E0582, Code.E0587, Code.E0799)
_OF_BOTH = (Code.E0405, Code.E0406, Code.E0408, Code.E0420, Code.E0422)
"""What does not go together: examples and a model."""

_OWN_DATA = (TEXTS, "file", "python")
"""Lines of a person's own examples; the others are data sets that ship."""
_GIVE_DATA = (
    'give the checkpoint its own examples: `--data DATA`, or a line `data dataset("DIR or file")`'
)


@contextmanager
def _placed_in(spec: TaskSpec) -> Iterator[None]:
    """Give refusals of a task the place of the lines that they are about."""
    data, model = (Label(x.span, "requested here") for x in (spec.data, spec.model))

    def labels(code: Code) -> tuple[Label, ...]:
        if code in _OF_MODEL:
            return (model,)
        if code in _OF_LOSS:
            return (Label(spec.loss.span, "requested here"),)
        return (data, replace(model, message="by this model")) if code in _OF_BOTH else (data,)

    try:
        yield
    except SpecError as error:
        found = [located(d, labels(d.code)) for d in error.diagnostics]
        if spec.model.name == PRETRAINED and spec.data.name not in _OWN_DATA:
            found = [replace(d, help=(_GIVE_DATA,)) if d.code in _OF_BOTH else d for d in found]
        raise SpecError(found) from error


def _own_loss(part: Part, written: Loss, own: str) -> Loss:
    """The loss of a checkpoint's labels: the one that is written for it, or its own where none is.

    Raises:
        SpecError: E0865 for another one.
    """
    if written.name == own:
        return written
    if part.span is NOWHERE:
        return LOSSES[own]
    with placed(part.span):
        raise refusal(
            Code.E0865,
            f"`loss {written.name}`, and the labels of this checkpoint have the loss `{own}`",
            f"write `loss {own}`",
        )


def _given_alike(build: Callable[[int], nn.Module], model: nn.Module, seed: int) -> bool:
    """Whether a function gives the same parameters for another seed: it, not chance, decides them."""
    other = build(seed ^ 1)
    return other is model or digest(*parameter_parts(other)) == digest(*parameter_parts(model))


def is_trained(spec: TaskSpec) -> bool:
    """Whether the model comes with weights, so that it is not trained before it is studied."""
    return (
        spec.model.name == PRETRAINED
        or spec.model.arguments.get("weights", registry.NONE) != registry.NONE
    )


def folder_of(part: Part) -> Path:
    """Where relative paths of a line start: the folder of the file that it stands in."""
    return Path() if part.span is NOWHERE else Path(part.span.source.name).parent


def absolute(part: Part, names: Sequence[str]) -> Part:
    """The line with whole paths, which mean the same from any folder; names of a hub stay."""
    given = {
        name: folder_of(part) / str(part.arguments[name])
        for name in names
        if name in part.arguments
    }
    paths = {name: str(path.resolve()) for name, path in given.items() if path.exists()}
    return replace(part, arguments={**part.arguments, **paths})


def _pretrained(spec: TaskSpec) -> PretrainedBuild | None:
    """The checkpoint that a task's model line names; None where it names none."""
    part = spec.model
    if part.name != PRETRAINED:
        return None
    values = arguments(part, "model", registry.MODELS)
    beside = None if values["adapter"] == registry.NONE else values["adapter"]
    with placed(part.span):
        return pretrained_build(values["path"], beside, folder_of(part), spec)


def _texts(
    values: Mapping[str, Any], pretrained: PretrainedBuild | None
) -> tuple[TextSource, Checkpoint]:
    """The texts that a line names, and the checkpoint that reads them."""
    if pretrained is None:
        raise refusal(
            Code.E0899,
            "`dataset` gives texts, and the model of this task has no tokenizer",
            'give a checkpoint: `model pretrained("DIR")`, or `--model DIR`',
        )
    return text_source(values), pretrained.model


def _data(part: Part, loss: str, pretrained: PretrainedBuild | None) -> Data:
    """The data of a line."""
    values = arguments(part, "data", registry.DATA)
    with placed(part.span):
        make = DATA[part.name]
        match part.name:
            case "dataset":
                return make(*_texts(values, pretrained), folder_of(part))
            case "file":
                return make(FileColumns(**values), loss, folder_of(part))
            case "python":
                return make(values.pop("function"), values, loss)
            case _:
                return make(**values)


def recipe_from(part: Part) -> Recipe:
    """The recipe of a `train` line.

    Raises:
        SpecError: E0715, E0703 to E0707 at the line.
    """
    values = arguments(part, "optimiser", registry.OPTIMISERS)
    with placed(part.span):
        return Recipe(optimiser=part.name, **values)


def _part(name: str, pair: Pair, data: Data, model: nn.Module, loss: str) -> Pair:
    """Drawn targets, numbers as they are, and of classes one-hot numbers where the loss wants them."""
    X, y = pair
    if data.targets is not None:
        with torch.no_grad():
            return X, data.targets(name, loss, model(X).shape)
    if loss == "cross_entropy" or data.kind == "regression":
        return pair

    def one_hot(y: Tensor) -> Tensor:
        return functional.one_hot(y, data.outputs).to(X.dtype)

    return X, mapped(y, one_hot, (*y.shape[1:], data.outputs), X.dtype)
