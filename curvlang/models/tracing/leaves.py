"""The leaves of one batch: `a`, `g`, `e` per block; `J`, `L` and the columns `j` of the model.

One forward pass per batch; all columns go back in one batched backward pass. No per-example
gradient is formed but where one is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal
from curvlang.models.losses.draws import Draws
from curvlang.models.losses.finite import marked_losses
from curvlang.models.losses.loss import Loss, flat
from curvlang.models.tracing.blocks import (
    LayerBlock,
    bare_at_once,
    bare_names,
    block_columns,
    block_inputs,
    column_rows,
    groups,
)
from curvlang.models.tracing.trace import Trace, pull_back, trace
from curvlang.models.tracing.untraced import bare_columns

Leaves = dict[str, dict[str, Any]]
"""By block and leaf; `a` of an embedding is a `OneHot`, everything else a tensor."""


class Columns(Protocol):
    """What says which columns `g` has."""

    @property
    def kind(self) -> str:
        """`exact`, `mc` or `empirical`."""

    @property
    def samples(self) -> int:
        """Columns per example where `kind` is `mc`."""


@dataclass(frozen=True, slots=True)
class Fisher:
    """Which columns `g` has.

    Args:
        kind: `exact` (the columns of the loss-curvature factor), `mc` (gradients at labels drawn
            from the model's prediction, divided by √samples) or `empirical` (the gradient at
            the true label).
        samples: Drawn labels per example; read for `mc` alone.
    """

    kind: str = "exact"
    samples: int = 1


@dataclass(frozen=True, slots=True)
class LeafRequest:
    """Which leaves of a batch are computed.

    Args:
        wants: Any of `a`, `g`, `e`.
        fisher: Which columns `g` has.
        draws: Where drawn labels come from; needed for `mc`.
    """

    wants: Set[str]
    fisher: Columns = Fisher()
    draws: Draws | None = None


def leaves(
    model: nn.Module,
    loss: Loss,
    X: Tensor,
    y: Tensor,
    blocks: Sequence[LayerBlock],
    request: LeafRequest,
) -> Leaves:
    """The leaves of one batch.

    Args:
        model: The model, in the mode it is to be studied in.
        loss: The loss.
        X: Inputs, [B, …].
        y: Targets.
        blocks: Blocks of the model.
        request: Which leaves.

    Returns:
        For every block `a` [B, T, I], `g` [B, R, T, O], `e` [B, T, O], as requested; an axis in
        front for blocks of one shape.
    """
    wants, fisher = request.wants, request.fisher
    unknown = set(wants) - {"a", "g", "e"}
    if unknown:
        names = ", ".join(f"`{name}`" for name in sorted(unknown))
        raise refusal(Code.E0412, f"there is no leaf {names}", "a block's leaves are `a`, `g`, `e`")
    found = trace(model, X, groups(blocks), graph=bool({"g", "e"} & wants))
    result: Leaves = {block.name: {} for block in blocks}
    if "a" in wants:
        for name, a_nti in block_inputs(blocks, found).items():
            result[name]["a"] = a_nti
    if {"g", "e"} & wants:
        f = found.output.detach()
        mark = marked_losses(loss, f, y)
        parts = {
            "g": columns_at_output(loss, f, y, fisher, request.draws) if "g" in wants else None,
            "e": loss.gradient(f, y).unsqueeze(-1) if "e" in wants else None,
        }
        if mark is not None:
            own = mark.to(f.dtype)[:, None, None]
            parts = {leaf: None if x is None else x + own for leaf, x in parts.items()}
        _add_cotangents(result, model, X, blocks, found, parts)
    return result


def columns_at_output(
    loss: Loss, f: Tensor, y: Tensor, fisher: Columns, draws: Draws | None
) -> Tensor:
    """Columns of the loss-curvature factor at the model's output, [B, F, R]."""
    match fisher.kind:
        case "exact":
            return loss.factor(f, y)
        case "empirical":
            return loss.gradient(f, y).unsqueeze(-1)
        case "mc" if draws is not None and fisher.samples >= 1:
            return loss.sample(f, y, draws, fisher.samples)
        case "mc":
            raise refusal(
                Code.E0412,
                "drawn labels need `draws` and at least one sample",
                "pass `draws=Draws(seed)` and `samples >= 1`",
            )
        case _:
            raise refusal(
                Code.E0412,
                f"there is no `fisher = {fisher.kind}`",
                "use `exact`, `mc` or `empirical`",
            )


def _add_cotangents(
    result: Leaves,
    model: nn.Module,
    X: Tensor,
    blocks: Sequence[LayerBlock],
    found: Trace,
    parts: Mapping[str, Tensor | None],
) -> None:
    """Pull both parts back in one batched pass and take them apart again."""
    given = torch.cat([part for part in parts.values() if part is not None], -1)
    pulled = pulled_columns(model, X, blocks, found, given)
    g = parts["g"]
    R = 0 if g is None else g.shape[-1]
    for block in blocks:
        g_nrto = pulled[block.name]
        if g is not None:
            result[block.name]["g"] = g_nrto[..., :R, :, :]
        if parts["e"] is not None:
            result[block.name]["e"] = g_nrto[..., R, :, :]


def pulled_columns(
    model: nn.Module, X: Tensor, blocks: Sequence[LayerBlock], found: Trace, given: Tensor
) -> dict[str, Tensor]:
    """Columns at the output [B, F, R] as g_nrto of every block."""
    names = bare_names(blocks)
    at_once = bare_at_once(blocks)
    bare = bare_columns(model, X, names, given, at_once=at_once) if names else {}
    return block_columns(blocks, found, pull_back(found, given), bare)


def columns(blocks: Sequence[LayerBlock], leaves: Leaves) -> Tensor:
    """j_nrp: column r of example n as a vector over all parameters, [B, R, P].

    Σ_t g[n,r,t,o] a[n,t,i] of every block, at the block's places in the parameter vector.
    """
    P = sum(block.size for block in blocks)
    first = leaves[blocks[0].name]["g"]
    j_nrp = first.new_empty(*first.shape[-4:-2], P)
    for block in blocks:
        j_nrp[:, :, block.index] = column_rows(
            block, leaves[block.name]["a"], leaves[block.name]["g"]
        )
    return j_nrp


def parameter_columns(
    model: nn.Module, X: Tensor, blocks: Sequence[LayerBlock], found: Trace, given: Tensor
) -> Tensor:
    """Columns at the output [B, F, R] pulled back to all parameters, [B, R, P]."""
    pulled, inputs = pulled_columns(model, X, blocks, found, given), block_inputs(blocks, found)
    return columns(blocks, {b.name: {"a": inputs[b.name], "g": pulled[b.name]} for b in blocks})


def jacobian(model: nn.Module, X: Tensor, blocks: Sequence[LayerBlock]) -> Tensor:
    """J_ncp = ∂f_c/∂θ_p with the outputs flattened row-major, [B, F, P]."""
    found = trace(model, X, groups(blocks))
    f = flat(found.output.detach())
    B, F = f.shape
    unit = torch.eye(F, dtype=f.dtype, device=f.device).expand(B, F, F)
    return parameter_columns(model, X, blocks, found, unit)


def loss_hessian(model: nn.Module, loss: Loss, X: Tensor, y: Tensor) -> Tensor:
    """L_ncd = ∂²ℓ_n/∂f_c∂f_d at the model's outputs, [B, F, F]."""
    with torch.no_grad():
        return loss.hessian(model(X), y)
