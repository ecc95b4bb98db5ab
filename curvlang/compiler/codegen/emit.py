"""Sums of contractions to instructions: pairwise products in a planned order, nothing twice.

In: expressions in normal form and the sizes of their spaces. Out: instructions with the
floating-point operations and the bytes of each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import assert_never

from curvlang.compiler.algebra.coefficient import RoundingError, evaluated, finite, raised, times
from curvlang.compiler.algebra.terms import (
    Elementwise,
    Factor,
    Poly,
    Power,
    Term,
    poly_free,
)
from curvlang.compiler.codegen.calls import function_call
from curvlang.compiler.codegen.collector import Collector
from curvlang.compiler.codegen.contraction import contract, own_part
from curvlang.compiler.codegen.instructions import (
    Argument,
    Constant,
    Instruction,
    Kernel,
    Mask,
    Operand,
    Pointwise,
    Tensor,
    View,
    lettering,
)
from curvlang.compiler.codegen.parts import divided, reshaped
from curvlang.compiler.derive.lengths import length_of
from curvlang.ir.constants import NUMERIC, constant
from curvlang.ir.expr import Call, Delta, Index, Ref
from curvlang.ir.places import is_places, is_split

Value = Tensor | float
"""A tensor, or a bare number of the formula."""


@dataclass(slots=True)
class Emitter:
    """Instructions for sums of contractions.

    Args:
        sizes: Length of every space, the batch's for `n`.
        total: Number of training examples, for means over `n`.
        limit: Elements that an intermediate result may have; `None` for no limit.
        axes: Indices of the tensors by name, in the order they are held in.
        prefix: First letters of the names of intermediate results.
    """

    sizes: Mapping[str, int]
    total: int
    limit: int | None = None
    axes: Mapping[str, tuple[Index, ...]] = field(default_factory=dict)
    prefix: str = "x"
    code: Collector = field(init=False)

    def __post_init__(self) -> None:
        self.code = Collector(self.sizes, self.axes, self.prefix)

    @property
    def lines(self) -> list[Instruction]:
        """The instructions so far."""
        return self.code.lines

    def poly(self, poly: Poly, out: tuple[Index, ...]) -> Tensor:
        """A sum of contractions with its indices in the given order."""
        return self._spread(self.partial(poly, out), out)

    def _spread(self, found: Value, out: tuple[Index, ...]) -> Tensor:
        if isinstance(found, Tensor) and found.indices == out:
            return found
        (argument,), output = self._arguments([found], out)
        shape = tuple(self.sizes[x.space] for x in out)
        return self.code.assign(View(argument, output, shape), out, view=bool(out))

    def partial(self, poly: Poly, out: tuple[Index, ...]) -> Value:
        """A sum of contractions over those of the given indices that it has, in their order."""
        parts = self._terms(poly, out)
        if len(parts) == 1:
            return parts[0]
        numbers = [x for x in parts if not isinstance(x, Tensor)]
        if len(numbers) == len(parts):
            return finite(sum(numbers, 0.0))
        union = tuple(x for x in out if any(x in _indices(part) for part in parts))
        # A piece that lacks an index of the others is spread over it by the addition.
        return self._pointwise("+", parts, union, flops=(len(parts) - 1) * self.code.size(union))

    def _terms(self, poly: Poly, out: tuple[Index, ...]) -> list[Value]:
        """The terms of a sum, without those that round to zero beside others that do not."""
        if len(poly) == 1:
            return [self._scaled(poly[0], out)]
        found: list[Value] = []
        lost: RoundingError | None = None
        for term in poly:
            try:
                found.append(self._scaled(term, out))
            except RoundingError as error:
                lost = error
        if lost is not None and not any(isinstance(x, Tensor) or x for x in found):
            raise lost
        return found

    def _arguments(
        self, values: Sequence[Value], out: tuple[Index, ...]
    ) -> tuple[tuple[Argument, ...], str]:
        letters = lettering(out)
        return tuple(
            Operand(x.name, "".join(letters[i] for i in x.indices)) if isinstance(x, Tensor) else x
            for x in values
        ), "".join(letters.values())

    def _pointwise(
        self, function: str, values: Sequence[Value], out: tuple[Index, ...], flops: int
    ) -> Tensor:
        operation = Pointwise(function, *self._arguments(values, out))
        return self.code.assign(operation, out, flops=flops)

    def _scaled(self, term: Term, out: tuple[Index, ...], *, ordered: bool = True) -> Value:
        found = self.term(term, tuple(x for x in out if x in term.free), ordered=ordered)
        factor = self.coefficient(term)
        if factor == 1.0:
            return found
        if not isinstance(found, Tensor):
            return times(found, factor)
        return self._pointwise("*", [found, factor], found.indices, self.code.size(found.indices))

    def coefficient(self, term: Term) -> float:
        """A term's number with the sizes of its means."""
        value = term.coefficient
        for space, power in term.sizes:
            length = self.total if space == "n" else self.sizes[space]
            value = times(value, raised(float(length), power))
        return value

    def term(self, term: Term, out: tuple[Index, ...], *, ordered: bool = True) -> Value:
        """One contraction, without its coefficient.

        Where the order of the indices is left open, no axis is moved.
        """
        given = [self.factor(f) for f in term.factors if not is_split(f)]
        splits = [f for f in term.factors if isinstance(f, Call) and is_split(f)]
        if splits:
            return self._split(term, given, splits, out)
        return self._product(given, term.summed, out, ordered=ordered)

    def _split(
        self, term: Term, given: Sequence[Value], splits: Sequence[Call], out: tuple[Index, ...]
    ) -> Value:
        """A contraction over parts of indices: axes are split and joined where that is all there is."""
        plan = divided(
            self.code, [x for x in given if isinstance(x, Tensor)], splits, term.summed, out
        )
        numbers = [x for x in given if not isinstance(x, Tensor)]
        whole = self._product([*numbers, *plan.tensors], plan.summed, plan.out, ordered=True)
        return reshaped(self.code, whole, out) if isinstance(whole, Tensor) else whole

    def _product(
        self,
        given: Sequence[Value],
        summed: tuple[Index, ...],
        out: tuple[Index, ...],
        *,
        ordered: bool,
    ) -> Value:
        alone = len(given) == 1
        shared = Counter(x for f in given if not alone for x in set(_indices(f)))
        found = [self._own(x, summed, shared, alone) for x in given]
        numbers = [x for x in found if not isinstance(x, Tensor)]
        if len(numbers) == len(found):
            return reduce(times, numbers, 1.0)
        values = [x for x in found if not _indices(x)]
        tensors = [x for x in found if isinstance(x, Tensor) and x.indices]
        if tensors:
            whole = contract(self.code, tensors, out, ordered=ordered, limit=self.limit)
            values.insert(0, whole)
        if len(values) == 1:
            return values[0]
        indices = _indices(values[0])
        return self._pointwise("*", values, indices, self.code.size(indices))

    def _own(
        self, value: Value, summed: tuple[Index, ...], shared: Counter[Index], alone: bool
    ) -> Value:
        if not isinstance(value, Tensor):
            return value
        return own_part(self.code, value, summed, shared, alone)

    def factor(self, factor: Factor) -> Value:
        """One factor."""
        match factor:
            case Ref(name=name, indices=indices):
                return Tensor(name, indices)
            case Delta(left=left, right=right):
                shape = (self.sizes[left.space],)
                return self.code.assign(Constant(Kernel.EYE, shape), (left, right))
            case Call():
                return self._call(factor)
            case Power(base=base, exponent=exponent):
                value = self._free(base)
                if exponent == 1.0:
                    return value
                if not isinstance(value, Tensor):
                    return raised(value, exponent)
                own = _indices(value)
                return self._pointwise("^", [value, exponent], own, self.code.size(own))
            case Elementwise(function=function, arguments=arguments):
                out = tuple(dict.fromkeys(x for poly in arguments for x in poly_free(poly)))
                # An argument that lacks an index of the other is spread over it by torch: its length,
                # which for `n` changes from batch to batch, is not written.
                values = [self.partial(poly, out) for poly in arguments]
                numbers = [x for x in values if not isinstance(x, Tensor)]
                if len(numbers) == len(values):
                    return evaluated(NUMERIC[function], *numbers)
                return self._pointwise(function, values, out, self.code.size(out))
            case _:
                assert_never(factor)

    def _free(self, poly: Poly) -> Value:
        """A sum of contractions over its free indices; one alone in the order it comes out in."""
        if len(poly) == 1:
            return self._scaled(poly[0], poly_free(poly), ordered=False)
        found = self.partial(poly, poly_free(poly))
        return self._spread(found, poly_free(poly)) if isinstance(found, Tensor) else found

    def _call(self, call: Call) -> Tensor:
        """Random entries, ones and zeros, or a function that gives a number."""
        if call.indices:
            shape = tuple(self.sizes[x.space] for x in call.indices)
            if is_places(call):
                numbers = tuple(length_of(x, self.sizes) for x in call.arguments)
                return self.code.assign(Mask(call.function, shape, numbers), call.indices)
            (seed,) = map(constant, call.arguments)
            return self.code.assign(Constant(call.function, shape, seed), call.indices)
        return self.code.assign(function_call(call, self.axes, self.sizes), ())


def _indices(value: Value) -> tuple[Index, ...]:
    return value.indices if isinstance(value, Tensor) else ()
