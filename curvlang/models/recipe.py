"""How a model is trained: the recipe that ground truth retrains with."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Recipe:
    """Minibatch SGD on the mean loss of the drawn examples.

    Every epoch is a fresh permutation of the model's own training subset, cut into batches of
    `batch` examples; the last incomplete batch is dropped (unless it is the only one).

    Args:
        lr: Learning rate at the first step.
        momentum: Heavy-ball momentum, as in `torch.optim.SGD` (no dampening, no Nesterov).
        batch: Examples in a minibatch.
        epochs: Passes over the subset.
        schedule: `cosine` (from lr to 0 over all steps: lr/2·(1+cos(π k/K)) at step k of K) or `constant`.
        weight_decay: λ of the L2 term λ/2·‖θ‖², added to the gradient; λ·I is part of the Hessian.
    """

    lr: float = 0.03
    momentum: float = 0.0
    batch: int = 32
    epochs: int = 100
    schedule: str = "cosine"
    weight_decay: float = 0.0
