"""One step of an optimiser on the stacked parameters of many models, as `torch.optim` takes it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from curvlang.models.recipe import Recipe

CLIP_EPS = 1e-6
"""Added to the norm by `torch.nn.utils.clip_grad_norm_`."""


class Update:
    """The optimiser of a recipe with its state, `[M, …]` for every parameter.

    Args:
        recipe: Which optimiser, and its numbers; the learning rate comes with each step.
    """

    __slots__ = ("counts", "first", "recipe", "second")

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.first: dict[str, Tensor] = {}
        self.second: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def step(self, state: Mapping[str, Tensor], gradients: Mapping[str, Tensor], lr: float) -> None:
        """Change the parameters in place.

        Args:
            state: Parameters by name, `[M, …]` each.
            gradients: Of the mean loss of each model's minibatch, likewise; a parameter without
                one stays as it is, as in `torch.optim`.
            lr: Learning rate of this step.
        """
        if self.recipe.clip:
            gradients = clipped(gradients, self.recipe.clip)
        for name, gradient in gradients.items():
            parameter = state[name]
            if self.recipe.l2:
                gradient = gradient.add(parameter, alpha=self.recipe.l2)
            if self.recipe.optimiser == "sgd":
                parameter.add_(self._momentum(name, gradient), alpha=-lr)
            else:
                if self.recipe.optimiser == "adamw":
                    parameter.mul_(1 - lr * self.recipe.weight_decay)
                self._adam(name, parameter, gradient, lr)

    def _momentum(self, name: str, gradient: Tensor) -> Tensor:
        """V ← μ v + g, the first v being g; Nesterov's step is g + μ v."""
        mu = self.recipe.momentum
        if not mu:
            return gradient
        speed = self.first.get(name)
        speed = gradient.clone() if speed is None else speed.mul_(mu).add_(gradient)
        self.first[name] = speed
        return gradient.add(speed, alpha=mu) if self.recipe.nesterov else speed

    def _adam(self, name: str, parameter: Tensor, gradient: Tensor, lr: float) -> None:
        """θ ← θ − lr·m̂/(√v̂ + ε), with both means corrected for their start at 0."""
        recipe = self.recipe
        m = self.first.setdefault(name, torch.zeros_like(parameter))
        v = self.second.setdefault(name, torch.zeros_like(parameter))
        count = self.counts[name] = self.counts.get(name, 0) + 1
        m.mul_(recipe.beta1).add_(gradient, alpha=1 - recipe.beta1)
        v.mul_(recipe.beta2).addcmul_(gradient, gradient, value=1 - recipe.beta2)
        root = v.sqrt().div_((1 - recipe.beta2**count) ** 0.5).add_(recipe.eps)
        parameter.addcdiv_(m, root, value=-lr / (1 - recipe.beta1**count))


def clipped(gradients: Mapping[str, Tensor], limit: float) -> dict[str, Tensor]:
    """Gradients scaled to at most the norm `limit`, each model's by its own."""
    squares = [g.reshape(len(g), -1).square().sum(1) for g in gradients.values()]
    if not squares:
        return {}
    norm = torch.stack(squares).sum(0).sqrt()
    factor = (limit / (norm + CLIP_EPS)).clamp_max(1)
    return {name: g * factor.view(-1, *[1] * (g.ndim - 1)) for name, g in gradients.items()}
