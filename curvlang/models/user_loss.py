"""A loss that the user writes as a function of one example; derivatives by autodiff."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Generator, Tensor
from torch.func import grad, vmap
from torch.func import hessian as second_derivative

from curvlang.models.loss import Loss, flat, show_shape, unfit, uniform
from curvlang.models.refusal import refusal

Function: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""The outputs and the target of one example to its loss, a number."""

NEGATIVE = 1e-6
"""An eigenvalue below −NEGATIVE times the largest is no rounding: the loss is not convex."""


@dataclass(frozen=True, slots=True)
class AutodiffLoss(Loss):
    """ℓ(f, y) by a function of one example, twice differentiable under `torch.func`.

    Args:
        function: f (the model's output for one example) and y (its target) to a number.
        name: For tables and fingerprints; two functions of one name count as the same loss.
    """

    function: Function
    name: str  # type: ignore[misc]

    def __repr__(self) -> str:
        return f"AutodiffLoss({self.name})"

    def validate(self, shape: Sequence[int], y: Tensor, dtype: torch.dtype) -> None:
        """The function gives one finite number for the first example at outputs of zero."""
        zero = torch.zeros(tuple(shape)[1:], dtype=dtype, device=y.device)
        try:
            value = self.function(zero, y[0])
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            raise unfit(
                self,
                f"fails on outputs of shape {show_shape(shape)} and targets of shape "
                f"{show_shape(y.shape)} ({str(error).strip().splitlines()[0]})",
                "a function of one example's outputs and target",
            ) from error
        if not isinstance(value, Tensor) or value.numel() != 1 or not math.isfinite(value.item()):
            raise unfit(self, "does not give one finite number per example", "such a function")

    def per_example(self, f: Tensor, y: Tensor) -> Tensor:
        """ℓ_n."""
        return vmap(self._value)(f, y)

    def _value(self, f: Tensor, y: Tensor) -> Tensor:
        return self.function(f, y).reshape(())

    def gradient(self, f: Tensor, y: Tensor) -> Tensor:
        """∂ℓ_n/∂f."""
        found: Tensor = vmap(grad(self._value))(f, y)
        return flat(found)

    def hessian(self, f: Tensor, y: Tensor) -> Tensor:
        """∇²_f ℓ_n."""
        shape = f.shape[1:]

        def value(z: Tensor, target: Tensor) -> Tensor:
            return self._value(z.reshape(shape), target)

        found: Tensor = vmap(second_derivative(value))(flat(f), y)
        return found

    def factor(self, f: Tensor, y: Tensor) -> Tensor:
        """Eigenvectors of Λ times the roots of its eigenvalues.

        Raises:
            SpecError: E0405 where Λ has a negative eigenvalue, so that no real S exists.
        """
        eigenvalues, vectors = torch.linalg.eigh(self.hessian(f, y))
        largest = eigenvalues.abs().amax(-1, keepdim=True)
        if bool((eigenvalues < -NEGATIVE * largest).any()):
            raise refusal(
                "E0405",
                f"`{self.name}` is not convex in the model's outputs here",
                "use `fisher = empirical`, or a curvature without `drop_residual`",
                notes=("its Hessian at the outputs has negative eigenvalues, so it is no S Sᵀ",),
            )
        root: Tensor = eigenvalues.clamp_min(0).sqrt().unsqueeze(-2)
        S: Tensor = vectors * root
        return S

    def sample(self, f: Tensor, y: Tensor, generator: Generator, samples: int) -> Tensor:
        """S times standard normal numbers: the function says nothing about how labels fall."""
        S = self.factor(f, y)
        normal: Tensor = torch.special.ndtri(
            uniform((S.shape[0], S.shape[2], samples), generator, f)
        )
        return torch.matmul(S, normal.to(f.dtype)).div(math.sqrt(samples))
