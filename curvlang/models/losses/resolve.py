"""Which loss a task's `loss` means for its outputs, and whether a batch's is the mean of its examples'."""

from __future__ import annotations

import warnings
from copy import deepcopy

import torch
from torch import Tensor, nn

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.models.data.rows import Pair, Rows, pieces
from curvlang.models.execution.calls import exhausted
from curvlang.models.losses.cross_entropy import CrossEntropy
from curvlang.models.losses.elementwise_losses import BinaryCrossEntropy
from curvlang.models.losses.loss import Loss, flat, show_shape
from curvlang.models.losses.loss_modules import as_module, takes_batches
from curvlang.models.losses.losses import loss_named
from curvlang.models.losses.user_loss import Function

FEW = 3
"""Examples whose outputs say where classes stand."""
ROWS = 8
"""Examples on which a batch is compared with its examples."""
LABELS = 32
"""Most of them where labels differ: a class may have a weight of its own."""
NUMBERS = 2_000_000
"""Most outputs of these examples together."""
TOLERANCE = 1e-3
"""Relative difference of two ways to add up the same losses; float32 models included."""


def loss_for(
    loss: str | Loss | Function | nn.Module, model: nn.Module, train: Pair, *, settled: bool
) -> Loss:
    """The loss that a task's `loss` means for this model's outputs.

    Args:
        loss: As given.
        model: Reads `train[0]` by rows.
        train: Inputs and targets.
        settled: Whether the examples say that classes stand on the last axis.

    Raises:
        SpecError: E0411 for an unknown name or a value of another type, E0582 and E0587 for a
            module.
    """
    if isinstance(loss, Loss):
        return loss
    outputs = _outputs(model, train[0][:FEW]) if train[0].ndim else None
    named = loss_named(loss, outputs, train[1])
    if takes_batches(loss):
        _check_counts(as_module(loss), train[1])  # type: ignore[arg-type]
    if loss == "cross_entropy" and not settled and outputs is not None:
        _check_axis(outputs, train[1])
    return named


def _outputs(model: nn.Module, X: Tensor) -> Tensor | None:
    """The model's outputs; None where it fails, which the task's checks tell with its reason."""
    p = next(model.parameters(), None)
    if p is None or not len(X):
        return None
    try:
        with torch.no_grad():
            f = model(X.to(p.device))
    except Exception as error:
        if exhausted(error):
            raise
        return None
    return f if isinstance(f, Tensor) and f.ndim and len(f) == len(X) else None


class ClassAxis(UserWarning):
    """Labels fit classes on the last axis and on axis 1; which is read is said."""


def _check_axis(outputs: Tensor, y: Rows) -> None:
    """Say how the outputs are read where labels fit two readings of them.

    The name `cross_entropy` has its classes on the last axis; torch's modules have theirs on axis 1.
    """
    shape = tuple(outputs.shape[1:])
    if len(shape) < 2 or set(shape) != {shape[0]} or tuple(y.shape[1:]) != shape[1:]:
        return
    warnings.warn(
        f"outputs of shape {show_shape(outputs.shape)}: `cross_entropy` reads the classes on the last "
        "axis, and the labels fit axis 1 as well; give `cv.CrossEntropy()` to say that the last one is "
        "meant (language models), or `torch.nn.CrossEntropyLoss()` for axis 1 (images)",
        ClassAxis,
        stacklevel=2,
    )


class Probabilities(UserWarning):
    """A model returns probabilities where its loss reads logits."""


def say_probabilities(model: nn.Module, loss: Loss, outputs: Tensor) -> None:
    """Say that a softmax or a sigmoid is taken twice: once by the model, and once by its loss.

    Scores are then of an objective that hardly anyone means, and nothing else shows it.
    """
    if isinstance(loss, CrossEntropy):
        p = loss.logits(outputs).double()
        what, own = "softmax", "`lambda p, y: -p.log().gather(-1, y[..., None]).sum()`"
        twice = p.shape[-1] > 1 and _close(p.sum(-1), torch.ones_like(p[..., 0]))
    elif isinstance(loss, BinaryCrossEntropy):
        p = outputs
        what, own = "sigmoid", "`torch.nn.BCELoss()`"
        twice = isinstance([*model.modules()][-1], nn.Sigmoid) and bool((p <= 1).all())
    else:
        return
    if twice and bool((p >= 0).all()):
        warnings.warn(
            f"the model's outputs are probabilities, and `{loss.name}` takes a {what} of what it reads: return "
            f"logits, without the last {what}, or give the loss of probabilities, {own}",
            Probabilities,
            stacklevel=2,
        )


