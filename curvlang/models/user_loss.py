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

from curvlang.models.loss import Loss, flat, unfit, uniform
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
        """The function gives one finite number for the first example, and has a gradient there.

        It is tried at outputs drawn from (0, 1), where logarithms and roots are defined.

        Raises:
            SpecError: E0405 where it cannot be called so, E0580 where it gives something else than
                a number, E0581 where it has no gradient.
        """
        generator = torch.Generator().manual_seed(0)
        drawn = torch.rand(tuple(shape)[1:], generator=generator, dtype=torch.float64)
        f = drawn.to(device=y.device, dtype=dtype).requires_grad_()
        try:
            value = self.function(f, y[0])
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            raise unfit(
                self,
                f"fails on one example, outputs {list(f.shape)} and target {list(y.shape[1:])} "
                f"({_reason(error)})",
                "a function of one example's outputs and target, which have no batch axis",
            ) from error
        self._check_number(value)
        if not value.requires_grad:
            raise refusal(
                "E0581",
                f"`{self.name}` does not depend on the outputs in a way that has a gradient",
                "compute it from the outputs by differentiable operations: no `argmax`, no "
                "`detach`, no `round`",
            )
        self.gradient(f.detach().unsqueeze(0), y[:1])

    def _check_number(self, value: object) -> None:
        """One finite number, in a tensor."""
        if not isinstance(value, Tensor):
            what, repair = f"a `{type(value).__name__}`", "give a tensor without axes"
        elif value.numel() != 1:
            what = f"{list(value.shape)} numbers"
            repair = "add them up or average them: `.sum()`, `.mean()`"
        elif not math.isfinite(value.item()):
            what, repair = f"{value.item()}", "give a function that is finite at any outputs"
        else:
            return
        raise refusal(
            "E0580", f"`{self.name}` gives {what} for one example, not one finite number", repair
        )

    def per_example(self, f: Tensor, y: Tensor) -> Tensor:
        """ℓ_n."""
        return vmap(self._value)(f, y)

    def _value(self, f: Tensor, y: Tensor) -> Tensor:
        return self.function(f, y).reshape(())

    def gradient(self, f: Tensor, y: Tensor) -> Tensor:
        """∂ℓ_n/∂f."""
        return flat(self._differentiated(grad(self._value), f, y))

    def hessian(self, f: Tensor, y: Tensor) -> Tensor:
        """∇²_f ℓ_n."""
        shape = f.shape[1:]

        def value(z: Tensor, target: Tensor) -> Tensor:
            return self._value(z.reshape(shape), target)

        return self._differentiated(second_derivative(value), flat(f), y)

    def _differentiated(self, derivative: Function, f: Tensor, y: Tensor) -> Tensor:
        """A derivative of every example.

        Raises:
            SpecError: E0581 where the function cannot be differentiated example by example.
        """
        try:
            found: Tensor = vmap(derivative)(f, y)
        except (RuntimeError, NotImplementedError) as error:
            if _exhausted(error):
                raise
            raise refusal(
                "E0581",
                f"`{self.name}` cannot be differentiated example by example",
                "use torch's operations alone: `f.gather(-1, y[..., None])` for `f[y]`, `torch.where` "
                "for an `if` on values, no `.item()`, no writing in place",
                notes=(_reason(error),),
            ) from error
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


def _reason(error: BaseException) -> str:
    """The first line of an error."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _exhausted(error: BaseException) -> bool:
    """Whether memory ran out, which says nothing about the function."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
