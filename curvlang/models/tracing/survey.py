"""Where every trainable parameter of a model belongs, before anything runs.

Three kinds: matrices of covered layers, which show `a` and `g`; scales and shifts, whose gradient a
layer shows though `a` and `g` mean nothing by themselves; and bare parameters (tied, transformed, or
of a module of another type), whose gradients per example autograd gives. What a forward pass can
tell (a layer that is never reached, examples that mix) is checked in `trace`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import Diagnostic, SpecError
from curvlang.models.layers import IN_PROJECTION, OUT_PROJECTION, Layer, layer_of


@dataclass(frozen=True, slots=True, eq=False)
class CoveredLayer:
    """Modules that share one weight (and bias) and are one layer of the problem.

    Args:
        name: The first module's name; `model` where the model itself is the layer.
        modules: Names of all modules that share the parameters, in `named_modules` order.
        module: The module that holds them.
        kind: How the module shows `a` and `g`.
        weight: The weight's name where it is trainable.
        bias: The bias's name where it is trainable.
        inside: Whether the product is inside a module that calls no submodule for it.
    """

    name: str
    modules: tuple[str, ...]
    module: nn.Module
    kind: Layer
    weight: str | None
    bias: str | None
    inside: bool = False


@dataclass(frozen=True, slots=True)
class OutsideParameter:
    """A trainable parameter that no layer shows: its gradients per example come from autograd."""

    parameter: str
    module: str
    type: str
    reason: str


@dataclass(frozen=True, slots=True)
class Survey:
    """All trainable parameters, in covered layers or bare; and the frozen ones."""

    layers: tuple[CoveredLayer, ...]
    bare: tuple[OutsideParameter, ...]
    frozen: tuple[str, ...]


def survey(model: nn.Module) -> Survey:
    """Sort every parameter of the model; nothing is run and nothing refused."""
    names = {id(p): name for name, p in model.named_parameters()}
    trainable = {id(p) for p in model.parameters() if p.requires_grad}
    owners = _owners(model)
    layers: list[CoveredLayer] = []
    reasons: dict[int, str] = {}
    for group in _groups(model, trainable):
        layer = _layer(model, group, names, trainable)
        why = _refused(model, layer, group, owners)
        if why is None:
            layers.append(layer)
        else:
            module = submodule(model, group[0])
            for p in module.parameters(recurse=False):
                reasons.setdefault(id(p), why)
    shown = {name for layer in layers for name in (layer.weight, layer.bias)}
    bare = tuple(
        _bare(model, name, p, owners, reasons)
        for name, p in model.named_parameters()
        if p.requires_grad and name not in shown
    )
    frozen = tuple(name for name, p in model.named_parameters() if not p.requires_grad)
    return Survey(tuple(layers), bare, frozen)


def check_mode(model: nn.Module) -> None:
    """Refuse a model in training mode whose forward pass then is random or mixes examples.

    Raises:
        SpecError: E0403.
    """
    problems = list(_refuse_random(model))
    if problems:
        raise SpecError(problems)


_Group = tuple[str, ...]


def _groups(model: nn.Module, trainable: set[int]) -> Iterator[_Group]:
    """Modules with a layer's parameters, grouped by identical parameters.

    Both products of an attention are groups of their own; `out_proj` is a module that is never
    called.
    """
    found: dict[tuple[str, *tuple[int, ...]], list[str]] = {}
    for path, module in model.named_modules():
        kind = _kind(model, path)
        if kind is None:
            continue
        both = (getattr(module, name, None) for name in (kind.weight, kind.bias))
        own = [id(p) for p in both if p is not None]
        if any(p in trainable for p in own):
            found.setdefault((kind.name, *own), []).append(path)
    yield from (tuple(group) for group in found.values())


def _kind(model: nn.Module, name: str) -> Layer | None:
    """How the module of a name shows itself."""
    module = submodule(model, name)
    if _attention(module):
        return IN_PROJECTION if IN_PROJECTION.refuses(module) is None else None
    parent, _, own = name.rpartition(".")
    if own == "out_proj" and _attention(submodule(model, parent)):
        return OUT_PROJECTION
    kind = layer_of(module)
    needed = kind is not None and getattr(module, kind.weight, None) is not None
    return kind if needed else None


def submodule(model: nn.Module, name: str) -> nn.Module:
    """The module of a name; a scripted model has no `get_submodule`."""
    if isinstance(model, torch.jit.ScriptModule):
        found: nn.Module = dict(model.named_modules())[name]
        return found
    return model.get_submodule(name)


def _attention(module: nn.Module) -> bool:
    return type(module) is nn.MultiheadAttention


def _owners(model: nn.Module) -> dict[int, list[str]]:
    """For every parameter the modules that hold it themselves."""
    owners: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        for p in module._parameters.values():
            if p is not None:
                owners.setdefault(id(p), []).append(name)
    return owners


def _layer(
    model: nn.Module, group: _Group, names: dict[int, str], trainable: set[int]
) -> CoveredLayer:
    module = submodule(model, group[0])
    kind = _kind(model, group[0])
    assert kind is not None

    def named(attribute: str) -> str | None:
        p = module._parameters.get(attribute)
        return names[id(p)] if p is not None and id(p) in trainable else None

    name = group[0] or "model"
    inside = kind in (IN_PROJECTION, OUT_PROJECTION)
    if kind is IN_PROJECTION:
        name = f"{group[0]}.in_proj" if group[0] else "in_proj"
    return CoveredLayer(name, group, module, kind, named(kind.weight), named(kind.bias), inside)


def _refused(
    model: nn.Module, layer: CoveredLayer, group: _Group, owners: dict[int, list[str]]
) -> str | None:
    """Why a layer's parameters are taken as bare ones; None where the layer shows them."""
    why = layer.kind.refuses(layer.module)
    if why is not None:
        return f"{type(layer.module).__name__}: {why}"
    own = [p for p in layer.module._parameters.values() if p is not None]
    for p in own:
        others = [name for name in owners[id(p)] if name not in group]
        if others:
            return f"shared with `{others[0]}` ({type(submodule(model, others[0])).__name__})"
    return None


def _bare(
    model: nn.Module,
    name: str,
    p: nn.Parameter,
    owners: dict[int, list[str]],
    reasons: dict[int, str],
) -> OutsideParameter:
    owner = owners[id(p)][0]
    type_name = type(submodule(model, owner)).__name__
    reason = reasons.get(id(p), f"{type_name} is not a covered layer")
    return OutsideParameter(name, owner or "model", type_name, reason)


_RANDOM = (_DropoutNd, _BatchNorm, nn.RReLU)
"""Modules whose training mode draws numbers or mixes examples."""


def _refuse_random(model: nn.Module) -> Iterator[Diagnostic]:
    names = [
        f"`{name}` ({type(module).__name__})"
        for name, module in model.named_modules()
        if module.training
        and (isinstance(module, _RANDOM) or (_attention(module) and module.dropout))
    ]
    if names:
        yield Diagnostic(
            Code.E0403,
            f"the model is in training mode: {', '.join(names)}",
            help=("call `model.eval()` first",),
            notes=(
                "in training mode these draw random numbers or mix the examples of a batch, "
                "so a loss per example is not defined",
            ),
        )
