"""Where something is computed and from which random numbers: device, precision, memory, seed, store."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch

from curvlang.diagnostics.plain_arguments import validate_fields
from curvlang.diagnostics.values import another_type
from curvlang.operators import usable
from curvlang.runtime.limits.memory import Memory, amount
from curvlang.runtime.processes.launch import local_rank

Workers: TypeAlias = int | str | None
"""How many workers of Dask are started, or the address of a scheduler; None for none."""
PRECISIONS = {"float32": torch.float32, "float64": torch.float64}
"""Precisions by their names."""


@dataclass(frozen=True, slots=True)
class Setup:
    """Device, precision, memory and seed of a computation.

    Args:
        device: Where it runs.
        dtype: Precision of the analysis.
        memory: What a fit, and preconditioned queries, may hold: `"2 GiB"` or bytes; what is free
            where not given.
        seed: Of the initialisation and of sampling.
        store: A folder that keeps what is fitted.
        workers: Workers of Dask that retrain models: how many are started here, or the address of a
            scheduler that has some.
    """

    device: torch.device = torch.device("cpu")
    dtype: torch.dtype = torch.float64
    memory: Memory = None
    seed: int = 0
    store: Path | None = None
    workers: Workers = None

    def __post_init__(self) -> None:
        """Refuse what nothing can be computed with.

        Raises:
            SpecError: E0563 for another type or precision, E0610 for a device that cannot be used
                here, E0874 for a negative seed, E0804 for what is not an amount of memory.
        """
        validate_fields(self)
        if self.device != torch.device("cpu"):
            object.__setattr__(self, "device", usable(self.device))
        if self.memory is not None:
            amount(self.memory)

    @staticmethod
    def named(
        device: str = "auto",
        dtype: str = "float64",
        memory: Memory = None,
        seed: int = 0,
        store: Path | None = None,
        workers: Workers = None,
    ) -> Setup:
        """The same from names: `auto` is CUDA where this machine has it, `cuda` the GPU of this process.

        Raises:
            SpecError: E0708 for a device that cannot be used here, E0563 for another precision.
        """
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cuda" and (number := local_rank()) is not None:
            # Each process of a machine has a GPU of its own.
            device = f"cuda:{number}"
        if dtype not in PRECISIONS:
            raise another_type("dtype", dtype, "a precision", " or ".join(PRECISIONS))
        return Setup(usable(device), PRECISIONS[dtype], memory, seed, store, workers)
