"""How a model is trained: the recipe that ground truth retrains with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from curvlang.diagnostics.plain_arguments import keyworded
from curvlang.language.checking.arguments import OPEN, completed, named
from curvlang.language.registry import OPTIMISERS, Entry, Parameter


@keyworded
@dataclass(frozen=True, slots=True)
class Recipe:
    """Minibatch training on the mean loss of the drawn examples.

    Every epoch is a fresh permutation of the model's own training subset, cut into batches of
    `batch` examples; the last incomplete batch is dropped (unless it is the only one). A step
    clips the gradient, then adds the L2 term, as a loop around `torch.optim` does.

    What is left open has the default of a spec's `train` line with the same optimiser.

    Args:
        lr: Learning rate at the first step after the warmup.
        momentum: Heavy-ball momentum of `sgd`, as in `torch.optim.SGD` (no dampening).
        batch: Examples in a minibatch.
        epochs: Passes over the subset.
        schedule: `cosine` (lr/2·(1+cos(π k/K)) at step k of K), `linear` (lr·(1−k/K)) or `constant`.
        weight_decay: For `sgd` and `adam` λ of the L2 term λ/2·‖θ‖², added to the gradient; λ·I is
            part of the Hessian. For `adamw` the factor of θ ← θ − lr·weight_decay·θ, which is the
            gradient of no term of the objective: nothing is added to the Hessian.
        optimiser: `sgd`, `adam` or `adamw`, each as in `torch.optim`.
        nesterov: Nesterov's momentum, for `sgd` with `momentum` above 0.
        beta1: Decay of Adam's mean of gradients.
        beta2: Decay of Adam's mean of squared gradients.
        eps: Added to the root of Adam's mean of squared gradients.
        warmup: Steps w over which the learning rate rises, lr·(k+1)/w; the schedule follows them.
        clip: Largest norm of the gradient of all parameters, as `clip_grad_norm_`; 0 for none.

    Raises:
        SpecError: E0715 for an unknown optimiser, E0703 for a parameter that it does not have, E0705
            to E0707 and E0760 for values, as for a `train` line.
    """

    lr: float = OPEN
    momentum: float = OPEN
    batch: int = OPEN
    epochs: int = OPEN
    schedule: str = OPEN
    weight_decay: float = OPEN
    optimiser: str = "sgd"
    nesterov: bool = OPEN
    beta1: float = OPEN
    beta2: float = OPEN
    eps: float = OPEN
    warmup: int = OPEN
    clip: float = OPEN

    @property
    def l2(self) -> float:
        """λ of the objective's L2 term: 0 where the decay is decoupled from the gradient."""
        return 0.0 if self.optimiser == "adamw" else self.weight_decay

    @property
    def settings(self) -> dict[str, float | int | str]:
        """What training with this recipe depends on, by name; options that are off are left out."""
        names = ["optimiser", "lr"]
        names += ["momentum"] if self.optimiser == "sgd" else ["beta1", "beta2", "eps"]
        names += ["batch", "epochs", "schedule", "weight_decay"]
        names += [name for name in ("nesterov", "warmup", "clip") if getattr(self, name)]
        return {name: getattr(self, name) for name in names}

    def __post_init__(self) -> None:
        """Check what is given, and fill in the defaults of the optimiser."""
        entry = named("optimiser", self.optimiser, OPTIMISERS)
        every = Entry("", {**_EVERY, **{n: _alone(p) for n, p in entry.parameters.items()}})
        stated = {n: v for n in every.parameters if (v := getattr(self, n)) is not OPEN}
        values: dict[str, Any] = completed(self.optimiser, stated, every)
        # The default of a parameter that the optimiser does not have says nothing: `replace` states it.
        own = [n for n in stated if n in entry.parameters or values[n] != every.defaults[n]]
        values |= completed(self.optimiser, {n: stated[n] for n in own}, entry)
        for name, value in values.items():
            object.__setattr__(self, name, value)


def _alone(parameter: Parameter) -> Parameter:
    """A parameter without the other one that it needs."""
    return replace(parameter, needs="")


_EVERY = {k: _alone(p) for e in OPTIMISERS.values() for k, p in e.parameters.items()}
"""The parameters of all optimisers."""
