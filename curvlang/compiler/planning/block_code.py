"""The functions of one block: every pass, what is finished after it, and the components of results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from curvlang.compiler.algebra.normal_form import Poly, Term, normalise, reads
from curvlang.compiler.algebra.structure import (
    BlocksShape,
    DenseShape,
    DiagonalShape,
    EigenBasisShape,
    GramShape,
    IdentityShape,
    KroneckerShape,
    LeafShape,
    LowRankShape,
    ProductShape,
    ProjectedShape,
    Shape,
    SumShape,
    infer,
    lifted,
)
from curvlang.compiler.codegen.emit import Emitter, Line
from curvlang.compiler.codegen.fusion import fused
from curvlang.compiler.derive.lengths import is_function
from curvlang.compiler.planning.calls import function_lines
from curvlang.compiler.planning.passes import Schedule
from curvlang.compiler.planning.plan import Function, Part, ResultPlan, inside
from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import Label, SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.ir.expr import Call, Define, Expr, Index, Target, Yield
from curvlang.ir.functions import FUNCTIONS
from curvlang.ir.indices import names

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
            y: f"entries__{k}"
            for k, (_, y) in enumerate(whole.results, 1)
            if _reduces(inside(self.shapes[y]))
        }
        self.results = {
            original: self._result(y, level)
            for original, (level, y) in zip(whole.originals, whole.results, strict=True)
        }

    def _shape(self, result: Yield) -> Shape:
        indices = result.target.indices
        hessians = frozenset(n for n, leaf in self.whole.leaves.items() if leaf.kind == "H")
        poly = self.normal(result.value)
        shape = infer(poly, *_sides(indices), self.square, self.tall, hessians)
        elements = self.emitter().size(indices)
        if isinstance(shape, LeafShape | GramShape | DenseShape) and elements > self.dense:
            have = f"{elements:.3g} entries, more than the {self.dense:.3g} that may be formed"
            if isinstance(shape, DenseShape) or result.lift:
                raise _too_large(result, have)
            return ProductShape(shape, have)
        return lifted(shape, result.lift, indices) if any(result.lift) else shape

    def normal(self, expr: Expr) -> Poly:
        key = (id(expr), self.unit)
        if key not in self._normal:
            self._normal[key] = expr, normalise(expr, self.unit)
        return self._normal[key][1]

    def emitter(self) -> Emitter:
        return Emitter(self.sizes, self.total, self.limit, axes=self.known)

    def pass_function(self, number: int) -> Function:
        """Sums over one batch for every accumulator of a pass."""
        emitter = self.emitter()
        returned, needed, parts = {}, set[str](), []
        for target, value in self._sums(number):
            poly = self.normal(value)
            streaming = _streaming(poly)
            if streaming:
                before = len(emitter.lines)
                returned[target.name] = emitter.poly(_bare(streaming), target.indices)[0]
                needed |= reads(streaming)
                parts.append(Part(target, value, tuple(emitter.lines[before:])))
        lines = {line.target: line for line in fused(emitter.lines, returned.values())}
        emitter.lines = list(lines.values())
        made = _function(f"pass_{number}", needed, returned, emitter)
        return replace(made, parts=tuple(_of_lines(part, lines) for part in parts))

    def finish_function(self, number: int) -> Function:
        """Statistics that are finished once pass `number` is done."""
        body: list[str] = []
        lines: list[Line] = []
        needed: set[str] = set()
        defined: dict[str, str] = {}
        for target, value in self._sums(number):
            code, reading = self._divide(target, value, lines)
            body.extend(code)
            needed |= reading
            defined[target.name] = target.name
        for k, (level, define) in enumerate(self.whole.finished):
            if level == number:
                code, reading = self._define(define, lines, f"y{k}_")
                body.extend(code)
                needed |= reading - set(defined)
                defined |= {t.name: t.name for t in define.targets if t.name != "_"}
        source = _source(f"after_{number}", sorted(needed), body, defined)
        return Function(
            f"after_{number}", tuple(sorted(needed)), tuple(defined), source, tuple(lines)
        )

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

    def _divide(self, target: Target, value: Expr, lines: list[Line]) -> tuple[list[str], set[str]]:
        """Turn the sum over all batches into the mean the formula asks for."""
        name, poly = target.name, self.normal(value)
        streaming, resting = _streaming(poly), tuple(t for t in poly if t not in _streaming(poly))
        factor = _common(streaming, self.emitter()) if streaming else 0.0
        code = [f"{name} = {_times(name, factor)}"] if streaming and factor != 1.0 else []
        needed = {name} if streaming else set()
        if resting:
            emitter = Emitter(self.sizes, self.total, self.limit, f"{name}_rest__", self.known)
            added, _ = emitter.poly(resting, target.indices)
            lines.extend(emitter.lines)
            code.extend(f"{line.target} = {line.code}" for line in emitter.lines)
            code.append(f"{name} = {name} + {added}" if streaming else f"{name} = {added}")
            needed |= set(reads(resting))
        return code, needed

    def _define(self, define: Define, lines: list[Line], prefix: str) -> tuple[list[str], set[str]]:
        value = define.value
        if is_function(value):
            found = function_lines(define, self.known, self.sizes)
            lines.extend(line for _, line in found)
            return [code for code, _ in found], set(names(value))
        emitter = Emitter(self.sizes, self.total, self.limit, prefix, self.known)
        poly = self.normal(value)
        result, _ = emitter.poly(poly, define.targets[0].indices)
        lines.extend(emitter.lines)
        code_lines = [f"{line.target} = {line.code}" for line in emitter.lines]
        return [*code_lines, f"{define.targets[0].name} = {result}"], set(reads(poly))

    def _result(self, result: Yield, level: int) -> ResultPlan:
        emitter = self.emitter()
        shape = self.shapes[result]
        if result in self.whole_results:
            name = self.whole_results[result]
            entries = {"inner.entries" if isinstance(shape, ProjectedShape) else "entries": name}
            lift = {f"basis.{k}": b.name for k, b in enumerate(result.lift) if b is not None}
            needed = {name, *lift.values()}
            code = _function("result", needed, {**entries, **lift}, emitter)
            return ResultPlan(shape, code, level)
        returned: dict[str, str] = {}
        needed = set()
        self._components(shape, result.target.indices, "", emitter, returned, needed)
        return ResultPlan(shape, _function("result", needed, returned, emitter), level)

    def _components(
        self,
        shape: Shape,
        indices: tuple[Index, ...],
        prefix: str,
        emitter: Emitter,
        returned: dict[str, str],
        needed: set[str],
    ) -> None:
        """Code for the tensors that a structure is made of, by component name."""

        def give(name: str, poly: Poly, out: tuple[Index, ...]) -> None:
            returned[prefix + name] = emitter.poly(poly, out)[0]
            needed.update(reads(poly))

        rows, columns = _sides(indices)
        match shape:
            case ProjectedShape(inner=inner, bases=bases, indices=own):
                self._components(inner, own, f"{prefix}inner.", emitter, returned, needed)
                for k, basis in enumerate(bases):
                    if basis is not None:
                        returned[f"{prefix}basis.{k}"] = basis.name
                        needed.add(basis.name)
            case IdentityShape(scale=scale):
                give("scale", scale, ())
            case DiagonalShape(entries=entries):
                give("entries", entries, rows)
            case KroneckerShape(left=left, right=right):
                give("left", left, (rows[0], columns[0]))
                give("right", right, (rows[1], columns[1]))
            case EigenBasisShape(left=u, right=v, spectrum=spectrum, axes=axes):
                give("spectrum", spectrum, axes)
                for name, basis in (("left", u), ("right", v)):
                    if basis is not None:
                        returned[prefix + name] = basis.name
                        needed.add(basis.name)
            case BlocksShape(axis=axis, entries=entries):
                other = 1 if axis == rows[0] else 0
                give("entries", entries, (axis, rows[other], columns[other]))
            case LowRankShape(factor=factor, spectrum=spectrum, axes=axes):
                give("factor", factor, (*rows, *axes))
                give("spectrum", spectrum, axes)
            case GramShape(entries=entries) | DenseShape(entries=entries):
                give("entries", entries, indices)
            case ProductShape():
                pass
            case LeafShape(name=name):
                needed.add(name)
                returned[prefix + "leaf"] = name
            case SumShape(terms=terms):
                for k, term in enumerate(terms):
                    self._components(term, indices, f"{prefix}{k}.", emitter, returned, needed)


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


def _too_large(result: Yield, have: str) -> SpecError:
    return refusal(
        Code.E0314,
        f"`{result.target.name}` has no structure and {have}",
        "write it as a product or a sum of structured terms, or use a smaller model",
        labels=(Label(result.span, "every entry would have to be formed"),),
    )


def _reduces(shape: Shape) -> bool:
    match shape:
        case GramShape(entries=entries) | DenseShape(entries=entries):
            return bool(_streaming(entries))
        case _:
            return False


def _streaming(poly: Poly) -> Poly:
    """Terms that are sums over the examples of a batch."""
    return tuple(t for t in poly if any(x.space == "n" for x in t.summed))


def _of_lines(part: Part, lines: Mapping[str, Line]) -> Part:
    """A sum with those of its lines that are still there, as they are now."""
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


def _times(name: str, factor: float) -> str:
    """A product with a number, written as a division where that is exact."""
    inverse = round(1 / factor) if factor else 0
    return f"{name} / {inverse}" if inverse and 1 / inverse == factor else f"{name} * {factor!r}"


def _sides(indices: tuple[Index, ...]) -> tuple[tuple[Index, ...], tuple[Index, ...]]:
    half = len(indices) // 2
    return indices[:half], indices[half:]


def _function(
    name: str, needed: set[str] | frozenset[str], returned: Mapping[str, str], emitter: Emitter
) -> Function:
    body = [f"{line.target} = {line.code}" for line in emitter.lines]
    reading = tuple(sorted(needed))
    source = _source(name, reading, body, returned)
    return Function(name, reading, tuple(returned), source, tuple(emitter.lines))


def _source(
    name: str, reading: Sequence[str], body: Sequence[str], returned: Mapping[str, str]
) -> str:
    inside = ", ".join(f"{key!r}: {value}" for key, value in returned.items())
    lines = [*body, f"return {{{inside}}}"]
    return (
        f"def {name}({', '.join(reading)}):\n" + "\n".join(f"    {line}" for line in lines) + "\n"
    )
