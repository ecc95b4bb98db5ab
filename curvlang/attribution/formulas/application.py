"""Matrices of a score applied to rows: the inverse, and functions of the spectrum that it states."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

from curvlang.attribution.formulas.indexed_tensors import Reader
from curvlang.attribution.formulas.points import Place, Point, Points
from curvlang.attribution.gradients import product
from curvlang.ir import expr as ir
from curvlang.ir.score_program import Solution
from curvlang.language.chain import InverseUse
from curvlang.operators import Operator
from curvlang.runtime.inverse import invert


class Application:
    """What a solution of a score applies at each model and checkpoint.

    Args:
        one: The solution.
        points: Models with their curvatures.
        outer: Its indices of models and checkpoints.
        reader: Reads the numbers of the function's parameters.
    """

    def __init__(
        self,
        one: Solution,
        points: Points,
        outer: Sequence[ir.Index],
        reader: Reader,
    ) -> None:
        self.one = one
        self.points = points
        self.outer = outer
        call = one.function
        self.numbers = [] if call is None else [reader.evaluate(x) for x in call.arguments]
        self._behind: dict[Place, Tensor] = {}
        self._known: dict[Place, Operator] = {}

    def places(self) -> Iterator[Place]:
        """Every place, later checkpoints first where rows are carried back."""
        found = list(self.points.places(self.outer))
        return iter(found[::-1] if self.one.carried else found)

    def at(self, place: Place, rows: Tensor) -> Tensor:
        """The rows at a place.

        Args:
            place: A value for each outer index.
            rows: What the matrix is applied to; of carried ones those at the end of the training.
        """
        if not self.one.carried:
            return self._times(self._matrix(place), rows)
        after = next(k for k, x in enumerate(self.outer) if x.space == "h")
        later = tuple(n + (k == after) for k, n in enumerate(place))
        found = rows
        if later in self._behind:
            found = self._times(self._matrix(later), self._behind.pop(later))
        self._behind[place] = found
        return found

    def _times(self, matrix: Operator, rows: Tensor) -> Tensor:
        return product(matrix, rows.reshape(-1, rows.shape[-1])).reshape(rows.shape)

    def _matrix(self, place: Place) -> Operator:
        """The matrix at a place; the same for all that differ in indices it does not have."""
        own = dict(zip(self.outer, place, strict=True))
        key = tuple(own[x] for x in self.one.at)
        if key not in self._known:
            point = self.points.at(self.one.at, key)
            self._known[key] = self._made(point, own)
        return self._known[key]

    def _made(self, point: Point, place: Mapping[ir.Index, int]) -> Operator:
        call = self.one.function
        if call is None:
            return point.inverse
        assert point.fitted is not None
        declared = self.points.functions[call.function]
        given: dict[str, ir.Expr] = {}
        for name, number in zip(declared.parameters, self.numbers, strict=False):
            own = tuple(place[x] for x in number.axes)
            given[name] = ir.Number(float(number.values[own]))
        use = InverseUse(declared, given, call.span)
        fitted = point.fitted
        return invert(fitted.operator, use, fitted.solver, by_example=fitted.by_example)
