"""Models and data on which layer-wise formulas are easy to get wrong; comparisons."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from curvlang.diagnostics.diagnostic import SpecError
from curvlang.language import registry
from curvlang.language.checking.arguments import completed
from curvlang.models import builtin
from curvlang.models.data.data import Data
from curvlang.models.files.file_data import FileColumns
from curvlang.models.losses.loss import Loss
from curvlang.models.tracing.layer_block import LayerBlock
from curvlang.models.tracing.leaves import LeafRequest, columns, leaves

EXACT = 1e-10
"""Float64, sums of at most a few thousand terms of order one: rounding stays near 1e-14."""


class Tied(nn.Module):
    """One module called twice, another that shares its weight and bias, ReLU in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.middle = nn.Linear(4, 4, bias=False)
        self.again = nn.Linear(4, 4)
        self.again.weight, self.again.bias = self.first.weight, self.first.bias
        self.last = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        z = torch.tanh(self.first(torch.tanh(self.first(x))))
        z = torch.relu_(self.again(torch.sigmoid(self.middle(z))))
        return self.last(z)


class Residual(nn.Module):
    """Branches, a layer called by keyword, and positions averaged before the last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(4, 5)
        self.right = nn.Linear(4, 5, bias=False)
        self.last = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        z = torch.tanh(self.left(input=x)) * self.right(x) + self.left(x)
        return self.last(z.flatten(1, -2).mean(1) if z.dim() > 2 else z)


class Attention(nn.Module):
    """Positions that influence each other, and a normalisation without parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(4, 3), nn.Linear(4, 3, bias=False)
        self.value, self.last = nn.Linear(4, 4), nn.Linear(4, 3)
        self.norm = nn.LayerNorm(4, elementwise_affine=False)

    def forward(self, x: Tensor) -> Tensor:
        weights = torch.softmax(self.query(x) @ self.key(x).mT, -1)
        return self.last(self.norm(x + weights @ self.value(x)))


def plain(*, bias: bool) -> nn.Module:
    return nn.Sequential(
        nn.Linear(4, 5, bias=bias),
        nn.Tanh(),
        nn.Linear(5, 2, bias=bias),
        nn.GELU(),
        nn.Linear(2, 3, bias=bias),
    )


def normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def drawn(model: nn.Module, generator: torch.Generator) -> nn.Module:
    """The model with every parameter drawn anew."""
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(normal(tuple(p.shape), generator) / p.shape[-1] ** 0.5)
    return model


@dataclass(frozen=True)
class Case:
    """A model, the shape of one input, the shape of one output."""

    name: str
    build: Callable[[], nn.Module]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    def make(self, examples: int, seed: int = 0) -> tuple[nn.Module, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        model = drawn(self.build().double().eval(), generator)
        return model, normal((examples, *self.inputs), generator)

    def targets(self, loss: str, examples: int, seed: int = 1) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        shape = (examples, *self.outputs)
        if loss == "cross_entropy":
            return torch.randint(0, shape[-1], shape[:-1], generator=generator)
        return torch.rand(shape, generator=generator, dtype=torch.float64)


CASES = (
    Case("mlp", lambda: plain(bias=False), (4,), (3,)),
    Case("mlp with bias", lambda: plain(bias=True), (4,), (3,)),
    Case("positions to the output", lambda: plain(bias=True), (2, 4), (2, 3)),
    Case("two position axes", lambda: plain(bias=False), (2, 2, 4), (2, 2, 3)),
    Case("tied", Tied, (4,), (3,)),
    Case("tied over positions", Tied, (3, 4), (3, 3)),
    Case("residual", Residual, (4,), (3,)),
    Case("residual over positions", Residual, (3, 4), (3,)),
    Case("attention", Attention, (3, 4), (3, 3)),
    Case("linear model", lambda: nn.Linear(4, 3), (4,), (3,)),
)
LOSS_NAMES = ("cross_entropy", "mse", "bce_with_logits")

cases = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
loss_names = pytest.mark.parametrize("loss_name", LOSS_NAMES)


def assert_equal(found: Tensor, expected: Tensor, tolerance: float = EXACT) -> None:
    """Equal up to `tolerance`, relative to the larger of 1 and the expected norm."""
    assert found.shape == expected.shape
    difference = float((found - expected).detach().norm())
    assert difference <= tolerance * max(1.0, float(expected.norm())), difference


def assert_different(found: Tensor, expected: Tensor) -> None:
    """Further apart than any rounding: what a negative twin must show."""
    with pytest.raises(AssertionError):
        assert_equal(found, expected, 1e-3)


def assert_refused(code: str, action: Callable[[], object], *words: str) -> None:
    """`action` is refused with this code, a repair, and these words somewhere in the text."""
    with pytest.raises(SpecError) as caught:
        action()
    diagnostics = caught.value.diagnostics
    assert [d.code for d in diagnostics] == [code]
    assert all(d.help for d in diagnostics)
    text = " ".join([d.headline + " ".join((*d.help, *d.notes)) for d in diagnostics])
    for word in words:
        assert word in text, text


def data_set(name: str, **given: object) -> Data:
    """A data set of the table, its other parameters as the table has them."""
    return builtin.DATA[name](**completed(name, given, registry.DATA[name]))


def file_data(path: str, loss: str = "cross_entropy", **given: object) -> Data:
    """Data of a file in the working folder, other parameters as the table has them."""
    values = completed("file", {"path": path, **given}, registry.DATA["file"])
    return builtin.DATA["file"](FileColumns(**values), loss, Path())


def defaults(model: str, **given: object) -> dict[str, Any]:
    """The parameters of a model of the table, without its weights."""
    found: dict[str, Any] = completed(model, given, registry.MODELS[model])
    del found["weights"]
    return found


def per_example_gradients(
    model: nn.Module, loss: Loss, X: Tensor, y: Tensor, blocks: Sequence[LayerBlock]
) -> Tensor:
    """∇ℓ_n over all parameters, [B, P], from `a` and `e`."""
    given = leaves(model, loss, X, y, blocks, LeafRequest({"a", "e"}))
    as_columns = {
        name: {"a": leaf["a"], "g": leaf["e"].unsqueeze(-3)} for name, leaf in given.items()
    }
    return columns(blocks, as_columns).squeeze(1)
