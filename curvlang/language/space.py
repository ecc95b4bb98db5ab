"""A space of small tasks: what a law may draw."""

from __future__ import annotations

from dataclasses import dataclass

Counts = tuple[int, ...]
Words = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Space:
    """Every value that may be drawn, the simplest first: failures shrink towards the front."""

    examples: Counts = ()
    positions: Counts = ()
    inputs: Counts = ()
    outputs: Counts = ()
    layers: Counts = ()
    activations: Words = ()
    losses: Words = ()
    biases: tuple[bool, ...] = ()
    pooling: Words = ()

    @property
    def empty(self) -> str:
        """The first thing of which no value is left; empty text where there is none."""
        for name in self.__slots__:
            if not getattr(self, name):
                return name
        return ""
