"""Which examples have outputs, losses or gradients that are not finite; looked for when a sum is not.

Passes and scores look at what they have added up, which costs nothing. Only where that is not finite
are the examples looked at one after the other, so that the refusal can name them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import CurvlangError, SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.models.data.rows import Rows
from curvlang.models.execution.calls import NARROWER, exhausted, run_model
from curvlang.models.execution.copies import copied
from curvlang.models.losses.loss import Loss
from curvlang.models.sources.transfers import moved, waits
from curvlang.operators.validation import all_finite

BATCH = 64
"""Examples looked at together."""
FINITE = "finite"
"""Names what is looked for in rows by `not_finite`."""
NAMED = 8
"""Examples that a refusal names."""


def not_finite(x: Tensor) -> Tensor | None:
    """Which entries of rows are not finite; None where all are."""
    x = x.to(torch.float32) if x.is_floating_point() and x.element_size() == 1 else x
    return None if all_finite(x) else ~torch.isfinite(x)


class NotFiniteError(SpecError):
    """Examples of a batch whose losses are not finite, by their rows; `in_part` gives their numbers."""

    def __init__(self, rows: list[tuple[int, str]], examples: int) -> None:
        super().__init__(_refused(rows, examples, "the batch").diagnostics)
        self.rows = rows
        self.examples = examples


@contextmanager
def in_part(model: nn.Module, X: Rows, part: str, start: int | Tensor) -> Iterator[None]:
    """Examples of a batch are named by their numbers in a part: from `start` on, or those given.

    What the model itself raises is refused by the example that it raises it on.
    """
    number = (
        (lambda k: int(start[k])) if isinstance(start, Tensor) else (lambda k: int(start) + int(k))
    )
    try:
        yield
    except NotFiniteError as error:
        found = [(number(k), what) for k, what in error.rows]
        raise _refused(found, error.examples, f"`{part}`") from None
    except Exception as error:
        if not isinstance(error, CurvlangError) and not exhausted(error):
            device = next(model.parameters()).device
            for k in range(len(X)):
                run_model(model, X[k : k + 1].to(device), f"{part}[{number(k)}]")
        raise


def marked_losses(loss: Loss, f: Tensor, y: Tensor) -> Tensor | None:
    """Losses are finite where an output is not; on a card, examples for which that fails get a mark.

    To look at numbers of a card is to wait for all work before them, batch after batch. There the mark,
    added to what follows from an output, makes the sums over the examples NaN: they are looked at once.

    Returns:
        [B], NaN for an example with an output and a loss that are not finite, else 0; None on the host.

    Raises:
        NotFiniteError: E0420, on the host.
    """
    if waits(f.device):
        with torch.no_grad():
            sound = torch.isfinite(f).flatten(1).all(1)
            losses = loss.per_example(_wide(f), _wide(y))
            return torch.where(sound, torch.zeros_like(losses), losses * 0)
    if not all_finite(f):
        _check_losses(loss, f, y)
    return None


def _check_losses(loss: Loss, f: Tensor, y: Tensor) -> None:
    with torch.no_grad():
        losses = loss.per_example(_wide(f), _wide(y))
    wrong = (~torch.isfinite(losses)).nonzero().flatten().tolist()
    if wrong:
        raise NotFiniteError([(k, _about(losses[k], f[k])) for k in wrong], len(f))


def check_examples_finite(
    model: nn.Module, loss: Loss, X: Rows, y: Rows, part: str, places: list[int] | None = None
) -> None:
    """Outputs, losses and gradients of these examples are finite.

    An output may be −∞ where the loss and its gradient are finite: a class that is masked out and
    is never the label.

    Args:
        model: The model.
        loss: The loss, or the queries' metric.
        X: Inputs, anywhere; they are read in batches.
        y: Targets.
        part: `train` or `query`, for the message.
        places: Their numbers in the part; 0, 1, … where not given.

    Raises:
        SpecError: E0420, naming examples.
    """
    found = [
        (n if places is None else places[n], what) for n, what in _not_finite(model, loss, X, y)
    ]
    if found:
        wide = len(found) == len(X) and _sound_in_single(model, loss, X[:1], y[:1])
        raise _refused(found, len(X), f"`{part}`", NARROWER if wide else SOUND)


def _sound_in_single(model: nn.Module, loss: Loss, X: Tensor, y: Tensor) -> bool:
    """Whether a model of float64 is finite in float32: its own code has numbers that only that type holds."""
    if not any(p.dtype == torch.float64 for p in model.parameters()):
        return False
    narrow = copied(model, torch.float32)
    own = {name: p for name, p in narrow.named_parameters() if p.requires_grad}
    device = next(iter(own.values())).device
    given = [x.to(device, torch.float32 if x.is_floating_point() else x.dtype) for x in (X, y)]
    with torch.inference_mode(False), torch.enable_grad():
        return _sound(narrow, loss, own, *given)


SOUND = (
    "drop the example, or keep the model and the loss finite there (`x / (norm + 1e-12)`, "
    "`sqrt(x + 1e-12)`, logarithms of numbers above 0)"
)


def _refused(
    found: list[tuple[int, str]], examples: int, part: str, repair: str = SOUND
) -> SpecError:
    (first, what), *others = found
    shown = ", ".join(str(n) for n, _ in others[:NAMED])
    more = f", and {len(others) - NAMED} more" if len(others) > NAMED else ""
    notes = (f"so it is with {len(others)} others: {shown}{more}",) if others else ()
    if len(found) == examples:
        notes = ("so it is with every example looked at",)
    return refusal(
        Code.E0420,
        f"example {first} of {part}: {what}",
        repair,
        notes=notes,
    )


def _not_finite(model: nn.Module, loss: Loss, X: Rows, y: Rows) -> Iterator[tuple[int, str]]:
    """Every example that has something that is not finite, with what it is."""
    own = {name: p for name, p in model.named_parameters() if p.requires_grad}
    device = next(iter(own.values())).device
    with torch.inference_mode(False), torch.enable_grad():
        for start in range(0, len(X), BATCH):
            some = slice(start, start + BATCH)
            batch = moved(X[some], device), moved(y[some], device)
            if _sound(model, loss, own, *batch):
                continue
            for k in range(len(batch[0])):
                what = _fault(model, loss, own, batch[0][k : k + 1], batch[1][k : k + 1])
                if what:
                    yield start + k, what


def _sound(
    model: nn.Module, loss: Loss, own: dict[str, nn.Parameter], X: Tensor, y: Tensor
) -> bool:
    return not _fault(model, loss, own, X, y)


def _fault(model: nn.Module, loss: Loss, own: dict[str, nn.Parameter], X: Tensor, y: Tensor) -> str:
    """What is not finite of examples: their outputs, their losses or a gradient; empty if all is."""
    f = model(X)
    with torch.no_grad():
        losses = loss.per_example(_wide(f), _wide(y))
    if not all_finite(losses):
        return _about(losses, f.detach())
    if not f.requires_grad:
        return ""
    slope = loss.gradient(_wide(f.detach()), _wide(y)).reshape(f.shape)
    if not all_finite(slope):
        return f"the gradient of its loss by the model's output is {_value(slope)}"
    try:
        gradients = torch.autograd.grad(f, list(own.values()), slope.to(f.dtype), allow_unused=True)
    except Exception as error:
        # A backward pass that fails is refused where it is needed, with its own reason.
        if exhausted(error):
            raise
        return ""
    for name, gradient in zip(own, gradients, strict=True):
        if gradient is not None and not all_finite(_entries(gradient)):
            return f"the gradient of its loss by `{name}` is {_value(_entries(gradient))}"
    return ""


def _about(losses: Tensor, f: Tensor) -> str:
    """Of losses that are not finite: they, or the outputs before them."""
    if all_finite(f):
        return f"its loss is {_value(losses)}"
    rest = "" if bool(torch.isnan(f).any()) else f", and its loss {_value(losses)}"
    return f"the model's output is {_value(f)}{rest}"


def _wide(x: Tensor) -> Tensor:
    """Half precision in float32: a loss above 65504 is finite."""
    return x.to(torch.float32) if x.is_floating_point() and x.element_size() < 4 else x


def _entries(x: Tensor) -> Tensor:
    return x.coalesce().values() if x.is_sparse else x


def _value(x: Tensor) -> str:
    return "NaN" if bool(torch.isnan(x).any()) else "infinite"
