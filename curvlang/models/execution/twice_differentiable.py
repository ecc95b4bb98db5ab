"""Operations that torch cannot differentiate twice, or does wrongly, written out by their definitions.

The second derivative of torch's fused weight norm is wrong (torch 2.13: not even symmetric); distances,
bags of embeddings, the hard sigmoid and the multi-class hinge have none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode


class DefinitionMode(TorchFunctionMode):
    """While it is active these operations are computed by their definitions."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """The definition where there is one, else the operation itself."""
        return DEFINITIONS.get(func, func)(*args, **(kwargs or {}))


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """V g / ‖v‖, the norm over all axes but `dim` (over all where it is −1)."""
    axes = [k for k in range(v.dim()) if k != dim or dim == -1]
    return v * (g / torch.linalg.vector_norm(v, dim=axes, keepdim=True))


def _cdist(x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: str | None = None) -> Tensor:
    """‖x_i − y_j‖_p; 0 with gradient 0 where they are equal, as in torch."""
    return _norms(x1.unsqueeze(-2) - x2.unsqueeze(-3), p)


def _pdist(input: Tensor, p: float = 2.0) -> Tensor:
    """Distances of all pairs i < j."""
    i, j = torch.triu_indices(len(input), len(input), 1, device=input.device)
    return _norms(input[i] - input[j], p)


def _norms(difference: Tensor, p: float) -> Tensor:
    same = (difference == 0).all(-1)
    apart = torch.where(same.unsqueeze(-1), torch.ones_like(difference), difference)
    return torch.where(same, 0.0, torch.linalg.vector_norm(apart, p, -1))


def _hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """Clamp(x + 3, 0, 6) / 6."""
    return functional.hardtanh(input + 3, 0.0, 6.0) / 6


def _arguments(function: Callable[..., Any], args: Any, kwargs: Any) -> dict[str, Any]:
    """The arguments of a call of torch's function by name, with its defaults."""
    call = signature(function).bind(*args, **kwargs)
    call.apply_defaults()
    return call.arguments


def _embedding_bag(*args: Any, **kwargs: Any) -> Tensor:
    """Sum or mean of the embeddings of every row; other forms are left to torch."""
    given = _arguments(functional.embedding_bag, args, kwargs)
    rows, weight, mode = given["input"], given["weight"], given["mode"]
    other = given["offsets"] is not None or given["max_norm"] is not None or mode == "max"
    if rows.dim() != 2 or other:
        plain: Tensor = functional.embedding_bag(*args, **kwargs)
        return plain
    counted = torch.ones_like(rows, dtype=weight.dtype)
    if given["padding_idx"] is not None:
        counted = (rows != given["padding_idx"] % len(weight)).to(weight.dtype)
    weights = given["per_sample_weights"]
    scale = counted if weights is None else counted * weights
    total: Tensor = (weight[rows] * scale.unsqueeze(-1)).sum(1)
    return total if mode == "sum" else total / counted.sum(1, keepdim=True).clamp_min(1)


def _multi_margin_loss(*args: Any, **kwargs: Any) -> Tensor:
    """Σ_{c≠y} max(0, margin − f_y + f_c)^p / C."""
    given = _arguments(functional.multi_margin_loss, args, kwargs)
    single = given["input"].dim() != 2
    f = given["input"].unsqueeze(0) if single else given["input"]
    y = given["target"].reshape(1) if single else given["target"]
    own = f.gather(1, y.unsqueeze(1))
    each = (given["margin"] - own + f).clamp_min(0) ** given["p"]
    weight = given["weight"]
    each = each if weight is None else each * weight[y].unsqueeze(1)
    others = torch.arange(f.shape[1], device=f.device) != y.unsqueeze(1)
    loss: Tensor = (each * others).sum(1) / f.shape[1]
    if given["reduction"] == "none":
        return loss.squeeze(0) if single else loss
    return loss.mean() if given["reduction"] == "mean" else loss.sum()


DEFINITIONS: Mapping[Any, Callable[..., Tensor]] = {
    torch._weight_norm: _weight_norm,
    torch.cdist: _cdist,
    torch.pdist: _pdist,
    functional.hardsigmoid: _hardsigmoid,
    functional.embedding_bag: _embedding_bag,
    functional.multi_margin_loss: _multi_margin_loss,
}
"""What stands for what."""
