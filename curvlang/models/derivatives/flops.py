"""What the model itself costs: counted on two examples, proportional to the number of examples.

Counted by `torch.utils.flop_counter`, which knows matrix products, convolutions and attention;
elementwise operations are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.module_tracker import ModuleTracker

from curvlang.models.data.rows import Rows
from curvlang.models.derivatives.hessian import by_layers
from curvlang.models.derivatives.layer_hessian import halves_by_layers
from curvlang.models.derivatives.product_methods import FORWARD
from curvlang.models.derivatives.products import hessian_product
from curvlang.models.execution.torch_state import OperationMode, product_state
from curvlang.models.losses.draws import Draws
from curvlang.models.losses.loss import Loss
from curvlang.models.tracing.blocks import LayerBlock, trainable
from curvlang.models.tracing.half_precision import exact_leaves
from curvlang.models.tracing.leaves import Columns, LeafRequest

PROBE = 2
"""Examples to count with: a product over one example would pass for an elementwise one."""


def leaves_flops(
    model: nn.Module,
    loss: Loss,
    X: Rows,
    y: Rows,
    blocks: Sequence[LayerBlock],
    fisher: Columns | None,
) -> float:
    """Operations for one example: a forward pass, and the columns' batched backward pass."""
    wants = {"a"} | ({"g"} if fisher is not None else set())
    probe = _probe(model, X, y)
    request = LeafRequest(wants) if fisher is None else LeafRequest(wants, fisher, Draws(0))

    def run() -> object:
        return exact_leaves(model, loss, *probe, blocks, request)

    return _count(run) / len(probe[0])


def hessian_flops(
    model: nn.Module, loss: Loss, X: Rows, y: Rows, blocks: Sequence[LayerBlock], way: str
) -> float:
    """Operations of the dense Hessian for one example, by the way in which products are formed."""
    probe = _probe(model, X, y)
    if way == FORWARD and by_layers(blocks):
        with product_state(model):
            return _count(lambda: halves_by_layers(model, loss, probe, blocks)) / len(probe[0])
    P = sum(p.numel() for p in trainable(model).values())
    one = torch.zeros(
        P, 1, dtype=next(iter(trainable(model).values())).dtype, device=probe[0].device
    )
    product = hessian_product(model, loss, *probe, way=way)
    return P * _count(lambda: product(one)) / len(probe[0])


def _probe(model: nn.Module, X: Rows, y: Rows) -> tuple[Tensor, Tensor]:
    device = next(model.parameters()).device
    return X[:PROBE].to(device), y[:PROBE].to(device)


def _count(run: Callable[[], object]) -> int:
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = _UntrackedModules()
    with counter, _PlainZeros():
        run()
    return int(counter.get_total_flops())


class _UntrackedModules(ModuleTracker):
    """All operations count alike: hooks that tell modules apart stop backward passes inside a model."""

    def __enter__(self) -> _UntrackedModules:
        """No hook is set."""
        return self

    def __exit__(self, *args: object) -> None:
        """Nothing to remove."""


class _PlainZeros(OperationMode):
    """Zeros in memory where torch marks tensors as zero: of those its modes crash (torch 2.13)."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """The operation itself, but for marked zeros."""
        if func is torch.ops.aten._efficientzerotensor.default:
            return torch.zeros(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))
