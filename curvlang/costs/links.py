"""How fast processes reach each other, and how many there are, as a user states them."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from string import ascii_letters

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal

LATENCY = 1e-3
"""Seconds before the first byte of tensors that are sent, where no link was measured: their shapes go first,
by the store of the group."""
ASSUMED = 12.5e9
"""Bytes a second where no link is stated: a network of 100 Gb/s."""
_BITS = {"b": 0.125, "B": 1.0}
_UNITS = _BITS | {
    f"{letter}{kind}{unit}": size * base**power
    for power, letter in enumerate("kmgt", 1)
    for kind, base in (("", 1000), ("i", 1024))
    for unit, size in _BITS.items()
}
"""Bytes of a unit."""


@dataclass(frozen=True, slots=True)
class Connection:
    """Seconds before the first byte (α), and bytes a second after it (β).

    Args:
        latency: α.
        rate: β.
    """

    latency: float
    rate: float

    def seconds(self, size: float) -> float:
        """Of so many bytes from one process to another."""
        return self.latency + size / self.rate


def connection(text: str) -> Connection:
    """`100GB/s`, `10 Gb/s`, `25GiB/s`: bytes with a large B, bits with a small one.

    Raises:
        SpecError: E0860.
    """
    rate = _rate(text) if isinstance(text, str) else 0.0
    if not 0 < rate < inf:
        raise refusal(
            Code.E0860,
            f"`link = {text}` is not the rate of a link",
            "write a positive number with a unit: `100GB/s` in bytes, `10Gb/s` in bits",
        )
    return Connection(LATENCY, rate)


def _rate(text: str) -> float:
    """Bytes a second; 0 for what is not a rate."""
    each = next((x for x in ("/s", "ps") if text.strip().endswith(x)), None)
    if each is None:
        return 0.0
    amount = text.strip().removesuffix(each)
    number = amount.rstrip(ascii_letters)
    size = _UNITS.get(_shown(amount[len(number) :]))
    try:
        found = float(number) if set(number) <= set("0123456789. ") else 0.0
    except ValueError:
        return 0.0
    return 0.0 if size is None else found * size


def _shown(unit: str) -> str:
    """The unit with a small prefix, and `b` or `B` for its words."""
    for word, letter in (("bits", "b"), ("bit", "b"), ("bytes", "B"), ("byte", "B")):
        if unit.endswith(word):
            unit = unit.removesuffix(word) + letter
    return unit[:1].lower() + unit[1:] if len(unit) > 1 else unit


@dataclass(frozen=True, slots=True)
class Processes:
    """A number of processes and the link between them; `assumed` where none was stated."""

    size: int
    link: Connection
    assumed: bool


def processes_of(world: object, link: str | None) -> Processes:
    """Processes as a user states them.

    Raises:
        SpecError: E0860, E0861.
    """
    stated = Connection(LATENCY, ASSUMED) if link is None else connection(link)
    return Processes(_world_size(world), stated, link is None)


def _world_size(count: object) -> int:
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise refusal(
            Code.E0861,
            f"`world = {count}` is not a number of processes",
            "write 1 or a larger whole number, `world = 8`",
        )
    return count
