"""The functions of one block: every pass, what is finished after it, and the components of results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from curvlang.compiler.algebra import shapes
from curvlang.compiler.algebra.coefficient import CoefficientError
from curvlang.compiler.algebra.normal_form import normalise
from curvlang.compiler.algebra.structure import infer
from curvlang.compiler.algebra.terms import Poly, Term, reads
from curvlang.compiler.codegen.calls import function_lines
from curvlang.compiler.codegen.emit import Emitter
from curvlang.compiler.codegen.function import Function, Part, function
from curvlang.compiler.codegen.fusion import fused
from curvlang.compiler.codegen.instructions import (
    Instruction,
    Operand,
    Pointwise,
    Tensor,
    View,
    operand,
    unused,
)
from curvlang.compiler.planning.components import Components, sides
from curvlang.compiler.planning.passes import Schedule
from curvlang.compiler.planning.plan import ResultPlan, inside
from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import Label, SpecError
from curvlang.diagnostics.refusal import label_at, refusal
from curvlang.diagnostics.source import Span
from curvlang.ir.expr import Call, Define, Expr, Target, Yield
from curvlang.ir.functions import FUNCTIONS
from curvlang.ir.indices import is_function, names

Normal = dict[tuple[int, frozenset[str]], tuple[Expr, Poly]]
"""Expressions, by their identity and the spaces of length one, with their normal forms."""


class BlockCode:
    """Generates the functions of one block."""

    def __init__(
        self,
        whole: Schedule,
        sizes: Mapping[str, int],
        total: int,
        limit: int | None,
        dense: int,
        normal: Normal,
    ) -> None:
        self.whole = whole
        self._normal = normal
        self.dense = dense
        self.sizes = sizes
        self.total = total
        self.limit = limit
        self.unit = frozenset(s for s, length in sizes.items() if length == 1 and s != "n")
        self.square, self.tall = _bases(whole, sizes)
        self.known = whole.indices
        self.shapes = {y: self._shape(y) for _, y in whole.results}
        self.whole_results = {
            y: unused(f"entries__{k}", self.known)
            for k, (_, y) in enumerate(whole.results, 1)
            if _reduces(inside(self.shapes[y]))
        }
        self.results = {
            original: self._result(y, level)
            for original, (level, y) in zip(whole.originals, whole.results, strict=True)
        }

    def _shape(self, result: Yield) -> shapes.Shape:
        indices = result.target.indices
        hessians = frozenset(n for n, leaf in self.whole.leaves.items() if leaf.kind == "H")
        poly = self.normal(result.value)
        shape = infer(poly, *sides(indices), self.square, self.tall, hessians)
        elements = self.emitter().code.size(indices)
        if (
            isinstance(shape, shapes.LeafShape | shapes.GramShape | shapes.DenseShape)
            and elements > self.dense
        ):
            have = f"{elements:.3g} entries, more than the {self.dense:.3g} that may be formed"
            if isinstance(shape, shapes.DenseShape) or result.lift:
                raise _too_large(result, have)
            return shapes.ProductShape(shape, have)
        return shapes.lifted(shape, result.lift, indices) if any(result.lift) else shape

    def normal(self, expr: Expr) -> Poly:
        key = (id(expr), self.unit)
        if key not in self._normal:
            with _placed(expr.span):
                self._normal[key] = expr, normalise(expr, self.unit)
        return self._normal[key][1]

    def emitter(self, prefix: str = "x") -> Emitter:
        return Emitter(self.sizes, self.total, self.limit, self.known, prefix)

    def pass_function(self, number: int) -> Function:
        """Sums over one batch for every accumulator of a pass."""
        emitter = self.emitter()
        returned, needed, parts = {}, set[str](), []
        for target, value in self._sums(number):
            streaming = _streaming(self.normal(value))
            if streaming:
                before = len(emitter.lines)
                with _placed(value.span):
                    found = emitter.poly(_bare(streaming), target.indices)
                returned[target.name] = found.name
                needed |= reads(streaming)
                parts.append(Part(target, value, tuple(emitter.lines[before:])))
        lines = {line.target: line for line in fused(emitter.lines, returned.values())}
        made = function(f"pass_{number}", needed, returned, tuple(lines.values()))
        return replace(made, parts=tuple(_of_lines(part, lines) for part in parts))

    def finish_function(self, number: int) -> Function:
        """Statistics that are finished once pass `number` is done."""
        body: list[Instruction] = []
        needed: set[str] = set()
        defined: dict[str, str] = {}
        for target, value in self._sums(number):
            with _placed(value.span):
                needed |= self._divide(target, value, body)
            defined[target.name] = target.name
        for k, (level, define) in enumerate(self.whole.finished):
            if level == number:
                with _placed(define.span):
                    needed |= self._define(define, body, f"y{k}_") - set(defined)
                defined |= {t.name: t.name for t in define.targets if t.name != "_"}
        return function(f"after_{number}", needed, defined, body)

    def _sums(self, number: int) -> list[tuple[Target, Expr]]:
        """Everything that pass `number` adds up: statistics, and results that are kept whole."""
        found: list[tuple[Target, Expr]] = [
            (Target(a.name, a.indices), a.value)
            for a in self.whole.accumulators
            if a.number == number
        ]
        levels = {y: level for level, y in self.whole.results}
        return found + [
            (Target(name, y.target.indices), y.value)
            for y, name in self.whole_results.items()
            if levels[y] == number
        ]

    def _divide(self, target: Target, value: Expr, body: list[Instruction]) -> set[str]:
        """Turn the sum over all batches into the mean that the formula asks for; what it reads."""
        poly, whole = self.normal(value), Tensor(target.name, target.indices)
        streaming = _streaming(poly)
        resting = tuple(t for t in poly if t not in streaming)
        elements = self.emitter().code.size(target.indices)
        factor = _common(streaming, self.emitter()) if streaming else 1.0
        if factor != 1.0:
            body.append(_divided(whole, factor, elements))
        if resting:
            emitter = self.emitter(f"{target.name}_rest__")
            added = operand(emitter.poly(resting, target.indices))
            body += emitter.lines
            both = (operand(whole), added)
            total = Pointwise("+", both, added.letters) if streaming else _named(added)
            body.append(Instruction((target.name,), total, target.indices, elements, free=True))
        return set(reads(resting)) | ({target.name} if streaming else set())

    def _define(self, define: Define, body: list[Instruction], prefix: str) -> set[str]:
        """A statement between passes; what it reads."""
        value, target = define.value, define.targets[0]
        if is_function(value):
            body += function_lines(define, self.known, self.sizes)
            return set(names(value))
        emitter = self.emitter(prefix)
        poly = self.normal(value)
        found = emitter.poly(poly, target.indices)
        elements = emitter.code.size(target.indices)
        named = _named(operand(found))
        body += emitter.lines
        body.append(Instruction((target.name,), named, target.indices, elements, free=True))
        return set(reads(poly))

    def _result(self, result: Yield, level: int) -> ResultPlan:
        shape = self.shapes[result]
        found = Components(self.emitter())
        if result in self.whole_results:
            name = self.whole_results[result]
            found.take(
                "inner.entries" if isinstance(shape, shapes.ProjectedShape) else "entries", name
            )
            for k, basis in enumerate(result.lift):
                if basis is not None:
                    found.take(f"basis.{k}", basis.name)
        else:
            with _placed(result.span):
                found.add(shape, result.target.indices)
        return ResultPlan(shape, found.function(), level)


def _bases(whole: Schedule, sizes: Mapping[str, int]) -> tuple[frozenset[str], frozenset[str]]:
    """Names of matrices with orthonormal columns: square ones, and taller ones."""
    square: set[str] = set()
    tall: set[str] = set()
    for _, define in whole.finished:
        if not is_function(define.value):
            continue
        assert isinstance(define.value, Call)
        for k in FUNCTIONS[define.value.function].orthonormal:
            target = define.targets[k] if k < len(define.targets) else None
            if target is not None and len(target.indices) == 2:
                rows, columns = (sizes[x.space] for x in target.indices)
                (square if rows == columns else tall).add(target.name)
    return frozenset(square), frozenset(tall)


@contextmanager
def _placed(span: Span) -> Iterator[None]:
    """Refuse a coefficient that cannot be computed with at the statement that it is in."""
    try:
        yield
    except CoefficientError as error:
        raise refusal(
            Code.E0345,
            f"for the lengths of this model's spaces, a number of this statement {error}",
            "look for a length in a divisor or an exponent, and for a logarithm of a ratio of lengths",
            labels=label_at(span, "with these lengths"),
        ) from error


def _too_large(result: Yield, have: str) -> SpecError:
    return refusal(
        Code.E0314,
        f"`{result.target.name}` has no structure and {have}",
        "write it as a product or a sum of structured terms, or use a smaller model",
        labels=(Label(result.span, "every entry would have to be formed"),),
    )


def _reduces(shape: shapes.Shape) -> bool:
    match shape:
        case shapes.GramShape(entries=entries) | shapes.DenseShape(entries=entries):
            return bool(_streaming(entries))
        case _:
            return False


def _streaming(poly: Poly) -> Poly:
    """Terms that are sums over the examples of a batch."""
    return tuple(t for t in poly if any(x.space == "n" for x in t.summed))


def _of_lines(part: Part, lines: Mapping[str, Instruction]) -> Part:
    """A sum with those of its instructions that are still there, as they are now."""
    own = tuple(lines[line.target] for line in part.lines if line.target in lines)
    return replace(part, lines=own)


def _bare(poly: Poly) -> Poly:
    """Sums as a pass adds them up: a common coefficient is left to the finish."""
    if len(poly) == 1:
        (term,) = poly
        return (Term(1.0, (), term.summed, term.factors),)
    return poly


def _common(poly: Poly, emitter: Emitter) -> float:
    """What a finished sum is multiplied with; terms of a longer sum carry their own numbers."""
    return emitter.coefficient(poly[0]) if len(poly) == 1 else 1.0


def _named(given: Operand) -> View:
    """The same tensor under another name."""
    return View(given, given.letters)


def _divided(tensor: Tensor, factor: float, elements: int) -> Instruction:
    """A product with a number, written as a division where that is exact."""
    inverse = round(1 / factor) if factor else 0
    exact = inverse and 1 / inverse == factor
    sign, number = ("/", inverse) if exact else ("*", factor)
    given = operand(tensor)
    value = Pointwise(sign, (given, number), given.letters)
    return Instruction((tensor.name,), value, tensor.indices, elements, free=True)
