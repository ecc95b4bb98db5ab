"""Many models of any one architecture trained at once, through `torch.func`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.func import grad_and_value, vmap

from curvlang.models.execution.packed import wide_masks
from curvlang.models.execution.substitution import functional_call
from curvlang.models.losses.loss import Loss
from curvlang.models.recipe import Recipe
from curvlang.training.stacked_update import Update


class Modules:
    """M modules that are trained side by side, each a module that can be called.

    Abstract: an engine implements `step` and `gradients`.

    Args:
        models: The modules; they are trained where they are.
        loss: The loss.
        recipe: How a step is taken.
    """

    def __init__(self, models: Sequence[nn.Module], loss: Loss, recipe: Recipe) -> None:
        self.models = list(models)
        self.rule = loss
        self.recipe = recipe
        self._values: list[Tensor] = []

    def gradients(self, x: Tensor, y: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Of the mean losses, `[M, …]` by name, and these `[M]`.

        Args:
            x: Minibatches, `[M, B, …]`.
            y: Likewise.
        """
        raise NotImplementedError

    def step(self, x: Tensor, y: Tensor, lr: float) -> None:
        """One step on minibatches `x [M, B, …]`, `y [M, B, …]`."""
        raise NotImplementedError

    def losses(self) -> Tensor:
        """Mean losses `[steps, M]` of the steps since they were last asked for."""
        found, self._values = torch.stack(self._values), []
        return found

    def outputs(self, x: Tensor) -> Tensor:
        """Outputs on shared inputs `x [Q, …]`: `[M, Q, …]`, one model after another."""
        with torch.no_grad():
            return torch.stack([model(x) for model in self.models])

    def parameters(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Stacked parameters `[M, …]` by name."""
        held = [dict(model.named_parameters()) for model in self.models]
        return {n: torch.stack([own[n].detach() for own in held]) for n in names}


class StackedModules(Modules):
    """Modules whose parameters are parts of one stacked tensor each: one call trains them all.

    Args:
        models: The modules.
        loss: The loss.
        recipe: How a step is taken.
        unreached: Parameters that the loss does not depend on: they stay as they are.
        wide: Whether models are given masks of padding that `vmap` can run.
    """

    def __init__(
        self,
        models: Sequence[nn.Module],
        loss: Loss,
        recipe: Recipe,
        unreached: frozenset[str] = frozenset(),
        *,
        wide: bool = False,
    ) -> None:
        super().__init__(models, loss, recipe)
        self.wide = wide
        first = self.models[0].named_parameters()
        trained = {n for n, p in first if p.requires_grad} - unreached
        held = [dict(_named(model)) for model in self.models]
        stacked = {n: torch.stack([own[n].detach() for own in held]) for n in held[0]}
        self.state = {n: p for n, p in stacked.items() if n in trained}
        self.fixed = {n: p for n, p in stacked.items() if n not in trained}
        for k, own in enumerate(held):
            for name, rows in self.state.items():
                own[name].data = rows[k]
        self.update = Update(recipe)
        self._gradient: Callable[..., tuple[dict[str, Tensor], Tensor]] = vmap(
            grad_and_value(self._mean_loss), randomness="error"
        )

    def _mean_loss(
        self, state: Mapping[str, Tensor], fixed: Mapping[str, Tensor], x: Tensor, y: Tensor
    ) -> Tensor:
        with wide_masks() if self.wide else nullcontext():
            outputs = functional_call(self.models[0], {**state, **fixed}, (x,))
        return self.rule.per_example(outputs, y).mean()

    def step(self, x: Tensor, y: Tensor, lr: float) -> None:
        """One step on minibatches `x [M, B, …]`, `y [M, B, …]`."""
        gradients, value = self.gradients(x, y)
        self.update.step(self.state, gradients, lr)
        self._values.append(value)

    def gradients(self, x: Tensor, y: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Of the mean losses, `[M, …]` by name, and these `[M]`."""
        return self._gradient(self.state, self.fixed, x, y)


def _named(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers by name, each once."""
    yield from model.named_parameters()
    yield from model.named_buffers()
