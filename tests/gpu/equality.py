"""Every stage of a spec on a device against the CPU, in float64, and the waits inside its loops over batches."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from curvlang.models.task import Task
from tests.devices.runs import Run, tensors_in

EQUAL = 1e-9
"""Of the largest entry, in float64. Kernels of a GPU add in another order."""


@dataclass(slots=True)
class Equality:
    """A spec on a task, on two devices.

    Args:
        apart: By stage: how far its numbers are from the CPU's, of the largest; or the code that refuses it.
        waits: Inside loops over batches, by the operation that the driver has reported.
    """

    apart: dict[str, float | str] = field(default_factory=dict)
    waits: dict[str, int] = field(default_factory=dict)

    @property
    def faults(self) -> list[str]:
        """Stages that are not equal."""
        return [
            f"{stage}: {found}"
            for stage, found in self.apart.items()
            if not isinstance(found, str) and not found <= EQUAL
        ]


def equality(spec: str, task: Task, device: torch.device, stages: tuple[str, ...]) -> Equality:
    """Run the stages on the CPU, then on the device, with batches of a few examples.

    Args:
        spec: One that ships.
        task: On the CPU, in float64.
        device: The other one.
        stages: Their names.

    Raises:
        AssertionError: Where one device refuses what the other computes.
    """
    here, there = Run(spec, task), Run(spec, task.to(device=device))
    found = Equality()
    for name in stages:
        wanted = here.stage(name)
        with reported_waits(device) as waits:
            given = there.stage(name)
        found.waits |= {what: n + found.waits.get(what, 0) for what, n in waits.items()}
        if isinstance(wanted, str) or isinstance(given, str):
            assert str(wanted) == str(given), f"{spec}, {name}: {given}; the CPU: {wanted}"
            found.apart[name] = str(wanted)
        else:
            pairs = zip(tensors_in(given), tensors_in(wanted), strict=True)
            found.apart[name] = max((distance(x, y) for x, y in pairs), default=0.0)
    return found


def distance(x: Tensor, y: Tensor) -> float:
    """The largest difference, of the largest entry; infinite where one of them is not a number."""
    if not y.numel():
        return 0.0
    x, y = x.double().cpu(), y.double().cpu()
    gap = float((x - y).abs().max()) / max(float(y.abs().max()), 1e-300)
    return gap if gap == gap else float("inf")


@contextmanager
def reported_waits(device: torch.device) -> Iterator[Counter]:
    """How often the host waited for the card inside, as CUDA itself reports it, by the line of the package."""
    found: Counter = Counter()
    if device.type != "cuda":
        yield found
        return
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode(before)
    found.update(
        f"{one.filename.rpartition('curvlang/')[2]}:{one.lineno}"
        for one in told
        if "synchronizing CUDA operation" in str(one.message)
    )
