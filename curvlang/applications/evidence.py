"""The evidence of Laplace's approximation: log p(data) as a function of prior precision, temperature and noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.notebook import Display
from curvlang.diagnostics.refusal import refusal
from curvlang.diagnostics.values import another_type, finite_number
from curvlang.models.execution.torch_state import settled_state
from curvlang.models.losses.elementwise_losses import MeanSquaredError
from curvlang.models.losses.finite import check_examples_finite
from curvlang.models.task import Task, check_task
from curvlang.runtime.fitted import FittedOperator
from curvlang.runtime.vectors import joined, parameters_of

BATCH = 512
"""Examples that go through the model at once."""


class Evidence(Display):
    """`log p(data)` of Laplace's approximation around a trained model, for any prior precision.

    With the mean loss L of N examples, its curvature C, the prior N(0, I / δ) and the temperature T:

        log p ≈ −(N/T) L − ½ δ ‖θ‖² − ½ (log det(N/T · C + δ I) − P log δ)

    A loss counts as −log p of an example. Under `mse` of d outputs the likelihood is Gaussian with the
    standard deviation σ = `noise`: L and C count d / (2σ²) times, and N d log(σ √(2π)) is taken off.

    The data are read once and the curvature is decomposed once; each call then costs P logarithms,
    and its result can be differentiated by what is given as a tensor.

    Args:
        op: A curvature of the mean loss.
        task: The model and the training examples that it was fitted on.

    Raises:
        SpecError: E0923 for a task with other parameters, E0924 where the task has a weight decay, and
            for a curvature that is known by its products alone.
    """

    def __init__(self, op: FittedOperator, task: Task) -> None:
        if not isinstance(op, FittedOperator):
            raise another_type("op", op, "a fitted curvature", "`cv.fit(spec, task)`")
        check_task(task)
        parameters = parameters_of(task.model, op.parameters, op.shape[0])
        if task.weight_decay:
            raise refusal(
                Code.E0924,
                f"the task has the weight decay {task.weight_decay:g}, which a curvature fitted on it "
                "holds: the prior would count twice",
                "fit on `task.replaced(weight_decay=0.0)` and give that task; the decay itself is "
                f"`prior_precision={task.weight_decay * task.N:g}`",
            )
        if not op.operator.spectrum_known:
            raise refusal(
                Code.E0924,
                "the evidence needs all eigenvalues, and the curvature is known by its products alone",
                "fit a curvature with a structure: Kronecker factors, a diagonal, low rank",
            )
        with settled_state():
            # A sum of many logarithms: in double precision, whatever the curvature is in.
            self._spectrum = op.operator.eigenvalues().double()
            kind, place = self._spectrum.dtype, self._spectrum.device
            with torch.no_grad():
                theta = joined(list(parameters.values()), kind, place)
                self._square = theta.square().sum()
                loss, self._outputs = _total_loss(task.exact())
                self._loss = loss.to(place)
        self._gaussian = isinstance(task.loss, MeanSquaredError)
        self._examples = task.N

    def _summary(self) -> str:
        return f"of P = {len(self._spectrum)} parameters, N = {self._examples} examples"

    def __call__(
        self,
        prior_precision: float | Tensor = 1.0,
        *,
        temperature: float | Tensor = 1.0,
        noise: float | Tensor | None = None,
    ) -> Tensor:
        """The evidence in float64, in the shape that the arguments broadcast to.

        Args:
            prior_precision: δ; several for a sweep.
            temperature: T: the likelihood counts 1/T times.
            noise: σ of the outputs under `mse`, 1 where not given.

        Raises:
            SpecError: E0563 for what is not positive numbers, E0924 for a noise under another loss
                and where N/T · C + δ I has an eigenvalue that is not positive.
        """
        delta, heat = (
            self._number(prior_precision, "prior_precision"),
            self._number(temperature, "temperature"),
        )
        weight, constant = 1 / heat, torch.zeros_like(self._square)
        if self._gaussian:
            sigma = self._number(1.0 if noise is None else noise, "noise")
            # L is a mean over the outputs of squares without the factor 1/2.
            weight = weight * self._outputs / (2 * sigma.square())
            count = self._examples * self._outputs
            constant = count * (sigma * math.sqrt(2 * math.pi)).log() / heat
        elif noise is not None:
            raise refusal(
                Code.E0924,
                "a `noise` is given, and the loss is not `mse`: its likelihood has none",
                "leave `noise` out, or give a `temperature`",
            )
        fit = -weight * self._loss - constant
        return fit - delta * self._square / 2 - self._log_ratio(weight, delta) / 2

    def _log_ratio(self, weight: Tensor, delta: Tensor) -> Tensor:
        """Log det(N w C + δ I) − P log δ."""
        precision = self._examples * weight[..., None] * self._spectrum + delta[..., None]
        lowest = float(precision.detach().min())
        if lowest <= 0:
            raise refusal(
                Code.E0924,
                f"the posterior's precision has the eigenvalue {lowest:.3g}: it is not positive definite",
                "use a larger `prior_precision`",
                "use a curvature without negative eigenvalues: a Gauss-Newton matrix, K-FAC, EK-FAC",
            )
        return (precision.log() - delta[..., None].log()).sum(-1)

    def _number(self, value: float | Tensor, name: str) -> Tensor:
        """Positive numbers as a tensor beside the spectrum; gradients flow through it."""
        like = self._spectrum
        if not isinstance(value, Tensor):
            value = torch.tensor(finite_number(value, name), dtype=torch.float64)
        found = value.to(like.device, like.dtype)
        bare = found.detach()
        if not bare.numel() or not bool(((bare > 0) & torch.isfinite(bare)).all()):
            raise another_type(name, value.tolist(), "a positive number", f"`{name}=1.0`")
        return found


def log_marginal_likelihood(
    op: FittedOperator,
    task: Task,
    prior_precision: float | Tensor = 1.0,
    *,
    temperature: float | Tensor = 1.0,
    noise: float | Tensor | None = None,
) -> Tensor:
    """The evidence of Laplace's approximation, log p(data); for many values make an `Evidence` once.

    Args:
        op: A curvature of the mean loss.
        task: The model and the training examples that it was fitted on.
        prior_precision: δ of the prior N(0, I / δ); several for a sweep.
        temperature: T: the likelihood counts 1/T times.
        noise: σ of the outputs under `mse`, 1 where not given.

    Raises:
        SpecError: As `Evidence`.
    """
    return Evidence(op, task)(prior_precision, temperature=temperature, noise=noise)


def _total_loss(task: Task) -> tuple[Tensor, int]:
    """The sum of the losses of all training examples, and the outputs of an example."""
    total, outputs = torch.zeros((), dtype=torch.float64), 0
    for x, y in task.batches(BATCH):
        found = task.model(x)
        outputs = found[0].numel()
        total = total.to(found.device) + task.loss.per_example(found, y).double().sum()
    if not bool(torch.isfinite(total)):
        check_examples_finite(task.model, task.loss, *task.train, "train")
    return total, outputs
