"""What hooks and declarations cannot show, found out by trying: on a few examples, beforehand.

A weight that is also used outside its layer's call, examples that influence each other, and a
forward pass that draws random numbers all leave `a` and `g` well-formed and wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from curvlang.diagnostics.diagnostic import SpecError
from curvlang.models.independence import check_examples as check_examples
from curvlang.models.independence import tolerance as tolerance
from curvlang.models.refusal import refusal
from curvlang.models.trace import Trace, cut_off

EXAMPLES = 3
"""How many examples are tried; more than one, so that mixing shows."""


class Shown(Protocol):
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
    def index(self) -> Tensor:
        """Its places in the parameter vector."""


Rebuilt = Callable[[Tensor], "dict[str, Tensor]"]
"""Columns at the output [B, F, 1] to Σ_t g a of every block, [B, size]."""


def check_gradient(
    model: nn.Module,
    X: Tensor,
    found: Trace,
    blocks: Sequence[Shown],
    rebuilt: Rebuilt,
) -> None:
    """Gradients of every example rebuilt from `a` and `g` are those that autograd gives.

    Args:
        model: The model.
        X: The inputs of the trace.
        found: A trace with its graph.
        blocks: The blocks of all trainable parameters.
        rebuilt: How they are rebuilt.

    Raises:
        SpecError: E0417 for a parameter without a path, E0414 for one that is also used outside its layer, or a layer whose
            positions are not its examples'.
    """
    direction = _direction(found.output)
    # The first example, and the last: sums over the examples before an example leave the first alone.
    tried = sorted({0, X.shape[0] - 1})
    totals = [(model(X[n : n + 1]) * direction[n : n + 1]).sum() for n in tried]
    whole, cut = zip(*(_gradients(model, total) for total in totals), strict=True)
    if any(cut):
        _check_reached(model, (found.output * direction).sum())
    shown = rebuilt(direction.reshape(direction.shape[0], -1, 1))
    for n, wanted in zip(tried, whole, strict=True):
        size = wanted.norm()
        for block in blocks:
            if block.name not in shown:
                continue
            direct = wanted.index_select(0, block.index)
            if not _close(shown[block.name][n], direct, tolerance(direct.dtype), size):
                raise _used_outside(model, block, shown[block.name][n], direct)


def _used_outside(model: nn.Module, block: Shown, shown: Tensor, direct: Tensor) -> SpecError:
    """The refusal, with the parameters that differ."""
    wrong, start = [], 0
    for name, p in model.named_parameters():
        if not p.requires_grad:
            continue
        own = (block.index >= start) & (block.index < start + p.numel())
        if name in block.parameters and not _close(shown[own], direct[own], tolerance(p.dtype)):
            wrong.append(f"`{name}`")
        start += p.numel()
    verb = "is" if len(wrong) == 1 else "are"
    return refusal(
        "E0414",
        f"{', '.join(wrong)} {verb} also used outside the call of `{block.layer}`",
        f"use the parameter only by calling `{block.layer}`, or freeze it",
        notes=("autograd's gradient of an example is not the one that `a` and `g` give",),
    )


def _direction(f: Tensor) -> Tensor:
    """Fixed numbers without structure in the shape of f."""
    count = torch.arange(f.numel(), dtype=torch.float64).reshape(f.shape)
    return torch.cos(1.7 * count.square() + count + 0.3).to(dtype=f.dtype, device=f.device)


def _check_reached(model: nn.Module, total: Tensor) -> None:
    """Every trainable parameter has a path to the output.

    Raises:
        SpecError: E0417.
    """
    own = {name: p for name, p in model.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(total, list(own.values()), allow_unused=True, retain_graph=True)
    cut = [f"`{name}`" for name, gradient in zip(own, found, strict=True) if gradient is None]
    if cut:
        raise cut_off(f"no gradient of the output reaches {', '.join(cut)}")


def _gradients(model: nn.Module, total: Tensor) -> tuple[Tensor, bool]:
    """∂total/∂θ over all trainable parameters, [P], and whether any of them has no path there."""
    own = [p for p in model.parameters() if p.requires_grad]
    found = torch.autograd.grad(total, own, allow_unused=True)
    pieces = (
        torch.zeros_like(p) if gradient is None else gradient
        for p, gradient in zip(own, found, strict=True)
    )
    flat = torch.cat([_dense(piece).reshape(-1) for piece in pieces])
    return flat, any(gradient is None for gradient in found)


def _dense(x: Tensor) -> Tensor:
    return x.to_dense() if x.is_sparse else x


def _close(x: Tensor, y: Tensor, limit: float, whole: Tensor | None = None) -> bool:
    """Whether the difference is below `limit` times the larger norm; never for NaN.

    Below the rounding of the whole vector, of norm `whole`, a part of it has no digits of its own.
    """
    scale = torch.maximum(x.norm(), y.norm())
    if whole is not None:
        scale = scale + limit * whole
    return bool(torch.dist(x, y) <= limit * scale)
