"""Models and data of the workloads, random and from a seed: every contestant builds the same ones."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

import curvlang as cv
from curvlang.models.architectures.decoder import Decoder, DecoderSizes
from tests.bench.contest import Sizes

DAMPING = 1e-2


class Residual(nn.Module):
    """h + conv(relu(conv(relu(h))))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.one = nn.Conv2d(channels, channels, 3, padding=1)
        self.two = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, h: Tensor) -> Tensor:
        return h + self.two(torch.relu(self.one(torch.relu(h))))


def perceptron(widths: list[int], activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    layers: list[nn.Module] = []
    for d_in, d_out in pairwise(widths):
        layers += [nn.Linear(d_in, d_out), activation()]
    return nn.Sequential(*layers[:-1])


def network(sizes: Sizes) -> nn.Module:
    match sizes["kind"]:
        case "mlp":
            return perceptron(sizes["widths"])
        case "tanh":
            return perceptron(sizes["widths"], nn.Tanh)
        case "decoder":
            width = sizes["width"]
            return Decoder(
                sizes["tokens"],
                sizes["context"],
                DecoderSizes(width, sizes["heads"], sizes["layers"], 4 * width, "gelu"),
            )
        case "residual":
            c = sizes["channels"]
            stem = nn.Conv2d(3, c, 3, padding=1)
            down = nn.Conv2d(c, 2 * c, 3, padding=1, stride=2)
            parts = [stem, Residual(c), down, Residual(2 * c), nn.AdaptiveAvgPool2d(1)]
            return nn.Sequential(*parts, nn.Flatten(), nn.Linear(2 * c, 10))
    raise ValueError(sizes["kind"])


def examples(sizes: Sizes, count: int) -> tuple[Tensor, Tensor]:
    match sizes["kind"]:
        case "decoder":
            shape = (count, sizes["context"])
            tokens = sizes["tokens"]
            return torch.randint(0, tokens, shape), torch.randint(0, tokens, shape)
        case "residual":
            side = sizes["side"]
            return torch.randn(count, 3, side, side), torch.randint(0, 10, (count,))
    d, classes = sizes["widths"][0], sizes["widths"][-1]
    # The spectrum of inputs falls off, as that of images does.
    return torch.randn(count, d) / (1 + torch.arange(d) / 16), torch.randint(0, classes, (count,))


def task(sizes: Sizes) -> cv.Task:
    """The whole task in the precision of the workload, its Linear and Conv2d layers alone."""
    torch.manual_seed(0)
    model = network(sizes).eval()
    N = sizes["N"]
    X, y = examples(sizes, N + sizes["Q"])
    made = cv.Task(model, "cross_entropy", (X[:N], y[:N]), (X[N:], y[N:]))
    if sizes.get("dtype") == "float64":
        made = made.to(dtype=torch.float64)
    names = {f"{m}." for m, x in made.model.named_modules() if isinstance(x, nn.Linear | nn.Conv2d)}
    kept = [p for p in made.parameters if f"{p.rpartition('.')[0]}." in names]
    return made if len(kept) == len(made.parameters) else made.restricted(kept)


def direction(made: cv.Task) -> Tensor:
    """A vector that curvatures are compared by, [P]."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(made.P, generator=generator, dtype=torch.float64)


def summed_loss(model: nn.Module, X: Tensor, y: Tensor) -> Tensor:
    """Over the batch, and over the positions of every example."""
    f = model(X)
    return functional.cross_entropy(f.flatten(0, -2), y.flatten(), reduction="sum")
