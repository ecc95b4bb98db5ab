"""Vectors of a curvature as tensors by parameter, and back: `[…, P]` and the shapes of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal
from curvlang.diagnostics.values import another_type


def parameters_of(model: nn.Module, names: Sequence[str], length: int) -> dict[str, nn.Parameter]:
    """The parameters of a model that make up the vectors of a curvature, in their order.

    Args:
        model: A model with these parameters.
        names: Of the parameters.
        length: P.

    Raises:
        SpecError: E0563 for what is not a model, E0923 where the model has other parameters.
    """
    if not isinstance(model, nn.Module):
        raise another_type("model", model, "an `nn.Module`", "`task.model`")
    known = dict(model.named_parameters())
    missing = [name for name in names if name not in known]
    if missing:
        raise refusal(
            Code.E0923,
            f"the model has no parameter `{missing[0]}`, and the curvature is on it",
            "give the model that the curvature was fitted on, without a wrapper around it",
        )
    found = {name: known[name] for name in names}
    size = sum(p.numel() for p in found.values())
    if size != length:
        raise refusal(
            Code.E0923,
            f"the model's parameters have {size} entries where the curvature has {length}",
            "give the model that the curvature was fitted on, or one of the same architecture",
        )
    return found


def by_parameter(v: Tensor, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Vectors `[…, P]` as tensors `[…, *shape]`, by the names of the parameters.

    Raises:
        SpecError: E0563 for what is not a tensor, E0923 for another length.
    """
    if not isinstance(v, Tensor):
        raise another_type("v", v, "a tensor […, P]", "`op.sample(10, generator=…)`")
    sizes = [p.numel() for p in parameters.values()]
    if not v.ndim or v.shape[-1] != sum(sizes):
        raise refusal(
            Code.E0923,
            f"vectors of shape {list(v.shape)} do not fit {sum(sizes)} parameters",
            f"give a tensor whose last axis has the length {sum(sizes)}",
        )
    pieces = v.split(sizes, dim=-1)
    pairs = zip(parameters.items(), pieces, strict=True)
    return {name: piece.reshape(*v.shape[:-1], *p.shape) for (name, p), piece in pairs}


def joined(tensors: Sequence[Tensor], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Tensors of parameters as one vector `[P]`."""
    return torch.cat([x.reshape(-1).to(device, dtype) for x in tensors])
