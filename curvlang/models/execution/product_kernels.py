"""How a device multiplies numbers of float32 while a task is computed: exactly, in TF32, by which library."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from typing import Any

import torch

LARGE = 2**20
"""Parameters from which on products are worth the microseconds that oneDNN takes to begin one."""
_BACKENDS: Any = torch.backends
_HALF = "bf16"
"""What torch calls the mode in which products of float32 are oneDNN's, and may be rounded where the processor
has tiles for bfloat16."""


@contextmanager
def float32_products(kind: str, device: torch.device, parameters: int = 0) -> Iterator[None]:
    """Products of float32 as a precision says, whatever the caller has set, until the block ends.

    Args:
        kind: `tf32` for TF32 on CUDA; any other name for products that are exact.
        device: Where.
        parameters: Of the model: on processors, products of large ones are oneDNN's where those are exact.
            Its kernels take all of AVX-512 on processors of every maker, those of MKL do not.
    """
    with ExitStack() as stack:
        if device.type == "cuda":
            said = "tf32" if kind == "tf32" else "ieee"
            for backend in (
                _BACKENDS.cuda.matmul,
                _BACKENDS.cudnn.conv,
                _BACKENDS.cudnn.rnn,
            ):
                stack.enter_context(_set(backend, said))
        elif device.type == "cpu" and parameters >= LARGE and exact_in_onednn():
            stack.enter_context(_set(_BACKENDS.mkldnn.matmul, _HALF))
        yield


@lru_cache(maxsize=1)
def exact_in_onednn() -> bool:
    """Whether products that may be rounded to bfloat16 are computed in float32 all the same: tried."""
    if not torch.backends.mkldnn.is_available():
        return False
    given = torch.full((64, 64), 1 + 2**-20)
    with _set(_BACKENDS.mkldnn.matmul, _HALF):
        found = given @ torch.eye(64)
        twice = given @ given
    return torch.equal(found, given) and float((twice - 64 * (1 + 2**-19)).abs().max()) < 1e-4


@contextmanager
def _set(backend: Any, precision: str) -> Iterator[None]:
    before = backend.fp32_precision
    backend.fp32_precision = precision
    try:
        yield
    finally:
        backend.fp32_precision = before
