"""Many models of any one architecture trained at once, through `torch.func`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import grad_and_value, stack_module_state, vmap

from curvlang.evaluation.stacked_update import Update
from curvlang.models.loss import Loss
from curvlang.models.recipe import Recipe
from curvlang.models.substitution import functional_call


class StackedModules:
    """M modules of one architecture, their parameters stacked.

    Args:
        models: The modules; trainable parameters and buffers are copied.
        loss: The loss.
        recipe: Its optimiser takes the steps.
    """

    def __init__(self, models: Sequence[nn.Module], loss: Loss, recipe: Recipe) -> None:
        self.models = list(models)
        self.model = models[0]
        self.rule = loss
        self.update = Update(recipe)
        stacked, self.buffers = stack_module_state(list(models))
        trained = {n for n, p in self.model.named_parameters() if p.requires_grad}
        self.state = {n: p.detach().clone() for n, p in stacked.items() if n in trained}
        self.frozen = {n: p.detach() for n, p in stacked.items() if n not in trained}
        self._values: list[Tensor] = []
        self._gradient = vmap(grad_and_value(self._mean_loss), randomness="error")

    def _mean_loss(
        self,
        state: dict[str, Tensor],
        fixed: tuple[dict[str, Tensor], dict[str, Tensor]],
        x: Tensor,
        y: Tensor,
    ) -> Tensor:
        frozen, buffers = fixed
        outputs = functional_call(self.model, (state, frozen, buffers), (x,))
        return self.rule.per_example(outputs, y).mean()

    def step(self, x: Tensor, y: Tensor, lr: float) -> None:
        """One step on minibatches `x [M, B, …]`, `y [M, B, …]`."""
        gradients, value = self.gradients(x, y)
        self.update.step(self.state, gradients, lr)
        self._values.append(value)

    def gradients(self, x: Tensor, y: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Of the mean losses, `[M, …]` by name, and these `[M]`."""
        found, value = self._gradient(self.state, (self.frozen, self.buffers), x, y)
        return found, value

    def constants(self, k: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Frozen parameters and buffers of model k."""
        frozen = {n: p[k] for n, p in self.frozen.items()}
        return frozen, {n: b[k] for n, b in self.buffers.items()}

    def losses(self) -> Tensor:
        """Mean losses `[steps, M]` of the steps since they were last asked for."""
        found, self._values = torch.stack(self._values), []
        return found

    def outputs(self, x: Tensor) -> Tensor:
        """Outputs on shared inputs `x [Q, …]`: `[M, Q, …]`.

        One model after another: once in a training, and without gradients some layers have no
        rule for many models at once (`nn.LSTM`).
        """
        with torch.no_grad():
            found = [
                functional_call(
                    model, ({n: p[k] for n, p in self.state.items()}, *self.constants(k)), (x,)
                )
                for k, model in enumerate(self.models)
            ]
        return torch.stack(found)

    def parameters(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Stacked parameters `[M, …]` by name."""
        return {name: self.state[name] for name in names}
