"""Many models trained side by side where `torch.func` cannot run them as one: a step of each in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from curvlang.evaluation.stacked_update import Update
from curvlang.models.loss import Loss
from curvlang.models.recipe import Recipe


class OneByOne(UserWarning):
    """Models that are trained one after another, and why."""


class ModulesInTurn:
    """M modules of one architecture: forward and backward of each by itself, updates stacked.

    Args:
        models: The modules, with buffers of their own; trainable parameters are copied.
        loss: The loss.
        recipe: Its optimiser takes the steps.
    """

    def __init__(self, models: Sequence[nn.Module], loss: Loss, recipe: Recipe) -> None:
        self.models = list(models)
        self.rule = loss
        self.update = Update(recipe)
        own = [dict(m.named_parameters()) for m in self.models]
        trained = [n for n, p in own[0].items() if p.requires_grad]
        self.state = {n: torch.stack([p[n].detach() for p in own]) for n in trained}
        self._values: list[Tensor] = []

    def step(self, x: Tensor, y: Tensor, lr: float) -> None:
        """One step on minibatches `x [M, B, …]`, `y [M, B, …]`."""
        values, rows = [], []
        for k, model in enumerate(self.models):
            own = {n: p[k].detach().requires_grad_() for n, p in self.state.items()}
            with torch.enable_grad():
                value = self.rule.per_example(functional_call(model, own, (x[k],)), y[k]).mean()
            rows.append(torch.autograd.grad(value, list(own.values()), materialize_grads=True))
            values.append(value.detach())
        gradients = {
            n: torch.stack(column)
            for n, column in zip(self.state, zip(*rows, strict=True), strict=True)
        }
        self.update.step(self.state, gradients, lr)
        self._values.append(torch.stack(values))

    def losses(self) -> Tensor:
        """Mean losses `[steps, M]` of the steps since they were last asked for."""
        found, self._values = torch.stack(self._values), []
        return found

    def outputs(self, x: Tensor) -> Tensor:
        """Outputs on shared inputs `x [Q, …]`: `[M, Q, …]`."""
        with torch.no_grad():
            found = [
                functional_call(m, {n: p[k] for n, p in self.state.items()}, (x,))
                for k, m in enumerate(self.models)
            ]
        return torch.stack(found)

    def parameters(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Stacked parameters `[M, …]` by name."""
        return {name: self.state[name] for name in names}


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
