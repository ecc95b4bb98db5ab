"""Runs the generated code of a plan: accumulators that add up batches, statistics in between.

An accumulator is a commutative monoid: a raw sum that batches are added to, in float64 on the
CPU whatever the precision of the passes, divided once when its pass is done.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from curvlang.compiler.algebra import shapes
from curvlang.compiler.codegen.function import Function
from curvlang.compiler.planning.plan import BlockPlan, Plan
from curvlang.ir.expr import Yield
from curvlang.ir.functions import FUNCTIONS
from curvlang.models.execution.precision import Precision, narrow_matrices
from curvlang.models.execution.widened import accumulation_dtype
from curvlang.operators import along, at_once
from curvlang.runtime.kernels.functions import namespace
from curvlang.runtime.kernels.memo import Memo
from curvlang.runtime.kernels.narrow import (
    narrow_decompositions,
    narrow_products,
    symmetric_entries,
)
from curvlang.storage.repeated import of_once, once

Tensors = dict[str, Tensor]
Keep = Callable[[str, Tensors], None]
"""Called with the name of a block and its statistics."""


class Execution:
    """One plan under way: feed it every batch of every pass, then take its results.

    Args:
        plan: The plan.
        dtype: Precision of the passes.
        device: Where the passes run.
        static: Leaves without an example index (`H`), by block and name.
        policy: What products and decompositions take their operands in, where that is less.
    """

    def __init__(
        self,
        plan: Plan,
        dtype: torch.dtype,
        device: torch.device,
        static: Mapping[str, Tensors] | None = None,
        policy: Precision | None = None,
    ) -> None:
        self.plan = plan
        self.dtype = dtype
        self.device = device
        self.exact = accumulation_dtype(device)
        self.values: dict[str, Tensors] = {
            block.geometry.name: dict((static or {}).get(block.geometry.name, {}))
            for block in plan.blocks
        }
        self.sums: dict[str, Tensors] = {block.geometry.name: {} for block in plan.blocks}
        self._compiled: dict[tuple[str, torch.dtype, int], Callable[..., Tensors]] = {}
        self._operands = None if policy is None else policy.operands
        self._decomposed = narrow_matrices(policy)
        self._memo = Memo()
        pairs = {(b.geometry.shares, b.geometry.name) for b in plan.blocks if b.geometry.shares}
        self._sharing = frozenset(name for pair in pairs for name in pair)
        for block in plan.blocks:
            self._finish(block, 0)
        self._memo.release()

    def feed(self, number: int, leaves: Mapping[str, Tensors]) -> None:
        """Add one batch of pass `number`; `leaves` by block and name."""
        if number > self.plan.passes:
            return
        self._memo.hold({name: leaves.get(name, {}) for name in self._sharing})
        for block in self.plan.blocks:
            name = block.geometry.name
            function = block.passes[number - 1]
            known = self._cast_values(name, number)
            given = {**known, **leaves.get(name, {})}
            added = self._call(function, given, self.dtype, block.count)
            sums = self.sums[name]
            for key, value in added.items():
                part = once(value)
                exact = part.to(self.exact)
                if key in sums:
                    once(sums[key]).add_(exact)
                else:
                    sums[key] = (exact.clone() if exact is part else exact).expand_as(value)
        self._memo.release()

    def close(
        self,
        number: int,
        known: Mapping[str, Tensors] | None = None,
        keep: Keep | None = None,
        own: Container[str] | None = None,
    ) -> None:
        """Finish pass `number`: divide its sums, compute what follows from them.

        Args:
            number: Of the pass.
            known: What follows from it, by block, where that has been computed before.
            keep: Given what follows from it, block by block: what later code reads.
            own: The blocks whose sums are here; all where not given. Others are told by `learn`.
        """
        if number > self.plan.passes:
            return
        for block in self.plan.blocks:
            name = block.geometry.name
            sums, self.sums[name] = self.sums[name], {}
            if known and name in known:
                self.learn(name, known[name])
                continue
            if own is not None and name not in own:
                continue
            self.values[name].update(sums)
            self._finish(block, number)
            if keep is not None:
                later = block.read_after(number)
                held = self.values[name]
                keep(name, {x: held[x] for x in sorted(later & held.keys())})
        self._memo.release()

    def learn(self, block: str, statistics: Mapping[str, Tensor]) -> None:
        """Take in what follows from the sums of a block, where it was computed elsewhere."""
        self.values[block].update(statistics)

    def result(self, block: BlockPlan, value: Yield) -> Tensors:
        """Component tensors of a yield's structure for one block, or for all of several."""
        function = block.results[value].code
        found = self._call(function, self.values[block.geometry.name], self.exact, block.count)
        if self._operands is not None:
            for name in _dense(block.results[value].shape):
                found[name] = symmetric_entries(found[name], block.count)
        # A bare number of the formula takes the precision of the statistics, not float32.
        return {
            name: of_once(lambda x: x.to(self.exact), part)
            if isinstance(part, Tensor) and part.ndim
            else torch.as_tensor(float(part), dtype=self.exact, device=self.device)
            for name, part in found.items()
        }

    def _finish(self, block: BlockPlan, number: int) -> None:
        name = block.geometry.name
        self._memo.look(name in self._sharing)
        self._casts: dict[int, Tensor] = {}
        self._cast: dict[tuple[str, int], Tensors] = {}
        found = self._call(block.finish[number], self.values[name], self.exact, block.count)
        self.values[name].update(found)

    def _cast_values(self, name: str, number: int) -> Tensors:
        """Finished statistics in the precision of the passes, converted once a pass."""
        key = (name, number)
        if key not in self._cast:
            # A statistic that blocks share is one tensor, and so is what it is converted to.
            self._cast[key] = {
                k: self._casts.setdefault(id(v), of_once(lambda x: x.to(self.dtype), v))
                for k, v in self.values[name].items()
            }
        return self._cast[key]

    def _call(
        self, function: Function, given: Mapping[str, Tensor], dtype: torch.dtype, count: int
    ) -> Tensors:
        key = (function.source, dtype, count)
        if key not in self._compiled:
            scope = self._scope(dtype)
            if count == 1:
                self._compiled[key] = load(function, scope, self._memo)
            else:
                self._compiled[key] = load_stacked(function, scope, count)
        return self._compiled[key](**{name: given[name] for name in function.reads})

    def _scope(self, dtype: torch.dtype) -> Scope:
        """What code in a precision calls: of passes, or of statistics in between."""
        names = dict(namespace(dtype, self.device))
        if self._operands is not None and dtype == self.dtype:
            names = narrow_products(names, self._operands)
        if self._decomposed is not None:
            names = narrow_decompositions(names, self._decomposed)
        return Scope(names, dtype, self.device)


