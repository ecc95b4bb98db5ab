"""A model with other tensors in the place of its parameters, for as long as a block runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn


@contextmanager
def substituted(model: nn.Module, values: Mapping[str, Tensor]) -> Iterator[None]:
    """The model computes with `values` in place of the parameters of these names.

    A parameter is replaced wherever it is held, under whatever name: in a module that stands under
    two names, and in modules that share it. What was there is put back in any case.

    Args:
        model: The model.
        values: Tensors by the names of `named_parameters()`.
    """
    by_id = {id(model.get_parameter(name)): value for name, value in values.items()}
    places = [
        (module, name, p)
        for module in model.modules()
        for name, p in module._parameters.items()
        if p is not None and id(p) in by_id
    ]
    try:
        for module, name, p in places:
            module._parameters[name] = by_id[id(p)]  # type: ignore[assignment]
        yield
    finally:
        for module, name, p in places:
            module._parameters[name] = p
