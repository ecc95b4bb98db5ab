"""How sure is the network? Laplace's approximation with a fitted curvature, its prior chosen by the evidence."""

from __future__ import annotations

from pathlib import Path

import torch
from drawing import picture
from torch.func import functional_call, jvp, vmap

import curvlang as cv

NOISE = 0.1


def main(folder: Path) -> tuple[float, float]:
    """The standard deviation of the prediction where there are data, and far from them."""
    torch.manual_seed(0)
    X = torch.cat([torch.linspace(-2, -0.5, 20), torch.linspace(0.8, 2, 20)])[:, None].double()
    y = torch.sin(2 * X) + NOISE * torch.randn(40, 1, dtype=torch.float64)
    layers = torch.nn.Linear(1, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1)
    model = torch.nn.Sequential(*layers).double()
    optimiser = torch.optim.Adam(model.parameters(), lr=0.03)
    for _ in range(800):
        optimiser.zero_grad()
        torch.autograd.backward(torch.nn.functional.mse_loss(model(X), y))
        optimiser.step()

    task = cv.Task(model, "mse", train=(X, y), query=(X, y))
    op = cv.fit("ggn", task, progress=False)
    evidence = cv.Evidence(op, task)
    prior = max((10.0**k for k in range(-3, 4)), key=lambda p: evidence(p, noise=NOISE))

    # −log p of an example is the squared error over 2σ²: N of them count N / (2σ²) times.
    count = task.N / (2 * NOISE**2)
    chance = torch.Generator().manual_seed(0)
    draws = op.sample(200, generator=chance, damping=prior / count, examples=count)
    theta = {name: p.detach() for name, p in model.named_parameters()}
    grid = torch.linspace(-4, 4, 161, dtype=torch.float64)[:, None]

    def change(step: dict[str, torch.Tensor]) -> torch.Tensor:
        moved: torch.Tensor = jvp(lambda p: functional_call(model, p, (grid,)), (theta,), (step,))[
            1
        ]
        return moved

    spread = vmap(change)(op.by_parameter(draws, model)).std(0)[:, 0]
    mean = model(grid).detach()[:, 0]
    with picture(folder / "laplace.svg") as axes:
        axes.plot(X, y, ".", color="black", markersize=3, label="data")
        axes.plot(grid, mean, label="network")
        axes.fill_between(grid[:, 0], mean - 2 * spread, mean + 2 * spread, alpha=0.25)
        axes.set(ylim=(-4, 4), xlabel="x", ylabel="prediction, ± 2 standard deviations")
        axes.legend(frameon=False)
    inside, outside = float(spread[grid[:, 0].abs() < 2].mean()), float(spread[0])
    print(f"prior precision {prior:g}; ± {inside:.2f} among the data, ± {outside:.2f} at x = -4")
    return inside, outside


if __name__ == "__main__":
    main(Path())
