"""How a model is trained: the recipe that ground truth retrains with."""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import isfinite

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal
from curvlang.diagnostics.values import another_type, real_number, whole_number

OPTIMISERS = ("sgd", "adam", "adamw")
SCHEDULES = ("cosine", "constant", "linear")


@dataclass(frozen=True, slots=True)
class Recipe:
    """Minibatch training on the mean loss of the drawn examples.

    Every epoch is a fresh permutation of the model's own training subset, cut into batches of
    `batch` examples; the last incomplete batch is dropped (unless it is the only one). A step
    clips the gradient, then adds the L2 term, as a loop around `torch.optim` does.

    Args:
        lr: Learning rate at the first step (behind the warmup).
        momentum: Heavy-ball momentum of `sgd`, as in `torch.optim.SGD` (no dampening).
        batch: Examples in a minibatch.
        epochs: Passes over the subset.
        schedule: `cosine` (lr/2·(1+cos(π k/K)) at step k of K), `linear` (lr·(1−k/K)) or `constant`.
        weight_decay: For `sgd` and `adam` λ of the L2 term λ/2·‖θ‖², added to the gradient; λ·I is
            part of the Hessian. For `adamw` the factor of θ ← θ − lr·weight_decay·θ, which is the
            gradient of no term of the objective: nothing is added to the Hessian.
        optimiser: A word in `OPTIMISERS`, each as in `torch.optim`.
        nesterov: Nesterov's momentum, for `sgd` with `momentum` above 0.
        beta1: Decay of Adam's mean of gradients.
        beta2: Decay of Adam's mean of squared gradients.
        eps: Added to the root of Adam's mean of squared gradients.
        warmup: Steps w over which the learning rate rises, lr·(k+1)/w; the schedule follows them.
        clip: Largest norm of the gradient of all parameters, as `clip_grad_norm_`; 0 for none.

    Raises:
        SpecError: E0412 for a value out of range, or of an option that the optimiser has not.
    """

    lr: float = 0.03
    momentum: float = 0.0
    batch: int = 32
    epochs: int = 100
    schedule: str = "cosine"
    weight_decay: float = 0.0
    optimiser: str = "sgd"
    nesterov: bool = False
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    warmup: int = 0
    clip: float = 0.0

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
        """Refuse what cannot be trained with."""
        self._check_types()
        limits = {
            "lr": (self.lr > 0 and isfinite(self.lr), "above 0"),
            "momentum": (0 <= self.momentum < 1, "at least 0, below 1"),
            "batch": (self.batch >= 1, "1 or more"),
            "epochs": (self.epochs >= 0, "0 or more"),
            "schedule": (self.schedule in SCHEDULES, f"one of {', '.join(SCHEDULES)}"),
            "weight_decay": (
                self.weight_decay >= 0 and isfinite(self.weight_decay),
                "0 or more",
            ),
            "optimiser": (self.optimiser in OPTIMISERS, f"one of {', '.join(OPTIMISERS)}"),
            "beta1": (0 <= self.beta1 < 1, "at least 0, below 1"),
            "beta2": (0 <= self.beta2 < 1, "at least 0, below 1"),
            "eps": (self.eps > 0, "above 0"),
            "warmup": (self.warmup >= 0, "0 or more"),
            "clip": (self.clip >= 0, "above 0, or 0 for no clipping"),
        }
        for name, (fine, must) in limits.items():
            if not fine:
                shown = getattr(self, name)
                shown = f"{shown:g}" if isinstance(shown, float) else shown
                raise refusal(
                    Code.E0412, f"`{name} = {shown}` is out of range", f"it must be {must}"
                )
        if self.optimiser != "sgd" and (self.momentum or self.nesterov):
            raise refusal(
                Code.E0412,
                f"`{self.optimiser}` has no `momentum` and no `nesterov`",
                "use `beta1`, or the optimiser `sgd`",
            )
        if self.nesterov and not self.momentum:
            raise refusal(
                Code.E0412, "`nesterov` needs a momentum", "give `momentum = 0.9`, or leave it out"
            )

    def _check_types(self) -> None:
        """Numbers are numbers, counts are integers, words are texts.

        Raises:
            SpecError: E0563.
        """
        for name, default in DEFAULTS.items():
            value = getattr(self, name)
            if isinstance(default, bool | str):
                if not isinstance(value, type(default)):
                    wanted = "a text" if isinstance(default, str) else "True or False"
                    raise another_type(name, value, wanted, f"`{name}={default!r}`")
            elif isinstance(default, int):
                whole_number(value, name, str(default))
            else:
                real_number(value, name, str(default))


DEFAULTS = {f.name: f.default for f in fields(Recipe)}
"""The recipe of the defaults, by name: their types are what is allowed."""
