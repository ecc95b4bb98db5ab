"""What ground truth is wanted: of which task, by which protocol; its key, and the models to be retrained for it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import label_at, refusal
from curvlang.diagnostics.source import NOWHERE, Span
from curvlang.evaluation.protocol import LDS
from curvlang.evaluation.retraining.retraining import Retraining, initial_seed, models_at_once
from curvlang.evaluation.retraining.stacks import ModelStack, stacks
from curvlang.models.content import own_code
from curvlang.models.data.rows import Rows
from curvlang.models.fingerprint import digest, parameter_parts
from curvlang.models.losses.loss import Loss
from curvlang.models.losses.metric import Metric, QueryMetric, query_metric_on
from curvlang.models.origin import Build
from curvlang.models.task import Task
from curvlang.training.built import built
from curvlang.training.subsets import draw_subsets, leave_class_out, leave_one_out
from curvlang.training.training import check_trainable

SCHEMA = "ground-truth-3"
"""Changes whenever the same key would mean other numbers."""
PROBED = 64
"""Training targets at which the loss is looked at for the key."""


@dataclass(frozen=True, slots=True, eq=False)
class TruthRequest:
    """Losses of a task's queries after retraining; see `of`.

    Args:
        task: With `build` and `recipe`.
        protocol: With as many subsets as there are.
        init_seed: Of the baseline, which the policy `shared` starts every training from.
        metric: What the queries are asked for.
        kept: Members of every subset, `[K, N]`.
        asked: The metric as a cost; None for the loss.
    """

    task: Task
    protocol: LDS
    init_seed: int
    metric: str | Metric
    kept: Tensor
    asked: QueryMetric | None

    @staticmethod
    def of(
        task: Task, protocol: LDS, init_seed: int, metric: str | Metric = "loss"
    ) -> TruthRequest:
        """The ground truth of a protocol.

        Raises:
            SpecError: E0503 where the task cannot be retrained, E0502 and E0508 for subsets, E0590 for
                a metric.
        """
        check_trainable(task, "LDS", "leave LDS out")
        kept = members(task, protocol)
        asked = None if metric == "loss" else query_metric_on(metric, task)
        return TruthRequest(
            task, replace(protocol, subsets=len(kept)), init_seed, metric, kept, asked
        )

    def key(self, *, by_name: bool = False) -> str:
        """What the losses depend on, and nothing else: not K, not R.

        Args:
            by_name: The key of earlier versions, for which own code counted by its name alone.

        Raises:
            SpecError: E0507 where models are not decided by their seeds, E0753 where the seed decides
                nothing.
        """
        return truth_key(self.task, self.protocol, self.init_seed, self.asked, by_name=by_name)

    def own_code(self) -> str:
        """All content of the user's that the numbers depend on."""
        costs = [self.task.loss, *([] if self.asked is None else [self.asked.cost])]
        return "\n".join([*own_code(self.task.model), *(cost.identity for cost in costs)])

    def retraining(self) -> Retraining:
        """The models."""
        cost = None if self.asked is None else self.asked.cost
        return Retraining.of(self.task, self.kept, self.protocol, self.init_seed, cost)

    def stacks(self) -> list[ModelStack]:
        """The same in stacks."""
        most = models_at_once(self.task, self.kept)
        return stacks(len(self.kept), self.protocol.retrains, most)


def members(task: Task, protocol: LDS) -> Tensor:
    """Members of every subset of a protocol, `[K, N]`."""
    match protocol.groups:
        case "one":
            return leave_one_out(task.N, protocol.subsets, protocol.seed)
        case "class":
            return leave_class_out(task.train[1])
        case _:
            return draw_subsets(task.N, protocol.subsets, protocol.keep, protocol.seed)


def truth_key(
    task: Task,
    protocol: LDS,
    init_seed: int,
    asked: QueryMetric | None = None,
    *,
    by_name: bool = False,
) -> str:
    """What the losses depend on, and nothing else: not K, not R.

    `build` counts by what it gives, the first model's parameters before training; the loss and the
    metric by their content, and by values at fixed outputs.

    Args:
        task: The task.
        protocol: Of retraining.
        init_seed: Of the first model.
        asked: The metric, where it is not the loss.
        by_name: The key of earlier versions, for which own code counted by its name alone.
    """
    assert task.build is not None
    first, second = (initial_seed(protocol, init_seed, k, 0) for k in (0, 1))
    shared = init_seed if protocol.initialisation == "shared" else None
    parts = (
        SCHEMA,
        task.data_fingerprint(by_name=by_name),
        _initial(task.build, first, second, task.train[0]),
        loss_values(task.loss, task),
        repr(task.recipe),
        repr((protocol.keep, protocol.seed, protocol.initialisation, shared, task.N)),
        str(task.dtype),
        *([] if protocol.groups == "random" else [protocol.groups]),
        *(() if asked is None else (asked.name, loss_values(asked.cost, task))),
        *(() if by_name or asked is None else _content(asked.cost)),
    )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _content(loss: Loss) -> tuple[str, ...]:
    """What a loss is beyond its name, where it is the user's."""
    return () if loss.identity == repr(loss) else (loss.identity,)


def _initial(build: Build, seed: int, other: int, x: Rows) -> str:
    """Digest of the parameters that a seed gives.

    Raises:
        SpecError: E0507 where they differ from call to call, E0753 where they are those of another
            seed.
    """
    made = built(build, [seed, seed, other], x)
    first, second, third = (digest(*parameter_parts(model)) for model in made)
    if first != second:
        raise refusal(
            Code.E0507,
            f"`build` makes two different models from the seed {seed}",
            "draw the parameters from the seed: `torch.manual_seed(seed)` in `build`",
            notes=("a retraining that cannot be repeated cannot be kept or resumed",),
        )
    if seed != other and first == third:
        span: Span = getattr(build, "span", NOWHERE)
        raise refusal(
            Code.E0753,
            "`build` makes the same model for every seed, and LDS retrains from fresh "
            "initialisations",
            "let it draw the parameters: a trained network cannot be the start",
            "where all trainings are to start alike, say so: `initialisation = shared`",
            *(["or leave the LDS out, on the command line by `--no-lds`"] if span.end else []),
            labels=label_at(span, "the same for every seed"),
        )
    return first


def loss_values(loss: Loss, task: Task) -> str:
    """Digest of a loss, or a metric, of a few training targets at random outputs."""
    x, y = (part[:PROBED].to(task.device) for part in task.train)
    with torch.no_grad():
        like = task.model(x[:1])
        generator = torch.Generator().manual_seed(0)
        f = torch.randn((len(x), *like.shape[1:]), generator=generator).to(like)
        return digest(loss.per_example(f, y))
