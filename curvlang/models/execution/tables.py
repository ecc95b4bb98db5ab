"""What a running model asks its tables of embeddings for, told before they are asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

Look = Callable[[str, Tensor, int], None]
"""Called with the name of a table, the rows requested, and the number of rows it has."""


class OutsideTableError(IndexError):
    """A table is about to be asked for a row that it does not have."""


@contextmanager
def watched_tables(model: nn.Module, look: Look) -> Iterator[None]:
    """Tell what every table is asked for, before it is."""

    def hook(name: str) -> Callable[..., None]:
        def call(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = args[0] if args else kwargs.get("input")
            if isinstance(given, Tensor) and given.numel():
                look(name, given, int(module.num_embeddings))

        return call

    with ExitStack() as stack:
        for name, module in model.named_modules():
            if isinstance(module, nn.Embedding | nn.EmbeddingBag):
                handle = module.register_forward_pre_hook(hook(name), with_kwargs=True)
                stack.callback(handle.remove)
        yield


def is_outside(x: Tensor, size: int) -> bool:
    """Whether an entry is not a row of a table of `size` rows."""
    low, high = torch.aminmax(x)
    return int(low) < 0 or int(high) >= size


@contextmanager
def inside_tables(model: nn.Module) -> Iterator[None]:
    """Stop a model before a table is asked for a row that it does not have.

    On a graphics processor such a request ends the process.

    Raises:
        OutsideTableError: Naming the table and the row.
    """

    def look(table: str, given: Tensor, size: int) -> None:
        if is_outside(given, size):
            low, high = torch.aminmax(given)
            row = int(low) if int(low) < 0 else int(high)
            called = f"the table `{table}`" if table else "the model's table"
            raise OutsideTableError(
                f"{called} is asked for row {row}, and has the rows 0…{size - 1}"
            )

    with watched_tables(model, look):
        yield
