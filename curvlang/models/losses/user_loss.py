"""A loss that the user writes as a function of one example; derivatives by autodiff."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import BuiltinFunctionType, FunctionType
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.func import grad, jacrev, vjp, vmap

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import CurvlangError
from curvlang.diagnostics.refusal import refusal
from curvlang.models.content import content_or_token
from curvlang.models.data.rows import Rows
from curvlang.models.execution.calls import exhausted, whole_text
from curvlang.models.execution.twice_differentiable import DefinitionMode
from curvlang.models.losses.draws import Draws
from curvlang.models.losses.loss import Loss, flat, show_dtype, unfit

Function: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""The outputs and the target of one example to its loss, a number."""

BATCH = 1 << 20
"""Most outputs for which targets are tried at once."""
TARGETS = 64
"""Most times that this is done; targets beyond them fail where the loss is used."""

NEGATIVE = 1e-6
"""An eigenvalue below −NEGATIVE times the largest is not rounding: the loss is not convex."""


@dataclass(frozen=True, slots=True)
class AutodiffLoss(Loss):
    """ℓ(f, y) by a function of one example, twice differentiable under `torch.func`.

    Args:
        function: f (the model's output for one example) and y (its target) to a number.
        name: For tables; fingerprints hold the function's content, too.
    """

    function: Function
    name: str  # type: ignore[misc]

    def __repr__(self) -> str:
        return f"AutodiffLoss({self.name})"

    @property
    def identity(self) -> str:
        """The name, and what the function is, where that is not all in the name."""
        inner: Any = self.function
        while isinstance(inner, partial) or (hasattr(inner, "function") and _ours(type(inner))):
            inner = inner.func if isinstance(inner, partial) else inner.function
        return repr(self) if _known(inner) else f"{self!r} {content_or_token(self.function)}"

    def validate(self, shape: Sequence[int], y: Rows, dtype: torch.dtype) -> None:
        """The function gives one finite number for the first example, and has a gradient there.

        It is tried at outputs drawn from (0, 1), where logarithms and roots are defined.

        Raises:
            SpecError: E0405 where it cannot be called so, E0580 where it gives something else than
                a number, E0581 where it has no gradient.
        """
        generator = torch.Generator().manual_seed(0)
        drawn = torch.rand(tuple(shape)[1:], generator=generator, dtype=torch.float64)
        f = drawn.to(device=y.device, dtype=dtype).requires_grad_()
        value, again = self._called(f, y[0]), self._called(f, y[0])
        self._check_number(value)
        if not torch.equal(value, again):
            raise refusal(
                Code.E0580,
                f"`{self.name}` gives another number when it is called again: "
                f"{value.item():g}, then {again.item():g}",
                "take random numbers and counters out of it",
            )
        if not value.requires_grad:
            raise refusal(
                Code.E0581,
                f"`{self.name}` does not depend on the outputs in a way that has a gradient",
                "compute it from the outputs by differentiable operations: no `argmax`, no "
                "`detach`, no `round`",
            )
        self._check_gradient(value, f, y[0])
        self.gradient(f.detach().unsqueeze(0), y[:1])
        self._check_targets(f.detach(), y)

    def _check_targets(self, f: Tensor, y: Rows) -> None:
        """Every target has a finite loss, at the same outputs.

        Raises:
            SpecError: E0405, E0580 with the number of the first example that has none.
        """
        size = max(1, BATCH // max(1, f.numel()))
        for k in range(0, min(len(y), TARGETS * size), size):
            part = y[k : k + size]
            try:
                found = self.per_example(f.expand(len(part), *f.shape), part)
                fine = bool(torch.isfinite(found).all())
            except (RuntimeError, IndexError, ValueError) as error:
                if exhausted(error):
                    raise
                fine = False
            if fine:
                continue
            for n, target in enumerate(part):
                self._check_number(self._called(f, target, k + n), k + n)

    def _called(self, f: Tensor, y: Tensor, example: int = 0) -> Tensor:
        """The function's value for one example, outside every transform.

        Raises:
            SpecError: E0405 with what the function raised.
        """
        try:
            with torch.enable_grad():
                return self.function(f, y)
        except Exception as error:
            if isinstance(error, CurvlangError) or exhausted(error):
                raise
            refused = unfit(
                self,
                f"fails on example {example}, outputs {list(f.shape)} and target {list(y.shape)} "
                f"({_reason(error)})",
                self._wanted(f, y, error),
            )
            raise refused from error

    def _wanted(self, f: Tensor, y: Tensor, error: Exception) -> str:
        """The function to give in place of one that fails."""
        try:
            value = self.function(f.detach()[None], y[None])
            if value.numel() == 1:
                return (
                    "a function of one example; this one runs where a batch axis of one is put "
                    "before it: `lambda f, y: function(f[None], y[None])`"
                )
        except Exception:
            # Not the reason that is told: what the function raised for an example comes first.
            pass
        if isinstance(error, TypeError) and "argument" in str(error):
            return "a function of two arguments, one example's outputs and its target"
        return "a function of one example's outputs and target, which have no batch axis"

    def _check_gradient(self, value: Tensor, f: Tensor, y: Tensor) -> None:
        """Plain autograd gives a finite gradient of one example.

        Raises:
            SpecError: E0581.
        """
        try:
            (slope,) = torch.autograd.grad(value.reshape(()), f, allow_unused=True)
        except (RuntimeError, NotImplementedError) as error:
            if exhausted(error):
                raise
            mixed = y.dtype != f.dtype and "type" in str(error)
            raise refusal(
                Code.E0581,
                f"the gradient of `{self.name}` fails on one example",
                f"the targets are `{show_dtype(y.dtype)}`: give `y.to(torch.{show_dtype(f.dtype)})`"
                if mixed
                else "compute it from the outputs by differentiable operations of torch",
                notes=(whole_text(error),),
            ) from error
        if slope is not None and not bool(torch.isfinite(slope).all()):
            raise refusal(
                Code.E0581,
                f"`{self.name}` is finite, and its gradient is not",
                "keep roots and logarithms away from 0, also in the branch that `torch.where` drops",
            )

    def _check_number(self, value: object, example: int = 0) -> None:
        """One finite number, in a tensor."""
        if not isinstance(value, Tensor):
            what, repair = f"a `{type(value).__name__}`", "give a tensor without axes"
        elif value.numel() != 1:
            what = f"{list(value.shape)} numbers"
            repair = "add them up or average them: `.sum()`, `.mean()`"
        elif value.is_complex():
            what, repair = "a complex number", "take its absolute value or its real part"
        elif not math.isfinite(value.item()):
            what = f"{value.item()}"
            repair = "give a function that is finite at any outputs, and targets that it takes"
        else:
            return
        raise refusal(
            Code.E0580,
            f"`{self.name}` gives {what} for example {example}, not one finite number",
            repair,
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
        """∇²_f ℓ_n, reverse over reverse: some losses of torch have no forward derivative.

        Raises:
            SpecError: E0581 where torch has no second derivative of the function.
        """
        shape = f.shape[1:]

        def value(z: Tensor, target: Tensor) -> Tensor:
            return self._value(z.reshape(shape), target)

        return self._second(lambda: vmap(jacrev(jacrev(value)))(flat(f), y))

    def hessian_product(self, f: Tensor, y: Tensor, u: Tensor) -> Tensor:
        """Λ_n u_n by a second reverse pass: Λ is symmetric.

        Raises:
            SpecError: E0581 where torch has no second derivative of the function.
        """

        def one(z: Tensor, target: Tensor, v: Tensor) -> Tensor:
            found: Tensor = vjp(lambda x: grad(self._value)(x, target), z)[1](v)[0]
            return found

        return flat(self._second(lambda: vmap(one)(f, y, u.reshape(f.shape))))

    def _second(self, derivative: Callable[[], Tensor]) -> Tensor:
        """A second derivative; the first one was tried when the task was made."""
        try:
            with DefinitionMode():
                return derivative()
        except (RuntimeError, NotImplementedError) as error:
            if exhausted(error):
                raise
            raise refusal(
                Code.E0581,
                f"torch cannot differentiate `{self.name}` twice",
                "write it with operations that have a second derivative (`torch.relu` for a hinge), or "
                "use a curvature that needs gradients alone (`identity`, `fisher = empirical`)",
                notes=(whole_text(error),),
            ) from error

    def _differentiated(self, derivative: Function, f: Tensor, y: Tensor) -> Tensor:
        """A derivative of every example.

        Raises:
            SpecError: E0581 where the function cannot be differentiated example by example.
        """
        try:
            with DefinitionMode():
                found: Tensor = vmap(derivative)(f, y)
        except (RuntimeError, NotImplementedError) as error:
            if exhausted(error):
                raise
            raise refusal(
                Code.E0581,
                f"`{self.name}` cannot be differentiated example by example",
                "use torch's operations alone: `f.gather(-1, y[..., None])` for `f[y]`, `torch.where` "
                "for an `if` on values, no `.item()`, no writing in place",
                notes=(_under_vmap(error),),
            ) from error
        return found

    def factor(self, f: Tensor, y: Tensor) -> Tensor:
        """Eigenvectors of Λ times the roots of its eigenvalues.

        Raises:
            SpecError: E0799 where Λ has a negative eigenvalue, so that no real S exists.
        """
        eigenvalues, vectors = torch.linalg.eigh(self.hessian(f, y))
        largest = eigenvalues.abs().amax(-1, keepdim=True)
        if bool((eigenvalues < -NEGATIVE * largest).any()):
            raise refusal(
                Code.E0799,
                f"`{self.name}` is not convex in the model's outputs here",
                "use `fisher = empirical`, or a curvature without `drop_residual`",
                notes=(
                    "its Hessian at the outputs has negative eigenvalues, so it cannot be written S Sᵀ",
                ),
            )
        root: Tensor = eigenvalues.clamp_min(0).sqrt().unsqueeze(-2)
        S: Tensor = vectors * root
        return S

    def sample(self, f: Tensor, y: Tensor, draws: Draws, samples: int) -> Tensor:
        """S times standard normal numbers: the function says nothing about how labels fall."""
        S = self.factor(f, y)
        normal: Tensor = torch.special.ndtri(
            draws.uniform(S.shape[0], S.shape[2], samples, f.device)
        )
        return torch.matmul(S, normal.to(f.dtype)).div(math.sqrt(samples))


def _reason(error: BaseException) -> str:
    """The first line of an error."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _under_vmap(error: BaseException) -> str:
    """Why `torch.func.vmap` cannot run a function, without what torch says of itself."""
    if "calling .item()" in str(error):
        return "it calls `.item()`, or branches on the value of a tensor"
    return _reason(error)


def _ours(value: Any) -> bool:
    """Whether a function or class stands under its name in torch or curvlang."""
    module, name = str(value.__module__), value.__qualname__
    found = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return module.partition(".")[0] in ("torch", "curvlang") and found is value


def _known(value: Any) -> bool:
    """Whether a name says all: a function of torch or curvlang, or a loss module, which is named with its settings."""
    if isinstance(value, torch.jit.ScriptModule):
        return False
    if isinstance(value, FunctionType | BuiltinFunctionType):
        return _ours(value)
    return isinstance(value, nn.Module) and _ours(type(value))
