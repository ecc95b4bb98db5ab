"""Random numbers by counter: each depends on the example it is drawn for, not on the batch or the device.

Philox4x32-10 (Salmon, Moraes, Dror & Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3"), in
operations on whole numbers that give the same on a processor and on a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

VERSION: Final = 2
"""Counts changes of the numbers drawn; 1 took them from torch's generators in the order of the batches."""
_ROUNDS: Final = 10
_MULTIPLIERS: Final = (0xD2511F53, 0xCD9E8D57)
_STEPS: Final = (0x9E3779B9, 0xBB67AE85)
_WORD: Final = 0xFFFFFFFF
_HALF: Final = 0xFFFF


@dataclass(frozen=True, slots=True)
class Draws:
    """Where the random numbers of a batch come from.

    Args:
        seed: Of the run; 64 bits of it count.
        number: Of the pass over the data: every pass draws its own, since one draw for a basis and its
            spectrum would bias both.
        start: The first example's number; those of the batch follow one by one.
        rows: The examples' numbers from `start` on, where they do not follow one by one.
        place: The number of the batch's first position in an example.
    """

    seed: int
    number: int = 0
    start: int = 0
    rows: Tensor | None = None
    place: int = 0

    def uniform(self, examples: int, places: int, samples: int, device: torch.device) -> Tensor:
        """Uniform float64 numbers in (0, 1) for every example, place in it and sample: [B, T, R]."""
        own = torch.arange(examples, device=device) if self.rows is None else self.rows.to(device)
        example = (self.start + own).reshape(-1, 1, 1)
        place = torch.arange(self.place, self.place + places, device=device).reshape(-1, 1)
        sample = torch.arange(samples, device=device)
        shape = (examples, places, samples)
        counter = [x.expand(shape) for x in (example & _WORD, place, sample)]
        counter.append(torch.full((), self.number & _WORD, device=device).expand(shape))
        first, second, *_ = philox(counter, (self.seed & _WORD, self.seed >> 32 & _WORD))
        # 52 bits and a half: every number is exact in float64, and neither 0 nor 1.
        bits = ((first >> 6) << 26) | (second >> 6)
        return (bits.to(torch.float64) + 0.5) * 2.0**-52


def philox(counter: list[Tensor], key: tuple[int, int]) -> list[Tensor]:
    """Philox4x32-10: four words of 32 bits for every counter.

    Args:
        counter: Four tensors of int64, each with one word of every counter.
        key: Two words.
    """
    a, b, c, d = counter
    k, m = key
    for _ in range(_ROUNDS):
        high_a, low_a = _product(_MULTIPLIERS[0], a)
        high_c, low_c = _product(_MULTIPLIERS[1], c)
        a, b, c, d = high_c ^ b ^ k, low_c, high_a ^ d ^ m, low_a
        k, m = (k + _STEPS[0]) & _WORD, (m + _STEPS[1]) & _WORD
    return [a, b, c, d]


def _product(factor: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """The high and the low word of the 64-bit product of two words, by halves: int64 has 63 bits."""
    low = (x & _HALF) * factor
    high = (x >> 16) * factor + (low >> 16)
    return high >> 16, ((high & _HALF) << 16) | (low & _HALF)
