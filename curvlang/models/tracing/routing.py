"""Whether a model picks rows of a batch by their values: which rows, shapes alone then do not tell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from curvlang.models.execution.torch_state import OperationMode

_PICKING = frozenset(
    (
        "_local_scalar_dense",
        "_unique2",
        "argsort",
        "cumprod",
        "cumsum",
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
"""Operations whose results depend on values as places, count rows, or hand values to Python."""


def seen_run(model: nn.Module, X: Tensor) -> tuple[Any, bool]:
    """What a model gives, and whether its forward pass has an operation that can reorder, repeat or leave out rows by values.

    Or one that takes a single number of a whole batch. Where it has none, an input that has the rows of
    the examples in order for some examples has them for all.

    Args:
        model: The model.
        X: A few examples.
    """
    seen = _Names(len(X))
    with torch.no_grad(), seen:
        output = model(X)
    return output, seen.one or bool(seen.names & _PICKING)


class _Names(OperationMode):
    """The names of all operations that run, and whether one makes a single number of all examples."""

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.batch = batch
        self.names: set[str] = set()
        self.one = False

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        self.names.add(getattr(func, "overloadpacket", func).__name__)
        found = func(*args, **(kwargs or {}))
        if isinstance(found, Tensor) and found.dim() == 0 and args:
            given = args[0]
            rows = isinstance(given, Tensor) and given.dim() > 0 and given.shape[0] == self.batch
            self.one = self.one or rows
        return found
