"""What a running model asks its tables of embeddings for, told before they are asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_LOOKUPS = (functional.embedding, functional.embedding_bag)
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
        own: dict[int, str] = {}
        for name, module in model.named_modules():
            if not isinstance(module, nn.Embedding | nn.EmbeddingBag):
                continue
            if type(module).forward in (nn.Embedding.forward, nn.EmbeddingBag.forward):
                handle = module.register_forward_pre_hook(hook(name), with_kwargs=True)
                stack.callback(handle.remove)
            else:
                own[id(module.weight)] = name
        if own:
            stack.enter_context(_Lookups(own, look))
        yield


class _Lookups(TorchFunctionMode):
    """Tables with a `forward` of their own, which may ask for other rows than they are given.

    Args:
        tables: Their names, by the identity of their weights.
        look: Called with what is asked for.
    """

    def __init__(self, tables: Mapping[int, str], look: Look) -> None:
        super().__init__()
        self.tables, self.look = tables, look

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Every call as it is; lookups are told first."""
        given = dict(zip(("input", "weight"), args, strict=False)) | dict(kwargs or {})
        if func in _LOOKUPS and id(given["weight"]) in self.tables and given["input"].numel():
            table = self.tables[id(given["weight"])]
            self.look(table, given["input"], len(given["weight"]))
        return func(*args, **(kwargs or {}))


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
