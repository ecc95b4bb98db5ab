"""Embeddings: s = W a with one-hot a, kept as the places of its ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from curvlang.models.layers.layer import Input, Layer, Part, entries, parameter, rows_of
from curvlang.models.layers.linear import positions
from curvlang.models.layers.one_hot import OneHot


class Embedding(Layer):
    """`nn.Embedding`: weight [V, D] gives o = D, i = V; the padding row has no gradient."""

    name = "Embedding"
    folds = True

    def refuses(self, module: nn.Module) -> str | None:
        """Rows that a forward pass changes, and gradients that are scaled by frequency."""
        if getattr(module, "max_norm", None) is not None:
            return "`max_norm` changes the weight in the forward pass"
        if getattr(module, "scale_grad_by_freq", False):
            return "`scale_grad_by_freq` makes the gradient depend on the batch"
        return None

    def dense_rows(self, module: nn.Module) -> bool:
        """Its input is not differentiable."""
        return False

    def parts(self, module: nn.Module) -> tuple[Part, ...]:
        """The weight read from the side."""
        weight = parameter(module, self.weight)
        return (Part(rows_of(weight).T, entries(weight.shape[1], weight)),)

    def inputs(self, module: nn.Module, x: Tensor, shape: torch.Size) -> tuple[Input, ...]:
        """One row for every position."""
        index = x.reshape(x.shape[0], -1, 1)
        return (one_hot(module, index, counted(module, index)),)

    def outputs(self, module: nn.Module, x: Tensor, cotangent: Tensor) -> tuple[Tensor, ...]:
        """The last axis is features."""
        return (positions(cotangent),)


class EmbeddingBag(Embedding):
    """`nn.EmbeddingBag` on [B, L]: one position whose `a` has a weight for every entry."""

    name = "EmbeddingBag"
    folds = False

    def refuses(self, module: nn.Module) -> str | None:
        """The largest entry of a bag is not a linear function of the rows."""
        if module.mode == "max":
            return '`mode="max"` is not linear in the rows'
        return super().refuses(module)

    def refuses_call(self, args: Sequence[Any], kwargs: dict[str, Any]) -> str | None:
        """Bags are the rows of a matrix, each entry weighed alike."""
        names = ("input", "offsets", "per_sample_weights")
        given = dict(zip(names, args, strict=False)) | kwargs
        if given.get("offsets") is not None:
            return "bags by `offsets` do not have the examples on the first axis"
        if given.get("per_sample_weights") is not None:
            return "`per_sample_weights` are not read"
        return None

    def inputs(self, module: nn.Module, x: Tensor, shape: torch.Size) -> tuple[Input, ...]:
        """[B, 1, V] with L entries."""
        index = x.unsqueeze(1)
        weight = counted(module, index)
        if module.mode == "mean":
            weight = weight / weight.sum(-1, keepdim=True).clamp_min(1)
        return (one_hot(module, index, weight),)


def one_hot(module: nn.Module, index: Tensor, weight: Tensor) -> OneHot:
    """Rows with ones at the index."""
    return OneHot(index, weight, int(parameter(module, "weight").shape[0]))


def counted(module: nn.Module, index: Tensor) -> Tensor:
    """1 for every entry, 0 for padding, in the weight's precision."""
    weight = parameter(module, "weight")
    padding: int | None = getattr(module, "padding_idx", None)
    if padding is None:
        return torch.ones_like(index, dtype=weight.dtype)
    return index.ne(padding).to(weight.dtype)
