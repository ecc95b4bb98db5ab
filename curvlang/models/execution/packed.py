"""A model that reads one tensor in place of named fields, for all that indexes examples by rows.

The fields of an example are flattened and stand one behind the other, [N, K]. The model is a shallow
copy whose class is a subclass with another `forward`: parameters, their names and the submodules are
the user's own, and the user's module is not changed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from copy import copy
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal
from curvlang.models.data.derived_rows import joined_columns
from curvlang.models.data.rows import Rows, known, pieces
from curvlang.models.execution.copies import unwrapped


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the fields stand in a row.

    Args:
        shapes: Of one example's field, by name, in order.
        kinds: `int64`, `bool` or `float` of each.
        largest: The largest absolute integer; floating-point rows must hold it exactly.
        sequence: Names of the fields whose first axis is the positions: rows may have fewer of them.
    """

    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    kinds: tuple[str, ...]
    largest: int
    sequence: tuple[str, ...] = ()

    def __str__(self) -> str:
        return ", ".join(f"{name}={list(shape)}" for name, shape in self.shapes)

    @property
    def names(self) -> tuple[str, ...]:
        """The fields in order."""
        return tuple(name for name, _ in self.shapes)

    def pack(self, values: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        """Fields [N, …] to rows [N, K]: integers where all fields are, else in `dtype`."""
        kind = self.kind(dtype)
        flat = [values[n].reshape(len(values[n]), prod(shape)).to(kind) for n, shape in self.shapes]
        return torch.cat(flat, 1)

    def packed_rows(self, values: Mapping[str, Rows], dtype: torch.dtype) -> Rows:
        """The same of fields that may be stored: they are packed where rows are read."""

        def pack(*fields: Tensor) -> Tensor:
            return self.pack(dict(zip(self.names, fields, strict=True)), dtype)

        columns = sum(prod(shape) for _, shape in self.shapes)
        parts = [values[name] for name in self.names]
        return joined_columns(parts, pack, (columns,), self.kind(dtype))

    def kind(self, dtype: torch.dtype) -> torch.dtype:
        """The type of packed rows, where floating-point fields are in `dtype`.

        Raises:
            SpecError: E0557 where it does not hold the integers exactly.
        """
        found = dtype if "float" in self.kinds else torch.int64
        self._check_exact(found)
        return found

    def unpack(self, X: Tensor) -> dict[str, Tensor]:
        """Rows [B, K] to fields [B, …]; of fewer columns where rows were cut to fewer positions."""
        self._check_exact(X.dtype)
        found: dict[str, Tensor] = {}
        at = 0
        for (name, shape), kind in zip(self._shapes_at(X.shape[1]), self.kinds, strict=True):
            size = prod(shape)
            # Contiguous, as a collated batch is: models call `.view` on their fields.
            part = X[:, at : at + size].reshape(X.shape[0], *shape).contiguous()
            at += size
            match kind:
                case "int64":
                    part = part.round().to(torch.int64) if X.is_floating_point() else part
                case "bool":
                    part = part != 0
                case _:
                    pass
            found[name] = part
        return found

    def cut(self, X: Tensor, window: slice) -> Tensor:
        """Rows [B, K] of which the fields of `sequence` keep a window of their positions."""
        at, kept = 0, []
        for name, shape in self.shapes:
            size = prod(shape)
            own = slice(at, at + size)
            if name in self.sequence:
                each = prod(shape[1:])
                own = slice(at + window.start * each, at + window.stop * each)
            kept.append(X[:, own])
            at += size
        return torch.cat(kept, 1)

    def _shapes_at(self, columns: int) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """The shapes of fields that stand in so many columns."""
        missing = sum(prod(shape) for _, shape in self.shapes) - columns
        if not missing:
            return self.shapes
        # All fields of `sequence` have been cut to one number of positions, which the columns tell.
        fewer = missing // sum(prod(x[1:]) for name, x in self.shapes if name in self.sequence)
        return tuple(
            (name, (x[0] - fewer, *x[1:]) if name in self.sequence else x)
            for name, x in self.shapes
        )

    def _check_exact(self, dtype: torch.dtype) -> None:
        if dtype.is_floating_point and self.largest > 2 / torch.finfo(dtype).eps:
            raise refusal(
                Code.E0557,
                f"the integer {self.largest} is not exact in {str(dtype).removeprefix('torch.')}, "
                "in which it stands beside floating-point fields",
                "leave floating-point fields out of the inputs, or use a model in float64",
            )


def layout_of(values: Mapping[str, Sequence[Rows]], sequence: Sequence[str] = ()) -> Layout:
    """Where the fields of these examples stand, and which of them have positions.

    Args:
        values: Of every field the rows [N, …] of all parts, which are alike.
        sequence: Names of the fields that have positions.
    """
    shapes = tuple((name, tuple(parts[0].shape[1:])) for name, parts in values.items())
    every = [rows for parts in values.values() for rows in parts if not rows.is_floating_point()]
    return Layout(
        shapes,
        tuple(map(_kind, values.values())),
        max(map(_largest, every), default=0),
        tuple(sequence),
    )


def _largest(rows: Rows) -> int:
    """The largest absolute value of all integers."""

    def find() -> int:
        found = (int(x.to(torch.int64).abs().max()) for _, x in pieces(rows) if x.numel())
        return max(found, default=0)

    return known(rows, "largest absolute value", find)


def _kind(parts: Sequence[Rows]) -> str:
    if any(rows.is_floating_point() for rows in parts):
        return "float"
    return "bool" if all(rows.dtype is torch.bool for rows in parts) else "int64"


def layout_in(model: nn.Module) -> Layout | None:
    """The layout that a packed model reads; None for other models."""
    found: Layout | None = getattr(type(model), "curvlang_layout", None)
    return found


def is_packed(model: nn.Module) -> bool:
    """Whether a model is such a copy."""
    return hasattr(type(model), "curvlang_layout")


def packed(model: nn.Module, layout: Layout | None) -> nn.Module:
    """The model reading rows of a layout (None: tensors as they come), its outputs as one tensor.

    Raises:
        SpecError: E0557 for a module whose own `forward` was replaced on the object.
    """
    if "forward" in vars(model) and not _compiled_own(model):
        raise refusal(
            Code.E0557,
            f"the `forward` of this `{type(model).__name__}` was replaced on the object itself",
            "define a subclass with that `forward`, or wrap the model in a module",
        )
    made = copy(model)
    vars(made).pop("forward", None)
    # The copy's tables are its own, so that what is done to one module is not done to the other.
    for name, table in vars(made).items():
        if name.startswith("_") and isinstance(table, dict):
            vars(made)[name] = copy(table)
    kind: Any = type(model)
    made.__class__ = _packed_class(kind, layout)
    return made


def _compiled_own(model: nn.Module) -> bool:
    """Whether what replaced `forward` is the class's own, compiled."""
    written = getattr(model.forward, "_torchdynamo_orig_callable", None)
    return getattr(written, "__func__", None) is type(model).forward


@cache
def _packed_class(kind: Any, layout: Layout | None) -> type[nn.Module]:
    """The subclass of a module's class that reads rows; one for all models of a class."""

    def forward(self: nn.Module, X: Tensor) -> Tensor:
        if layout is None:
            return logits(kind.forward(self, X))
        fields = layout.unpack(X)
        return logits(kind.forward(self, **(_widened(self, fields) if _WIDE.get() else fields)))

    def extra_repr(self: nn.Module) -> str:
        own = kind.extra_repr(self)
        return ", ".join(x for x in (own, f"fields: {layout}" if layout else "logits") if x)

    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    body = {"forward": forward, "extra_repr": extra_repr, "curvlang_layout": layout, **names}
    return type(kind.__name__, (kind,), body)


MASK = "attention_mask"
"""The field that says which positions are padding."""
_WIDE: ContextVar[bool] = ContextVar("wide masks", default=False)


@contextmanager
def wide_masks() -> Iterator[None]:
    """Masks of padding as what is added to scores of attention, [B, 1, T, T], until the block ends.

    Encoders of `transformers` look at the numbers of a mask [B, T], which `torch.func.vmap` does not allow; such a
    mask they take as it is. It fits no causal model: results have to be compared.
    """
    token = _WIDE.set(True)
    try:
        yield
    finally:
        _WIDE.reset(token)


def _widened(model: nn.Module, fields: Mapping[str, Tensor]) -> dict[str, Tensor]:
    mask = fields.get(MASK)
    if mask is None or mask.ndim != 2:
        return dict(fields)
    kind = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    added = (mask == 0).to(kind) * torch.finfo(kind).min
    wide = added[:, None, None, :].expand(-1, 1, mask.shape[1], -1)
    return {**fields, MASK: wide}


NAMES = ("logits", "out")
"""What models call their outputs in a dict or an object: `transformers`, torchvision."""


def logits(output: Any) -> Tensor:
    """The tensor in what a model returns: itself, its `logits`, or the first of a tuple.

    Raises:
        SpecError: E0557 where there is none.
    """
    found = _inside(output)
    if found is None:
        names = f" of {', '.join(f'`{k}`' for k in output)}" if isinstance(output, Mapping) else ""
        raise refusal(
            Code.E0557,
            f"the model returns a `{type(output).__name__}`{names} without logits",
            "return a tensor, an object with `.logits`, or a tuple that begins with them",
        )
    return found


def _inside(output: Any) -> Tensor | None:
    """The tensor, through objects, dicts and tuples that hold one another."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        named = [output[name] for name in NAMES if name in output]
        values = named or list(output.values())
        return _inside(values[0]) if named or len(values) == 1 else None
    for name in NAMES:
        if hasattr(output, name):
            return _inside(getattr(output, name))
    if isinstance(output, tuple | list) and output:
        return _inside(output[0])
    return None


def check_fields(model: nn.Module, names: Sequence[str]) -> None:
    """Refuse fields that the model's `forward` does not take.

    Raises:
        SpecError: E0557.
    """
    try:
        taken = inspect.signature(model.forward).parameters
    except (TypeError, ValueError):
        # Compiled code has no signature: what it does not take it refuses itself.
        return
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in taken.values()):
        return
    odd = [name for name in names if name not in taken]
    if odd:
        raise refusal(
            Code.E0557,
            f"the model's `forward` takes no `{odd[0]}`; it takes "
            + ", ".join(f"`{name}`" for name in taken),
            "name the fields that it reads: `inputs=[…]`",
        )


class PackedBuild:
    """A build whose models read rows of a layout."""

    __slots__ = ("build", "layout")

    def __init__(self, build: Callable[[int], nn.Module], layout: Layout | None) -> None:
        self.build = build
        self.layout = layout

    def __call__(self, seed: int) -> nn.Module:
        """A fresh model."""
        return packed(unwrapped(self.build(seed)), self.layout)
