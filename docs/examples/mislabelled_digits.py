"""Find labels that someone got wrong: an example that is explained by itself alone is suspicious."""

from __future__ import annotations

from pathlib import Path

import torch
from drawing import picture
from sklearn.datasets import load_digits

import curvlang as cv


def main(folder: Path) -> float:
    """The share of wrong labels among the first tenth that one would look at."""
    X, y = (torch.tensor(x) for x in load_digits(return_X_y=True))
    X, y = X[:600].float() / 16, y[:600]
    chance = torch.Generator().manual_seed(0)
    wrong = torch.randperm(len(y), generator=chance)[:60]
    y[wrong] = (y[wrong] + torch.randint(1, 10, (60,), generator=chance)) % 10

    # Few epochs: a network that has learned every label by heart trusts the wrong ones, too.
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 16), torch.nn.Tanh(), torch.nn.Linear(16, 10))
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(40):
        optimiser.zero_grad()
        torch.autograd.backward(torch.nn.functional.cross_entropy(model(X), y))
        optimiser.step()

    task = cv.Task(model.eval(), loss="cross_entropy", train=(X, y), query=(X[:1], y[:1]))
    op = cv.fit("ekfac", task, progress=False)
    order = cv.self_influence(op, task, damping=0.01, progress=False).argsort(descending=True)

    found = torch.isin(order, wrong).cumsum(0) / len(wrong)
    with picture(folder / "mislabelled_digits.svg") as axes:
        axes.plot(torch.arange(1, 601) / 6, 100 * found, label="by self-influence")
        axes.plot([0, 100], [0, 100], color="gray", linestyle="--", label="by chance")
        axes.set(xlabel="examples looked at, %", ylabel="wrong labels found, %")
        axes.legend(frameon=False)
    print(f"60 of 600 labels are wrong; among the first 60 looked at are {found[59]:.0%} of them")
    return float(found[59])


if __name__ == "__main__":
    main(Path())
