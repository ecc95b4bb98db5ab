"""A model run with other tensors in place of its parameters, and left exactly as it was.

`torch.func.functional_call` puts a tensor back once for every name: where one module stands under two
names, the second time puts back what the first had put in, and the module loses its parameters. Here
every place that holds a tensor is written and restored once. A forward pass may also leave tensors on
its modules (weight norm, masks of pruning, the flat weights of recurrent layers): these go as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from curvlang.models.execution.process_state import ALONE

TABLES = ("_parameters", "_buffers")
"""Where a module holds its tensors."""

Tensors = Mapping[str, Tensor]


def functional_call(
    model: nn.Module, tensors: Tensors | Sequence[Tensors], args: tuple[Any, ...]
) -> Any:
    """What the model gives with other parameters and buffers; the model itself is not changed.

    Args:
        model: Any module whose tensors are reached by name (no compiled graph of TorchScript).
        tensors: By the names of `named_parameters()` and `named_buffers()`; a tensor that is shared
            is replaced wherever it stands. Those that are not named stay.
        args: What the model is called with.
    """
    given = [tensors] if isinstance(tensors, Mapping) else tensors
    with substituted(model, {name: t for part in given for name, t in part.items()}):
        return model(*args)


@contextmanager
def substituted(model: nn.Module, values: Tensors) -> Iterator[None]:
    """The model computes with `values` in place of its tensors of these names, until the block ends.

    One thread at a time. A tensor is replaced wherever it is held, under whatever name: in a module that stands under two
    names, and in modules that share it. What was there is put back in any case.

    Args:
        model: The model.
        values: Tensors by the names of `named_parameters()` and `named_buffers()`.
    """
    with ALONE:
        yield from _substituted(model, values)


def _substituted(model: nn.Module, values: Tensors) -> Iterator[None]:
    modules = list(model.modules())
    before = [(vars(m), dict(vars(m)), [dict(vars(m)[t]) for t in TABLES]) for m in modules]
    chosen = _by_identity(model, values)
    try:
        for module in modules:
            for table in TABLES:
                held = vars(module)[table]
                held.update({n: chosen[id(t)] for n, t in held.items() if id(t) in chosen})
        yield
    finally:
        for attributes, old, tables in before:
            for name, entries in zip(TABLES, tables, strict=True):
                _restore(old[name], entries)
            _restore(attributes, old)


def _by_identity(model: nn.Module, tensors: Tensors) -> dict[int, Tensor]:
    """What takes the place of every tensor of the model that is named."""
    own: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    own |= dict(model.named_buffers(remove_duplicate=False))
    return {id(own[name]): tensor for name, tensor in tensors.items()}


def _restore(held: dict[str, Any], entries: dict[str, Any]) -> None:
    """The entries as they were: order, values, and nothing else."""
    if list(held) == list(entries) and all(held[name] is entries[name] for name in entries):
        return
    held.clear()
    held.update(entries)
