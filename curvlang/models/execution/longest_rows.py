"""On how many positions a model runs: tried where it fails on all that a row has."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from curvlang.models.execution.packed import layout_in
from curvlang.models.execution.tables import inside_tables


def positions_at_most(model: nn.Module, X: Tensor) -> tuple[int, int] | None:
    """The positions of rows on which a model fails, and the most of their first ones on which it runs.

    Args:
        model: The model.
        X: A few inputs, on the model's device.

    Returns:
        None where positions are not known, or where it runs on none of them.
    """
    given = _positions(model, X)
    if given is None or _runs(model, _uniform(model, X)):
        # What stands at a position is to blame, not how many there are.
        return None
    runs, fails = 0, given
    while fails - runs > 1:
        middle = (runs + fails) // 2
        if _runs(model, _first(model, X, middle)):
            runs = middle
        else:
            fails = middle
    return (given, runs) if runs else None


def _positions(model: nn.Module, X: Tensor) -> int | None:
    layout = layout_in(model)
    if layout is None:
        return None if X.ndim != 2 or X.is_floating_point() else X.shape[1]
    return next((shape[0] for name, shape in layout.shapes if name in layout.sequence), None)


def _first(model: nn.Module, X: Tensor, positions: int) -> Tensor:
    layout = layout_in(model)
    own = slice(0, positions)
    return X[:, own] if layout is None else layout.cut(X, own)


def _uniform(model: nn.Module, X: Tensor) -> Tensor:
    """Rows of the same length that have their first position's values everywhere."""
    layout = layout_in(model)
    if layout is None:
        return X[:, :1].expand_as(X)
    fields = layout.unpack(X)
    for name in layout.sequence:
        fields[name] = fields[name][:, :1].expand_as(fields[name])
    return layout.pack(fields, X.dtype)


def _runs(model: nn.Module, X: Tensor) -> bool:
    try:
        with torch.no_grad(), inside_tables(model):
            model(X)
    except Exception:
        # Whatever it is, the model says it again on these positions.
        return False
    return True
