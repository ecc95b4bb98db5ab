"""Tokens that a model's tables do not have, found in the data before anything is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.models.execution.calls import exhausted
from curvlang.models.execution.packed import layout_in

Look = Callable[[str, Tensor, int], None]
"""Called with the name of a table, the row requested, and the number of rows."""


@contextmanager
def checked_tokens(model: nn.Module, X: Tensor, few: Tensor, part: str) -> Iterator[None]:
    """Compare whole columns of integers with the tables that look them up while `few` are run.

    Args:
        model: The model; it is run inside.
        X: All inputs of a part.
        few: The inputs that it is run on.
        part: `train` or `query`, for the message.

    Raises:
        SpecError: E0422 naming the first example with a token outside a table.
    """
    columns, shown = _integers(model, X), _integers(model, few)
    found: dict[tuple[str, str], int] = {}

    def look(table: str, given: Tensor, size: int) -> None:
        for field, x in shown.items():
            if not _same(given, x):
                continue
            if _outside(given, size):
                raise _refused(columns[field], size, table, field, part)
            if _outside(columns[field], size):
                found[table, field] = size

    with _watching(model if shown else nn.Module(), look):
        yield
    for (table, field), size in found.items():
        if _reached(model, X, columns[field], size, few.device):
            raise _refused(columns[field], size, table, field, part)


@contextmanager
def _watching(model: nn.Module, look: Look) -> Iterator[None]:
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


class _OutsideError(Exception):
    """A table is about to be asked for a row that it does not have."""


def _reached(model: nn.Module, X: Tensor, column: Tensor, size: int, device: torch.device) -> bool:
    """Whether the first example with such a token makes a table be asked for it.

    A model may bring tokens into range itself; and a table on a graphics processor that is asked for
    a row it does not have ends the process, so that the model is stopped before.
    """
    first = int(_rows(column, size)[0])

    def look(table: str, given: Tensor, size: int) -> None:
        if _outside(given, size):
            raise _OutsideError

    try:
        with torch.no_grad(), _watching(model, look):
            model(X[first : first + 1].to(device))
    except _OutsideError:
        return True
    except Exception as error:
        # What else the model raises there is refused with its own reason when it is met.
        if exhausted(error):
            raise
    return False


def _integers(model: nn.Module, X: Tensor) -> Mapping[str, Tensor]:
    """Columns of integers, by field; by no name where the inputs are one tensor."""
    layout = layout_in(model)
    if layout is None:
        return {} if X.is_floating_point() else {"": X}
    return {name: x for name, x in layout.unpack(X).items() if x.dtype == torch.int64}


def _same(given: Tensor, x: Tensor) -> bool:
    """Whether a table is asked for a column as it is."""
    return given.numel() == x.numel() and torch.equal(given.reshape(-1), x.reshape(-1))


def _outside(x: Tensor, size: int) -> bool:
    """Whether an entry is not a row of a table."""
    low, high = torch.aminmax(x)
    return int(low) < 0 or int(high) >= size


def _rows(x: Tensor, size: int) -> Tensor:
    """The examples that have such an entry."""
    return ((x < 0) | (x >= size)).reshape(len(x), -1).any(1).nonzero().flatten()


def _refused(x: Tensor, size: int, table: str, field: str, part: str) -> SpecError:
    rows = _rows(x, size)
    first = int(rows[0])
    own = x[first].reshape(-1)
    value = int(own[(own < 0) | (own >= size)][0])
    where = f"`{field}` of example {first}" if field else f"example {first}"
    return refusal(
        Code.E0422,
        f"{where} of `{part}` has the token {value}; the table `{table or 'model'}` has the rows "
        f"0…{size - 1}",
        "give the tokens of the model's own tokenizer, or a model with a larger table",
        notes=(f"{len(rows)} examples have such tokens",) if len(rows) > 1 else (),
    )
