"""Contractions to torch: readable code, pairwise products in a planned order, nothing twice.

In: expressions in normal form and the sizes of their spaces. Out: lines of torch code with the
floating-point operations and the bytes of every line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite, prod
from typing import assert_never

import opt_einsum

from curvlang.compiler.algebra.normal_form import (
    Elementwise,
    Factor,
    Poly,
    Power,
    Term,
    factor_indices,
    poly_free,
)
from curvlang.compiler.codegen.lowering import product
from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal
from curvlang.ir.expr import Call, Delta, Index, Number, Ref

_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_NAME = re.compile(r"\b[A-Za-z_]\w*")
_OPTIMAL_UP_TO = 6
"""Operands for which the best order is searched exhaustively (720 orders); greedy above."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of code: what it assigns, its shape, its cost.

    `flops` counts a multiply and an add as two, as `torch.utils.flop_counter` does for products;
    `side` is set on the lines that it counts, products of tensors that sum an index: the shortest of
    rows, columns and summed entries of the matrices that are multiplied, which says how fast that is.
    """

    target: str
    code: str
    indices: tuple[Index, ...]
    elements: int
    flops: int = 0
    view: bool = False
    side: int = 0


Operand = tuple[str, tuple[Index, ...]]


@dataclass(slots=True)
class Emitter:
    """Collects lines; the same code is emitted once.

    Args:
        sizes: Length of every space, the batch's for `n`.
        total: Number of training examples, for means over `n`.
        limit: Elements that an intermediate result may have; `None` for no limit.
        prefix: First letter of the names of intermediate results.
        axes: Indices of the tensors by name, in the order they are held in.
    """

    sizes: Mapping[str, int]
    total: int
    limit: int | None = None
    prefix: str = "x"
    axes: Mapping[str, tuple[Index, ...]] = field(default_factory=dict)
    lines: list[Line] = field(default_factory=list)
    known: dict[str, Operand] = field(default_factory=dict)

    def size(self, indices: Sequence[Index]) -> int:
        """Number of elements of a tensor with these indices."""
        return prod(self.sizes[x.space] for x in indices)

    def assign(
        self,
        code: str,
        indices: tuple[Index, ...],
        *,
        flops: int = 0,
        view: bool = False,
        side: int = 0,
    ) -> Operand:
        """A name for the value of a line of code; known code gets its known name."""
        if code not in self.known:
            name = f"{self.prefix}{len(self.known) + 1}"
            size = self.size(indices)
            self.lines.append(Line(name, code, indices, size, flops, view, side))
            self.known[code] = (name, indices)
        return self.known[code][0], indices

    def poly(self, poly: Poly, out: tuple[Index, ...], *, data: int = 0) -> Operand:
        """Code for a sum of contractions with its indices in the given order.

        `data` is the power of N left out of every term, applied once by the caller.
        """
        return self._broadcast(*self.partial(poly, out, data=data), out)

    def partial(self, poly: Poly, out: tuple[Index, ...], *, data: int = 0) -> Operand:
        """A sum of contractions over those of the given indices that it has, in their order."""
        parts = [self._scaled(term, out, data) for term in poly]
        if len(parts) == 1:
            return parts[0]
        union = self._union(parts, out)
        pieces = [self._view(name, own, union) for name, own in parts]
        # A piece that lacks an index of the others is spread over it by the addition.
        return self.assign(" + ".join(pieces), union, flops=(len(parts) - 1) * self.size(union))

    def _union(self, parts: Sequence[Operand], out: tuple[Index, ...]) -> tuple[Index, ...]:
        return tuple(x for x in out if any(x in own for _, own in parts))

    def _view(self, name: str, own: tuple[Index, ...], out: tuple[Index, ...]) -> str:
        """Missing axes as length one, leading ones left to broadcasting."""
        if own == out or not own:
            return name
        inside = ", ".join(":" if x in own else "None" for x in out)
        return f"{name}[{inside}]"

    def _broadcast(self, name: str, own: tuple[Index, ...], out: tuple[Index, ...]) -> Operand:
        if own == out:
            # Without an index the value may be a bare number, which is no tensor yet.
            return (name, out) if out or name.isidentifier() else self.assign(f"number({name})", ())
        shape = ", ".join(str(self.sizes[x.space]) for x in out)
        value = f"number({name})" if not own else self._view(name, own, out)
        return self.assign(f"{value}.expand({shape})", out, view=True)

    def _scaled(
        self, term: Term, out: tuple[Index, ...], data: int, *, ordered: bool = True
    ) -> Operand:
        name, own = self.term(term, tuple(x for x in out if x in term.free), ordered=ordered)
        factor = self.coefficient(term, data)
        if factor == 1.0:
            return name, own
        if not term.factors:
            return repr(factor), ()
        return self.assign(f"{name} * {factor!r}", own, flops=self.size(own))

    def coefficient(self, term: Term, data: int = 0) -> float:
        """A term's number with the sizes of its means; `data` powers of N taken out."""
        value = term.coefficient
        for space, power in term.sizes:
            length = self.total if space == "n" else self.sizes[space]
            value *= float(length) ** (power - (data if space == "n" else 0))
        if not isfinite(value):
            raise refusal(
                Code.E0423,
                "the numbers of several statements multiply to one that is not finite",
                "divide where numbers are large, before they are multiplied",
            )
        return value

    def term(self, term: Term, out: tuple[Index, ...], *, ordered: bool = True) -> Operand:
        """Code for one contraction, without its coefficient.

        Where the order of the indices is left open, no axis is moved: sums over axes that are not in
        the order in memory are slow.
        """
        operands = [self._prepare(self.factor(f), term, out) for f in term.factors]
        scalars = [name for name, own in operands if not own]
        tensors = [operand for operand in operands if operand[1]]
        result = self._contract(tensors, out, ordered) if tensors else ("1.0", ())
        if not scalars:
            return result
        product = scalars if result[0] == "1.0" else [result[0], *scalars]
        if len(product) == 1:
            return product[0], result[1]
        return self.assign(" * ".join(product), result[1], flops=self.size(result[1]))

    def factor(self, factor: Factor) -> Operand:
        """Code for one factor."""
        match factor:
            case Ref(name=name, indices=indices):
                return name, indices
            case Delta(left=left, right=right):
                code = f"eye({self.sizes[left.space]})"
                return self.assign(code, (left, right))
            case Call():
                return self._call(factor)
            case Power(base=base, exponent=exponent):
                name, own = self._free(base)
                if exponent == 1.0:
                    return name, own
                return self.assign(_power(name, exponent, own), own, flops=self.size(own))
            case Elementwise(function=function, arguments=arguments):
                return self._elementwise(function, arguments)
            case _:
                assert_never(factor)

    def _free(self, poly: Poly) -> Operand:
        """A sum of contractions over its free indices; one alone in the order it comes out in."""
        if len(poly) == 1:
            return self._scaled(poly[0], poly_free(poly), 0, ordered=False)
        return self.poly(poly, poly_free(poly))

    def _elementwise(self, function: str, arguments: tuple[Poly, ...]) -> Operand:
        out = tuple(dict.fromkeys(x for poly in arguments for x in poly_free(poly)))
        # An argument that lacks an index of the other is spread over it by torch: its length,
        # which for `n` changes from batch to batch, is not written.
        own = [self.partial(poly, out) for poly in arguments]
        parts = [self._view(*o, out) if o[1] else f"number({o[0]})" for o in own]
        torch_name = {"max": "torch.maximum", "min": "torch.minimum"}.get(
            function, f"torch.{function}"
        )
        return self.assign(f"{torch_name}({', '.join(parts)})", out, flops=self.size(out))

    def _call(self, call: Call) -> Operand:
        if call.indices:
            shape = ", ".join(str(self.sizes[x.space]) for x in call.indices)
            inside = ", ".join(map(_argument, call.arguments))
            return self.assign(f"{call.function}(({shape},), {inside})", call.indices)
        return self.assign(f"{call.function}({self._whole(call)})", ())

    def _whole(self, call: Call) -> str:
        """The tensor of a function that gives a number; a grouped one as a matrix."""
        (tensor,) = call.arguments
        assert isinstance(tensor, Ref)
        if not tensor.cut:
            return tensor.name
        rows, columns = tensor.indices[: tensor.cut], tensor.indices[tensor.cut :]
        own = self.axes.get(tensor.name, tensor.indices)
        order = tuple(own.index(x) for x in tensor.indices)
        return f"{tensor.name}.permute({order}).reshape({self.size(rows)}, {self.size(columns)})"

    def _prepare(self, operand: Operand, term: Term, out: tuple[Index, ...]) -> Operand:
        """Read diagonals, drop summed axes of length one, sum what only this operand has."""
        name, own = operand
        if len(set(own)) < len(own):
            kept = tuple(dict.fromkeys(own))
            name, own = self.assign(f"torch.einsum({_equation([own], kept)!r}, {name})", kept)
        for axis in reversed(range(len(own))):
            if (
                own[axis] in term.summed
                and self.sizes[own[axis].space] == 1
                and own[axis].space != "n"
            ):
                left = own[:axis] + own[axis + 1 :]
                name, own = self.assign(f"{name}.squeeze({axis})", left, view=True)
        counts = [factor_indices(f) for f in term.factors]
        alone = [x for x in own if x in term.summed and sum(x in c for c in counts) == 1]
        if alone and len(term.factors) > 1:
            left = tuple(x for x in own if x not in alone)
            axes = tuple(own.index(x) for x in alone)
            name, own = self.assign(f"{name}.sum({axes})", left, flops=self.size(operand[1]))
        return name, own

    def _contract(self, operands: list[Operand], out: tuple[Index, ...], ordered: bool) -> Operand:
        if len(operands) == 1:
            return self._single(operands[0], out, ordered)
        shapes = [tuple(self.sizes[x.space] for x in own) for _, own in operands]
        equation = _equation([own for _, own in operands], out)
        optimize = "optimal" if len(operands) <= _OPTIMAL_UP_TO else "auto"
        path, _ = opt_einsum.contract_path(
            equation, *shapes, shapes=True, optimize=optimize, memory_limit=self.limit
        )
        remaining = list(operands)
        for chosen in path:
            taken = [remaining.pop(k) for k in sorted(chosen, reverse=True)]
            # Longest first, so that results keep the example index in front, contiguous.
            taken.sort(key=lambda operand: -len(operand[1]))
            kept = {x for _, own in remaining for x in own} | set(out)
            last = ordered and not remaining
            remaining.append(self._product(taken, kept, out if last else None))
        return self._single(remaining[0], out, ordered)

    def _product(
        self, taken: list[Operand], kept: set[Index], out: tuple[Index, ...] | None
    ) -> Operand:
        involved = tuple(dict.fromkeys(x for _, own in taken for x in own))
        asked = out if out is not None else tuple(x for x in involved if x in kept)
        known = product(taken[0], taken[1], asked, self.sizes) if len(taken) == 2 else None
        if known is not None:
            found = self.assign(
                known.code, known.indices, flops=known.flops, side=self._side(taken, asked)
            )
            return found if out is None else self._single(found, out)
        sums = bool(set(involved) - set(asked))
        flops = self.size(involved) * (2 if sums else 1)
        names = ", ".join(name for name, _ in taken)
        equation = _equation([own for _, own in taken], asked)
        code = f"torch.einsum({equation!r}, {names})"
        product_of_two = sums and len(taken) > 1
        return self.assign(
            code, asked, flops=flops, side=self._side(taken, asked) if product_of_two else 0
        )

    def _side(self, taken: Sequence[Operand], kept: Sequence[Index]) -> int:
        """The shortest side of the matrices of a product: rows, columns, or what is summed."""
        if len(taken) > 2:
            return 1
        (_, left), (_, right) = taken
        rows = [x for x in left if x not in right]
        columns = [x for x in right if x not in left]
        summed = [x for x in left if x in right and x not in kept]
        return min(map(self.size, (rows, columns, summed)))

    def _single(self, operand: Operand, out: tuple[Index, ...], ordered: bool = True) -> Operand:
        name, own = operand
        if own == out or (not ordered and set(own) == set(out)):
            return operand
        if set(own) == set(out):
            order = tuple(own.index(x) for x in out)
            return self.assign(f"{name}.permute({order})", out, view=True)
        equation = _equation([own], out)
        return self.assign(f"torch.einsum({equation!r}, {name})", out, flops=self.size(own))


