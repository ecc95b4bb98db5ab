"""Whether rows may be cut to their own positions: tried, since some models and losses read padding."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from curvlang.models.data.rows import Rows
from curvlang.models.execution.calls import exhausted, whole_text
from curvlang.models.execution.packed import layout_in
from curvlang.models.execution.widened import accumulation_dtype, run_widened
from curvlang.models.losses.loss import Loss
from curvlang.models.padding.spans import Spans
from curvlang.models.tracing.independence import tolerance
from curvlang.models.tracing.trace import input_shapes
from curvlang.models.tracing.watching import Groups

EXACT = 1e-9
"""Relative difference in float64 that rounding explains where products are taken of other lengths."""
TRIED = (0.0, 0.5, 0.9)
"""Which rows are tried, by their place among all rows sorted by length."""


@dataclass(frozen=True, slots=True, eq=False)
class Padding:
    """What is known of the padding of one part's rows.

    Args:
        spans: Where the rows' own positions are.
        targets: Whether targets have the rows' positions too.
        kept: Why rows keep all positions; empty where they are cut.
        read: Whether that is because padding changes a row's loss or outputs.
        by_loss: Whether the loss alone reads it: outputs at the row's own positions are the same.
        scaled: By layer, for every call, whether its positions are those of the rows.
    """

    spans: Spans
    targets: bool = False
    kept: str = ""
    scaled: dict[str, tuple[bool, ...]] | None = None
    read: bool = False
    by_loss: bool = False

    def at(self, rows: Tensor | slice) -> Padding:
        """That of some rows."""
        return replace(self, spans=self.spans.at(rows))

    def in_words(self, *, whole: bool) -> str:
        """How much padding there is, and what becomes of it.

        Args:
            whole: Whether batches keep it.
        """
        own, width = self.spans.lengths, self.spans.width
        said = (
            f"rows have {int(own.min())} to {int(own.max())} positions of their own, and "
            f"{100 * (1 - self.spans.share):.0f} % of {len(own)} × {width} are padding"
        )
        if not whole:
            return f"{said}: batches leave it out"
        why = self.kept or "means over the positions of a layer would change without it"
        return f"{said}, which is kept: {why}"

    def cut(self, model: nn.Module, X: Tensor, y: Tensor, window: slice) -> tuple[Tensor, Tensor]:
        """Inputs and targets of some rows with the positions of a window."""
        layout = layout_in(model)
        less = X[:, window] if layout is None else layout.cut(X, window)
        return less, y[:, window] if self.targets else y


def tried(model: nn.Module, loss: Loss, X: Rows, y: Rows, spans: Spans, layers: Groups) -> Padding:
    """Try a few rows cut to their own positions, and say whether anything else than padding is lost.

    Args:
        model: The model.
        loss: The loss.
        X: All inputs of a part.
        y: All targets.
        spans: Where the rows' own positions are.
        layers: The model's layers.
    """
    layout = layout_in(model)
    if layout is None and (X.ndim < 2 or X.shape[1] != spans.width):
        return Padding(spans, kept="the inputs have other axes than the mask")
    if layout is not None and not layout.sequence:
        return Padding(spans, kept="it is not known which fields have the positions of the mask")
    has_positions = y.ndim > 1 and y.shape[1] == spans.width
    tries = (
        _tried(model, loss, X, y, Padding(spans, targets), layers)
        for targets in ((True, False) if has_positions else (False,))
    )
    first = next(tries)
    # Targets that are as many as the positions may be something else.
    return next((x for x in (first, *tries) if not x.kept), first) if first.kept else first


def _tried(
    model: nn.Module, loss: Loss, X: Rows, y: Rows, padding: Padding, layers: Groups
) -> Padding:
    """The padding with what a few rows have shown."""
    device = next(model.parameters()).device
    spans = padding.spans
    order = torch.argsort(spans.lengths, stable=True)
    places = order[[int(share * (len(order) - 1)) for share in TRIED]].unique()
    scaled: dict[str, tuple[bool, ...]] | None = None
    for row in places.tolist():
        window = spans.at(slice(row, row + 1)).window()
        if window == slice(0, spans.width):
            continue
        whole = X[row : row + 1].to(device), y[row : row + 1].to(device)
        asked = _Alone(model, loss, whole, padding.cut(model, *whole, window), window, padding)
        try:
            why, shares = asked.differs(), asked.scaled(layers)
        except Exception as error:
            # What a model or a loss raises on fewer positions says that it needs them all.
            if exhausted(error):
                raise
            return replace(
                padding, kept=f"row {row} does not run without: {whole_text(error)}", read=True
            )
        if why:
            kept = f"{why} of row {row} changes with it"
            return replace(padding, kept=kept, read=True, by_loss=asked.same_outputs())
        if shares is None or (scaled is not None and shares != scaled):
            return replace(padding, kept="a layer has other positions than the rows")
        scaled = shares
    return replace(padding, scaled=scaled)


@dataclass(frozen=True, slots=True, eq=False)
class _Alone:
    """One row with all positions, and with its own."""

    model: nn.Module
    loss: Loss
    whole: tuple[Tensor, Tensor]
    cut: tuple[Tensor, Tensor]
    window: slice
    padding: Padding

    def differs(self) -> str:
        """What is not the same of both; empty where all is."""
        kind = accumulation_dtype(self.whole[0].device)
        first, second = (run_widened(self.model, x, kind) for x, _ in (self.whole, self.cut))
        if first is not None and second is not None:
            if not _close(self._loss(first, self.whole), self._loss(second, self.cut), kind):
                return "the loss"
            if self.padding.targets and first.ndim > 1 and first.shape[1] > second.shape[1]:
                first = first[:, self.window]
            if first.shape == second.shape and not _close(first, second, kind):
                return "the output"
        before, after = self._gradient(*self.whole), self._gradient(*self.cut)
        return "" if _close(before, after, before.dtype) else "the gradient"

    def same_outputs(self) -> bool:
        """Whether outputs at the row's own positions are the same."""
        kind = accumulation_dtype(self.whole[0].device)
        first, second = (run_widened(self.model, x, kind) for x, _ in (self.whole, self.cut))
        if first is None or second is None:
            return False
        if first.shape[1:2] == (self.padding.spans.width,) and first.shape != second.shape:
            first = first[:, self.window]
        return first.shape == second.shape and _close(first, second, kind)

    def _loss(self, f: Tensor, of: tuple[Tensor, Tensor]) -> Tensor:
        y = of[1]
        return self.loss.per_example(f, y.to(f.dtype) if y.is_floating_point() else y)

    def _gradient(self, x: Tensor, y: Tensor) -> Tensor:
        """The gradient of the row's loss, as a vector."""
        own = [p for p in self.model.parameters() if p.requires_grad]
        with torch.enable_grad():
            f = self.model(x)
            slope = self.loss.gradient(f.detach(), y).reshape(f.shape)
            found = torch.autograd.grad(f, own, slope, allow_unused=True)
        pairs = zip(own, found, strict=True)
        return torch.cat(
            [(torch.zeros_like(p) if g is None else g).to_dense().reshape(-1) for p, g in pairs]
        )

    def scaled(self, layers: Groups) -> dict[str, tuple[bool, ...]] | None:
        """Which calls of every layer have the row's positions; None where some have others."""
        before, after = (input_shapes(self.model, x, layers) for x, _ in (self.whole, self.cut))
        width, length = self.padding.spans.width, self.window.stop - self.window.start
        found = {}
        for layer, shapes in before.items():
            sizes = [(a.numel(), b.numel()) for a, b in zip(shapes, after[layer], strict=True)]
            found[layer] = tuple(a * length == b * width for a, b in sizes)
            if any(a != b and a * length != b * width for a, b in sizes):
                return None
        return found


def _close(x: Tensor, y: Tensor, dtype: torch.dtype) -> bool:
    limit = EXACT if dtype == torch.float64 else tolerance(dtype)
    x, y = x.double(), y.double()
    if x.shape != y.shape:
        return False
    return bool(torch.dist(x, y) <= limit * torch.maximum(x.norm(), y.norm()))
