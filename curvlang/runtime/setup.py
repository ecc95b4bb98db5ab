"""Where something is computed and from which random numbers: device, precision, memory, seed, store."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch

from curvlang.diagnostics.plain_arguments import keyworded, validate_fields
from curvlang.models.execution.precision import (
    WIDE,
    Precision,
    PrecisionLike,
    agreed,
)
from curvlang.operators import usable
from curvlang.runtime.limits.memory import Memory, amount
from curvlang.runtime.processes.launch import local_rank

Workers: TypeAlias = int | str | None
"""How many workers of Dask are started, or the address of a scheduler; None for none."""


@keyworded
@dataclass(frozen=True, slots=True)
class Setup:
    """Device, precision, memory and seed of a computation.

    Args:
        device: Where it runs.
        dtype: Precision of the passes and of what follows them, by its older name.
        memory: What a fit, and preconditioned queries, may hold: `"2 GiB"` or bytes; what is free
            where not given.
        seed: Of the initialisation and of sampling.
        store: A folder that keeps what is fitted.
        workers: Workers of Dask that retrain models: how many are started here, or the address of a
            scheduler that has some.
        precision: What passes, decompositions and products are computed in; float64 where not given.
    """

    device: torch.device = torch.device("cpu")
    dtype: torch.dtype | None = None
    memory: Memory = None
    seed: int = 0
    store: Path | None = None
    workers: Workers = None
    precision: PrecisionLike | None = None

    def __post_init__(self) -> None:
        """Refuse what nothing can be computed with.

        Raises:
            SpecError: E0563 for another type or precision, E0610 for a device that cannot be used
                here, E0874 for a negative seed, E0804 for what is not an amount of memory, E0875 to
                E0878 for a precision that cannot be had.
        """
        validate_fields(self)
        if self.device != torch.device("cpu"):
            object.__setattr__(self, "device", usable(self.device))
        policy = agreed(self.precision, self.dtype) or Precision()
        policy.check_on(torch.device(self.device))
        object.__setattr__(self, "precision", policy)
        object.__setattr__(self, "dtype", policy.dtype)
        if self.memory is not None:
            amount(self.memory)

    @property
    def policy(self) -> Precision:
        """The precision, however it was said."""
        assert isinstance(self.precision, Precision)
        return self.precision

    @property
    def flags(self) -> list[str]:
        """The options of a command that say the precision."""
        plain = str(self.policy) in WIDE
        return ["--dtype" if plain else "--precision", str(self.policy)]

    @staticmethod
    def named(
        device: str = "auto",
        precision: str | None = None,
        memory: Memory = None,
        seed: int = 0,
        store: Path | None = None,
        workers: Workers = None,
    ) -> Setup:
        """The same from names: `auto` is CUDA where this machine has it, `cuda` the GPU of this process.

        Args:
            device: `auto`, `cpu`, `cuda`, or a name of torch.
            precision: As text.
            memory: A limit, `"4GiB"`, or bytes.
            seed: Of all that is drawn.
            store: A folder of fits.
            workers: Of Dask, or a scheduler's address.

        Raises:
            SpecError: E0708 for a device that cannot be used here, else as a `Setup`.
        """
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cuda" and (number := local_rank()) is not None:
            # Each process of a machine has a GPU of its own.
            device = f"cuda:{number}"
        return Setup(usable(device), None, memory, seed, store, workers, precision)