def _equation(inputs: Sequence[tuple[Index, ...]], out: tuple[Index, ...]) -> str:
    """An einsum equation whose letters are the spaces' own where they can be."""
    letters: dict[Index, str] = {}
    for index in [x for own in inputs for x in own]:
        if index not in letters:
            first = index.space[0]
            wishes = [first, *_LETTERS] if first in _LETTERS else _LETTERS
            letters[index] = next(x for x in wishes if x not in letters.values())
    return (
        ",".join("".join(letters[x] for x in own) for own in inputs)
        + "->"
        + "".join(letters[x] for x in out)
    )


def _power(name: str, exponent: float, own: tuple[Index, ...]) -> str:
    base = name if own else f"number({name})"
    match exponent:
        case 2.0:
            return f"{base}.square()"
        case -1.0:
            return f"{base}.reciprocal()"
        case 0.5:
            return f"{base}.sqrt()"
        case _:
            return f"{base} ** {exponent!r}"


def _argument(expr: object) -> str:
    match expr:
        case Ref(name=name):
            return name
        case Number(value=value):
            return repr(value)
        case _:
            from curvlang.ir.constants import constant

            return repr(constant(expr))  # type: ignore[arg-type]


def names_in(code: str) -> list[str]:
    """Names that a line of code mentions, in their order, as often as it does."""
    return _NAME.findall(code)


def call_code(call: Call, tensor: str) -> str:
    """A tensor function as code: `eigh(A)`, its tensor written as given."""
    return f"{call.function}({', '.join([tensor, *map(_argument, call.arguments[1:])])})"
