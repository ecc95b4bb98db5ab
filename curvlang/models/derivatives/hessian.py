"""The dense Hessian of the mean loss, by the cheaper of two exact ways.

Any model: one Hessian-vector product per parameter. A model whose parameters all sit in covered
layers: `layer_hessian`, which asks for one tangent per layer output instead.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from curvlang.models.data.rows import Rows
from curvlang.models.derivatives.layer_hessian import (
    batch_elements,
    hessian_by_layers,
    symmetric_part,
)
from curvlang.models.derivatives.product_methods import FORWARD, hessian_way
from curvlang.models.derivatives.products import WHOLE, Method, hessian_product
from curvlang.models.execution.torch_state import product_state
from curvlang.models.losses.loss import Loss
from curvlang.models.tracing.blocks import LayerBlock, blocks, trainable
from curvlang.models.tracing.survey import check_mode
from curvlang.models.tracing.verify import EXAMPLES


def hessian_dense(
    model: nn.Module,
    loss: Loss,
    X: Rows,
    y: Rows,
    layers: Sequence[LayerBlock] | None = None,
    method: Method | None = None,
) -> Tensor:
    """H = (1/N) Σ ∇²ℓ_n, exactly symmetric, weight decay not included.

    By layer outputs where all parameters are covered, the outputs of an example are fewer than the
    parameters and `torch.func` runs the model, else by products; the two differ by rounding alone.

    Args:
        model: Any module, in the mode it is to be studied in.
        loss: The loss.
        X: Inputs, [N, …].
        y: Targets.
        layers: The model's blocks by layer, where they are known.
        method: How, where that is known.

    Returns:
        [P, P] in the order of `named_parameters()`.

    Raises:
        SpecError: E0403, E0408, E0410 for a model without a loss per example; E0820, E0821 for one
            without second derivatives.
    """
    check_mode(model)
    found = blocks(model, X[:EXAMPLES]) if layers is None else layers
    if method is None:
        method = Method(hessian_way(model, loss, X, y), WHOLE)
    if method.way == FORWARD and by_layers(found):
        with product_state(model):
            return hessian_by_layers(model, loss, X, y, found, method.portion.held)
    return hessian_by_products(model, loss, X, y, method)


def by_layers(found: Sequence[LayerBlock]) -> bool:
    """Whether layer outputs are the cheaper way: there are fewer of them than parameters.

    They are a way at all where every parameter is in a layer whose output is all that it does.
    """
    outputs = sum(block.count * block.positions * block.d_out for block in found)
    plain = all(block.plain for block in found)
    return plain and 0 < outputs < sum(block.size for block in found)


def hessian_elements(found: Sequence[LayerBlock], P: int, examples: int, held: int) -> int:
    """Numbers that `hessian_dense` holds at its peak, the [P, P] result included.

    By products what the model holds comes on top. Of a batch's intermediate results there are at most `held`.
    """
    if not by_layers(found):
        return 3 * P * P
    return max(2 * P * P, P * P + batch_elements(found, examples, held))


def hessian_by_products(
    model: nn.Module,
    loss: Loss,
    X: Rows,
    y: Rows,
    method: Method | None = None,
) -> Tensor:
    """The Hessian as its product with the identity, [P, P]."""
    like = next(iter(trainable(model).values()))
    P = sum(p.numel() for p in trainable(model).values())
    way, portion = (None, WHOLE) if method is None else (method.way, method.portion)
    product = hessian_product(model, loss, X, y, way, portion)
    return symmetric_part(product(torch.eye(P, dtype=like.dtype, device=like.device)))
