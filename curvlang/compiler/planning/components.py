"""The tensors that a structure is made of, by name, and the code that computes them."""

from __future__ import annotations

from typing import assert_never

from curvlang.compiler.algebra import shapes
from curvlang.compiler.algebra.terms import Poly, reads
from curvlang.compiler.codegen.emit import Emitter
from curvlang.compiler.codegen.function import Function, function
from curvlang.ir.expr import Index


class Components:
    """Components of one result; those of a part have its name in front: `inner.entries`."""

    def __init__(self, emitter: Emitter) -> None:
        self.emitter = emitter
        self.returned: dict[str, str] = {}
        self.needed: set[str] = set()

    def function(self) -> Function:
        """The function that computes them."""
        return function("result", self.needed, self.returned, self.emitter.lines)

    def take(self, name: str, tensor: str) -> None:
        """A component that is a finished statistic."""
        self.returned[name] = tensor
        self.needed.add(tensor)

    def give(self, name: str, poly: Poly, out: tuple[Index, ...]) -> None:
        """A component that is computed."""
        self.returned[name] = self.emitter.poly(poly, out).name
        self.needed |= reads(poly)

    def add(self, shape: shapes.Shape, indices: tuple[Index, ...], prefix: str = "") -> None:
        """All components of a structure whose rows and columns have these indices."""
        rows, columns = sides(indices)
        match shape:
            case shapes.ProjectedShape(inner=inner, bases=bases, indices=own):
                self.add(inner, own, f"{prefix}inner.")
                for k, basis in enumerate(bases):
                    if basis is not None:
                        self.take(f"{prefix}basis.{k}", basis.name)
            case shapes.IdentityShape(scale=scale):
                self.give(prefix + "scale", scale, ())
            case shapes.DiagonalShape(entries=entries):
                self.give(prefix + "entries", entries, rows)
            case shapes.KroneckerShape(left=left, right=right):
                self.give(prefix + "left", left, (rows[0], columns[0]))
                self.give(prefix + "right", right, (rows[1], columns[1]))
            case shapes.EigenBasisShape(left=u, right=v, spectrum=spectrum, axes=axes):
                self.give(prefix + "spectrum", spectrum, axes)
                for name, basis in (("left", u), ("right", v)):
                    if basis is not None:
                        self.take(prefix + name, basis.name)
            case shapes.BlocksShape(axis=axis, entries=entries):
                other = 1 if axis == rows[0] else 0
                self.give(prefix + "entries", entries, (axis, rows[other], columns[other]))
            case shapes.LowRankShape(factor=factor, spectrum=spectrum, axes=axes):
                self.give(prefix + "factor", factor, (*rows, *axes))
                self.give(prefix + "spectrum", spectrum, axes)
            case shapes.GramShape(entries=entries) | shapes.DenseShape(entries=entries):
                self.give(prefix + "entries", entries, indices)
            case shapes.ProductShape():
                pass
            case shapes.LeafShape(name=name):
                self.take(prefix + "leaf", name)
            case shapes.SumShape(terms=terms):
                for k, term in enumerate(terms):
                    self.add(term, indices, f"{prefix}{k}.")
            case _:
                assert_never(shape)


def sides(indices: tuple[Index, ...]) -> tuple[tuple[Index, ...], tuple[Index, ...]]:
    """Indices of the rows and of the columns."""
    half = len(indices) // 2
    return indices[:half], indices[half:]
