"""Many models trained side by side as a plain loop trains each: where they do not run as one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from curvlang.models.losses.loss import Loss
from curvlang.models.recipe import Recipe
from curvlang.models.tracing.untraced import dense
from curvlang.training.stacked_any import Modules
from curvlang.training.stacked_update import Update


class OneByOne(UserWarning):
    """Models that are trained one after another, and why."""


class ModulesInTurn(Modules):
    """M modules, each called, differentiated and changed by itself: what retraining means."""

    def __init__(self, models: Sequence[nn.Module], loss: Loss, recipe: Recipe) -> None:
        super().__init__(models, loss, recipe)
        self.updates = [Update(recipe) for _ in models]

    def step(self, x: Tensor, y: Tensor, lr: float) -> None:
        """One step on minibatches `x [M, B, …]`, `y [M, B, …]`."""
        values = []
        for k, update in enumerate(self.updates):
            own = _trained(self.models[k])
            found, value = self._of(k, x[k], y[k])
            state = {n: p.detach()[None] for n, p in own.items()}
            # A parameter that this minibatch does not reach is not touched, by a decay neither.
            update.step(state, {n: g[None] for n, g in found.items() if g is not None}, lr)
            values.append(value)
        self._values.append(torch.stack(values))

    def gradients(self, x: Tensor, y: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Of the mean losses, `[M, …]` by name, and these `[M]`; zero where a model is not reached."""
        rows, values = zip(*(self._of(k, x[k], y[k]) for k in range(len(self.models))), strict=True)
        filled = [
            {n: torch.zeros_like(p) if row[n] is None else row[n] for n, p in _trained(m).items()}
            for m, row in zip(self.models, rows, strict=True)
        ]
        return {n: torch.stack([row[n] for row in filled]) for n in filled[0]}, torch.stack(values)

    def unreached(self, x: Tensor, y: Tensor) -> frozenset[str]:
        """Trained parameters that the losses of these minibatches do not depend on."""
        rows = [self._of(k, x[k], y[k])[0] for k in range(len(self.models))]
        return frozenset(n for n in rows[0] if all(row[n] is None for row in rows))

    def _of(self, k: int, x: Tensor, y: Tensor) -> tuple[dict[str, Tensor | None], Tensor]:
        """Gradients of model k by name, None where its loss does not depend on one; and its loss."""
        own = _trained(self.models[k])
        with torch.inference_mode(False), torch.enable_grad():
            value = self.rule.per_example(self.models[k](x), y).mean()
            found = torch.autograd.grad(value, list(own.values()), allow_unused=True)
        whole = [None if g is None else dense(g) for g in found]
        return dict(zip(own, whole, strict=True)), value.detach()


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {n: p for n, p in model.named_parameters() if p.requires_grad}
