"""Networks of depthwise convolutions, as efficientnet, mobilenet and convnext are built, against autograd.

Small ones: inverted residuals with squeeze and excitation, with ReLU6, and blocks with a norm over
channels and a scale for each of them. Blocks are compared with dense automatic differentiation.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

import curvlang as cv
from tests.models.support import drawn, normal
from tests.oracles import dense

ROUNDING = 1e-9
EKFAC = """curvature m = hessian |> drop_residual |> block_diagonal(by = layer)
  |> kronecker_factor(others = diagonal) |> eigen_correct(others = diagonal)"""


class Excitation(nn.Module):
    """Channels scaled by what a small network makes of their means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(channels, 2, 1), nn.Conv2d(2, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = nn.functional.silu(self.reduce(x.mean((2, 3), keepdim=True)))
        return x * torch.sigmoid(self.expand(z))


class Inverted(nn.Module):
    """Expand, depthwise, project, added to the input."""

    def __init__(self, channels: int, kernel: int, excited: bool) -> None:
        super().__init__()
        wide, act = 2 * channels, nn.SiLU if excited else nn.ReLU6
        self.body = nn.Sequential(
            nn.Conv2d(channels, wide, 1, bias=False), nn.BatchNorm2d(wide), act(),
            nn.Conv2d(wide, wide, kernel, padding=kernel // 2, groups=wide, bias=False),
            nn.BatchNorm2d(wide), act(), Excitation(wide) if excited else nn.Identity(),
            nn.Conv2d(wide, channels, 1, bias=False), nn.BatchNorm2d(channels),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


class Next(nn.Module):
    """Depthwise, a norm over channels, two linear layers at every place, a scale."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depth = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.up, self.down = nn.Linear(channels, 2 * channels), nn.Linear(2 * channels, channels)
        self.scale = nn.Parameter(torch.full((channels, 1, 1), 0.3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.norm(self.depth(x).permute(0, 2, 3, 1))
        z = self.down(nn.functional.gelu(self.up(z)))
        return x + self.scale * z.permute(0, 3, 1, 2)


def network(kind: str, channels: int) -> nn.Module:
    body = {
        "efficientnet": lambda: Inverted(channels, 3, excited=True),
        "mobilenet": lambda: Inverted(channels, 3, excited=False),
        "convnext": lambda: Next(channels),
    }[kind]()
    stem = nn.Conv2d(2, channels, 2, stride=2)
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 3))
    return nn.Sequential(stem, body, *head)


def task(kind: str, channels: int) -> cv.Task:
    generator = torch.Generator().manual_seed(4)
    model = drawn(network(kind, channels).double(), generator).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    X = normal((4, 2, 6, 6), generator)
    y = torch.randint(0, 3, (4,), generator=generator)
    return cv.Task(model, "cross_entropy", (X, y), (X[:2], y[:2]))


KINDS = {"efficientnet": 6, "mobilenet": 6, "convnext": 3}
"""Channels of the depthwise layer with three channels around."""


def assert_close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    assert float((found - wanted).abs().max()) <= ROUNDING * max(1e-3, float(wanted.abs().max()))


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_equal_dense_automatic_differentiation(kind):
    t = task(kind, 3)
    ggn = dense.ggn(t.model, "cross_entropy", *t.train)
    found = cv.fit("block_ggn", t).operator
    groups = [name for name in found.names if name.endswith("]")]
    assert len(groups) == KINDS[kind]
    for block, index in zip(found.blocks, found.index, strict=True):
        assert_close(block.dense(), ggn[index][:, index])
    assert sorted(torch.cat(found.index).tolist()) == list(range(t.P))
    assert_close(cv.fit("diagonal", t).diagonal(), ggn.diagonal())


@pytest.mark.parametrize("kind", KINDS)
def test_scores_equal_those_of_dense_inverses(kind):
    t = task(kind, 3)
    op = cv.fit(cv.loads(EKFAC), t)
    for spec in ("block_ggn", None):
        fitted = op if spec is None else cv.fit(spec, t)
        inverse = torch.linalg.inv(fitted.dense() + 0.1 * torch.eye(t.P, dtype=torch.float64))
        train, query = (
            dense.per_example_gradients(t.model, "cross_entropy", *part)
            for part in (t.train, t.query)
        )
        assert_close(cv.influence(fitted, t, damping=0.1), query @ inverse @ train.T)


@pytest.mark.parametrize("kind", KINDS)
def test_corrected_factors_keep_the_trace_of_every_group(kind):
    t = task(kind, 3)
    exact, corrected = cv.fit("block_ggn", t).blocks, cv.fit(cv.loads(EKFAC), t).blocks
    for name, block in exact.items():
        assert float(corrected[name].trace()) == pytest.approx(float(block.trace()), rel=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_networks_of_any_width_are_planned_by_layers(kind):
    from curvlang.language import loads
    from curvlang.runtime.prepare import prepare

    sizes = []
    for channels in (4, 40):
        prepared = prepare([loads(EKFAC).curvatures["m"]], task(kind, channels), last=True)
        sizes.append([len(p.blocks) for p in prepared.plans])
    assert sizes[0] == sizes[1]
