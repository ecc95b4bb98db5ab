"""Many multilayer perceptrons trained at once: stacked weights, batched products, updates in place.

The layout is features first, `[model, feature, example]`: the softmax runs over a strided axis of
contiguous examples, and every product is one batched matrix product.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from curvlang.models.recipe import Recipe
from curvlang.training.stacked_update import Update

KEPT = 64
"""Steps of which is kept what their losses follow from, before these are computed."""

Derivative = Callable[[Tensor, Tensor, Tensor], Tensor]
"""`(δ, z, h) -> δ · h'(z)` for pre-activations z and activations h."""


def _apply_tanh(z: Tensor) -> Tensor:
    """Tanh in place; on the CPU as 2σ(2z) − 1 from 2z, a fifth of the time of torch's tanh there.

    The same to rounding of numbers of order one: 1e-7 in float32, 1e-16 in float64.
    """
    if z.device.type != "cpu":
        return z.tanh_()
    return torch.add(_minus_one(z.dtype), z.sigmoid_(), alpha=2, out=z)


@cache
def _minus_one(dtype: torch.dtype) -> Tensor:
    return torch.tensor(-1.0, dtype=dtype)


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
    """An elementwise function and its derivative.

    `doubled` says whether `apply` takes 2z on the CPU.
    """

    apply: Callable[[Tensor], Tensor]
    derivative: Derivative
    doubled: bool = False


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
    nn.Tanh: Activation(_apply_tanh, _tanh, doubled=True),
    nn.ReLU: Activation(torch.Tensor.relu_, _relu),
    nn.Sigmoid: Activation(torch.Tensor.sigmoid_, _sigmoid),
    nn.SiLU: Activation(functional.silu, _silu),
    nn.GELU: Activation(functional.gelu, _gelu),
    nn.ELU: Activation(functional.elu, _elu),
    nn.Softplus: Activation(functional.softplus, _softplus),
    nn.Identity: Activation(lambda z: z, _identity),
}


# Without numbers: an import draws none.
_SAMPLES = (nn.Sequential(), nn.Linear(1, 1, device="meta"), *(kind() for kind in ACTIVATIONS))
_OWN = {type(module): frozenset(vars(module)) for module in _SAMPLES}
"""Attributes that a module of each type has from its constructor."""


def _untouched(module: nn.Module) -> bool:
    """Whether a module is what its type says: no hook, no attribute added, no other parameter."""
    held = vars(module)
    known = _OWN.get(type(module))
    if known is None or not known.issuperset(held):
        return False
    hooks = any(table for name, table in held.items() if name.endswith(("_hooks", "_pre_hooks")))
    names = {"weight", "bias"} if type(module) is nn.Linear else set()
    return not hooks and not module._buffers and names.issuperset(module._parameters)


def _untied(parameters: Sequence[nn.Parameter]) -> bool:
    """Whether parameters are trained as they are, no two of them on the same numbers."""
    plain = all(
        type(p) is nn.Parameter and p.requires_grad and not p._backward_hooks for p in parameters
    )
    return plain and len({p.untyped_storage().data_ptr() for p in parameters}) == len(parameters)


def read_layers(model: nn.Module) -> list[tuple[nn.Linear, Activation]] | None:
    """The layers of a plain perceptron with the activation behind each; None for other models.

    Whatever could make a module do more than its type says is another model: hooks (pruning, weight
    and spectral norm are hooks), a `forward` or another attribute set on the module, subclasses
    (parametrised modules are subclasses), buffers, parameters that are frozen, tied or have hooks.
    """
    if type(model) is not nn.Sequential or not all(map(_untouched, model.modules())):
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
    # A layer that stands twice has its parameters once.
    apart = len({id(linear) for linear, _ in layers}) == len(layers)
    return layers if plain and apart and _untied(list(model.parameters())) else None


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
        on_cpu = first[0][0].weight.device.type == "cpu"
        # A number that the product multiplies with anyway: doubling costs nothing there.
        self.factors = [2.0 if x.doubled and on_cpu else 1.0 for x in self.activations]
        self.names = [name for name, _ in models[0].named_parameters()]
        self._order = [
            f"{kind}{k}"
            for k, (linear, _) in enumerate(first)
            for kind in ("w", "b")
            if kind == "w" or linear.bias is not None
        ]
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
        self._seen: list[tuple[Tensor, ...]] = []
        self._values: list[Tensor] = []
        self._minus: Tensor | None = None
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

    def step(self, x: Tensor, y: Tensor, lr: float) -> None:
        """One step on minibatches `x [M, B, D]`, labels `y [M, B]` or `[M, B, C]`."""
        updates, scale = self._backward(x, y, scaled=self.update is not None)
        if self.update is not None:
            self.update.step(self._state(), self._gradients(updates), lr)
        elif self.momentum:
            self._heavy_ball(updates, scale, lr)
        else:
            self._descend(updates, scale, lr)

    def _backward(
        self, x: Tensor, y: Tensor, *, scaled: bool
    ) -> tuple[list[tuple[int, Tensor, Tensor]], float]:
        """δ and inputs of every layer, the last first, and the number that δ is short of.

        Args:
            x: Inputs.
            y: Labels.
            scaled: Multiply it in at the outputs; the number says what it was.
        """
        inputs, pres = self._forward(x.mT)
        delta, scale = self._loss(pres[-1], y)
        if scaled:
            delta.mul_(scale)
        updates: list[tuple[int, Tensor, Tensor]] = []
        for k in reversed(range(len(self.weights))):
            updates.append((k, delta, inputs[k]))
            if k:
                before = self.activations[k - 1]
                delta = before.derivative(self.weights[k].mT @ delta, pres[k - 1], inputs[k])
        return updates, scale

    def gradients(self, x: Tensor, y: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Of the mean losses, `[M, …]` by name, and these `[M]`; before the first step."""
        updates, _ = self._backward(x, y, scaled=True)
        found = self._gradients(updates)
        ordered = {name: found[name] for name in self._order}
        named = dict(zip(self.names, ordered.values(), strict=True))
        return {n: g[..., 0] if n.endswith("bias") else g for n, g in named.items()}, self.losses()[
            -1
        ]

    def losses(self) -> Tensor:
        """Mean losses `[steps, M]` of the steps since they were last asked for."""
        self._add_up()
        found, self._values = torch.cat(self._values), []
        return found

    def _add_up(self) -> None:
        """Losses of the steps from what was kept of them: few calls for many steps."""
        if self._seen:
            parts = [torch.stack(part) for part in zip(*self._seen, strict=True)]
            self._seen = []
            if self.loss == "cross_entropy":
                total, top, chosen = parts
                parts = [total.log_().add_(top).sub_(chosen)]
            self._values.append(parts[0].mean((2, 3)))

    def _state(self) -> dict[str, Tensor]:
        """Weights `w0 …` and biases `b0 …`, to be changed in place."""
        weights = {f"w{k}": w for k, w in enumerate(self.weights)}
        return weights | {f"b{k}": b for k, b in enumerate(self.biases) if b is not None}

    def _gradients(self, updates: Sequence[tuple[int, Tensor, Tensor]]) -> dict[str, Tensor]:
        """Σ_b δ_b h_bᵀ and Σ_b δ_b of every layer, by the names of `_state`."""
        weights = {f"w{k}": torch.bmm(delta, h.mT) for k, delta, h in updates}
        biases = ((k, delta) for k, delta, _ in updates if self.biases[k] is not None)
        return weights | {f"b{k}": delta.sum(2, keepdim=True) for k, delta in biases}

    def _forward(self, h: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Inputs and pre-activations of every layer, features first."""
        inputs, pres = [], []
        layers = zip(self.weights, self.biases, self.activations, self.factors, strict=True)
        for weight, bias, activation, factor in layers:
            inputs.append(h)
            if bias is not None:
                z = torch.baddbmm(bias, weight, h, beta=factor, alpha=factor)
            else:
                z = torch.bmm(weight, h)
                z = z if factor == 1.0 else z.mul_(factor)
            pres.append(z)
            h = activation.apply(z)
        return inputs, pres

    def _loss(self, z: Tensor, y: Tensor) -> tuple[Tensor, float]:
        """The gradient at the outputs `[M, C, B]` and the number that it is to be multiplied with.

        What the losses follow from is kept: their value is wanted once an epoch.
        """
        batch = z.shape[2]
        if len(self._seen) == KEPT:
            self._add_up()
        if self.loss == "cross_entropy":
            labels = y[:, None]
            chosen = z.gather(1, labels)
            top = z.amax(1, keepdim=True)
            p = z.sub_(top).exp_()
            total = p.sum(1, keepdim=True)
            self._seen.append((total, top, chosen))
            if self._minus is None or self._minus.shape != chosen.shape:
                self._minus = torch.full_like(chosen, -1.0)
            p.div_(total).scatter_add_(1, labels, self._minus)
            return p, 1 / batch
        target = y.mT
        scale = 1 / (z.shape[1] * batch)
        if self.loss == "mse":
            difference = z - target
            self._seen.append((difference.square(),))
            return difference, 2 * scale
        self._seen.append(
            (functional.binary_cross_entropy_with_logits(z, target, reduction="none"),)
        )
        return z.sigmoid() - target, scale

    def _descend(
        self, updates: Sequence[tuple[int, Tensor, Tensor]], scale: float, lr: float
    ) -> None:
        """θ ← (1 − lr·λ) θ − lr·g, in the product that makes g / scale."""
        keep, alpha = 1 - lr * self.decay, -lr * scale
        for k, delta, h in updates:
            self.weights[k].baddbmm_(delta, h.mT, beta=keep, alpha=alpha)
            bias = self.biases[k]
            if bias is not None:
                bias.mul_(keep).add_(delta.sum(2, keepdim=True), alpha=alpha)

    def _heavy_ball(
        self, updates: Sequence[tuple[int, Tensor, Tensor]], scale: float, lr: float
    ) -> None:
        """V ← μ v + g + λ θ, then θ ← θ − lr·v for all layers at once."""
        self.velocity[self.tail :].mul_(self.momentum)
        for k, delta, h in updates:
            self.speeds[k].baddbmm_(delta, h.mT, beta=self.momentum, alpha=scale)
            bias_speed = self.bias_speeds[k]
            if bias_speed is not None:
                bias_speed.add_(delta.sum(2, keepdim=True), alpha=scale)
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
