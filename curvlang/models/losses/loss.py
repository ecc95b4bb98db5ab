"""What a loss must offer, and the small helpers that losses share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.models.content import content_or_token, full_name, is_own
from curvlang.models.data.rows import Rows
from curvlang.models.losses.draws import Draws


class Loss(ABC):
    """A loss ℓ(f, y) of one example; the objective is its mean over the examples."""

    __slots__ = ()
    name: ClassVar[str]

    @property
    def identity(self) -> str:
        """What decides its numbers, for fingerprints: every setting, and its code where that is the user's."""
        kind = type(self)
        return (
            f"{full_name(kind)} {content_or_token(self)}" if is_own(kind.__module__) else repr(self)
        )

    @abstractmethod
    def validate(self, shape: Sequence[int], y: Rows, dtype: torch.dtype) -> None:
        """Check targets against outputs.

        Args:
            shape: The outputs' shape; its first axis, the batch, is not compared.
            y: All targets.
            dtype: The outputs' precision.

        Raises:
            SpecError: E0405 where outputs and targets do not fit together or the loss.
        """

    @abstractmethod
    def per_example(self, f: Tensor, y: Tensor) -> Tensor:
        """ℓ_n, shape [B]; twice differentiable in `f`, also under `torch.func`."""

    @abstractmethod
    def gradient(self, f: Tensor, y: Tensor) -> Tensor:
        """∂ℓ_n/∂f, shape [B, F]; itself differentiable in `f`."""

    @abstractmethod
    def hessian(self, f: Tensor, y: Tensor) -> Tensor:
        """Λ_n = ∇²_f ℓ_n, shape [B, F, F]."""

    @abstractmethod
    def factor(self, f: Tensor, y: Tensor) -> Tensor:
        """S with S Sᵀ = Λ_n exactly, shape [B, F, R]."""

    def columns(self, outputs: int) -> int:
        """R of the factor for F outputs: F, for every loss that ships."""
        return outputs

    @abstractmethod
    def sample(self, f: Tensor, y: Tensor, draws: Draws, samples: int) -> Tensor:
        """Random columns s, divided by √samples, with E[Σ_r s sᵀ] = Λ_n: shape [B, F, samples].

        Numbers are drawn by counter for every example, so that neither the batch size nor the
        device changes them.
        """

    def hessian_product(self, f: Tensor, y: Tensor, u: Tensor) -> Tensor:
        """Λ_n u_n for `u` [B, F], without Λ: the gradient's directional derivative."""
        tangent = u.reshape(f.shape)
        found: Tensor = torch.func.jvp(lambda z: self.gradient(z, y), (f,), (tangent,))[1]
        return found


def flat(f: Tensor) -> Tensor:
    """[B, …] as [B, F]."""
    return f.reshape(f.shape[0], -1)


def identity(f: Tensor) -> Tensor:
    """The identity for every example, [B, F, F]."""
    B, F = flat(f).shape
    return torch.eye(F, dtype=f.dtype, device=f.device).expand(B, F, F)


def unfit(loss: Loss, what: str, wanted: str) -> SpecError:
    """The refusal of targets or outputs that the loss cannot take."""
    return refusal(Code.E0405, f"`{loss.name}`: {what}", f"give {wanted}")


def show_shape(shape: Sequence[int]) -> str:
    """A shape whose first axis is the batch: `[B, 3, 10]`."""
    return "[" + ", ".join(["B", *map(str, tuple(shape)[1:])]) + "]"


def show_dtype(dtype: torch.dtype) -> str:
    """`float32` and the like."""
    return str(dtype).removeprefix("torch.")
