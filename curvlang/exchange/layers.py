"""Which layers another tool knows as we do: their block of a task, or the reason why it is none of theirs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from curvlang.models.task import Task
from curvlang.models.tracing.blocks import LayerBlock, offsets, trainable

LINEAR = ("Linear", "Conv1D (transformers)")
"""Layers with a weight and a bias over the last axis; the second is the first with its weight transposed."""


def matrix_layers(
    task: Task, *, twice: bool = False
) -> tuple[dict[str, LayerBlock], dict[str, str]]:
    """The blocks that are one matrix [O, I] of one module, by name; and for all others the reason.

    The bias is the last of the I columns. kronfluence has the same order, also of convolutions.

    Args:
        task: Whose model is looked at.
        twice: Whether a module that is called several times in one pass counts.
    """
    found: dict[str, LayerBlock] = {}
    others: dict[str, str] = {}
    calls = Counter[str]() if twice else _calls(task)
    for block in task.blocks("layer"):
        if why := _unlike(block, task.model, calls):
            others |= dict.fromkeys(block.names, why)
        else:
            found[block.name] = block
    return found, others


def places_among(block: LayerBlock, task: Task, names: Sequence[str]) -> Tensor:
    """The entries of a block in the vector of some of the task's parameters alone, in their order.

    Args:
        block: One of the task's, all of whose parameters are among them.
        task: Whose vector the block's index is in.
        names: The parameters.
    """
    sizes = {name: p.numel() for name, p in trainable(task.model).items()}
    starts = dict(zip(names, accumulate((sizes[name] for name in names), initial=0), strict=False))
    before = offsets(task.model)
    found = block.index.clone()
    for name in block.parameters:
        own = (block.index >= before[name]) & (block.index < before[name] + sizes[name])
        found[own] += starts[name] - before[name]
    return found


def _unlike(block: LayerBlock, model: nn.Module, calls: Mapping[str, int]) -> str:
    """Why a block is not one matrix of one module that is called once; empty where it is."""
    if block.kind is None or block.watched is None:
        return block.reason or "it is a parameter outside any layer's weight matrix"
    if block.count > 1:
        return f"it is one of {block.count} groups of a layer"
    if len(block.watched.modules) > 1:
        return f"its weight is that of {len(block.watched.modules)} modules"
    if calls[block.layer] > 1:
        return f"it is called {calls[block.layer]} times in one pass"
    module = model.get_submodule(block.layer) if block.layer != "model" else model
    if isinstance(module, nn.Conv2d):
        padded = module.padding_mode == "zeros" and not isinstance(module.padding, str)
        return "" if padded else "its padding is not of zeros, a fixed number of them"
    return "" if block.kind.name in LINEAR else f"it is a layer of type `{type(module).__name__}`"


def _calls(task: Task) -> Counter[str]:
    """How often every module is called for one batch."""
    found: Counter[str] = Counter()
    handles = []
    for name, module in task.model.named_modules():

        def count(*_: object, name: str = name) -> None:
            found[name or "model"] += 1

        handles.append(module.register_forward_hook(count))
    try:
        with torch.no_grad():
            task.model(task.few[:1])
    finally:
        for handle in handles:
            handle.remove()
    return found
