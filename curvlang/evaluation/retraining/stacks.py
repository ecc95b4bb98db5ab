"""Which models are trained in one stack: a function of the protocol and the task alone, never of time or workers.

A model's numbers depend on its place in a stack, in their last digits: products of small matrices depend on
where these lie in memory. So the same command always trains the same stacks, whoever trains them, and a
stack is kept in one file: after a kill it is there as a whole or not at all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

UNIT = 5
"""Subsets that are read from a file as one: more subsets or repetitions later reuse what is there."""

Unit = tuple[int, int]
"""A repetition, and five subsets by their number."""

_NAME = re.compile(r"r(\d+)(?:x(\d+))?-u(\d+)-(\d+)")


@dataclass(frozen=True, slots=True)
class ModelStack:
    """Models that are trained together: some subsets, each in some repetitions.

    Args:
        repetition: The first.
        repetitions: How many.
        unit: The number of the first five subsets.
        subsets: How many subsets.
    """

    repetition: int
    repetitions: int
    unit: int
    subsets: int

    @property
    def name(self) -> str:
        """What its file is called."""
        several = f"x{self.repetitions}" if self.repetitions > 1 else ""
        return f"r{self.repetition}{several}-u{self.unit}-{self.subsets}"

    @staticmethod
    def named(name: str) -> ModelStack | None:
        """The stack of a file; None where it is another kind of file."""
        found = _NAME.fullmatch(name)
        if found is None:
            return None
        first, several, unit, subsets = found.groups()
        return ModelStack(int(first), int(several or 1), int(unit), int(subsets))

    @property
    def models(self) -> int:
        """How many models are trained."""
        return self.repetitions * self.subsets

    @property
    def rows(self) -> list[tuple[int, int]]:
        """Repetition and subset of every model, in their order."""
        first = self.unit * UNIT
        return [
            (self.repetition + r, first + k)
            for r in range(self.repetitions)
            for k in range(self.subsets)
        ]

    @property
    def units(self) -> list[Unit]:
        """The units that it covers."""
        last = self.unit + -(-self.subsets // UNIT)
        return [
            (self.repetition + r, u)
            for r in range(self.repetitions)
            for u in range(self.unit, last)
        ]

    def part(self, value: Tensor, unit: Unit) -> Tensor:
        """Of losses `[repetitions, subsets, Q]` those of a unit `[at most 5, Q]`."""
        r, u = unit
        start = (u - self.unit) * UNIT
        return value[r - self.repetition, start : start + UNIT]


def subsets_of(unit: int, subsets: int) -> range:
    """The subsets of a unit, of so many in all."""
    return range(unit * UNIT, min((unit + 1) * UNIT, subsets))


def stacks(subsets: int, repetitions: int, most: int) -> list[ModelStack]:
    """All models in stacks of at most so many: of one repetition, and of several where subsets are few.

    Args:
        subsets: K.
        repetitions: R.
        most: Models in a stack, a multiple of five.
    """
    found = []
    for first in range(0, subsets, most):
        count = min(most, subsets - first)
        at_once = max(1, most // count)
        for r in range(0, repetitions, at_once):
            together = min(at_once, repetitions - r)
            found.append(ModelStack(r, together, first // UNIT, count))
    return found


def missing_stacks(whole: Iterable[ModelStack], found: Collection[Unit]) -> list[ModelStack]:
    """What of the stacks is to be trained, where some units are there.

    A stack that is there in part has met the files of a smaller run: only what is missing of it is trained.
    """
    missing = []
    for stack in whole:
        there = [unit in found for unit in stack.units]
        if not any(there):
            missing.append(stack)
        elif not all(there):
            missing += _rest(stack, found)
    return missing


def _rest(stack: ModelStack, found: Collection[Unit]) -> Iterator[ModelStack]:
    """Runs of missing units of each repetition."""
    run: list[Unit] = []
    for unit in [*stack.units, None]:
        follows = unit is not None and run and unit == (run[-1][0], run[-1][1] + 1)
        if run and not (follows and unit not in found):
            first, last = run[0], run[-1]
            end = min((last[1] + 1) * UNIT, stack.unit * UNIT + stack.subsets)
            yield ModelStack(first[0], 1, first[1], end - first[1] * UNIT)
            run = []
        if unit is not None and unit not in found:
            run.append(unit)


def kept_units(
    names: Iterable[str],
    read: Callable[[str], Tensor | None],
    subsets: int,
    repetitions: int,
) -> Mapping[Unit, Tensor]:
    """Units whose losses are in files, from whatever run they are.

    Args:
        names: Of the files.
        read: The content of one, None where it is damaged.
        subsets: K.
        repetitions: R.
    """
    found: dict[Unit, Tensor] = {}
    for name in names:
        stack = ModelStack.named(name)
        if stack is None:
            continue
        wanted = [u for u in _inside(stack, subsets, repetitions) if u not in found]
        value = read(name) if wanted else None
        if value is not None:
            shaped = value.reshape(stack.repetitions, stack.subsets, -1)
            for unit in wanted:
                rows = stack.part(shaped, unit)
                found[unit] = rows[: len(subsets_of(unit[1], subsets))]
    return found


def _inside(stack: ModelStack, subsets: int, repetitions: int) -> Iterator[Unit]:
    """Units of a run that a file has whole."""
    end = stack.unit * UNIT + stack.subsets
    for r, u in stack.units:
        wanted = subsets_of(u, subsets)
        if r < repetitions and wanted and wanted.stop <= end:
            yield r, u


def outcome_of(found: Mapping[Unit, Tensor], subsets: int, repetitions: int) -> Tensor:
    """Losses `[K, R, Q]` from those of all units."""
    count = -(-subsets // UNIT)
    parts = [torch.cat([found[r, u].double() for u in range(count)]) for r in range(repetitions)]
    return torch.stack(parts, dim=1)
