"""Many multilayer perceptrons trained at once: stacked weights, batched products, updates in place.

The layout is features first, `[model, feature, example]`: the softmax runs over a strided axis of
contiguous examples, and every product is one batched matrix product.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from curvlang.evaluation.stacked_update import Update
from curvlang.models.recipe import Recipe

Derivative = Callable[[Tensor, Tensor, Tensor], Tensor]
"""`(δ, z, h) -> δ · h'(z)` for pre-activations z and activations h."""


def _apply_tanh(z: Tensor) -> Tensor:
    """Tanh in place, as 2σ(2z) − 1 on the CPU: a fifth of the time of torch's tanh there.

    The same to rounding of numbers of order one: 1e-7 in float32, 1e-16 in float64.
    """
    if z.device.type != "cpu":
        return z.tanh_()
    return z.mul_(2).sigmoid_().mul_(2).sub_(1)


def _tanh(delta: Tensor, z: Tensor, h: Tensor) -> Tensor:
    found: Tensor = torch.ops.aten.tanh_backward.grad_input(delta, h, grad_input=delta)
    return found


def _relu(delta: Tensor, z: Tensor, h: Tensor) -> Tensor:
    return delta.mul_(h > 0)


def _sigmoid(delta: Tensor, z: Tensor, h: Tensor) -> Tensor:
    return delta.mul_(h - h * h)


def _silu(delta: Tensor, z: Tensor, h: Tensor) -> Tensor:
    s = z.sigmoid()
    return delta.mul_(s + h * (1 - s))


def _gelu(delta: Tensor, z: Tensor, h: Tensor) -> Tensor:
    density = torch.exp(-z * z / 2) / (2 * torch.pi) ** 0.5
    return delta.mul_(torch.special.ndtr(z) + z * density)


def _elu(delta: Tensor, z: Tensor, h: Tensor) -> Tensor:
    return delta.mul_(torch.where(z > 0, 1.0, h + 1))


def _softplus(delta: Tensor, z: Tensor, h: Tensor) -> Tensor:
    return delta.mul_(z.sigmoid())


def _identity(delta: Tensor, z: Tensor, h: Tensor) -> Tensor:
    return delta


@dataclass(frozen=True, slots=True)
class Activation:
    """An elementwise function and its derivative; `keeps` says whether z is needed for it."""

    apply: Callable[[Tensor], Tensor]
    derivative: Derivative
    keeps: bool = False


def _plain(module: nn.Module) -> bool:
    """Whether the module has the default settings that the table below computes with."""
    match module:
        case nn.GELU():
            return module.approximate == "none"
        case nn.ELU():
            return module.alpha == 1.0
        case nn.Softplus():
            return module.beta == 1 and module.threshold == 20
        case _:
            return True


ACTIVATIONS: Mapping[type[nn.Module], Activation] = {
    nn.Tanh: Activation(_apply_tanh, _tanh),
    nn.ReLU: Activation(torch.Tensor.relu_, _relu),
    nn.Sigmoid: Activation(torch.Tensor.sigmoid_, _sigmoid),
    nn.SiLU: Activation(functional.silu, _silu, True),
    nn.GELU: Activation(functional.gelu, _gelu, True),
    nn.ELU: Activation(functional.elu, _elu, True),
    nn.Softplus: Activation(functional.softplus, _softplus, True),
    nn.Identity: Activation(lambda z: z, _identity),
}


def read_layers(model: nn.Module) -> list[tuple[nn.Linear, Activation]] | None:
    """The layers of a plain perceptron with the activation behind each; None for other models."""
    if type(model) is not nn.Sequential:
        return None
    layers: list[tuple[nn.Linear, Activation]] = []
    identity = ACTIVATIONS[nn.Identity]
    for module in model:
        if type(module) is nn.Linear:
            layers.append((module, identity))
        elif layers and type(module) in ACTIVATIONS and _plain(module):
            linear, before = layers[-1]
            if before is not identity:
                return None
            layers[-1] = (linear, ACTIVATIONS[type(module)])
        elif type(module) is not nn.Identity:
            return None
    plain = layers and layers[-1][1] is identity
    weights = [id(linear.weight) for linear, _ in layers]
    trainable = all(p.requires_grad for p in model.parameters())
    return layers if plain and trainable and len(set(weights)) == len(weights) else None


class StackedMLP:
    """M perceptrons of one shape.

    Args:
        models: The models, all built alike; their parameters are copied.
        loss: `cross_entropy`, `mse` or `bce_with_logits`.
        recipe: How a step is taken: plain gradient descent and heavy-ball momentum in the
            product that makes the gradient, everything else by `Update`.
    """

    def __init__(self, models: Sequence[nn.Module], loss: str, recipe: Recipe) -> None:
        layers = [read_layers(m) for m in models]
        first = layers[0]
        assert first is not None
        self.activations = [activation for _, activation in first]
        linears = [[linear for linear, _ in x] for x in layers if x is not None]
        weights = [torch.stack([x[k].weight.detach() for x in linears]) for k in range(len(first))]
        biases = [
            None
            if linear.bias is None
            else torch.stack([x[k].bias.detach() for x in linears])[..., None]
            for k, (linear, _) in enumerate(first)
        ]
        self._shapes = [x.shape for x in weights], [None if b is None else b.shape for b in biases]
        held = [b for b in biases if b is not None]
        self.flat = torch.cat([x.flatten() for x in (*weights, *held)])
        self.tail = sum(x.numel() for x in weights)
        self.weights, self.biases = self._views(self.flat)
        self.loss = loss
        self.momentum = recipe.momentum
        self.decay = recipe.l2
        fused = recipe.optimiser == "sgd" and not recipe.clip and not recipe.nesterov
        self.update = None if fused else Update(recipe)
        # Updates are few calls on all layers at once; each layer's part is contiguous, since
        # batched products of strided stacks take four times as long.
        self.velocity = torch.zeros_like(self.flat)
        self.speeds, self.bias_speeds = self._views(self.velocity)

    def _views(self, flat: Tensor) -> tuple[list[Tensor], list[Tensor | None]]:
        """Weights `[M, d_out, d_in]`, then biases `[M, d_out, 1]`, of the flat parameters."""
        weights, biases = self._shapes
        sizes = [shape.numel() for shape in (*weights, *biases) if shape is not None]
        parts = iter(flat.split(sizes))
        return (
            [next(parts).view(shape) for shape in weights],
            [None if shape is None else next(parts).view(shape) for shape in biases],
        )

    def step(self, x: Tensor, y: Tensor, lr: float) -> Tensor:
        """One step on minibatches `x [M, B, D]`, labels `y [M, B]` or `[M, B, C]`; losses `[M]`."""
        inputs, pres = self._forward(x.mT)
        value, delta = self._loss(pres[-1], y)
        updates: list[tuple[int, Tensor, Tensor]] = []
        for k in reversed(range(len(self.weights))):
            updates.append((k, delta, inputs[k]))
            if k:
                before = self.activations[k - 1]
                delta = before.derivative(self.weights[k].mT @ delta, pres[k - 1], inputs[k])
        if self.update is not None:
            self.update.step(self._state(), self._gradients(updates), lr)
            return value
        if self.momentum:
            self._heavy_ball(updates, lr)
        else:
            self._descend(updates, lr)
        return value

    def _state(self) -> dict[str, Tensor]:
        """Weights `w0 …` and biases `b0 …`, to be changed in place."""
        weights = {f"w{k}": w for k, w in enumerate(self.weights)}
        return weights | {f"b{k}": b for k, b in enumerate(self.biases) if b is not None}

    def _gradients(self, updates: Sequence[tuple[int, Tensor, Tensor]]) -> dict[str, Tensor]:
        """Σ_b δ_b h_bᵀ and Σ_b δ_b of every layer, by the names of `_state`."""
        weights = {f"w{k}": torch.bmm(delta, h.mT) for k, delta, h in updates}
        return weights | {f"b{k}": delta.sum(2, keepdim=True) for k, delta, _ in updates}

    def _forward(self, h: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Inputs and pre-activations of every layer, features first."""
        inputs, pres = [], []
        for weight, bias, activation in zip(
            self.weights, self.biases, self.activations, strict=True
        ):
            inputs.append(h)
            z = torch.bmm(weight, h) if bias is None else torch.baddbmm(bias, weight, h)
            pres.append(z)
            h = activation.apply(z)
        return inputs, pres

    def _loss(self, z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Mean losses `[M]` and the gradient at the outputs `[M, C, B]`."""
        batch = z.shape[2]
        if self.loss == "cross_entropy":
            labels = y[:, None]
            chosen = z.gather(1, labels)
            top = z.amax(1, keepdim=True)
            p = z.sub_(top).exp_()
            total = p.sum(1, keepdim=True)
            value = (total.log() + top - chosen).mean((1, 2))
            p.mul_((1 / batch) / total)
            p.scatter_add_(1, labels, torch.full_like(chosen, -1 / batch))
            return value, p
        target = y.mT
        scale = 1 / (z.shape[1] * batch)
        if self.loss == "mse":
            difference = z - target
            return difference.square().mean((1, 2)), difference.mul_(2 * scale)
        value = functional.binary_cross_entropy_with_logits(z, target, reduction="none")
        return value.mean((1, 2)), (z.sigmoid() - target).mul_(scale)

    def _descend(self, updates: Sequence[tuple[int, Tensor, Tensor]], lr: float) -> None:
        """θ ← (1 − lr·λ) θ − lr·g, in the product that makes g."""
        keep = 1 - lr * self.decay
        for k, delta, h in updates:
            self.weights[k].baddbmm_(delta, h.mT, beta=keep, alpha=-lr)
            bias = self.biases[k]
            if bias is not None:
                bias.mul_(keep).add_(delta.sum(2, keepdim=True), alpha=-lr)

    def _heavy_ball(self, updates: Sequence[tuple[int, Tensor, Tensor]], lr: float) -> None:
        """V ← μ v + g + λ θ, then θ ← θ − lr·v for all layers at once."""
        self.velocity[self.tail :].mul_(self.momentum)
        for k, delta, h in updates:
            self.speeds[k].baddbmm_(delta, h.mT, beta=self.momentum)
            bias_speed = self.bias_speeds[k]
            if bias_speed is not None:
                bias_speed.add_(delta.sum(2, keepdim=True))
        if self.decay:
            self.velocity.add_(self.flat, alpha=self.decay)
        self.flat.add_(self.velocity, alpha=-lr)

    def outputs(self, x: Tensor) -> Tensor:
        """Outputs on shared inputs `x [Q, D]`: `[M, Q, C]`."""
        h = x.T.expand(len(self.weights[0]), -1, -1)
        _, pres = self._forward(h)
        return pres[-1].mT

    def parameters(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Stacked parameters `[M, …]` by their names in the model, weights before biases."""
        flat: list[Tensor] = []
        for weight, bias in zip(self.weights, self.biases, strict=True):
            flat.append(weight)
            if bias is not None:
                flat.append(bias[..., 0])
        return dict(zip(names, flat, strict=True))
