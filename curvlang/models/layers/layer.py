"""What a layer shows of itself: its input as `a`, gradients at its output as `g`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn

from curvlang.models.layers.one_hot import OneHot

Input: TypeAlias = "Tensor | OneHot"
"""a [B, T, I]; one-hot rows are kept as the places of their ones."""


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A matrix inside a layer's parameters: the whole weight, or all groups of it.

    Args:
        weight: Places in the flattened weight of the entries (o, i), [O, I]; of G groups [G, O, I].
        bias: Places in the flattened bias, [O] or [G, O].
    """

    weight: Tensor
    bias: Tensor


class Layer(ABC):
    """How a layer type reads as s = W a at every position, for each of its parts.

    The gradient of every example by the part's matrix is Σ_t g[n,t,o] a[n,t,i], exactly.
    """

    name: ClassVar[str]
    factored: ClassVar[bool] = True
    """Whether `a` and `g` have a meaning of their own; else only the sum of their product has."""
    rows: ClassVar[bool] = False
    """Whether `a` is the module's input and nothing else, whatever the module."""
    folds: ClassVar[bool] = False
    """Whether examples and positions may stand on the first axis together: it reads the last alone."""
    weight: ClassVar[str] = "weight"
    bias: ClassVar[str] = "bias"

    def refuses(self, module: nn.Module) -> str | None:
        """Why this module is not read, though its type is; None where it is."""
        return None

    def refuses_call(self, args: Sequence[Any], kwargs: dict[str, Any]) -> str | None:
        """Why a call with these arguments is not read; None where it is."""
        return None

    def dense_rows(self, module: nn.Module) -> bool:
        """Whether the output is the rows [B, T, O] in another order, for one part."""
        return self.factored and all(part.weight.dim() == 2 for part in self.parts(module))

    @abstractmethod
    def parts(self, module: nn.Module) -> tuple[Part, ...]:
        """The matrices of the layer; the groups of one are one part, with an axis in front."""

    @abstractmethod
    def inputs(self, module: nn.Module, x: Tensor, shape: torch.Size) -> tuple[Input, ...]:
        """The `a` [B, T, I] of every part, without a bias column; [G, B, T, I] of G groups.

        Args:
            module: The module.
            x: Its input, the examples on the first axis.
            shape: Of its output.
        """

    @abstractmethod
    def outputs(self, module: nn.Module, x: Tensor, cotangent: Tensor) -> tuple[Tensor, ...]:
        """The `g` [B, T, O] of every part, from a cotangent of the output; [G, B, T, O] of G groups."""

    def a(self, module: nn.Module, x: Tensor, shape: torch.Size, columns: str) -> tuple[Input, ...]:
        """The `a` [B, T, I] with the columns of a block.

        Args:
            module: The module.
            x: Its input.
            shape: Of its output.
            columns: `joint` (a last column of ones for the bias), `none`, or `only` that column.
        """
        given = self.inputs(module, x, shape)
        if columns == "none":
            return given
        return tuple(with_bias(part, columns) for part in given)

    def g(
        self, module: nn.Module, x: Tensor, cotangent: Tensor, columns: str
    ) -> tuple[Tensor, ...]:
        """The `g` [B, T, O] that goes with `a` of the same columns."""
        return self.outputs(module, x, cotangent)


def with_bias(given: Input, columns: str) -> Tensor:
    """The input with a column of ones, or that column alone."""
    assert isinstance(given, Tensor), "a layer with one-hot inputs has no bias"
    ones = given.new_ones(*given.shape[:-1], 1)
    return ones if columns == "only" else torch.cat([given, ones], -1)


def rows_of(weight: Tensor) -> Tensor:
    """Places of a weight [O, …] read as [O, I]."""
    return torch.arange(weight.numel(), device=weight.device).reshape(weight.shape).flatten(1)


def entries(size: int, like: Tensor) -> Tensor:
    """Places 0…size−1 on the device of a parameter."""
    return torch.arange(size, device=like.device)


def parameter(module: nn.Module, name: str) -> Tensor:
    """A parameter of a module by its attribute's name."""
    found = getattr(module, name)
    assert isinstance(found, Tensor)
    return found
