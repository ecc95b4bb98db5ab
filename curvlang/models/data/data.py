"""Data cut in two, and the default set: scikit-learn's bundled digits, which need no download."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal
from curvlang.models.data.fields import Fields
from curvlang.models.data.rows import Pair


@dataclass(frozen=True, slots=True, eq=False)
class RawExamples:
    """Examples of a user's function that stay as they are until the task packs them.

    Args:
        train: Pairs, or fields.
        query: Likewise.
        options: `labels`, `inputs`, `shift_labels` of the task.
        loss: The loss that the model has for such targets; None where any may be meant.
    """

    train: Pair | Fields
    query: Pair | Fields
    options: Mapping[str, Any]
    loss: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Data:
    """A data set cut into a training and a query part.

    Args:
        train: Inputs [N, inputs] and labels [N].
        query: Inputs [Q, inputs] and labels [Q].
        outputs: Outputs that a model for it has (classes).
        inputs: Features of an example.
        kind: `classification` (labels are class numbers), `regression` (targets are numbers) or
            `random` (drawn).
        positions: T of inputs [N, T, inputs]; 1 where they are [N, inputs].
        targets: Draws the targets of a part (`train` or `query`) from the loss's name and the
            shape of the model's outputs; None where the labels are the targets.
        given: Examples in the user's own form, in place of `train` and `query`.
    """

    train: Pair
    query: Pair
    outputs: int
    inputs: int
    kind: str
    positions: int = 1
    targets: Callable[[str, str, Sequence[int]], Tensor] | None = None
    given: RawExamples | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example's inputs."""
        return tuple(self.train[0].shape[1:])


def check_share(test: float, examples: int, least: int = 1) -> None:
    """Refuse a share of queries that leaves fewer than `least` examples on one side.

    Raises:
        SpecError: E0412.
    """
    if examples < 2 * least:
        raise refusal(
            Code.E0412,
            f"{examples} examples are too few to be cut into a training part and queries",
            f"give {2 * least} or more",
        )
    if not 0 < test < 1 or not least <= round(test * examples) <= examples - least:
        low, high = least / examples, 1 - least / examples
        usual = ", such as 0.1" if low <= 0.1 <= high else ""
        raise refusal(
            Code.E0412,
            f"`test = {test:g}` leaves too few of {examples} examples on one side",
            f"take a share from {low:.3g} to {high:.3g}{usual}",
        )


def digits(test: float, seed: int, scale: str, layout: str) -> Data:
    """1797 images of 8 by 8 pixels in ten classes, split with equal shares of every class.

    Args:
        test: Share of the examples that become queries; 0.1 gives 1617 and 180.
        seed: Of the split.
        scale: `standard` for zero mean and unit variance per pixel over the training set (constant
            pixels become 0), `unit` for division by 16, `none`.
        layout: `flat` for inputs [N, 64], `image` for [N, 1, 8, 8].

    Returns:
        Float32 inputs, int64 labels.

    Raises:
        SpecError: E0412 for a share too small or large to have every class on both sides.
    """
    pixels, labels = load_digits(return_X_y=True)
    least = 10 / len(labels)
    if not least <= test <= 1 - least:
        raise refusal(
            Code.E0412,
            f"`test = {test:g}` leaves no example of some class on one side",
            f"take a share between {least:.3f} and {1 - least:.3f}, such as 0.1",
        )
    X, Xq, y, yq = train_test_split(
        pixels, labels, test_size=test, stratify=labels, random_state=seed
    )
    X, Xq = _scaled(X, Xq, scale)
    shape = (-1, 64) if layout == "flat" else (-1, 1, 8, 8)
    train = (_inputs(X).reshape(shape), _labels(y))
    query = (_inputs(Xq).reshape(shape), _labels(yq))
    return Data(train, query, 10, 64, "classification")


Array = NDArray[np.float64]


def _scaled(X: Array, Xq: Array, scale: str) -> tuple[Array, Array]:
    match scale:
        case "standard":
            mean, spread = X.mean(0), X.std(0)
            spread[spread == 0] = 1
            return (X - mean) / spread, (Xq - mean) / spread
        case "unit":
            return X / 16, Xq / 16
        case _:
            return X, Xq


def _inputs(X: Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(X, dtype=np.float32))


def _labels(y: NDArray[np.int64]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(y, dtype=np.int64))
