"""The oracle: a direct reading of tensor expressions with broadcasting, nothing optimised.

Slow and memory-hungry on purpose; every compiled program is compared with it. No torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from math import floor, prod
from typing import Any, assert_never

import numpy as np
from numpy.typing import NDArray

from curvlang.ir import expr as ir
from curvlang.ir.functions import FUNCTIONS
from curvlang.ir.places import entries, is_places

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class NamedArray:
    """An array whose axes carry index names."""

    values: Array
    axes: tuple[ir.Index, ...]

    def over(self, axes: Sequence[ir.Index]) -> Array:
        """The values with exactly these axes, missing ones of length 1."""
        order = [self.axes.index(x) for x in axes if x in self.axes]
        shape = [self.values.shape[self.axes.index(x)] if x in self.axes else 1 for x in axes]
        return self.values.transpose(order).reshape(shape)


Environment = dict[str, tuple[Array, tuple[ir.Index, ...]]]


def interpret(
    statements: Sequence[ir.Statement],
    leaves: Mapping[str, tuple[Array, tuple[ir.Index, ...]]],
    sizes: Mapping[str, int],
    stacked: frozenset[str] = frozenset(),
) -> tuple[Array, Environment]:
    """Run the statements in order; return the yielded entries and every tensor by name.

    Args:
        statements: Definitions and one `Yield`, names bound before they are read.
        leaves: Array and index names of each leaf.
        sizes: Length of each space by letter; spaces bound on a left side are added on the way.
        stacked: Letters of spaces whose matrices a function is applied to one by one.

    Returns:
        The yielded array, axes in the order of the yield's indices, and the environment.
    """
    known: Environment = dict(leaves)
    lengths = dict(sizes)
    result: Array | None = None
    for statement in statements:
        match statement:
            case ir.Yield():
                result = _yield(statement, known, lengths)
            case ir.Space(letter=letter, length=length):
                lengths[letter] = floor(float(_evaluate(length, known, lengths).values))
            case ir.Define(targets=targets, value=ir.Call() as call) if not call.indices and (
                call.function in FUNCTIONS and FUNCTIONS[call.function].results
            ):
                for target, output in zip(targets, _apply_each(call, known, stacked), strict=False):
                    cut = _leading(output, call, target.indices, lengths)
                    shape = cut.shape
                    lengths |= {x.space: n for x, n in zip(target.indices, shape, strict=True)}
                    known[target.name] = (cut, target.indices)
            case ir.Define(targets=(target,), value=value):
                found = _evaluate(value, known, lengths)
                full = tuple(lengths[x.space] for x in target.indices)
                filled = np.broadcast_to(found.over(target.indices), full).copy()
                known[target.name] = (filled, target.indices)
            case ir.Define():
                raise AssertionError("several targets need a function of several results")
            case _:
                assert_never(statement)
    if result is None:
        raise AssertionError("a program yields")
    return result, known


def _yield(statement: ir.Yield, known: Environment, lengths: Mapping[str, int]) -> Array:
    """The entries, lifted by the bases of a projection: C[o,i,…] = Σ R[o,m] P[i,k] … C[m,k,…]."""
    indices = statement.target.indices
    found = _evaluate(statement.value, known, lengths)
    full = tuple(lengths[x.space] for x in indices)
    entries: Array = np.broadcast_to(found.over(indices), full).copy()
    for side in (0, len(indices) // 2):
        for axis, basis in enumerate(statement.lift, side):
            if basis is not None:
                entries = np.moveaxis(
                    np.tensordot(known[basis.name][0], entries, axes=(1, axis)), 0, axis
                )
    return entries


def _apply_each(call: ir.Call, known: Environment, stacked: frozenset[str]) -> tuple[Array, ...]:
    """A tensor function of a matrix, or of every matrix of a stack."""
    tensor = call.arguments[0]
    assert isinstance(tensor, ir.Ref)
    values, axes = known[tensor.name]
    outer = [k for k, x in enumerate(axes) if x.space in stacked]
    if not outer:
        return _apply(call, known)
    inner = tuple(x for k, x in enumerate(axes) if k not in outer)
    front = np.moveaxis(values, outer, range(len(outer)))
    shape = front.shape[: len(outer)]
    parts = [
        _apply(call, {**known, tensor.name: (front[place], inner)}) for place in np.ndindex(shape)
    ]
    return tuple(np.stack(x).reshape(*shape, *x[0].shape) for x in zip(*parts, strict=True))


def _apply(call: ir.Call, known: Environment) -> tuple[Array, ...]:
    """A tensor function of a tensor read as a matrix; row and column groups come back apart."""
    function = FUNCTIONS[call.function]
    tensor, *rest = call.arguments
    assert isinstance(tensor, ir.Ref)
    values, axes = known[tensor.name]
    order = tensor.indices or axes
    cut = tensor.cut or len(order) // 2
    array = values.transpose([axes.index(x) for x in order])
    groups = {"x": array.shape[:cut], "y": array.shape[cut:]}
    numbers = [float(_evaluate(x, known, {}).values) for x in rest]
    outputs = function.apply(np, array.reshape(prod(groups["x"]), prod(groups["y"])), *numbers)
    shaped = []
    for output, pattern in zip(outputs, function.results, strict=True):
        sizes = zip(pattern, output.shape, strict=True)
        shape = [n for letter, made in sizes for n in groups.get(letter, (made,))]
        shaped.append(np.asarray(output, dtype=np.float64).reshape(shape))
    return tuple(shaped)


def _leading(
    output: Array, call: ir.Call, indices: tuple[ir.Index, ...], lengths: Mapping[str, int]
) -> Array:
    """The part with the largest values, where the made space was declared shorter."""
    at_end = FUNCTIONS[call.function].largest == "last"
    for axis, index in enumerate(indices):
        wanted = lengths.get(index.space, output.shape[axis])
        if wanted < output.shape[axis]:
            kept = slice(-wanted, None) if at_end else slice(wanted)
            output = output[(slice(None),) * axis + (kept,)]
    return output


def _evaluate(expr: ir.Expr, known: Environment, lengths: Mapping[str, int]) -> NamedArray:
    go = lambda x: _evaluate(x, known, lengths)  # noqa: E731
    match expr:
        case ir.Number(value=value):
            return NamedArray(np.asarray(value, dtype=np.float64), ())
        case ir.Size(index=index):
            return NamedArray(np.asarray(float(lengths[index.space])), ())
        case ir.Ref(name=name, indices=indices):
            return _diagonalise(NamedArray(known[name][0], indices))
        case ir.Delta(left=left, right=right):
            eye = np.eye(lengths[left.space], lengths[right.space])
            return _diagonalise(NamedArray(eye, (left, right)))
        case ir.Negate(operand=operand):
            inner = go(operand)
            return NamedArray(-inner.values, inner.axes)
        case ir.Binary(operator=operator, left=left, right=right):
            return _elementwise(_OPERATORS[operator], (go(left), go(right)))
        case ir.Apply(function=function, arguments=arguments):
            return _elementwise(ELEMENTWISE[function], tuple(map(go, arguments)))
        case ir.Reduce(kind=kind, indices=indices, body=body):
            return _reduce(kind, indices, go(body), lengths)
        case ir.Call(function=function, arguments=arguments, indices=()):
            (whole,) = arguments
            assert isinstance(whole, ir.Ref)
            values, axes = known[whole.name]
            order = whole.indices or axes
            array = values.transpose([axes.index(x) for x in order])
            rows = prod(array.shape[: whole.cut or len(order) // 2])
            number = FUNCTIONS[function].apply(np, array.reshape(rows, -1))
            return NamedArray(np.asarray(number, dtype=np.float64), ())
        case ir.Call(function=function, arguments=arguments, indices=indices):
            shape = tuple(lengths[x.space] for x in indices)
            numbers = [float(go(x).values) for x in arguments]
            if is_places(expr):
                return NamedArray(entries(function, shape, numbers), indices)
            return NamedArray(_MAKERS[function](shape, numbers), indices)
        case _:
            assert_never(expr)


def _diagonalise(named: NamedArray) -> NamedArray:
    """`A[i,i]` reads the diagonal."""
    axes = tuple(dict.fromkeys(named.axes))
    if axes == named.axes:
        return named
    letters = {x: chr(ord("a") + k) for k, x in enumerate(axes)}
    equation = "".join(letters[x] for x in named.axes) + "->" + "".join(letters[x] for x in axes)
    return NamedArray(np.asarray(np.einsum(equation, named.values), dtype=np.float64), axes)


def _elementwise(function: Callable[..., Array], operands: tuple[NamedArray, ...]) -> NamedArray:
    axes = tuple(dict.fromkeys(x for operand in operands for x in operand.axes))
    # What is not finite shows in the value, as in the compiled code; numpy's warnings say no more.
    with np.errstate(all="ignore"):
        return NamedArray(function(*(operand.over(axes) for operand in operands)), axes)


def _reduce(
    kind: ir.ReductionKind,
    indices: tuple[ir.Index, ...],
    body: NamedArray,
    lengths: Mapping[str, int],
) -> NamedArray:
    present = [x for x in indices if x in body.axes]
    kept = tuple(x for x in body.axes if x not in present)
    values = body.over((*kept, *present)).sum(axis=tuple(range(len(kept), len(body.axes))))
    for index in indices:
        if kind is ir.ReductionKind.MEAN and index in present:
            values = values / lengths[index.space]
        elif kind is ir.ReductionKind.SUM and index not in present:
            values = values * lengths[index.space]
    return NamedArray(values, kept)


_OPERATORS: Mapping[ir.BinaryOperator, Callable[..., Array]] = {
    ir.BinaryOperator.ADD: np.add,
    ir.BinaryOperator.SUBTRACT: np.subtract,
    ir.BinaryOperator.MULTIPLY: np.multiply,
    ir.BinaryOperator.DIVIDE: np.divide,
    ir.BinaryOperator.POWER: np.power,
}

ELEMENTWISE: Mapping[str, Callable[..., Array]] = {
    "sqrt": np.sqrt,
    "exp": np.exp,
    "log": np.log,
    "abs": np.abs,
    "max": lambda *xs: reduce(np.maximum, xs),
    "min": lambda *xs: reduce(np.minimum, xs),
}


def seeded_normal(shape: tuple[int, ...], seed: float) -> Array:
    """Standard normal entries that depend on the seed and the shape alone."""
    return np.random.default_rng(int(seed)).standard_normal(shape)


def seeded_sign(shape: tuple[int, ...], seed: float) -> Array:
    """Entries ±1 with equal chance that depend on the seed and the shape alone."""
    return np.asarray(np.random.default_rng(int(seed)).integers(0, 2, shape) * 2.0 - 1.0, float)


_MAKERS: Mapping[str, Callable[[tuple[int, ...], list[Any]], Array]] = {
    "random_normal": lambda shape, arguments: seeded_normal(shape, *arguments),
    "random_sign": lambda shape, arguments: seeded_sign(shape, *arguments),
}
