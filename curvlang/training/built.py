"""Fresh models of a task's `build`: what it has to return, each refusal with its repair."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.models.data.rows import Rows
from curvlang.models.execution.calls import run_model
from curvlang.models.execution.copies import copied, unwrapped
from curvlang.models.origin import Build, MovedBuild
from curvlang.models.tracing.independence import tolerance
from curvlang.models.tracing.survey import check_mode

_EVAL = "call `.eval()` on the model in `build`: models are trained as they are evaluated"
_LIKE = "let `build` make the model that the task is about, untrained"


def built(
    build: Build, seeds: Sequence[int], x: Rows, device: torch.device | None = None
) -> list[nn.Module]:
    """A model for each seed, in the inputs' precision where they have one.

    They are copies: a `build` may give the same module at every call, or the task's own.

    Args:
        build: The task's.
        seeds: One per model.
        x: Training inputs.
        device: Where the models are; where the inputs are, if None.

    Raises:
        SpecError: E0752 where `build` returns no module, or modules of several architectures.
    """
    dtype = x.dtype if x.is_floating_point() else None
    models = []
    for seed in seeds:
        made = build(seed)
        if not isinstance(made, nn.Module):
            raise refusal(
                Code.E0752,
                f"`build` returned a `{type(made).__name__}`, not a module",
                "return a fresh `torch.nn.Module`: `def build(seed): …; return model.eval()`",
            )
        own = made if isinstance(build, MovedBuild) else copied(unwrapped(made))
        models.append(own.to(device=x.device if device is None else device, dtype=dtype))
    _check_alike(models, seeds)
    return models


def _check_alike(models: Sequence[nn.Module], seeds: Sequence[int]) -> None:
    first = _shapes(models[0])
    for model, seed in zip(models, seeds, strict=True):
        own = _shapes(model)
        if own != first:
            name = next(n for n in (*own, *first) if own.get(n) != first.get(n))
            raise refusal(
                Code.E0752,
                f"`build` makes models of two architectures: `{name}` is "
                f"{_shown(first.get(name))} for the seed {seeds[0]} and "
                f"{_shown(own.get(name))} for the seed {seed}",
                "let the seed decide numbers alone, not layers or their sizes",
            )


def _shapes(model: nn.Module) -> dict[str, tuple[tuple[int, ...], bool]]:
    """Shapes of parameters and buffers, and whether they are trained."""
    held = (*model.named_parameters(), *model.named_buffers())
    return {name: (tuple(t.shape), t.requires_grad) for name, t in held}


def _shown(found: tuple[tuple[int, ...], bool] | None) -> str:
    if found is None:
        return "absent"
    shape, trained = found
    return f"{list(shape)}{'' if trained else ' (frozen)'}"


def check_built(models: Sequence[nn.Module], x: Tensor) -> None:
    """Fresh models are functions of one example, the same at every call.

    Args:
        models: Of one `build`.
        x: A few training inputs.

    Raises:
        SpecError: E0752 for a model in training mode where the mode matters, one that draws random
            numbers, one that cannot read the inputs, and one whose examples influence each other.
    """
    for model in models:
        try:
            check_mode(model)
        except SpecError as error:
            raise _in_build(error, _EVAL) from None
    model = models[0]
    first, again = _called(model, x), _called(model, x)
    if not alike(first, again):
        raise refusal(
            Code.E0752,
            "a model of `build` gives another output when it is called again on the same input",
            "take random numbers and counters out of `forward`",
        )
    if model.training:
        with_eval = _called(copied(model).eval(), x)
        if not alike(first, with_eval):
            raise refusal(
                Code.E0752,
                "`build` returns a model in training mode, and its outputs depend on the mode",
                _EVAL,
            )
    if not alike(_called(model, x[:1]), first[:1]):
        raise refusal(
            Code.E0752,
            "the output of a model of `build` for an example depends on the batch that it is in",
            "use a model that treats the examples of a batch independently",
        )


def _in_build(error: SpecError, repair: str) -> SpecError:
    """The same refusal, about the function that made the model."""
    found = error.diagnostics[0]
    headline = found.headline.replace("the model is", "`build` returns a model")
    headline = headline.replace("the model's `forward`", "a model of `build`")
    return refusal(Code.E0752, headline, repair, notes=found.notes)


def _called(model: nn.Module, x: Tensor) -> Tensor:
    try:
        found: Tensor = run_model(model, x, "train")
    except SpecError as error:
        raise _in_build(error, _LIKE) from error
    return found


def alike(a: Tensor, b: Tensor, floor: float = 0.0) -> bool:
    """Whether two tensors are the same but for the rounding of a deep model.

    Args:
        a: One.
        b: The other.
        floor: A size below which a difference says nothing.
    """
    size = max(float(a.norm()), float(b.norm())) + floor
    return float((a - b).norm()) <= tolerance(b.dtype) * size
