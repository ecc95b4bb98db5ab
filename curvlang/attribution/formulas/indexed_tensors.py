"""Tensors whose axes carry index names, and expressions of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from string import ascii_letters
from typing import Any, assert_never

import torch
from torch import Tensor

from curvlang.attribution.formulas.points import contexts
from curvlang.ir import expr as ir
from curvlang.ir.constants import constant
from curvlang.ir.functions import FUNCTIONS
from curvlang.ir.indices import matrix_groups
from curvlang.ir.places import entries, is_places
from curvlang.runtime.kernels.functions import namespace


@dataclass(frozen=True, slots=True, eq=False)
class IndexedTensor:
    """A tensor with an index for each of its axes."""

    values: Tensor
    axes: tuple[ir.Index, ...]

    def over(self, axes: Sequence[ir.Index]) -> Tensor:
        """The values with exactly these axes, missing ones of length 1."""
        order = [self.axes.index(x) for x in axes if x in self.axes]
        shape = [self.values.shape[self.axes.index(x)] if x in self.axes else 1 for x in axes]
        return self.values.permute(order).reshape(shape)

    def renamed(self, axes: tuple[ir.Index, ...]) -> IndexedTensor:
        """With other names of the axes; where one stands twice, the entries where both agree."""
        if len(set(axes)) == len(axes):
            return IndexedTensor(self.values, axes)
        kept = tuple(dict.fromkeys(axes))
        letters = dict(zip(kept, ascii_letters, strict=False))
        equation = "".join(letters[x] for x in axes) + "->" + "".join(letters.values())
        return IndexedTensor(torch.einsum(equation, self.values), kept)


@dataclass(frozen=True, slots=True, eq=False)
class Reader:
    """What expressions read.

    Args:
        tensor: The tensor that a reference names.
        lengths: How many values the indices of a space take.
        like: A tensor of the precision and the device that numbers are computed in.
    """

    tensor: Callable[[ir.Ref], IndexedTensor]
    lengths: Mapping[str, int]
    like: Tensor

    def evaluate(self, expr: ir.Expr) -> IndexedTensor:
        """The value of an expression; sums of products are contracted two factors at a time."""
        match expr:
            case ir.Number(value=value):
                return self._number(value)
            case ir.Size(index=index):
                return self._number(float(self.lengths[index.space]))
            case ir.Ref():
                return self.tensor(expr)
            case ir.Delta(left=left, right=right):
                sizes = [self.lengths[x.space] for x in (left, right)]
                eye = torch.eye(*sizes, dtype=self.like.dtype, device=self.like.device)
                return IndexedTensor(eye, (left, right)).renamed((left, right))
            case ir.Negate(operand=operand):
                inner = self.evaluate(operand)
                return IndexedTensor(-inner.values, inner.axes)
            case ir.Binary(
                operator=ir.BinaryOperator.POWER, left=left, right=ir.Number(value=power)
            ):
                # A number costs less than a tensor that holds it: squares are products.
                inner = self.evaluate(left)
                return IndexedTensor(inner.values**power, inner.axes)
            case ir.Binary(operator=operator, left=left, right=right):
                return _elementwise(_OPERATORS[operator], *map(self.evaluate, (left, right)))
            case ir.Apply(function=function, arguments=arguments):
                return _elementwise(_FUNCTIONS[function], *map(self.evaluate, arguments))
            case ir.Reduce():
                return self.reduced(expr, self.lengths)
            case ir.Call(indices=()):
                return self._one(expr, 0, (), self._whole(expr))
            case ir.Call(function=function, arguments=arguments, indices=indices):
                shape = tuple(self.lengths[x.space] for x in indices)
                if is_places(expr):
                    return self._mask(expr, shape)
                made = self._functions[function](shape, constant(arguments[0]))
                return IndexedTensor(made, indices)
            case _:
                assert_never(expr)

    def _mask(self, call: ir.Call, shape: tuple[int, ...]) -> IndexedTensor:
        """Ones where the places of indices compare as they should."""
        numbers = [float(self.evaluate(x).values) for x in call.arguments]
        made = torch.from_numpy(entries(call.function, shape, numbers)).to(self.like)
        return IndexedTensor(made, call.indices)

    def matrix(self, call: ir.Call, position: int, axes: tuple[ir.Index, ...]) -> IndexedTensor:
        """A result of a function of a whole tensor; of one at every model and checkpoint, for each."""
        whole = self._whole(call)
        if contexts(whole.axes):
            return self._each(call, position, axes, whole)
        return self._one(call, position, axes, whole)

    def _whole(self, call: ir.Call) -> IndexedTensor:
        tensor = call.arguments[0]
        assert isinstance(tensor, ir.Ref)
        return self.tensor(replace(tensor, indices=(), cut=0))

    def _one(
        self, call: ir.Call, position: int, axes: tuple[ir.Index, ...], whole: IndexedTensor
    ) -> IndexedTensor:
        tensor, *rest = call.arguments
        assert isinstance(tensor, ir.Ref)
        rows, columns = matrix_groups(call, {tensor.name: whole.axes})
        array = whole.over((*rows, *columns))
        sizes = [self.lengths[x.space] for x in (*rows, *columns)]
        matrix = array.reshape(prod(sizes[: len(rows)]), -1)
        function = FUNCTIONS[call.function]
        found = self._functions[call.function](matrix, *map(constant, rest))
        if not function.results:
            return IndexedTensor(found, ())
        shape, groups = [], {"x": sizes[: len(rows)], "y": sizes[len(rows) :]}
        for letter, size in zip(function.results[position], found[position].shape, strict=True):
            shape += groups.get(letter, [size])
        return self._leading(IndexedTensor(found[position].reshape(shape), axes), call)

    def _leading(self, found: IndexedTensor, call: ir.Call) -> IndexedTensor:
        """The part with the largest values, where the made space was declared shorter."""
        values, last = found.values, FUNCTIONS[call.function].largest == "last"
        for axis, index in enumerate(found.axes):
            size = values.shape[axis]
            wanted = min(size, self.lengths.get(index.space, size))
            values = values.narrow(axis, size - wanted if last else 0, wanted)
        return IndexedTensor(values, found.axes)

    def _each(
        self, call: ir.Call, position: int, axes: tuple[ir.Index, ...], whole: IndexedTensor
    ) -> IndexedTensor:
        """A result for each model and checkpoint."""
        outer = contexts(whole.axes)
        inner = tuple(x for x in whole.axes if x not in outer)
        values = whole.over((*outer, *inner))
        flat = values.reshape(-1, *values.shape[len(outer) :])
        rest = tuple(x for x in axes if x not in outer)
        found = [self._one(call, position, rest, IndexedTensor(x, inner)) for x in flat]
        stack = torch.stack([x.values for x in found])
        shape = values.shape[: len(outer)]
        return IndexedTensor(stack.reshape(*shape, *stack.shape[1:]), (*outer, *found[0].axes))

    @property
    def _functions(self) -> Mapping[str, Callable[..., Any]]:
        return namespace(self.like.dtype, self.like.device)

    def _number(self, value: float) -> IndexedTensor:
        return IndexedTensor(self.like.new_tensor(value), ())

    def reduced(self, expr: ir.Reduce, lengths: Mapping[str, int]) -> IndexedTensor:
        """A sum or mean over indices of these lengths: those of a batch are not those of all examples."""
        factors = [self.evaluate(x) for x in _factors(expr.body)]
        present = tuple(dict.fromkeys(x for f in factors for x in f.axes))
        kept = tuple(x for x in present if x not in expr.indices)
        scale = 1.0
        for index in expr.indices:
            length = lengths[index.space]
            if expr.kind is ir.ReductionKind.MEAN and index in present:
                scale /= length
            elif expr.kind is ir.ReductionKind.SUM and index not in present:
                scale *= length
        letters = dict(zip(present, ascii_letters, strict=False))
        sides = ",".join("".join(letters[x] for x in f.axes) for f in factors)
        equation = f"{sides}->{''.join(letters[x] for x in kept)}"
        found = torch.einsum(equation, *(f.values for f in factors))
        return IndexedTensor(found * scale, kept)


def _factors(expr: ir.Expr) -> list[ir.Expr]:
    match expr:
        case ir.Binary(operator=ir.BinaryOperator.MULTIPLY, left=left, right=right):
            return [*_factors(left), *_factors(right)]
        case _:
            return [expr]


def _elementwise(function: Callable[..., Tensor], *operands: IndexedTensor) -> IndexedTensor:
    axes = tuple(dict.fromkeys(x for operand in operands for x in operand.axes))
    return IndexedTensor(function(*(operand.over(axes) for operand in operands)), axes)


_OPERATORS: Mapping[ir.BinaryOperator, Callable[..., Tensor]] = {
    ir.BinaryOperator.ADD: torch.add,
    ir.BinaryOperator.SUBTRACT: torch.subtract,
    ir.BinaryOperator.MULTIPLY: torch.multiply,
    ir.BinaryOperator.DIVIDE: torch.divide,
    ir.BinaryOperator.POWER: torch.pow,
}

_FUNCTIONS: Mapping[str, Callable[..., Tensor]] = {
    "sqrt": torch.sqrt,
    "exp": torch.exp,
    "log": torch.log,
    "abs": torch.abs,
    "max": torch.maximum,
    "min": torch.minimum,
}
