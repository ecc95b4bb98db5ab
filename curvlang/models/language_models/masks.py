"""Masks of attention that stay finite in float64, where a position sees nothing."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

_MASK = "attention_mask"
_LOWEST = torch.finfo(torch.float32).min


def with_finite_masks(model: nn.Module) -> nn.Module:
    """The model; its layers of attention take masks that float32 can hold.

    A mask adds the lowest number of its own type, and many layers take their softmax in float32: the lowest
    number of float64 is -inf there. A position that sees nothing (padding further from every token than a
    sliding window reaches, padding on the left) is then NaN, and so is every gradient of its row.

    Args:
        model: A model of `transformers` that writes its attention out; it is changed in place.
    """
    takes = {module for module in model.modules() if _MASK in _arguments(module)}
    for module in takes:
        if not any(inner in takes for inner in module.modules() if inner is not module):
            module.register_forward_pre_hook(_bounded, with_kwargs=True)
    return model


def _arguments(module: nn.Module) -> Mapping[str, Any]:
    return inspect.signature(module.forward).parameters


def _bounded(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a layer of attention, its mask at least the lowest number of float32."""
    place = list(_arguments(module)).index(_MASK)
    bounded = tuple(_at_least(x) if k == place else x for k, x in enumerate(args))
    if _MASK in kwargs:
        kwargs = {**kwargs, _MASK: _at_least(kwargs[_MASK])}
    return bounded, kwargs


def _at_least(mask: Any) -> Any:
    if isinstance(mask, Tensor) and mask.dtype == torch.float64:
        return mask.clamp(min=_LOWEST)
    return mask
