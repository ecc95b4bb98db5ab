"""Which pass over the data computes what: the depth of the dependency graph, never chosen by hand.

In: a program in single-assignment form. Out: a schedule, in which every reduction over examples
is an accumulator of the first pass where all that it reads is known, and everything else is
computed between passes from finished values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from curvlang.compiler.algebra.normal_form import data_reductions
from curvlang.compiler.codegen.instructions import unused
from curvlang.compiler.derive.program import Leaf, Program
from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import Label, SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.diagnostics.source import Span
from curvlang.ir import expr as ir
from curvlang.ir.indices import alike, free_indices, names, rename, substitute, walk, with_children


@dataclass(frozen=True, slots=True)
class Accumulator:
    """`name[indices] = value`, a reduction over examples, summed up batch by batch in one pass."""

    name: str
    indices: tuple[ir.Index, ...]
    value: ir.Reduce
    number: int


@dataclass(frozen=True, slots=True)
class Schedule:
    """Accumulators with their pass, definitions of finished values with the pass they follow.

    `results` stand in the order of the program's own yields, which `originals` repeats.
    """

    accumulators: tuple[Accumulator, ...]
    finished: tuple[tuple[int, ir.Define], ...]
    results: tuple[tuple[int, ir.Yield], ...]
    leaves: Mapping[str, Leaf]
    originals: tuple[ir.Yield, ...] = ()

    @property
    def indices(self) -> dict[str, tuple[ir.Index, ...]]:
        """Indices of every leaf, accumulator and finished statistic by name, as they are held."""
        found = {name: leaf.indices for name, leaf in self.leaves.items()}
        found |= {a.name: a.indices for a in self.accumulators}
        return found | {t.name: t.indices for _, d in self.finished for t in d.targets}

    @property
    def passes(self) -> int:
        """How often the data is read."""
        whole = (n for n, y in self.results if data_reductions(y.value))
        return max((*(a.number for a in self.accumulators), *whole), default=0)


def schedule(program: Program) -> Schedule:
    """Assign every statement of a program to a pass or to the time after one."""
    return _Scheduler(program).run()


class _Scheduler:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.level: dict[str, int] = {
            name: 0 for name, leaf in program.leaves.items() if not leaf.per_example
        }
        self.local: dict[str, tuple[tuple[ir.Index, ...], ir.Expr]] = {}
        self.accumulators: list[Accumulator] = []
        self.finished: list[tuple[int, ir.Define]] = []
        self.hoisted = 0
        defines = [d for d in program.definitions if isinstance(d, ir.Define)]
        self.taken = {*program.leaves, *(t.name for d in defines for t in d.targets)}
        self.interned: dict[ir.Expr, str] = {}

    def run(self) -> Schedule:
        for definition in self.program.definitions:
            if not isinstance(definition, ir.Space):
                self._define(definition)
        results = tuple((self._result(y)) for y in self.program.results)
        return Schedule(
            tuple(self.accumulators),
            tuple(self.finished),
            results,
            self.program.leaves,
            self.program.results,
        )

    def _define(self, definition: ir.Define) -> None:
        self._refuse_per_example(definition.value, definition.span)
        value = substitute(definition.value, self.local)
        first = definition.targets[0]
        if any(x.space == "n" for t in definition.targets for x in t.indices):
            # Per-example values live inside a batch: they are put where they are read.
            self.local[first.name] = (first.indices, value)
            return
        if self._is_accumulator(value, first.indices):
            assert isinstance(value, ir.Reduce)
            self._accumulate(first.name, first.indices, value)
            return
        hoisted = self._hoist(value)
        level = self._level(hoisted)
        self.finished.append((level, replace(definition, value=hoisted)))
        self.level |= {t.name: level for t in definition.targets}

    def _result(self, result: ir.Yield) -> tuple[int, ir.Yield]:
        self._refuse_per_example(result.value, result.span)
        value = substitute(result.value, self.local)
        if self._is_accumulator(value, result.target.indices):
            # Kept whole, so that structure inference can see the product inside.
            assert isinstance(value, ir.Reduce)
            value = _plain(value)
            whole = replace(value, body=self._hoist(value.body))
            _refuse_pairs(whole)
            return self._level(whole) + 1, replace(result, value=whole)
        hoisted = self._hoist(value)
        return self._level(hoisted), replace(result, value=hoisted)

    def _refuse_per_example(self, value: ir.Expr, span: Span) -> None:
        """Whole tensors stand still while batches pass: none may have the example index."""
        for node in walk(value):
            if not isinstance(node, ir.Call):
                continue
            if any(x.space == "n" for x in node.indices):
                raise _random_per_example(node)
            for argument in node.arguments:
                match argument:
                    case ir.Ref(name=name) if name in self.local or name not in (
                        self.level.keys() | {a.name for a in self.accumulators}
                    ):
                        raise _per_example_function(node, span)
                    case _:
                        pass

    def _is_accumulator(self, value: ir.Expr, indices: tuple[ir.Index, ...]) -> bool:
        reduces = isinstance(value, ir.Reduce) and any(x.space == "n" for x in value.indices)
        return reduces and set(free_indices(value)) == set(indices)

    def _hoist(self, expr: ir.Expr) -> ir.Expr:
        """Give every outermost reduction over examples a name of its own."""
        match expr:
            case ir.Reduce(indices=bound) if any(x.space == "n" for x in bound):
                indices, key = alike(expr)
                if key not in self.interned:
                    # Named before what it holds is, so that a mean inside a mean gets another name.
                    self.hoisted += 1
                    name = unused(f"mean__{self.hoisted}", self.taken)
                    self._accumulate(name, indices, expr)
                    self.interned[key] = name
                return ir.Ref(self.interned[key], indices, expr.span)
            case _:
                return with_children(expr, self._hoist)

    def _accumulate(self, name: str, indices: tuple[ir.Index, ...], value: ir.Reduce) -> None:
        value = _plain(value)
        if data_reductions(value.body):
            # A mean inside a mean: the inner one is known first.
            value = replace(value, body=self._hoist(value.body))
        _refuse_pairs(value)
        number = self._level(value) + 1
        self.accumulators.append(Accumulator(name, indices, value, number))
        self.level[name] = number

    def _level(self, expr: ir.Expr) -> int:
        return max((self.level.get(name, 0) for name in names(expr)), default=0)


def _plain(value: ir.Reduce) -> ir.Reduce:
    """The one example index of a reduction, written without primes: `mean[n'] x[n']`."""
    found = [x for x in value.indices if x.space == "n"]
    if len(found) != 1 or found[0] == _N or _N in free_indices(value):
        return value
    indices = tuple(_N if x == found[0] else x for x in value.indices)
    return replace(value, indices=indices, body=rename(value.body, {found[0]: _N}))


def _refuse_pairs(value: ir.Reduce) -> None:
    """A batch holds some examples: what pairs each with every other is never whole in one."""
    for node in walk(value):
        match node:
            case ir.Ref(name=name, indices=indices) if any(
                x.space == "n" and x.primes for x in indices
            ):
                raise _pairs(
                    f"`{node.span.text or name}` is read at a second example `n'`", node.span
                )
            case ir.Delta(left=left) if left.space == "n":
                raise _pairs("`identity` over examples", node.span)
            case _:
                pass
    if any(x.space == "n" for x in free_indices(value)):
        raise _pairs("this is reduced over one example index and keeps another", value.span)


def _pairs(what: str, span: Span) -> SpecError:
    return refusal(
        Code.E0310,
        f"{what}; pairs of examples cannot be streamed in batches",
        "reduce over each example's own index `n` first",
        labels=(Label(span, "pairs every example with every other"),),
    )


def _random_per_example(call: ir.Call) -> SpecError:
    return refusal(
        Code.E0341,
        f"`{call.function}` makes a number for every example",
        "random tensors have indices of features, positions or made spaces",
        labels=(Label(call.span, "would change with the batches"),),
    )


def _per_example_function(call: ir.Call, span: Span) -> SpecError:
    return refusal(
        Code.E0311,
        f"`{call.function}` of a tensor that has the example index `n`",
        f"reduce over `n` first, for example `A[i,i'] = mean[n] …`, then `{call.function}(A)`",
        labels=(Label(span, "one for each example is not compiled"),),
    )


_N = ir.Index("n")
