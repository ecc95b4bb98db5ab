"""A small convolutional network for images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Generator, nn

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal
from curvlang.models.architectures.initialise import drawn
from curvlang.models.architectures.mlp import ACTIVATIONS


@dataclass(frozen=True, slots=True)
class Convolutions:
    """The convolutions of a model, and what follows each of them.

    Args:
        channels: Channels of every convolution.
        groups: Groups of every convolution but the first, and of the norms.
        norm: `group` for a GroupNorm behind every convolution.
        activation: A name in `ACTIVATIONS`.
        bias: Whether convolutions and the linear layer have biases.
    """

    channels: Sequence[int]
    groups: int
    norm: str
    activation: str
    bias: bool


def cnn(
    shape: Sequence[int],
    outputs: int,
    convolutions: Convolutions,
    generator: Generator | None = None,
) -> nn.Sequential:
    """Convolutions of 3 × 3 pixels, each halved by average pooling, and one linear layer behind.

    Args:
        shape: Channels, height and width of an image.
        outputs: Outputs of the model.
        convolutions: What they are.
        generator: Where the parameters are drawn from; None for a new one with seed 0.

    Raises:
        SpecError: E0412 for inputs that are not images, sizes that do not divide, or too many
            convolutions for the image.
    """
    if len(shape) != 3:
        raise refusal(
            Code.E0412,
            f"`cnn` reads images of three axes, not examples of shape {list(shape)}",
            "write `data digits(layout = image)`",
        )
    channels, groups = convolutions.channels, convolutions.groups
    bias = convolutions.bias
    depth = 2 ** len(channels)
    if shape[1] // depth < 1 or shape[2] // depth < 1:
        raise refusal(
            Code.E0412,
            f"`channels = {list(channels)}` does not suit images of {shape[1]} × {shape[2]} pixels",
            "every entry is a convolution, and halves the image",
        )
    if any(c % groups for c in channels):
        raise refusal(
            Code.E0412,
            f"`groups = {groups}` does not divide the channels {list(channels)}",
            "take a number that divides them all",
        )
    generator = Generator().manual_seed(0) if generator is None else generator
    features = channels[-1] * (shape[1] // depth) * (shape[2] // depth)

    def make() -> nn.Sequential:
        parts: list[nn.Module] = []
        for k, c in enumerate(channels):
            before = shape[0] if k == 0 else channels[k - 1]
            parts.append(nn.Conv2d(before, c, 3, padding=1, groups=groups if k else 1, bias=bias))
            parts += [nn.GroupNorm(groups, c)] if convolutions.norm == "group" else []
            parts += [ACTIVATIONS[convolutions.activation](), nn.AvgPool2d(2)]
        return nn.Sequential(*parts, nn.Flatten(), nn.Linear(features, outputs, bias=bias))

    return drawn(make, generator).eval()
