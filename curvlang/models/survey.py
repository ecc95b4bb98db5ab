"""Which parameters sit in covered layers, and why the others do not: before anything runs.

`survey` reports; `covered_layers` refuses. Both see modules and parameters only: what a forward
pass can tell (a layer that is never reached, examples that mix) is checked in `trace`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from curvlang.diagnostics.diagnostic import Diagnostic, SpecError
from curvlang.models.layers import LAYERS, Layer


@dataclass(frozen=True, slots=True, eq=False)
class CoveredLayer:
    """Modules that share one weight (and bias) and are one layer of the problem.

    Args:
        name: The first module's name; `model` where the model itself is the layer.
        modules: Names of all modules that share the parameters, in `named_modules` order.
        module: The first module.
        kind: How the module shows `a` and `g`.
        weight: The weight's name where it is trainable.
        bias: The bias's name where it is trainable.
    """

    name: str
    modules: tuple[str, ...]
    module: nn.Module
    kind: Layer
    weight: str | None
    bias: str | None


@dataclass(frozen=True, slots=True)
class Uncovered:
    """A trainable parameter (or several of one module) outside the covered layers."""

    parameters: tuple[str, ...]
    module: str
    type: str
    reason: str
    code: str = "E0401"


@dataclass(frozen=True, slots=True)
class Survey:
    """All trainable parameters, sorted into covered layers and the rest; and the frozen ones."""

    layers: tuple[CoveredLayer, ...]
    uncovered: tuple[Uncovered, ...]
    frozen: tuple[str, ...]


def survey(model: nn.Module) -> Survey:
    """Sort every parameter of the model; nothing is run and nothing refused."""
    names = {id(p): name for name, p in model.named_parameters()}
    trainable = {id(p) for p in model.parameters() if p.requires_grad}
    owners = _owners(model)
    groups = _groups(model, trainable)
    uncovered = tuple(_uncovered(model, names, trainable, owners))
    refused = {name for item in uncovered for name in item.parameters}
    layers = tuple(
        layer
        for layer in (_layer(model, group, names, trainable) for group in groups)
        if not {layer.weight, layer.bias} & refused
    )
    frozen = tuple(name for name, p in model.named_parameters() if not p.requires_grad)
    return Survey(layers, uncovered, frozen)


def covered_layers(model: nn.Module, *, partial: bool = False) -> tuple[CoveredLayer, ...]:
    """All layers of a model whose trainable parameters are all covered.

    Args:
        model: Any module.
        partial: Leave out parameters that no layer covers instead of refusing them.

    Raises:
        SpecError: E0401 for parameters outside covered layers, E0402 for parameters shared in
            part, E0403 for a model in training mode, E0413 where nothing is trainable.
    """
    found = survey(model)
    problems = [*([] if partial else _refuse_uncovered(found)), *_refuse_random(model)]
    if not found.layers and not problems:
        problems.append(
            Diagnostic(
                "E0413",
                "the model has no trainable parameter in a covered layer",
                help=("set `requires_grad_(True)` on the parameters to be studied",),
            )
        )
    if problems:
        raise SpecError(problems)
    return found.layers


def check_mode(model: nn.Module) -> None:
    """Refuse a model in training mode whose forward pass then is random or mixes examples.

    Raises:
        SpecError: E0403.
    """
    problems = list(_refuse_random(model))
    if problems:
        raise SpecError(problems)


def _groups(model: nn.Module, trainable: set[int]) -> list[tuple[str, ...]]:
    """Modules of covered types with trainable parameters, grouped by identical parameters."""
    found: dict[tuple[int, ...], list[str]] = {}
    for name, module in model.named_modules():
        own = [id(p) for p in module._parameters.values() if p is not None]
        if type(module) in LAYERS and any(p in trainable for p in own):
            found.setdefault(tuple(own), []).append(name)
    return [tuple(group) for group in found.values()]


def _owners(model: nn.Module) -> dict[int, list[str]]:
    """For every parameter the modules that hold it themselves."""
    owners: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        for p in module._parameters.values():
            if p is not None:
                owners.setdefault(id(p), []).append(name)
    return owners


def _layer(
    model: nn.Module, group: tuple[str, ...], names: dict[int, str], trainable: set[int]
) -> CoveredLayer:
    module = model.get_submodule(group[0])

    def named(attribute: str) -> str | None:
        p = module._parameters.get(attribute)
        return names[id(p)] if p is not None and id(p) in trainable else None

    kind = LAYERS[type(module)]
    return CoveredLayer(group[0] or "model", group, module, kind, named("weight"), named("bias"))


def _uncovered(
    model: nn.Module, names: dict[int, str], trainable: set[int], owners: dict[int, list[str]]
) -> Iterator[Uncovered]:
    for name, module in model.named_modules():
        own = {k: p for k, p in module._parameters.items() if p is not None and id(p) in trainable}
        if not own:
            continue
        type_name = type(module).__name__
        parameters = tuple(names[id(p)] for p in own.values())
        if type(module) not in LAYERS:
            yield Uncovered(parameters, name or "model", type_name, _why(type_name))
            continue
        partial = _shared_in_part(model, module, owners)
        if partial:
            reason = f"shares a parameter with {partial}, but not all of them"
            yield Uncovered(parameters, name or "model", type_name, reason, "E0402")


def _why(type_name: str) -> str:
    covered = ", ".join(kind.__name__ for kind in LAYERS)
    return f"{type_name} is not a covered layer (covered: {covered})"


def _shared_in_part(
    model: nn.Module, module: nn.Module, owners: dict[int, list[str]]
) -> str | None:
    """Another module that holds some of this module's parameters without being the same layer."""
    own = [id(p) for p in module._parameters.values() if p is not None]
    for p in own:
        for other in owners[p]:
            sibling = model.get_submodule(other)
            theirs = [id(q) for q in sibling._parameters.values() if q is not None]
            if type(sibling) is not type(module) or theirs != own:
                return f"`{other}` ({type(sibling).__name__})"
    return None


def _refuse_uncovered(found: Survey) -> Iterator[Diagnostic]:
    for code, headline, repair in (
        (
            "E0401",
            "no layer covers {what}",
            "freeze these parameters (`requires_grad_(False)`), which takes them out of the "
            "problem, or use a curvature that needs no layers (`hessian`, `ggn` without "
            "`block_diagonal`)",
        ),
        (
            "E0402",
            "parameters of {what} are shared in part",
            "share weight and bias alike between layers of one kind, or untie them",
        ),
    ):
        items = [item for item in found.uncovered if item.code == code]
        if items:
            what = ", ".join(f"`{item.module}` ({item.type})" for item in items)
            notes = tuple(
                f"{', '.join(f'`{p}`' for p in item.parameters)}: {item.reason}" for item in items
            )
            yield Diagnostic(code, headline.format(what=what), help=(repair,), notes=notes)


_RANDOM = (_DropoutNd, _BatchNorm, nn.RReLU)
"""Modules whose training mode draws numbers or mixes examples."""


def _refuse_random(model: nn.Module) -> Iterator[Diagnostic]:
    names = [
        f"`{name}` ({type(module).__name__})"
        for name, module in model.named_modules()
        if module.training and isinstance(module, _RANDOM)
    ]
    if names:
        yield Diagnostic(
            "E0403",
            f"the model is in training mode: {', '.join(names)}",
            help=("call `model.eval()` first",),
            notes=(
                "in training mode these draw random numbers or mix the examples of a batch, "
                "so a loss per example is not defined",
            ),
        )