def _dense(shape: shapes.Shape, prefix: str = "") -> Iterator[str]:
    """Names of the components that have all entries of a block."""
    match shape:
        case shapes.GramShape() | shapes.DenseShape():
            yield f"{prefix}entries"
        case shapes.ProjectedShape(inner=inner):
            yield from _dense(inner, f"{prefix}inner.")
        case shapes.SumShape(terms=terms):
            for k, term in enumerate(terms):
                yield from _dense(term, f"{prefix}{k}.")
        case _:
            pass


@dataclass(frozen=True, slots=True, eq=False)
class Scope:
    """What generated code may name.

    Args:
        names: Functions by name.
        dtype: Of numbers that the code makes.
        device: Where it makes them.
    """

    names: Mapping[str, Any]
    dtype: torch.dtype
    device: torch.device


def load(function: Function, given: Scope, memo: Memo | None = None) -> Callable[..., Tensors]:
    """The generated source as a callable; with a memo, what it knows is not computed again.

    The source is made by `compiler.codegen.printer`; nothing that a spec writes reaches it as text.
    """
    scope: dict[str, Any] = dict(given.names)
    if memo is not None:
        scope |= {x: getattr(memo, x)(scope[x]) for x in ("gram", "rotate")}
        scope |= {x: memo.function(x, scope[x]) for x, f in FUNCTIONS.items() if f.results}
    return _executed(function, scope)


def _executed(function: Function, scope: dict[str, Any]) -> Callable[..., Tensors]:
    exec(compile(function.source, f"<curvlang {function.name}>", "exec"), scope)
    loaded: Callable[..., Tensors] = scope[function.name]
    # A tensor's name need not be one of Python's: here it is a place.
    return lambda **given: loaded(*(given[name] for name in function.reads))


def load_stacked(function: Function, given: Scope, count: int) -> Callable[..., Tensors]:
    """The generated source for `count` blocks of one shape, run along the axis in front of all tensors."""
    scope: dict[str, Any] = dict(given.names)
    dtype, device = given.dtype, given.device
    plain: Callable[..., Tensor] = scope["gram"]

    def gram(x: Tensor, groups: int = 1) -> Tensor:
        """In one group where it is of every block: several are written in place, which `vmap` does not do."""
        return plain(x, 1 if torch._C._functorch.is_functorch_wrapped_tensor(x) else groups)

    scope |= {
        "gram": gram,
        "square_sum": lambda x, axes: x.square().sum(axes),
    }
    scope |= {x: _stacked_function(scope[x]) for x, f in FUNCTIONS.items() if f.symmetric}
    loaded = _executed(function, scope)

    def one(given: Sequence[Tensor]) -> Tensors:
        found = loaded(**dict(zip(function.reads, given, strict=True)))
        return {
            name: torch.as_tensor(x, dtype=None if isinstance(x, Tensor) else dtype, device=device)
            for name, x in found.items()
        }

    return lambda **given: along(one, [given[name] for name in function.reads], count)


def _stacked_function(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of a matrix that looks at its entries, given all matrices of a stack."""
    return lambda matrix, *numbers: at_once(lambda x: function(x, *numbers), matrix)
