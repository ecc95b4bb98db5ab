"""Leaves of models in half precision: gradients without underflow, everything after them in float32.

The model runs forward and backward as it is. Losses are computed in float32 from its outputs, and what layers
show is converted before it is multiplied: sums of products of bfloat16 numbers keep no more than two digits,
and squares of float16 numbers overflow above 255.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from curvlang.models.data.rows import Rows
from curvlang.models.losses.draws import Draws
from curvlang.models.losses.loss import Loss, identity
from curvlang.models.tracing.blocks import LayerBlock, block_inputs, groups, trainable
from curvlang.models.tracing.leaves import (
    Fisher,
    LeafRequest,
    Leaves,
    columns,
    leaves,
    loss_hessian,
    parameter_columns,
    pulled_columns,
)
from curvlang.models.tracing.trace import Trace, trace
from curvlang.storage.repeated import of_once

HALF = frozenset({torch.bfloat16, torch.float16})
"""Precisions in which nothing is added up."""
EXACT = Fisher()
"""All columns of the loss-curvature factor."""
LARGEST = 16.0
"""Size of the largest entry of a column that goes backward through a model in float16, whose numbers reach
from 6e-8 (6e-5 with all digits) to 65504."""


def precision(dtype: torch.dtype) -> torch.dtype:
    """In which leaves of a model in `dtype` are multiplied and added up."""
    return torch.float32 if dtype in HALF else dtype


def widened(x: Tensor) -> Tensor:
    """A tensor in half precision in float32; any other one as it is."""
    return x.to(precision(x.dtype))


class HalfPrecisionLoss(Loss):
    """A loss at outputs in half precision: computed in float32, its columns as the backward pass takes them.

    In float16 every column of every example is multiplied by a power of two, so that its largest entry is
    about `LARGEST`: a gradient is linear in it, and the factor is taken out of the leaves again.

    Args:
        loss: The loss.
        dtype: Of the model.
    """

    __slots__ = ("columns_by", "dtype", "gradient_by", "loss")

    def __init__(self, loss: Loss, dtype: torch.dtype) -> None:
        self.loss = loss
        self.dtype = dtype
        self.columns_by: Tensor | None = None
        self.gradient_by: Tensor | None = None

    def validate(self, shape: Sequence[int], y: Rows, dtype: torch.dtype) -> None:
        """As the loss itself."""
        self.loss.validate(shape, y, dtype)

    def per_example(self, f: Tensor, y: Tensor) -> Tensor:
        """ℓ_n in float32."""
        return self.loss.per_example(widened(f), widened(y))

    def gradient(self, f: Tensor, y: Tensor) -> Tensor:
        """∂ℓ_n/∂f, lifted."""
        found = self.loss.gradient(widened(f), widened(y)).unsqueeze(-1)
        self.gradient_by = _factors(found, self.dtype)
        return _lifted(found, self.gradient_by, f.dtype).squeeze(-1)

    def hessian(self, f: Tensor, y: Tensor) -> Tensor:
        """Λ_n in float32."""
        return self.loss.hessian(widened(f), widened(y))

    def factor(self, f: Tensor, y: Tensor) -> Tensor:
        """S, lifted."""
        return self._columns(f, self.loss.factor(widened(f), widened(y)))

    def columns(self, outputs: int) -> int:
        """As the loss itself."""
        return self.loss.columns(outputs)

    def sample(self, f: Tensor, y: Tensor, draws: Draws, samples: int) -> Tensor:
        """Random columns, lifted."""
        return self._columns(f, self.loss.sample(widened(f), widened(y), draws, samples))

    def _columns(self, f: Tensor, found: Tensor) -> Tensor:
        self.columns_by = _factors(found, self.dtype)
        return _lifted(found, self.columns_by, f.dtype)


def exact_leaves(
    model: nn.Module,
    loss: Loss,
    X: Tensor,
    y: Tensor,
    blocks: Sequence[LayerBlock],
    request: LeafRequest,
) -> Leaves:
    """`leaves`, in float32 where the model is in half precision; arguments as there."""
    kind = _kind(model)
    if kind not in HALF:
        return leaves(model, loss, X, y, blocks, request)
    lifted = loss if isinstance(loss, HalfPrecisionLoss) else HalfPrecisionLoss(loss, kind)
    found = leaves(model, lifted, X, y, blocks, request)
    drawn = lifted.gradient_by if request.fisher.kind == "empirical" else lifted.columns_by
    return _converted(found, {"g": drawn, "e": lifted.gradient_by})


def exact_gradients(
    model: nn.Module, loss: Loss, X: Tensor, y: Tensor, blocks: Sequence[LayerBlock]
) -> Tensor:
    """∇ℓ_n over all parameters, [B, P], from `a` and `e`; float32 in half precision."""
    given = exact_leaves(model, loss, X, y, blocks, LeafRequest({"a", "e"}))
    shown = {name: {"a": x["a"], "g": x["e"].unsqueeze(-3)} for name, x in given.items()}
    return columns(blocks, shown).squeeze(1)


def exact_jacobian(model: nn.Module, X: Tensor, blocks: Sequence[LayerBlock]) -> Tensor:
    """J_ncp = ∂f_c/∂θ_p with the outputs flattened row-major, [B, F, P]; float32 in half precision."""
    found = trace(model, X, groups(blocks))
    return exact_columns(model, X, blocks, found, identity(widened(found.output.detach())))


def exact_columns(
    model: nn.Module, X: Tensor, blocks: Sequence[LayerBlock], found: Trace, given: Tensor
) -> Tensor:
    """Columns at the output [B, F, R] pulled back to all parameters, [B, R, P]; float32 in half precision."""
    kind = _kind(model)
    if kind not in HALF:
        return parameter_columns(model, X, blocks, found, given)
    factors = _factors(given, kind)
    pulled = pulled_columns(model, X, blocks, found, _lifted(given, factors, found.output.dtype))
    inputs = block_inputs(blocks, found)
    shown: Leaves = {b.name: {"a": inputs[b.name], "g": pulled[b.name]} for b in blocks}
    return columns(blocks, _converted(shown, {"g": factors}))


def exact_loss_hessian(model: nn.Module, loss: Loss, X: Tensor, y: Tensor) -> Tensor:
    """L_ncd = ∂²ℓ_n/∂f_c∂f_d, [B, F, F]; float32 in half precision."""
    kind = _kind(model)
    return loss_hessian(model, HalfPrecisionLoss(loss, kind) if kind in HALF else loss, X, y)


def _kind(model: nn.Module) -> torch.dtype:
    return next(iter(trainable(model).values())).dtype


def _factors(columns: Tensor, kind: torch.dtype) -> Tensor | None:
    """Powers of two for columns [B, F, R], as [B, R]; None where the range is that of float32."""
    if kind != torch.float16:
        return None
    largest = columns.abs().amax(1)
    exponent = torch.log2(LARGEST / largest).floor()
    return torch.where(exponent.isfinite(), torch.exp2(exponent), 1.0)


def _lifted(columns: Tensor, factors: Tensor | None, dtype: torch.dtype) -> Tensor:
    return (columns if factors is None else columns * factors.unsqueeze(1)).to(dtype)


def _converted(found: Leaves, lifted: Mapping[str, Tensor | None]) -> Leaves:
    """Leaves in float32 without the factors of their columns; each is let go once it is converted.

    Layers with one input still share it.
    """
    known: dict[int, tuple[Any, Any]] = {}
    for given in found.values():
        for leaf, x in given.items():
            if leaf in lifted:
                given[leaf] = of_once(partial(_taken_out, leaf=leaf, factors=lifted[leaf]), x)
                continue
            # The original is kept beside its copy, so that its number stays its own.
            known.setdefault(id(x), (x, of_once(_in_float32, x)))
            given[leaf] = known[id(x)][1]
    return found


def _in_float32(x: Tensor) -> Tensor:
    return x.to(torch.float32)


def _taken_out(x: Tensor, leaf: str, factors: Tensor | None) -> Tensor:
    """`e` [B, T, O] or `g` [B, R, T, O] in float32, divided by the factors [B, R] of their columns."""
    x = x.to(torch.float32)
    if factors is None:
        return x
    # In front of n stands the axis of blocks of one shape, where it is one.
    return x.div_(factors.reshape(*factors.shape, *[1] * (2 if leaf == "g" else 1)))
