"""Whether a model picks rows of a batch by their values: which rows, shapes alone then do not tell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

_PICKING = frozenset(
    (
        "_local_scalar_dense",
        "_unique2",
        "argsort",
        "gather",
        "index",
        "index_put",
        "index_put_",
        "index_select",
        "masked_scatter",
        "masked_select",
        "nonzero",
        "scatter",
        "scatter_add",
        "sort",
        "take",
        "topk",
        "unique_dim",
    )
)
"""Operations whose results depend on values as places, or hand values to Python."""


def picks_rows(model: nn.Module, X: Tensor) -> bool:
    """Whether the forward pass has an operation that can reorder, repeat or leave out rows by values.

    Where it has none, an input that has the rows of the examples in order for some examples has them
    for all.

    Args:
        model: The model.
        X: A few examples.
    """
    seen = _Names()
    with torch.no_grad(), seen:
        model(X)
    return bool(seen.names & _PICKING)


class _Names(TorchDispatchMode):
    """The names of all operations that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        self.names.add(getattr(func, "overloadpacket", func).__name__)
        return func(*args, **(kwargs or {}))
