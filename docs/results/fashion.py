"""Writes `fashion.npz` beside itself: 5000 images of Fashion-MNIST (arXiv:1708.07747) as 14 × 14 pixels.

apt install dataset-fashion-mnist && python docs/results/fashion.py
curvlang study docs/results/fashion.cv
"""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import numpy as np

COUNT = 5000
FOLDER = Path(sys.argv[1] if len(sys.argv) > 1 else "/usr/share/datasets/fashion-mnist")
"""Where the Debian package has the files."""


def numbers(name: str, header: int) -> np.ndarray:
    """The bytes of a file in the format of MNIST, behind its header."""
    return np.frombuffer(gzip.decompress((FOLDER / name).read_bytes()), np.uint8)[header:]


images = numbers("train-images-idx3-ubyte.gz", 16)[: COUNT * 784].reshape(COUNT, 14, 2, 14, 2)
labels = numbers("train-labels-idx1-ubyte.gz", 8)[:COUNT]
pixels = images.mean((2, 4)).reshape(COUNT, 196) / 255
np.savez(Path(__file__).with_suffix(".npz"), X=pixels.astype("float32"), y=labels.astype("int64"))