def check_mean(given: object, loss: Loss, model: nn.Module, train: Pair) -> None:
    """A loss of batches is, on a few examples, the mean or the sum of what it is for each.

    Args:
        given: The task's `loss` as the user gave it; only losses of batches are compared.
        loss: What it is for one example.
        model: The task's model.
        train: Its examples.

    Raises:
        SpecError: E0582 with the size of the difference.
    """
    if not takes_batches(given):
        return
    module = as_module(given)  # type: ignore[arg-type]
    X, y = train
    few = _chosen(y, model, X)
    f = _outputs(model, X[few])
    if f is None:
        return
    f, target = f.detach().double(), y[few].to(f.device)
    target = target.double() if target.is_floating_point() else target
    rule = _flattened(_doubled(module), f, target)
    if rule is None:
        _check_broadcast(given, _doubled(module), f, target)
        return
    _compare(given, rule, loss, f, target)
    if _crosses(f, target):
        # A loss that is broadcast may fit at the model's own outputs, where it is linear (L1).
        _compare(given, rule, loss, target.reshape(f.shape).to(f.dtype), target)


def _compare(given: object, rule: Function, loss: Loss, f: Tensor, y: Tensor) -> None:
    """Value and gradient of a batch, and of each of its examples as a batch, are those of the loss.

    Raises:
        SpecError: E0582.
    """
    each, slopes = loss.per_example(f, y).detach(), loss.gradient(f, y).detach()
    whole = _derived(rule, f, y)
    if whole is not None and not _is_mean(each, slopes, *whole):
        raise _no_mean(given, each, whole[0], f, y)
    for n in range(len(f)):
        here = slice(n, n + 1)
        one = _derived(rule, f[here], y[here])
        if one is not None and not _is_mean(each[here], slopes[here], *one):
            raise _no_mean(given, each[here], one[0], f[here], y[here])


def _check_broadcast(given: object, module: Function, f: Tensor, y: Tensor) -> None:
    """Outputs and targets are not combined across examples: [B, 1] with [B] gives [B, B].

    Raises:
        SpecError: E0582.
    """
    try:
        value = module(f, y)
    except Exception as error:
        if exhausted(error):
            raise
        return
    if _crosses(f, y) and value.numel() > len(f):
        raise _crossed(given, f, y, f"numbers of shape {list(value.shape)} for {len(f)} examples")


def _crosses(f: Tensor, y: Tensor) -> bool:
    """Whether outputs and targets hold as many numbers in shapes that differ."""
    return f.shape != y.shape and f.numel() == y.numel() and y.is_floating_point()


def _crossed(given: object, f: Tensor, y: Tensor, what: str) -> SpecError:
    return refusal(
        Code.E0582,
        f"`{_called(given)}` gives {what} with outputs of shape {show_shape(f.shape)} and targets of "
        f"shape {show_shape(y.shape)}",
        f"give targets of shape {show_shape(f.shape)}",
        notes=("shapes that differ are broadcast: every output meets the targets of all examples",),
    )


def _check_counts(module: object, y: Rows) -> None:
    """A mean over labels that count is one over examples only where all have as many of them.

    Raises:
        SpecError: E0582.
    """
    ignored = getattr(module, "ignore_index", None)
    mean = getattr(module, "reduction", "mean") == "mean"
    if ignored is None or not mean or y.is_floating_point() or not y.shape.numel():
        return
    fewest, most = _fewest_and_most(y, ignored)
    if fewest == most:
        return
    name = type(module).__name__
    raise refusal(
        Code.E0582,
        f"`{name}` divides a batch by all labels that count, and examples have from {fewest} to "
        f"{most} of them",
        f'`{name}(reduction="sum")` has the gradients of the whole set\'s mean up to one factor',
        '`cv.CrossEntropy("mean")` makes every example\'s own mean count the same',
        notes=(f"labels {ignored} do not count: the mean of a batch is not its examples' mean",),
    )


