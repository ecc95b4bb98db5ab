"""The losses of one stack of retrained models: a pure function of the task, the protocol and the stack."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from curvlang.diagnostics.diagnostic import SpecError
from curvlang.evaluation.protocol import LDS
from curvlang.evaluation.retraining.stacks import UNIT, ModelStack
from curvlang.models.data.rows import Rows
from curvlang.models.losses.loss import Loss
from curvlang.models.task import Task
from curvlang.training.baseline import diverged as refused_diverged
from curvlang.training.retrain import CHUNK, retrain
from curvlang.training.subsets import derived_seed
from curvlang.training.training import Training, training_of

STACK = 25
"""Models trained in one stack on a processor: larger ones are not faster there (measured)."""
OPERATIONS = 4e11
"""Operations of a stack: half a minute on a processor. What is trained in a stack is lost when the run is killed.
A count, not a time, so that stacks do not depend on the machine."""
FASTER = 50
"""How many operations more a GPU may take."""


@dataclass(frozen=True, slots=True, eq=False)
class Retraining:
    """Models of all subsets and repetitions.

    Args:
        training: Of no model: the task's part of every training.
        kept: Members of every subset, `[K, N]`.
        protocol: Of retraining.
        init_seed: Of the baseline, for a shared initialisation.
    """

    training: Training
    kept: Tensor
    protocol: LDS
    init_seed: int

    @staticmethod
    def of(
        task: Task, kept: Tensor, protocol: LDS, init_seed: int, metric: Loss | None
    ) -> Retraining:
        """The retraining of a task; see `ground_truth`."""
        return Retraining(training_of(task, kept[:0], [], [], metric), kept, protocol, init_seed)

    def trained(self, stack: ModelStack, told: Callable[[int, int], None] | None = None) -> Tensor:
        """Losses of the queries `[models, Q]`, in double precision on the host.

        Args:
            stack: Which models.
            told: Called with the model-steps done, and all.

        Raises:
            SpecError: E0504 where a model diverges.
        """
        rows = stack.rows
        # A stack of one takes other kernels, which round otherwise: a model trained alone
        # would differ from the same model trained among others.
        together = rows * 2 if len(rows) == 1 else rows
        protocol = self.protocol
        training = replace(
            self.training,
            members=self.kept[[k for _, k in together]],
            init_seeds=[initial_seed(protocol, self.init_seed, k, r) for r, k in together],
            order_seeds=[derived_seed(protocol.seed, 2, k, r) for r, k in together],
        )
        result = retrain(training, progress=told)
        if bool(result.diverged.any()):
            raise self._diverged(result.diverged[: len(rows)], rows)
        return result.query_loss[: len(rows)].double().cpu()

    def _diverged(self, diverged: Tensor, rows: list[tuple[int, int]]) -> SpecError:
        r, k = rows[int(diverged.nonzero()[0, 0])]
        return refused_diverged(
            f"{int(diverged.sum())} of {len(rows)} models diverged in training "
            f"(the first on subset {k}, repetition {r}): their losses grew without bound",
            self.training.recipe,
            "a diverged model says nothing about its training data, so nothing is scored",
        )


def initial_seed(protocol: LDS, shared: int, k: int, r: int) -> int:
    """Of the initialisation of subset k in repetition r."""
    return shared if protocol.initialisation == "shared" else derived_seed(protocol.seed, 1, k, r)


def models_at_once(task: Task, kept: Tensor) -> int:
    """Models in a stack, a multiple of five: fewer where their training takes long.

    Args:
        task: With `recipe`.
        kept: Members of every subset.
    """
    assert task.recipe is not None
    on_host = task.device.type == "cpu"
    most = STACK if on_host else CHUNK
    examples = float(kept.sum(1).double().mean()) * task.recipe.epochs
    # A backward pass takes two forward passes' operations.
    each = 3 * examples * forward_operations(task.model, task.train[0])
    may = OPERATIONS * (1 if on_host else FASTER) / max(each, 1.0)
    with_few = int(min(most, may)) // UNIT * UNIT
    return max(UNIT, with_few)


def forward_operations(model: nn.Module, x: Rows) -> int:
    """Operations of a forward pass for one example, roughly: of every module that has matrices of its own.

    Counted by shapes, since torch's counter takes seconds to load.
    """
    found = 0

    def count(module: nn.Module, given: object, output: object) -> None:
        nonlocal found
        first = output[0] if isinstance(output, tuple) else output
        for weight in module.parameters(recurse=False):
            if weight.ndim > 1:
                size = first.numel() if isinstance(first, Tensor) else len(weight)
                found += 2 * weight.numel() * max(1, size // max(1, len(weight)))

    handle = register_module_forward_hook(count)
    try:
        with torch.no_grad():
            model(x[:1].to(next(model.parameters()).device))
    finally:
        handle.remove()
    return found
