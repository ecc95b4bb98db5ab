"""What is changed for the whole process while a model runs, kept right where threads overlap.

Two threads that each put a global setting aside and restore what they found leave it changed for good
where the first to enter is the first to leave. Here a setting is changed by the first that asks for it
and put back by the last.
"""

from __future__ import annotations

import random
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

ALONE = threading.RLock()
"""Held while a model itself is changed: its parameters replaced, its modules moved or marked."""


class ProcessSetting:
    """A setting of the process, changed for as long as one thread or more asks for it.

    Args:
        change: Makes a context that changes the setting and puts it back.
    """

    def __init__(self, change: Callable[[], AbstractContextManager[Any]]) -> None:
        self._change = change
        self._lock = threading.Lock()
        self._count = 0
        self._changed = ExitStack()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """The setting, changed until the block ends, or longer where another thread asks for it."""
        with self._lock:
            if not self._count:
                self._changed.enter_context(self._change())
            self._count += 1
        try:
            yield
        finally:
            with self._lock:
                self._count -= 1
                if not self._count:
                    self._changed.close()


@contextmanager
def _kept_torch_stream() -> Iterator[None]:
    """Torch's random numbers go on afterwards as if nothing had been drawn or seeded."""
    own = torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    try:
        yield
    finally:
        torch.set_rng_state(own)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)


kept_torch_stream = ProcessSetting(_kept_torch_stream)


@contextmanager
def kept_streams() -> Iterator[None]:
    """Torch's, numpy's and Python's random numbers go on afterwards where they stood.

    Around all calls of a user's `build` together: one that ignores its seed is refused because its
    models differ, and they would not where every call started from the same numbers.
    """
    python, array = random.getstate(), np.random.get_state()
    try:
        with _kept_torch_stream():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(array)


@contextmanager
def _without_fast_path() -> Iterator[None]:
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


@contextmanager
def _silent() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


without_fast_path = ProcessSetting(_without_fast_path)
"""Attention through its parts: the fused kernel of inference calls none of them."""
math_attention = ProcessSetting(lambda: sdpa_kernel(SDPBackend.MATH))
"""Attention that can be differentiated twice and mapped twice: fused kernels cannot."""
without_cudnn = ProcessSetting(lambda: torch.backends.cudnn.flags(enabled=False))
"""Recurrent layers by operations that can be differentiated twice."""
silent = ProcessSetting(_silent)
"""No warnings of torch about rules of `vmap` that it lacks."""
