"""What hooks and declarations cannot show, found out by trying: on a few examples, beforehand.

A weight that is also used outside its layer's call, examples that influence each other, and a
forward pass that draws random numbers all leave `a` and `g` well-formed and wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.models.execution.substitution import substituted
from curvlang.models.tracing.independence import check_examples as check_examples
from curvlang.models.tracing.independence import tolerance as tolerance
from curvlang.models.tracing.trace import Trace, cut_off
from curvlang.models.tracing.untraced import dense
from curvlang.operators.places import Places
from curvlang.operators.validation import all_finite

PERIOD = 65_537
"""Numbers of a direction that differ; a prime, so that no axis of outputs has them in step."""
EXAMPLES = 3
"""How many examples are tried; more than one, so that mixing shows."""


class BlockView(Protocol):
    """What the checks read of a block."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def layer(self) -> str:
        """Its layer's name."""

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of its parameters."""

    @property
    def where(self) -> Places:
        """Its places in the parameter vector."""


Rebuilt = Callable[[Tensor], "dict[str, Tensor]"]
"""Columns at the output [B, F, 1] to Σ_t g a of every block, [B, size]."""


@dataclass(frozen=True, slots=True, eq=False)
class LoneGradients:
    """What autograd gives for every example that was tried, run alone.

    Args:
        direction: Numbers at the outputs, [B, …]; the gradients are those of the product with them.
        gradients: [B, P].
        silent: Parameters that no gradient reaches.
    """

    direction: Tensor
    gradients: Tensor
    silent: tuple[str, ...]


def lone_gradients(model: nn.Module, X: Tensor, output: Tensor) -> LoneGradients:
    """The gradients of a few examples by one backward pass each.

    Args:
        model: The model.
        X: The examples.
        output: What the model gives for them.

    Raises:
        SpecError: E0406 for a gradient that is not finite, E0417 where none reaches any parameter, or
            none reaches a parameter that the output depends on.
    """
    direction = _direction(output)
    own = {name: p for name, p in model.named_parameters() if p.requires_grad}
    rows, silent = [], set(own)
    with torch.enable_grad():
        for n in range(len(X)):
            f = model(X[n : n + 1])
            if not f.requires_grad:
                raise cut_off("the model's output has no gradient")
            found = _backward(f, list(own.values()), direction[n : n + 1])
            pairs = list(zip(own.items(), found, strict=True))
            silent -= {name for (name, _), gradient in pairs if gradient is not None}
            rows.append(torch.cat([_entries(p, gradient) for (_, p), gradient in pairs]))
    gradients = torch.stack(rows)
    _check_gradients_finite(gradients)
    ordered = tuple(name for name in own if name in silent)
    _check_reached(model, X, ordered)
    return LoneGradients(direction, gradients, ordered)


def unrunnable(count: int, error: Exception) -> SpecError:
    """The refusal of a model that does not run on so many examples."""
    return refusal(
        Code.E0410,
        f"the model does not run on a batch of {count}",
        "use a model that treats the examples of a batch independently, however many",
        notes=(f"{type(error).__name__}: {error}",),
    )


def _backward(f: Tensor, own: Sequence[Tensor], direction: Tensor) -> Sequence[Tensor | None]:
    """Gradients of an output by the parameters.

    Raises:
        SpecError: E0425 where the model cannot be differentiated.
    """
    try:
        return torch.autograd.grad(f, own, direction, allow_unused=True)
    except Exception as error:
        raise refusal(
            Code.E0425,
            "the backward pass of the model fails",
            "make `model(x).sum().backward()` run: all derivatives are made of such passes",
            notes=(f"{type(error).__name__}: {error}",),
        ) from error


def mismatched(
    found: Trace, blocks: Sequence[BlockView], rebuilt: Rebuilt, known: LoneGradients
) -> set[str]:
    """Layers whose `a` and `g` do not give the gradients that autograd gives.

    Their parameters are also used outside the layer's call, or its positions are not its examples'.

    Args:
        found: A trace with its graph.
        blocks: The blocks of the layers in it.
        rebuilt: How `a` and `g` give gradients.
        known: What autograd gives.
    """
    columns = known.direction.reshape(known.direction.shape[0], -1, 1)
    shown = rebuilt(columns)
    wrong = set()
    sizes = known.gradients.norm(dim=1)
    for block in blocks:
        if block.name not in shown:
            continue
        limit = max(tolerance(use.dtype) for use in found.uses[block.layer])
        for n, wanted in enumerate(known.gradients):
            direct = block.where.take(wanted)
            if not _close(shown[block.name][n], direct, limit, sizes[n]):
                wrong.add(block.layer)
    return wrong


def _direction(f: Tensor) -> Tensor:
    """Fixed numbers without structure in the shape of f; of many they come again after a prime number."""
    count = torch.arange(min(f.numel(), PERIOD), dtype=torch.float64)
    found = torch.cos(1.7 * count.square() + count + 0.3).to(dtype=f.dtype, device=f.device)
    return found.repeat(-(-f.numel() // PERIOD))[: f.numel()].reshape(f.shape)


def _check_gradients_finite(gradients: Tensor) -> None:
    """Every example has a gradient.

    Raises:
        SpecError: E0406.
    """
    if all_finite(gradients):
        return
    odd = (~torch.isfinite(gradients).all(1)).nonzero().flatten()
    if len(odd):
        raise refusal(
            Code.E0406,
            f"the outputs have no finite gradient on {len(odd)} of {len(gradients)} examples that "
            f"were tried (first: example {int(odd[0])})",
            "drop these examples, or keep the model away from points without a derivative (the "
            "root of 0, the norm of a zero vector)",
        )


def _check_reached(model: nn.Module, X: Tensor, silent: Sequence[str]) -> None:
    """Parameters without a path to the output take no part in it.

    Where the output changes with one of them, its path is cut (`detach`, `no_grad`): derivatives by
    it would all be zero, and wrong.

    Raises:
        SpecError: E0417.
    """
    if not silent:
        return
    with torch.no_grad():
        plain = model(X)
        cut = [f"`{name}`" for name in silent if not _same(plain, _moved(model, X, name))]
    if cut:
        raise cut_off(f"no gradient of the output reaches {', '.join(cut)}", others=True)


def _moved(model: nn.Module, X: Tensor, name: str) -> Tensor:
    """The output where the entries of one parameter are a hundredth larger, and none is zero."""
    p = model.get_parameter(name)
    step = 1e-2 * p.detach().abs().clamp_min(1e-2)
    with substituted(model, {name: p.detach() + step.to(p.dtype)}):
        output: Tensor = model(X)
    return output


def _same(x: Tensor, y: Tensor) -> bool:
    return x.shape == y.shape and bool(torch.equal(x, y))


def _entries(p: Tensor, gradient: Tensor | None) -> Tensor:
    """A gradient as a vector; zeros where there is none."""
    return (torch.zeros_like(p) if gradient is None else dense(gradient)).detach().reshape(-1)


def _close(x: Tensor, y: Tensor, limit: float, whole: Tensor | None = None) -> bool:
    """Whether the difference is below `limit` times the larger norm; never for NaN.

    Below the rounding of the whole vector, of norm `whole`, a part of it has no digits of its own.
    """
    scale = torch.maximum(x.norm(), y.norm())
    if whole is not None:
        scale = scale + limit * whole
    return bool(torch.dist(x, y) <= limit * scale)
