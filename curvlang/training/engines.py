"""Which engine trains a stack of models: a fast one only where it gives the plain loop's numbers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal
from curvlang.models.data.rows import Examples
from curvlang.models.execution.copies import copied
from curvlang.models.execution.packed import MASK, layout_in
from curvlang.models.losses.losses import LOSSES, CrossEntropy
from curvlang.models.tracing.independence import tolerance
from curvlang.training.built import alike, check_built
from curvlang.training.one_by_one import ModulesInTurn, OneByOne
from curvlang.training.stacked_any import StackedModules
from curvlang.training.stacked_mlp import StackedMLP, read_layers
from curvlang.training.training import Training

Stack = StackedMLP | StackedModules | ModulesInTurn

PROBED = 4
"""Examples per model that an engine is tried on."""


def engine(models: Sequence[nn.Module], training: Training, *, generic: bool = False) -> Stack:
    """The fastest engine whose gradients are those of each model by itself.

    Before the run two of the models are trained for a step by the engine and by a plain loop: losses
    and gradients must agree before it and after it. Where they do not, models are trained in turn,
    with a warning.

    Args:
        models: Fresh models, which the engine trains.
        training: Its loss, its optimiser and its examples.
        generic: Leave the engine for perceptrons out.

    Raises:
        SpecError: E0403, E0408, E0410 for models whose output for an example depends on other examples.
    """
    loss, recipe, train = training.rule, training.recipe, training.train
    few = _few(training)
    check_built(models, few[0][0])
    pair = [models[0], models[-1]]
    plain = ModulesInTurn([copied(m) for m in pair], loss, recipe)
    unreached = _checked(lambda: plain.unreached(*few))
    wanted = _tried(plain, few, recipe.lr)
    # Without positions their mean is their sum; other settings are another loss.
    built_in = loss in (*LOSSES.values(), CrossEntropy("mean"))
    known = train[0].ndim == 2 and built_in and all(read_layers(m) is not None for m in models)
    makers: list[Callable[[Sequence[nn.Module]], Stack]] = [
        lambda own: StackedModules(own, loss, recipe, unreached)
    ]
    if MASK in (layout.names if (layout := layout_in(models[0])) else ()):
        makers.append(lambda own: StackedModules(own, loss, recipe, unreached, wide=True))
    if known and not generic:
        makers.insert(0, lambda own: StackedMLP(own, loss.name, recipe))
    general = int(known and not generic)
    reasons: list[str] = []
    for make in makers:
        reasons.append(_difference(make, pair, few, recipe.lr, wanted))
        if not reasons[-1]:
            return make(models)
    # What follows the general one is for models that it cannot run, and for reasons of its own not theirs.
    warnings.warn(f"models are retrained one by one: {reasons[general]}", OneByOne, stacklevel=3)
    return ModulesInTurn(models, loss, recipe)


def _few(training: Training) -> Examples:
    """Other examples for each of two models, `[2, B, …]`."""
    size = min(PROBED, len(training.train[0]))
    places = torch.arange(2 * size, device=training.train[0].device) % len(training.train[0])
    x, y = (
        part[places].to(training.home).reshape(2, size, *part.shape[1:]) for part in training.train
    )
    return x, y


def _difference(
    make: Callable[[Sequence[nn.Module]], Stack],
    pair: Sequence[nn.Module],
    few: Examples,
    lr: float,
    wanted: dict[str, Tensor],
) -> str:
    """Why an engine is not one for these models; empty where it gives the plain loop's numbers."""
    try:
        found = _tried(make([copied(m) for m in pair]), few, lr)
    except (RuntimeError, NotImplementedError, ValueError) as error:
        said = str(error).strip().partition("\n")[0].partition(". ")[0] or type(error).__name__
        return f"`torch.func` cannot run them as one: {said}"
    for name, value in wanted.items():
        if name in found and not _agree(found[name], value, wanted):
            return f"run as one, they give another {name}"
    return ""


def _checked(work: Callable[[], frozenset[str]]) -> frozenset[str]:
    """A first backward pass; what the model or the loss says against it is a refusal."""
    try:
        return work()
    except (RuntimeError, ValueError, IndexError, TypeError, NotImplementedError) as error:
        raise refusal(
            Code.E0752,
            "a model of `build` cannot be trained on the training examples",
            "let `build` make the model that the task is about, untrained",
            notes=(str(error).strip().partition("\n")[0],),
        ) from error


def _tried(stack: Stack, few: Examples, lr: float) -> dict[str, Tensor]:
    """Losses and gradients before a step and after it, by what they are called in a message."""
    found: dict[str, Tensor] = {}
    for when in ("at the start", "after a step"):
        gradients, values = stack.gradients(*few)
        found |= {f"gradient of `{n}` {when}": g.clone() for n, g in gradients.items()}
        found[f"loss {when}"] = values.clone()
        stack.step(*few, lr)
    return found


def _agree(found: Tensor, wanted: Tensor, whole: Mapping[str, Tensor]) -> bool:
    """Whether two tensors agree but for rounding, which is that of the largest of them all."""
    if not bool(torch.isfinite(wanted).all()):
        # A training that diverges at once does so in any engine.
        return True
    largest = max(float(x.norm()) for x in whole.values() if bool(torch.isfinite(x).all()))
    return alike(found, wanted, tolerance(wanted.dtype) * largest)
