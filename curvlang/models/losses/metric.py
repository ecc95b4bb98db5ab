"""The metric of a query: its loss, the margin or the logit of its class, or a user's function.

A metric is turned into a **cost**, a function of outputs and target that falls where the query
improves. Scores are of the cost, so that one sign holds for all of them: positive where training
on an example improves the query.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.plain_arguments import keyworded
from curvlang.diagnostics.refusal import refusal
from curvlang.language.registry import METRICS
from curvlang.models.data.fields import IGNORED
from curvlang.models.losses.loss import Loss
from curvlang.models.losses.loss_modules import of_one_example, takes_batches
from curvlang.models.losses.losses import CrossEntropy
from curvlang.models.losses.user_loss import AutodiffLoss, Function
from curvlang.models.task import Task

BETTER = ("lower", "higher")
"""Which way a metric improves."""


@keyworded
@dataclass(frozen=True, slots=True)
class Metric:
    """A user's metric of one query.

    Args:
        function: The outputs and the target of one query to a number, differentiable once.
        better: `lower` where the query improves as the number falls (a loss), `higher` where it
            improves as the number grows (an accuracy, a reward). There is no default: the sign of
            every score hangs on it.
        name: For headers; the function's own name where empty.
    """

    function: Function
    better: str
    name: str = ""

    def __post_init__(self) -> None:
        """Refuse another word than `lower` or `higher`."""
        if self.better not in BETTER:
            raise refusal(
                Code.E0590,
                f"a metric gets better `lower` or `higher`, not `{self.better}`",
                'write `cv.Metric(function, better="higher")`',
            )


@dataclass(frozen=True, slots=True)
class QueryMetric:
    """A metric as scores use it.

    Args:
        name: For headers.
        cost: Its gradient is what the scores are of; lower is better.
        sign: What a positive score says.
    """

    name: str
    cost: Loss
    sign: str


def margin(f: Tensor, y: Tensor, ignored: int = IGNORED) -> Tensor:
    """Σ_t (f_{t,y_t} − log Σ_{c ≠ y_t} e^{f_{t,c}}), which is Σ_t log(p / (1 − p)) of the true class.

    Park et al., TRAK: Attributing Model Behavior at Scale, 2023, section 3.2.

    Args:
        f: Logits of one query, [C] or [T, C].
        y: Its class, or [T] of them.
        ignored: The label of positions that take no part.
    """
    own = _is_class(f, y)
    others = f.masked_fill(own, -torch.inf).logsumexp(-1)
    return _kept(_picked(f, own) - others, y, ignored)


def logit(f: Tensor, y: Tensor, ignored: int = IGNORED) -> Tensor:
    """Σ_t f_{t,y_t}, the logit of the true class; arguments as for `margin`."""
    return _kept(_picked(f, _is_class(f, y)), y, ignored)


@dataclass(frozen=True, slots=True)
class _Negative:
    """−m: the cost of a metric that is better when higher."""

    function: Function

    def __call__(self, f: Tensor, y: Tensor) -> Tensor:
        return -self.function(f, y)


@dataclass(frozen=True, slots=True)
class _OfClass:
    """−m of a metric in `CLASS_METRICS`."""

    name: str
    ignored: int
    axis: int

    def __call__(self, f: Tensor, y: Tensor) -> Tensor:
        last = f if self.axis == -1 else f.movedim(0, -1)
        return -CLASS_METRICS[self.name](last, y, self.ignored)


CLASS_METRICS: Mapping[str, Callable[[Tensor, Tensor, int], Tensor]] = {
    "margin": margin,
    "logit": logit,
}


def query_metric(metric: str | Metric, loss: Loss) -> QueryMetric:
    """The cost of a metric on a task with this loss.

    Raises:
        SpecError: E0590 for an unknown metric, or one of classes where the loss has none.
    """
    if isinstance(metric, Metric):
        name = metric.name or getattr(metric.function, "__name__", "metric")
        function = metric.function if metric.better == "lower" else _Negative(metric.function)
        way = "lowers" if metric.better == "lower" else "raises"
        return QueryMetric(
            name, AutodiffLoss(function, name), f"training on the example {way} `{name}`"
        )
    if metric == "loss":
        return QueryMetric("loss", loss, "training on the example lowers the query's loss")
    if metric not in CLASS_METRICS:
        raise refusal(
            Code.E0590,
            f"there is no metric `{metric}`",
            f"use one of {', '.join(f'`{name}`' for name in METRICS)}, or `cv.Metric(function, better=…)`",
        )
    if not isinstance(loss, CrossEntropy):
        raise refusal(
            Code.E0590,
            f"the metric `{metric}` is about classes, and the loss `{loss.name}` has none",
            "use `loss`, or `cv.Metric(function, better=…)`",
        )
    cost = AutodiffLoss(_OfClass(metric, loss.ignore_index, loss.axis), metric)
    return QueryMetric(metric, cost, f"training on the example raises the query's {metric}")


def query_metric_on(metric: str | Metric, task: Task) -> QueryMetric:
    """The metric of a task's queries, tried on them before any work.

    Raises:
        SpecError: E0590 as `asked_of`; E0405, E0580, E0581 for a function that does not fit.
    """
    X, y = task.query
    with torch.no_grad():
        f = task.model(X[:1].to(task.device))
    if isinstance(metric, Metric) and takes_batches(metric.function):
        # A module, or a function of torch, reads the axes of a batch.
        name = metric.name or getattr(metric.function, "__name__", type(metric.function).__name__)
        metric = replace(metric, function=of_one_example(metric.function, f, y), name=name)
    asked = query_metric(metric, task.loss)
    asked.cost.validate((len(y), *f.shape[1:]), y, f.dtype)
    return asked


def _is_class(f: Tensor, y: Tensor) -> Tensor:
    """Where the class axis has the true class."""
    return torch.arange(f.shape[-1], device=f.device) == y.clamp_min(0).unsqueeze(-1)


def _picked(f: Tensor, own: Tensor) -> Tensor:
    return torch.where(own, f, 0).sum(-1)


def _kept(values: Tensor, y: Tensor, ignored: int) -> Tensor:
    """The sum over positions that take part."""
    return torch.where(y == ignored, 0, values).sum()
