"""Where gradients of a score are taken: the model, its checkpoints, and other models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Protocol

from torch import Tensor

from curvlang.attribution.streams.cut import ScoreCut
from curvlang.ir import expr as ir
from curvlang.ir.score_program import CONTEXTS
from curvlang.language.chain import Inverse
from curvlang.models.losses.loss import Loss
from curvlang.models.task import Task
from curvlang.operators import Operator
from curvlang.runtime.fitted import FittedOperator

Place = tuple[int, ...]
"""A value for each index of models and checkpoints that something has."""


class Coordinates(Protocol):
    """Coordinates of gradients outside which C⁻¹ is zero."""

    def rows(self, task: Task, loss: Loss, part: str, within: range | None = None) -> Tensor:
        """Gradients of some examples of a part in the coordinates, [B, K]."""


class KeptRows(Protocol):
    """What is known of the training examples before any query is: no gradient of them is taken."""

    @property
    def cut(self) -> ScoreCut:
        """The chunks in which it lies."""

    @property
    def sums(self) -> Mapping[str, Tensor]:
        """Sums over all training examples, by name."""

    def chunk(self, within: range) -> Mapping[str, Tensor]:
        """What is known of the examples of a chunk: gradients as `v`, else what a program names."""


@dataclass(frozen=True, slots=True, eq=False)
class Point:
    """A model with its data, and the inverse of the curvature there.

    Args:
        task: The model with its data.
        inverse: C⁻¹, of the coordinates where there are some.
        moments: Adam's running means of gradients and of their squares, [P] by the leaf's name.
        coordinates: In which gradients are taken; None for all parameters.
        fitted: C itself, where a score applies other functions of its spectrum.
    """

    task: Task
    inverse: Operator
    moments: Mapping[str, Tensor] = field(default_factory=dict)
    coordinates: Coordinates | None = None
    fitted: FittedOperator | None = None

    def queries(self, own: slice) -> Point:
        """With some of the queries."""
        return replace(self, task=self.task.queries(own))


@dataclass(frozen=True, slots=True, eq=False)
class StretchPoints:
    """A checkpoint of the training, which may stand for several models.

    Args:
        whole: Its last model, with the curvature of the examples at all of them.
        models: Each of them, with its own.
    """

    whole: Point
    models: Sequence[Point]

    def queries(self, own: slice) -> StretchPoints:
        """With some of the queries."""
        return StretchPoints(self.whole.queries(own), [x.queries(own) for x in self.models])


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """All points of a score.

    Args:
        final: The evaluated model.
        checkpoints: Along each model's training, the evaluated one's first; `[e][h]`.
        models: The models at their ends, the evaluated one the first.
        rates: The learning rate at each checkpoint.
        kept: What is known of the training examples already.
        times: The sum of the learning rates of the steps that each stands for.
        functions: Functions of the spectrum that the score applies, by name.
    """

    final: Point
    checkpoints: Sequence[Sequence[StretchPoints]] = ()
    models: Sequence[Point] = ()
    rates: Tensor | None = None
    kept: KeptRows | None = None
    times: Tensor | None = None
    functions: Mapping[str, Inverse] = field(default_factory=dict)
    lengths: Mapping[str, int] = field(init=False)

    def __post_init__(self) -> None:
        """How many models and checkpoints there are."""
        along = len(self.checkpoints[0]) if self.checkpoints else 0
        each = len(self.checkpoints[0][0].models) if along else 0
        found = {"h": along, "e": len(self.models), "c": each}
        object.__setattr__(self, "lengths", {k: n for k, n in found.items() if n})

    def at(self, indices: Sequence[ir.Index], place: Place) -> Point:
        """The point at which something with these indices is taken."""
        given = dict(zip([x.space for x in indices], place, strict=True))
        if "h" in given:
            stretch = self.checkpoints[given.get("e", 0)][given["h"]]
            return stretch.models[given["c"]] if "c" in given else stretch.whole
        return self.models[given["e"]] if "e" in given else self.final

    def places(self, indices: Sequence[ir.Index]) -> Iterator[Place]:
        """Every value of indices of models and checkpoints."""
        return product(*(range(self.lengths[x.space]) for x in indices))

    def queries(self, own: slice) -> Points:
        """With some of the queries."""
        return replace(
            self,
            final=self.final.queries(own),
            checkpoints=[[x.queries(own) for x in row] for row in self.checkpoints],
            models=[x.queries(own) for x in self.models],
        )


def contexts(indices: Sequence[ir.Index]) -> tuple[ir.Index, ...]:
    """Those of some indices that are of models and checkpoints."""
    return tuple(x for x in indices if x.space in CONTEXTS)
