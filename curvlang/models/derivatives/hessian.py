"""The dense Hessian of the mean loss, by the cheaper of two exact ways.

Any model: one Hessian-vector product per parameter. A model whose parameters all sit in covered
layers: `layer_hessian`, which asks for one tangent per layer output instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from curvlang.models.data.rows import Rows
from curvlang.models.derivatives.layer_hessian import (
    batch_elements,
    halves_by_layers,
    symmetric_part,
)
from curvlang.models.derivatives.product_methods import FORWARD, hessian_way
from curvlang.models.derivatives.products import WHOLE, Method, hessian_sum
from curvlang.models.execution.torch_state import product_state
from curvlang.models.losses.loss import Loss
from curvlang.models.tracing.blocks import LayerBlock, blocks, trainable
from curvlang.models.tracing.survey import check_mode
from curvlang.models.tracing.verify import EXAMPLES


@dataclass(frozen=True, slots=True, eq=False)
class HessianEntries:
    """The dense Hessian as a sum over examples, which can be added up in parts.

    Args:
        over: Consecutive examples to a matrix [P, P], in memory of its own.
        mean: The sum of these matrices over all examples, given up, to the Hessian.
    """

    over: Callable[[range], Tensor]
    mean: Callable[[Tensor], Tensor]


def hessian_entries(
    model: nn.Module,
    loss: Loss,
    X: Rows,
    y: Rows,
    layers: Sequence[LayerBlock] | None = None,
    method: Method | None = None,
) -> HessianEntries:
    """H = (1/N) Σ ∇²ℓ_n, exactly symmetric, weight decay not included, as a sum over examples.

    By layer outputs where all parameters are covered, the outputs of an example are fewer than the
    parameters and `torch.func` runs the model, else by products; the two differ by rounding alone.
    Rows and columns are in the order of `named_parameters()`.

    Args:
        model: Any module, in the mode it is to be studied in.
        loss: The loss.
        X: Inputs, [N, …].
        y: Targets.
        layers: The model's blocks by layer, where they are known.
        method: How, where that is known.

    Raises:
        SpecError: E0403, E0408, E0410 for a model without a loss per example; E0820, E0821 for one
            without second derivatives.
    """
    check_mode(model)
    found = blocks(model, X[:EXAMPLES]) if layers is None else layers
    if method is None:
        method = Method(hessian_way(model, loss, X, y), WHOLE)
    held = method.portion.held
    if method.way == FORWARD and by_layers(found):

        def over(within: range) -> Tensor:
            with product_state(model):
                return halves_by_layers(model, loss, (X, y), found, held, within)

        return HessianEntries(over, lambda whole: symmetric_part(whole).mul_(2 / X.shape[0]))
    products = hessian_sum(model, loss, X, y, method.way, method.portion)

    def entries(within: range) -> Tensor:
        like = next(iter(trainable(model).values()))
        P = sum(p.numel() for p in trainable(model).values())
        return products(within, torch.eye(P, dtype=like.dtype, device=like.device))

    return HessianEntries(entries, lambda whole: symmetric_part(whole.div_(X.shape[0])))


def by_layers(found: Sequence[LayerBlock]) -> bool:
    """Whether layer outputs are the cheaper way: there are fewer of them than parameters.

    They are a way at all where every parameter is in a layer whose output is all that it does.
    """
    outputs = sum(block.count * block.positions * block.d_out for block in found)
    plain = all(block.plain for block in found)
    return plain and 0 < outputs < sum(block.size for block in found)


def tangent_count(found: Sequence[LayerBlock], P: int) -> int:
    """Tangents of an example that the dense Hessian takes, where `torch.func` runs the model."""
    if not by_layers(found):
        return P
    return sum(block.count * block.positions * block.d_out for block in found)


def hessian_elements(
    found: Sequence[LayerBlock], P: int, examples: int, held: int, partial: int = 1
) -> int:
    """Numbers that the dense Hessian takes at its peak, the [P, P] result included.

    By products what the model holds comes on top.

    Args:
        found: The blocks by layer.
        P: Parameters.
        examples: Of the longest part that is added up at once.
        held: Numbers of a batch's intermediate results, at most.
        partial: Sums over such parts that are held at a time.
    """
    if not by_layers(found):
        return (2 + partial) * P * P
    return max(2 * P * P, partial * P * P + batch_elements(found, examples, held))
