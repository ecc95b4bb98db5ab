"""How many examples and vectors go through products with H and the GGN at once, by what they hold together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

import torch
from torch import nn

from curvlang.compiler.planning.chunks import Chunks
from curvlang.models.derivatives.hessian import by_layers, hessian_elements
from curvlang.models.derivatives.layer_hessian import MEMORY
from curvlang.models.derivatives.product_methods import FORWARD, GGNS, HESSIANS, REVERSE
from curvlang.models.derivatives.products import WHOLE, Portion
from curvlang.models.execution.torch_state import product_state
from curvlang.models.task import Task
from curvlang.models.tracing.blocks import LayerBlock
from curvlang.runtime.limits.activations import live_bytes, negligible
from curvlang.runtime.limits.memory import allowance

SHARE = 4
"""Of the user's limit a quarter is for what a product holds beside its vectors and results."""
USUAL = 2**30
"""Bytes of it where there is no limit."""

_KNOWN: WeakKeyDictionary[nn.Module, dict[object, ProductBytes]] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class ProductBytes:
    """Bytes that a product with H or the GGN holds at its peak, all of them 0 where they are few.

    Args:
        once: However little goes through.
        example: Of each example.
        vector: Of each vector.
        both: Of each example under each vector.
    """

    once: int = 0
    example: int = 0
    vector: int = 0
    both: int = 0

    def of(self, portion: Portion) -> int:
        """Bytes of a portion."""
        n, k = portion.examples, portion.vectors
        return self.once + n * self.example + k * self.vector + n * k * self.both


def product_bytes(
    task: Task, layers: Sequence[LayerBlock], way: str, *, ggn: bool = False
) -> ProductBytes:
    """What products hold, measured on one and two examples under one and two vectors; once for each model.

    Args:
        task: In the precision in which derivatives are multiplied.
        layers: Its blocks by layer.
        way: How products are formed.
        ggn: With the GGN in place of H.
    """
    if _is_little(task, layers):
        return ProductBytes()
    X, _ = task.train
    key = X.shape[1:], task.dtype, task.loss.identity, way, ggn
    known = _KNOWN.setdefault(task.model, {})
    if key not in known:
        known[key] = _measured(task, way, ggn)
    return known[key]


def product_portion(
    task: Task, layers: Sequence[LayerBlock], way: str, *, ggn: bool = False
) -> Portion:
    """As many examples at once as usual, fewer where they would hold more than the limit allows, then vectors.

    It depends on shapes and on the user's limit, never on what happens to be free.
    """
    held, most = product_bytes(task, layers, way, ggn=ggn), allowance(USUAL, SHARE)
    portion = replace(WHOLE, examples=min(WHOLE.examples, task.N), held=allowance(MEMORY, SHARE))
    while held.of(portion) > most and portion.examples > 1:
        portion = replace(portion, examples=portion.examples // 2)
    while held.of(portion) > most and portion.vectors > 1:
        portion = replace(portion, vectors=portion.vectors // 2)
    return portion


def column_portion(task: Task, layers: Sequence[LayerBlock], columns: int) -> Portion:
    """The same for products by columns: inputs and columns of some examples, and what meets them."""
    size = torch.empty((), dtype=task.precision).element_size()
    each = sum(b.count * b.positions * (b.d_in + columns * b.d_out) for b in layers)
    widest = max(b.count * b.positions * b.d_out for b in layers)
    most = allowance(USUAL, SHARE) // size
    examples = max(1, min(WHOLE.examples, most // (2 * each + WHOLE.vectors * widest)))
    return replace(WHOLE, examples=examples)


def hessian_bytes(task: Task, layers: Sequence[LayerBlock], chunks: Chunks) -> int:
    """Bytes at the peak while the dense Hessian is formed, all of it included.

    The way is the first one that runs: which one is right is tried when the Hessian is needed.

    Args:
        task: Model and data.
        layers: Its blocks by layer.
        chunks: How the examples are cut.
    """
    task = task.exact()
    size = torch.empty((), dtype=task.precision).element_size()
    held = allowance(MEMORY, SHARE) // size
    elements = hessian_elements(layers, task.P, chunks.longest, held, chunks.partial())
    if by_layers(layers) or _is_little(task, layers):
        return size * elements
    try:
        held = _portion_bytes(task, layers, FORWARD)
    except Exception:  # whatever `torch.func` says of the model: the other way is for these
        held = _portion_bytes(task, layers, REVERSE)
    return size * elements + held


def _portion_bytes(task: Task, layers: Sequence[LayerBlock], way: str) -> int:
    portion = product_portion(task, layers, way)
    return product_bytes(task, layers, way).of(portion)


def _is_little(task: Task, layers: Sequence[LayerBlock]) -> bool:
    """Whether inputs and what layers show are so little that nothing is measured, as for the passes."""
    size = torch.empty((), dtype=task.precision).element_size()
    shown = max(task.train[0].shape[1:].numel(), sum(b.leaf_elements for b in layers))
    return min(WHOLE.examples, task.N) * WHOLE.vectors * size * shown < negligible()


def _measured(task: Task, way: str, ggn: bool) -> ProductBytes:
    rows_of = (GGNS if ggn else HESSIANS)[way](task.model, task.loss)
    v = torch.ones(2, task.P, dtype=task.dtype, device=task.device)

    def peak(examples: int, vectors: int) -> int:
        X, y = (part[:examples].to(task.device) for part in task.train)
        run: Callable[[], object] = lambda: rows_of(X, y, v[:vectors])  # noqa: E731
        with product_state(task.model):
            return live_bytes(run)

    one, vector = peak(1, 1), peak(1, 2)
    if task.N == 1:
        return ProductBytes(2 * one - vector, 0, vector - one, 0)
    example, both = peak(2, 1), peak(2, 2)
    each = max(0, both - example - vector + one)
    of_example, of_vector = max(0, example - one - each), max(0, vector - one - each)
    return ProductBytes(max(0, one - of_example - of_vector - each), of_example, of_vector, each)
