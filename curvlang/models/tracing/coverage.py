"""Which parameters layer-wise curvatures cover, which not and why, and what that leaves out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.notebook import Display, frame, html_table, text_table
from curvlang.diagnostics.refusal import refusal
from curvlang.diagnostics.values import another_type
from curvlang.models.execution.copies import unwrapped
from curvlang.models.execution.torch_state import settled
from curvlang.models.losses.finite import check_examples_finite, in_part
from curvlang.models.sources.transfers import waits
from curvlang.models.task import Task, check_task
from curvlang.models.tracing.blocks import Facts, offsets, scale_and_shift, trainable
from curvlang.models.tracing.facts import WORDS
from curvlang.models.tracing.half_precision import exact_gradients
from curvlang.models.tracing.survey import CoveredLayer, OutsideParameter, submodule, survey
from curvlang.operators.validation import all_finite

HEAD = ("parameter", "shape", "layer", "status", "‖∇‖² share", "reason")
MEMORY = 2**27
"""Bytes that the per-example gradients of one batch may take."""


@dataclass(frozen=True, slots=True)
class Row:
    """One parameter.

    Args:
        parameter: Its name.
        shape: Its shape.
        module: The module that holds it; `model` for the model itself.
        type: The module's type.
        status: `covered` (in a layer that shows `a` and `g`: every stage fits), `others` (its
            gradients are exact, but a stage that reads `a` or `g` by itself needs the clause
            `others = …` for it) or `frozen` (not a parameter of the problem).
        reason: Why it is not covered; empty where it is.
        share: Its share of Σ_n ‖∇ℓ_n‖² over the training examples; None without a task, and for
            frozen parameters.
    """

    parameter: str
    shape: tuple[int, ...]
    module: str
    type: str
    status: str
    reason: str = ""
    share: float | None = None

    @property
    def size(self) -> int:
        """Entries."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True, repr=False)