def _fewest_and_most(y: Rows, ignored: int) -> tuple[int, int]:
    """Labels that count of an example, at least and at most."""
    if not y.ndim:
        return 1, 1
    counts = [flat(piece != ignored).sum(1) for _, piece in pieces(y)]
    return min(int(x.min()) for x in counts), max(int(x.max()) for x in counts)


def _chosen(y: Rows, model: nn.Module, X: Rows) -> Tensor:
    """Examples that differ: one of each label, the extremes of the targets, and some between."""
    size = torch.cat([flat(piece).double().sum(1) for _, piece in pieces(y)])
    some = torch.linspace(0, len(y) - 1, ROWS // 2).round().long()
    places = [*some.tolist(), int(size.argmin()), int(size.argmax())]
    if y.ndim == 1 and not y.is_floating_point():
        values = y[:].tolist()
        places += dict(zip(reversed(values), reversed(range(len(values))), strict=True)).values()
    f = _outputs(model, X[:1])
    fitting = ROWS if f is None else max(2, min(LABELS, NUMBERS // max(1, f.numel())))
    return torch.tensor(sorted(list(dict.fromkeys(places))[:fitting]), device=X.device)


def _doubled(module: Function) -> Function:
    """The module in float64 where it can be copied."""
    if not isinstance(module, nn.Module):
        return module
    try:
        return deepcopy(module).double()
    except (TypeError, RuntimeError):
        return module


def _flattened(rule: Function, f: Tensor, y: Tensor) -> Function | None:
    """The loss of a batch: as it is, or of all positions one behind the other; None where it has none."""
    by_hand: Function = lambda f, y: rule(f.reshape(-1, f.shape[-1]), y.reshape(-1))  # noqa: E731
    ways: list[Function] = [rule]
    if f.ndim > 2 and y.shape == f.shape[:-1]:
        ways.append(by_hand)
    for way in ways:
        if _derived(way, f, y) is not None:
            return way
    return None


def _derived(rule: Function, f: Tensor, y: Tensor) -> tuple[Tensor, Tensor] | None:
    """A batch's loss and its gradient at the outputs; None where it has not both."""
    z = f.clone().requires_grad_()
    try:
        with torch.enable_grad():
            value = rule(z, y)
            value = value.sum() if value.shape == (len(f),) else value.reshape(())
            (slope,) = torch.autograd.grad(value, z)
    except Exception as error:
        if exhausted(error):
            raise
        return None
    return value.detach(), flat(slope)


def _is_mean(each: Tensor, slopes: Tensor, value: Tensor, slope: Tensor) -> bool:
    """Whether value and gradient are those of the examples' mean, or of their sum."""
    return any(_close(value, each.sum() / k) and _close(slope, slopes / k) for k in {1, len(each)})


def _close(x: Tensor, y: Tensor) -> bool:
    size = torch.maximum(x.norm(), y.norm())
    return bool(torch.dist(x, y) <= TOLERANCE * size + 1e-12)


def _no_mean(given: object, each: Tensor, value: Tensor, f: Tensor, y: Tensor) -> SpecError:
    if _crosses(f, y):
        return _crossed(given, f, y, f"{float(value):.6g}")
    own = "give a function of one example's outputs and target"
    summed = getattr(as_module(given), "reduction", "sum") != "sum"  # type: ignore[arg-type]
    return refusal(
        Code.E0582,
        f"`{_called(given)}` gives {float(value):.6g} for {len(each)} examples together, and its values "
        f"for each have the mean {float(each.mean()):.6g}",
        f'use `reduction="sum"`, or {own}' if summed else own,
        notes=("the objective is the mean of losses that every example has by itself",),
    )


def _called(given: object) -> str:
    if isinstance(given, nn.Module):
        return type(given).__name__
    inner: object = getattr(given, "func", given)
    return str(getattr(inner, "__name__", type(inner).__name__))
