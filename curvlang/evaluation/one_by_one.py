"""Many models trained side by side where `torch.func` cannot run them as one: a step of each in turn."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from curvlang.evaluation.stacked_any import StackedModules
from curvlang.models.substitution import functional_call


class OneByOne(UserWarning):
    """Models that are trained one after another, and why."""


class ModulesInTurn(StackedModules):
    """M modules of one architecture: forward and backward of each by itself, updates stacked."""

    def gradients(self, x: Tensor, y: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Of the mean losses, `[M, …]` by name, and these `[M]`."""
        values, rows = [], []
        for k, model in enumerate(self.models):
            own = {n: p[k].detach().requires_grad_() for n, p in self.state.items()}
            with torch.enable_grad():
                f = functional_call(model, (own, *self.constants(k)), (x[k],))
                value = self.rule.per_example(f, y[k]).mean()
            rows.append(torch.autograd.grad(value, list(own.values()), materialize_grads=True))
            values.append(value.detach())
        columns = zip(self.state, zip(*rows, strict=True), strict=True)
        return {n: torch.stack(column) for n, column in columns}, torch.stack(values)


def why_not_stacked(attempt: Callable[[], object]) -> str:
    """The first sentence of what `torch.func` says where it cannot run a model; empty where it can.

    A mistake in the model or the data is raised again where models are trained in turn.

    Args:
        attempt: A step of two models as one.
    """
    try:
        attempt()
    except (RuntimeError, NotImplementedError, ValueError) as error:
        return str(error).strip().partition("\n")[0].partition(". ")[0] or type(error).__name__
    return ""
