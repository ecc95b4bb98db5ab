"""Regression data that needs no download: scikit-learn's bundled diabetes set."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split
from torch import Tensor

from curvlang.models.data.data import Data, check_share


def diabetes(test: float, seed: int) -> Data:
    """442 patients, ten measurements, the progression of the disease a year later.

    Efron, Hastie, Johnstone, Tibshirani, Least Angle Regression (2004). Inputs and target have zero
    mean and unit variance over the training part.

    Args:
        test: Share of the patients that become queries.
        seed: Of the split.

    Returns:
        Float32 inputs [N, 10] and targets [N, 1].

    Raises:
        SpecError: E0412 for a share that leaves one side empty.
    """
    measured, progression = load_diabetes(return_X_y=True)
    check_share(test, len(measured))
    both = np.column_stack([measured, progression])
    train, query = train_test_split(both, test_size=test, random_state=seed)
    mean, spread = train.mean(0), train.std(0)
    return Data(_pair((train - mean) / spread), _pair((query - mean) / spread), 1, 10, "regression")


def _pair(rows: NDArray[np.float64]) -> tuple[Tensor, Tensor]:
    whole = torch.from_numpy(np.ascontiguousarray(rows, dtype=np.float32))
    return whole[:, :-1].contiguous(), whole[:, -1:].contiguous()
