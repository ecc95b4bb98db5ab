"""Ranks with ties, and Spearman's rank correlation along the last axis."""

from __future__ import annotations

import torch
from torch import Tensor


def ranks(values: Tensor) -> Tensor:
    """Ranks along the last axis, ties sharing their average; float64."""
    order = values.argsort(dim=-1, stable=True)
    ordered = values.gather(-1, order)
    position = torch.arange(values.shape[-1], dtype=torch.float64, device=values.device)
    if not bool((ordered[..., 1:] == ordered[..., :-1]).any()):
        plain = torch.empty_like(values, dtype=torch.float64)
        return plain.scatter_(-1, order, position.expand_as(values))
    new = torch.ones_like(ordered, dtype=torch.bool)
    new[..., 1:] = ordered[..., 1:] != ordered[..., :-1]
    group = new.cumsum(-1) - 1
    count = torch.zeros_like(ordered, dtype=torch.float64)
    total = torch.zeros_like(count)
    count.scatter_add_(-1, group, torch.ones_like(count))
    total.scatter_add_(-1, group, position.expand_as(count).contiguous())
    average = (total / count.clamp(min=1)).gather(-1, group)
    return torch.empty_like(average).scatter_(-1, order, average)


def spearman(x: Tensor, y: Tensor) -> Tensor:
    """Rank correlation along the last axis; 0 where one side is constant."""
    a, b = ranks(x), ranks(y)
    a, b = a - a.mean(-1, keepdim=True), b - b.mean(-1, keepdim=True)
    norm = a.norm(dim=-1) * b.norm(dim=-1)
    return torch.where(norm > 0, (a * b).sum(-1) / norm.clamp(min=1e-300), 0.0)