class Coverage(Display):
    """All parameters of a model, in the order of `named_parameters()`; printable."""

    rows: tuple[Row, ...]

    @property
    def covered(self) -> tuple[str, ...]:
        """Names of the parameters that every stage fits."""
        return self._named("covered")

    @property
    def others(self) -> tuple[str, ...]:
        """Names of the parameters for which `others = …` decides."""
        return self._named("others")

    @property
    def frozen(self) -> tuple[str, ...]:
        """Names of the parameters that are not trained."""
        return self._named("frozen")

    @property
    def complete(self) -> bool:
        """Whether every stage fits every trainable parameter."""
        return not self.others

    @property
    def share(self) -> float | None:
        """The covered parameters' share of the squared gradient norm; None without a task."""
        shares = [row.share for row in self.rows if row.status == "covered"]
        if any(row.share is not None for row in self.rows):
            return math.fsum(share for share in shares if share is not None)
        return None

    def _named(self, status: str) -> tuple[str, ...]:
        return tuple(row.parameter for row in self.rows if row.status == status)

    def table(self) -> str:
        """The rows as text, without the summary."""
        return text_table(HEAD, [_cells(row) for row in self.rows])

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame` with a row for every parameter.

        Raises:
            SpecError: E0757 where pandas is not installed.
        """
        columns = ("parameter", "shape", "size", "module", "type", "status", "share", "reason")
        return frame({name: [getattr(row, name) for row in self.rows] for name in columns})

    def __str__(self) -> str:
        return f"{self.table()}\n{self._summary()}"

    def _repr_html_(self) -> str:
        return html_table(HEAD, [_cells(row) for row in self.rows], title=self._summary())

    def _summary(self) -> str:
        sizes = {
            status: sum(row.size for row in self.rows if row.status == status)
            for status in ("covered", "others", "frozen")
        }
        total = sizes["covered"] + sizes["others"]
        share = "" if self.share is None else f", {self.share:.1%} of the squared gradient norm"
        return f"{sizes['covered']} of {total} parameters covered{share}; {sizes['frozen']} frozen"


@settled
def coverage(model: nn.Module, task: Task | None = None) -> Coverage:
    """Which parameters of a model have `a` and `g`.

    Args:
        model: Any module; it is not run unless a task is given.
        task: Gives loss and training examples: layers are then tried on a few of them, and every
            parameter's share of the squared per-example gradient norm is measured.

    Returns:
        A row for every parameter, frozen ones included.

    Raises:
        SpecError: E0412 where the task is about a model with other parameters.
    """
    _check_model(model)
    if task is not None:
        check_task(task)
    if task is None:
        found, facts = survey(model), Facts()
        shares: dict[str, float] = {}
    else:
        _check_same(unwrapped(model), task)
        model, facts = task.model, task.facts
        found, shares = survey(model), gradient_shares(task)
    apart = _apart(task)
    return Coverage(
        tuple(
            replace(row, status="others", reason=WORDS) if row.parameter in apart else row
            for name, p in model.named_parameters()
            for row in (_row(model, facts.split(found), name, p, shares.get(name)),)
        )
    )


def _apart(task: Task | None) -> set[str]:
    """The parameters that stand apart as those of words, where the task says so."""
    if task is None or not task.words_apart:
        return set()
    return {name for x in task.blocks() if x.reason == WORDS for name in x.parameters}


def _check_model(model: object) -> None:
    if not isinstance(model, nn.Module):
        how = (
            "`cv.coverage(task.model, task)`" if isinstance(model, Task) else "a `torch.nn.Module`"
        )
        raise another_type("model", model, "a module", how)


def _check_same(model: nn.Module, task: Task) -> None:
    """The task's model is the given one, or its copy that takes tensors."""
    own = {name: p.shape for name, p in model.named_parameters()}
    if own != {name: p.shape for name, p in task.model.named_parameters()}:
        raise refusal(
            Code.E0412,
            "the task is about another model: its parameters have other names or shapes",
            "pass the model that the task was made with",
        )


def gradient_shares(task: Task) -> dict[str, float]:
    """Σ_n ‖∂ℓ_n/∂θ_p‖² of every trainable parameter, as shares of their sum."""
    own, starts = trainable(task.model), offsets(task.model)
    zero = torch.zeros((), dtype=torch.float64, device=task.device)
    sums = {name: zero.clone() for name in own}
    each = task.P * torch.empty((), dtype=task.precision).element_size()
    done = 0
    for X, y in task.batches(max(1, MEMORY // each)):

        def of_batch(X: Tensor = X, y: Tensor = y) -> Tensor:
            return exact_gradients(task.model, task.loss, X, y, task.blocks())

        with in_part(task.model, X, "train", done):
            found = task.retried(of_batch)
        if not waits(task.device) and not all_finite(found):
            rows = list(range(done, done + len(X)))
            check_examples_finite(task.model, task.loss, X, y, "train", rows)
        done += len(X)
        squares = found.to(torch.float64).square().sum(0)
        for name, p in own.items():
            sums[name] += squares[starts[name] : starts[name] + p.numel()].sum()
    each_sum = dict(zip(sums, torch.stack(list(sums.values())).tolist(), strict=True))
    total = math.fsum(each_sum.values())
    if not math.isfinite(total):
        check_examples_finite(task.model, task.loss, *task.train, "train")
    return {name: value / total if total > 0 else 0.0 for name, value in each_sum.items()}


def _row(
    model: nn.Module,
    split: tuple[Sequence[CoveredLayer], Sequence[OutsideParameter]],
    name: str,
    p: nn.Parameter,
    share: float | None,
) -> Row:
    layers, bare = split
    path = name.rpartition(".")[0]
    type_name = type(submodule(model, path)).__name__
    shape = tuple(p.shape)
    if not p.requires_grad:
        return Row(name, shape, path or "model", type_name, "frozen", "requires_grad is False")
    for item in bare:
        if name == item.parameter:
            return Row(name, shape, item.module, item.type, "others", item.reason, share)
    layer = next(x for x in layers if name in (x.weight, x.bias))
    if not layer.kind.factored:
        reason = scale_and_shift(layer.module)
        return Row(name, shape, path or "model", type_name, "others", reason, share)
    return Row(name, shape, path or "model", type_name, "covered", "", share)


def _cells(row: Row) -> tuple[str, ...]:
    share = "" if row.share is None else f"{row.share:.1%}"
    shape = "×".join(map(str, row.shape)) or "1"
    return (row.parameter, shape, row.type, row.status, share, row.reason)
