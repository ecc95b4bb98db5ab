"""What may be allocated, asked before the work starts: by the machine, its container, and the user.

The user's limit (`limited`, the option `memory`) is on the tensors of a fit: statistics, leaves, what
code allocates. The model, the data, and what the interpreter and its libraries take are not part of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from string import ascii_letters

import torch

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import Diagnostic, Label, MachineError
from curvlang.diagnostics.free_memory import free_memory
from curvlang.diagnostics.free_memory import gibibytes as gibibytes
from curvlang.diagnostics.refusal import refusal
from curvlang.models.execution import calls
from curvlang.runtime.limits.freed import return_soon
from curvlang.runtime.processes.launch import local_size

Memory = int | str | None
"""Bytes, `"2 GiB"`, or no limit."""

_SHARE = 0.8
"""Share of the free memory that a plan may count on; the rest is other people's."""
_UNITS = {"": 1, "b": 1} | {
    f"{letter}{kind}": base**power
    for power, letter in enumerate("kmgt", 1)
    for kind, base in (("ib", 1024), ("b", 1000))
}


_LIMITS: list[int] = []
"""Limits that hold now, in bytes: those of the process, whose threads share its memory."""


@contextmanager
def limited(memory: Memory) -> Iterator[None]:
    """Plan everything inside to stay within an amount of memory; None changes nothing.

    It holds for the process, other threads included, until the block ends. Of several limits the
    smallest holds.

    Raises:
        SpecError: E0804 for what is not an amount.
    """
    if memory is None:
        yield
        return
    wanted = amount(memory)
    _LIMITS.append(wanted)
    return_soon(_limit())
    try:
        yield
    finally:
        _LIMITS.remove(wanted)
        return_soon(_limit())


def _limit() -> int | None:
    return min(tuple(_LIMITS), default=None)


def amount(memory: int | str) -> int:
    """Bytes: `"2 GiB"`, `"500MB"`, `2147483648`.

    Raises:
        SpecError: E0804.
    """
    if isinstance(memory, str):
        count = _bytes(memory)
    else:
        count = memory if isinstance(memory, int) and not isinstance(memory, bool) else 0
    if count < 1:
        raise refusal(
            Code.E0804,
            f"`memory = {memory}` is not an amount of memory",
            'write a number of bytes, or a number and a unit: "2 GiB", "500 MB"',
        )
    return count


def _bytes(text: str) -> int:
    """A number with its unit; 0 for what is none."""
    number = text.strip().rstrip(ascii_letters)
    unit = text.strip()[len(number) :].lower()
    digits = number.strip().partition(".")
    written = digits[0] + (digits[2] if digits[1] else "0")
    if unit not in _UNITS or not (digits[0] and written.isascii() and written.isdecimal()):
        return 0
    return int(float(number) * _UNITS[unit])


def available(device: torch.device) -> int:
    """Bytes that can still be allocated on a device, under the user's limit."""
    limit = _limit()
    free = int(_free(device) * _SHARE)
    return free if limit is None else min(free, limit)


def allowance(usual: int, share: int) -> int:
    """Bytes that a part of the work may take: the usual ones, or that share of the user's limit if it is less.

    Args:
        usual: Bytes.
        share: 4 stands for a quarter.
    """
    limit = _limit()
    return usual if limit is None else max(1, min(usual, limit // share))


def _free(device: torch.device) -> int:
    """Bytes that nothing holds: those of the machine, or of the control group if that has fewer.

    Of a GPU also what torch has taken from the driver and uses for nothing at the moment. Processes of one
    run on one machine share what is free of the host, each a GPU of its own.
    """
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + kept
    return free_memory() // local_size()


def left(device: torch.device) -> str:
    """What is left, as a sentence's end: `2.1 GiB are free`."""
    limit, have = _limit(), available(device)
    if limit is None or have < limit:
        return f"{gibibytes(have)} are free"
    return f"`memory` allows {gibibytes(limit)}"


def require(
    needed: int,
    device: torch.device,
    purpose: str,
    repairs: Iterable[str] = (),
    labels: tuple[Label, ...] = (),
) -> None:
    """Refuse work that will not fit, with what it needs and what there is.

    Args:
        needed: Bytes.
        device: Where.
        purpose: What for.
        repairs: What to do about it, before what always helps; asked for where it is refused.
        labels: Where a spec writes what most of it goes to.

    Raises:
        MachineError: E0801.
    """
    if needed > available(device):
        raise MachineError(
            Diagnostic(
                Code.E0801,
                f"{purpose} needs {gibibytes(needed)}, and {left(device)}",
                labels,
                help=(*repairs, last_repair()),
            )
        )


def last_repair() -> str:
    """What always helps."""
    free = "free memory on the machine" if _limit() is None else "allow more `memory`"
    return f"use a smaller model, or {free}"


def _wanted(text: str) -> str:
    """What an error says that it could not allocate."""
    for rest in text.split("allocate ")[1:]:
        count, unit = [*rest.split(), "", ""][:2]
        if count.isdecimal() and unit.startswith("bytes"):
            return gibibytes(int(count))
        if count[:1].isdecimal() and unit[:3].endswith("iB"):
            return f"{count} {unit[:3]}"
    return "more than there is"


def exhausted(error: BaseException) -> MachineError | None:
    """E0801 for an error that says that memory ran out; None for any other.

    Torch raises a `RuntimeError` on the CPU and `torch.OutOfMemoryError` on a GPU.

    Args:
        error: What was raised.
    """
    text = str(error)
    if not calls.exhausted(error):
        return None
    on_cpu = not isinstance(error, torch.OutOfMemoryError)
    device = torch.device("cpu" if on_cpu else "cuda")
    return MachineError(
        Diagnostic(
            Code.E0801,
            f"out of memory: {_wanted(text)} were requested at once, and {left(device)}",
            help=(last_repair(),),
        )
    )
