"""Gradients per example of parameters outside any layer: all examples at once, or one by one.

Nothing but the model itself says how a parameter that is tied, transformed, folded into other axes or
used by its own code acts on an example. Every example goes through the model by itself: under `vmap`
where torch can, which was tried and compared beforehand, else in turn.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vjp, vmap

from curvlang.models.execution.calls import exhausted
from curvlang.models.execution.process_state import math_attention, silent
from curvlang.models.execution.substitution import substituted

CHUNK_BYTES = 2**26
"""Bytes of gradients that examples at once may have."""
AT_ONCE = 64
"""Examples at once, however small their gradients are."""

Gradients = dict[str, Tensor]


class SlowBatchWarning(UserWarning):
    """A batch takes longer than planned; its numbers are the same."""


def bare_columns(
    model: nn.Module, X: Tensor, names: Sequence[str], columns: Tensor, *, at_once: bool = False
) -> Gradients:
    """Columns at the model's output pulled back to parameters, [B, R, size] for each.

    Args:
        model: The model, in the mode that it is in.
        X: Inputs, [B, …].
        names: Of the parameters.
        columns: [B, F, R].
        at_once: Whether the examples go through the model together, by `vmap`.
    """
    if at_once:
        try:
            return _together(model, X, names, columns)
        except Exception as error:
            if exhausted(error):
                raise
            warnings.warn(
                f"examples go through the model one after the other in a batch of {len(X)}: `vmap`, "
                f"which runs on the examples that were tried, raises {type(error).__name__}",
                SlowBatchWarning,
                stacklevel=2,
            )
    return _in_turn(model, X, names, columns)


def runs_at_once(
    model: nn.Module, X: Tensor, names: Sequence[str], columns: Tensor, known: Mapping[str, Tensor]
) -> bool:
    """Whether `vmap` runs the model and gives what one backward pass for each example gave.

    Args:
        model: The model.
        X: A few examples.
        names: The parameters.
        columns: [B, F, 1].
        known: Their gradients, [B, size].
    """
    try:
        found = _together(model, X, names, columns)
    except Exception:  # whatever torch.func says of a model, the examples run in turn
        return False
    limit = torch.finfo(columns.dtype).eps ** 0.5
    return all(
        bool(torch.dist(found[name][:, 0], known[name]) <= limit * known[name].norm())
        for name in names
    )


def _in_turn(model: nn.Module, X: Tensor, names: Sequence[str], columns: Tensor) -> Gradients:
    own = dict(model.named_parameters())
    wanted = [own[name] for name in names]
    rows: list[list[Tensor]] = [[] for _ in wanted]
    with torch.enable_grad():
        for n in range(X.shape[0]):
            output = model(X[n : n + 1])
            cotangents = columns[n].T.reshape(-1, *output.shape).to(output.dtype)
            for k, gradient in enumerate(_pulled(output, wanted, cotangents)):
                rows[k].append(gradient)
    return {name: torch.stack(parts) for name, parts in zip(names, rows, strict=True)}


def _pulled(output: Tensor, wanted: Sequence[Tensor], cotangents: Tensor) -> list[Tensor]:
    """[R, size] for every parameter; zeros where no gradient reaches it."""
    R = len(cotangents)
    if not output.requires_grad:
        return [p.new_zeros(R, p.numel()) for p in wanted]
    if R == 1:
        found = torch.autograd.grad(output, wanted, cotangents[0], allow_unused=True)
        many: Sequence[Tensor | None] = [g if g is None else g.unsqueeze(0) for g in found]
    else:
        many = _columns_pulled(output, wanted, cotangents)
    return [
        p.new_zeros(R, p.numel()) if g is None else dense(g).detach().reshape(R, -1)
        for p, g in zip(wanted, many, strict=True)
    ]


def _columns_pulled(
    output: Tensor, wanted: Sequence[Tensor], cotangents: Tensor
) -> Sequence[Tensor | None]:
    """All columns in one backward pass; in turn where an operation of the model has no rule for it."""
    options: dict[str, Any] = {"allow_unused": True, "retain_graph": True}
    try:
        return torch.autograd.grad(output, wanted, cotangents, is_grads_batched=True, **options)
    except RuntimeError:
        rows = [torch.autograd.grad(output, wanted, c, **options) for c in cotangents]
    return [
        None
        if all(g is None for g in column)
        else torch.stack([torch.zeros_like(p) if g is None else dense(g) for g in column])
        for p, column in zip(wanted, zip(*rows, strict=True), strict=True)
    ]


def dense(x: Tensor) -> Tensor:
    """A gradient with all its entries: that of an embedding may be sparse."""
    return x.to_dense() if x.is_sparse else x


def _together(model: nn.Module, X: Tensor, names: Sequence[str], columns: Tensor) -> Gradients:
    own = dict(model.named_parameters())
    point = {name: own[name].detach() for name in names}
    each = sum(p.numel() * p.element_size() for p in point.values()) * columns.shape[-1]
    size = max(1, min(AT_ONCE, CHUNK_BYTES // max(1, each)))
    run = vmap(_of_one(model, point), chunk_size=size)
    # Fused attention kernels have no rule for two mappings; torch says so for every other rule it lacks.
    with silent(), math_attention():
        found: Gradients = run(X, columns)
    return {name: found[name].detach().flatten(2) for name in names}


def _of_one(model: nn.Module, point: Gradients) -> Callable[[Tensor, Tensor], Gradients]:
    """An example [...] and its columns [F, R] to gradients [R, *shape]."""

    def one(x: Tensor, columns: Tensor) -> Gradients:
        def output(values: Gradients) -> Tensor:
            with substituted(model, values):
                f: Tensor = model(x.unsqueeze(0))
            return f.reshape(-1)

        f, back = vjp(output, point)  # type: ignore[misc]
        pulled: Gradients = vmap(lambda column: back(column.to(f.dtype))[0])(columns.T)
        return pulled

    return one
