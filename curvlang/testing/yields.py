"""Random yields: symmetric blocks of every structure that the compiler tells apart, and sums."""

from __future__ import annotations

from collections.abc import Callable

from curvlang.ir import expr as ir
from curvlang.ir.indices import fresh, rename
from curvlang.testing.expressions import plus, times
from curvlang.testing.statements import Basis, Statements

O, I, P = (ir.Index(x) for x in "oip")
O2, I2, P2 = (ir.Index(x, 1) for x in "oip")
COLUMNS = {O: O2, I: I2, P: P2}


def swapped(expr: ir.Expr) -> ir.Expr:
    """The transpose: rows and columns change places."""
    return rename(expr, COLUMNS | {b: a for a, b in COLUMNS.items()})


class Yields:
    """Draws the entries of a block, symmetric in rows and columns, over the state of a body."""

    def __init__(self, statements: Statements, layered: bool) -> None:
        self.from_ = statements
        self.make = statements.make
        self.layered = layered
        self.rows = (O, I) if layered else (P,)

    def entries(self, depth: int = 1) -> ir.Expr:
        """The entries; shrinks to the identity."""
        whole = [self.identity, self.diagonal, self.low_rank, self.gram, self.dense, self.so_far]
        layers = [*[self.kronecker] * 3, self.per_unit, self.one_sided, *self._rotated()]
        leaf = [self.hessian] if "H" in self.from_.state.scope.tensors else []
        kinds: list[Callable[[], ir.Expr]] = [*whole, *(layers if self.layered else []), *leaf]
        if depth > 0 and self.make.flip():
            return self.combined(depth)
        return self.make.one_of(kinds)()

    def combined(self, depth: int) -> ir.Expr:
        """A sum, a difference or a multiple."""
        first = self.entries(depth - 1)
        match self.make.one_of(["sum", "difference", "multiple"]):
            case "sum":
                return plus(first, self.entries(depth - 1))
            case "difference":
                return ir.Binary(ir.BinaryOperator.SUBTRACT, first, self.entries(depth - 1))
            case _:
                return times(self.make.number(1), first)

    def deltas(self) -> ir.Expr:
        return times(*(ir.Delta(x, COLUMNS[x]) for x in self.rows))

    def identity(self) -> ir.Expr:
        if self.make.flip():
            return times(self.deltas(), self.make.number(1))
        return self.deltas()

    def diagonal(self) -> ir.Expr:
        return times(self.deltas(), self.make.expression(self.rows, 2))

    def low_rank(self) -> ir.Expr:
        """`w w'`, or a sum of some with weights of either sign."""
        spaces = [x for x in self.from_.state.scope.spaces if x != "n"]
        axes = tuple(
            fresh(x, {*self.rows, *COLUMNS.values()}) for x in self.make.subset(spaces)[:1]
        )
        half = self.make.expression((*self.rows, *axes), 1)
        body = times(half, swapped(half))
        if not axes:
            return body
        if self.make.flip():
            body = times(self.make.expression(axes, 1), body)
        return ir.Reduce(self.make.one_of(list(ir.ReductionKind)), axes, body)

    def gram(self) -> ir.Expr:
        """A mean over examples of outer products."""
        shared = [
            ir.Index("n"),
            *(ir.Index(x) for x in self.make.subset(["r" if self.layered else "c"])),
        ]
        shared = [x for x in shared if x.space in self.from_.state.scope.spaces]
        half = self.make.expression((*self.rows, *shared), 1)
        body = times(half, swapped(half))
        if self.make.flip():
            other = self.make.expression((*self.rows, *shared), 1)
            body = plus(body, times(other, swapped(other)))
        return self.make.reduced(shared, body)

    def dense(self) -> ir.Expr:
        """Anything, and its transpose."""
        entries = self.make.expression((*self.rows, *(COLUMNS[x] for x in self.rows)), 1)
        return plus(entries, swapped(entries))

    def so_far(self) -> ir.Expr:
        """The curvature of the chain so far, read as a tensor."""
        return times(
            self.make.number(0), ir.Ref("C", (*self.rows, *(COLUMNS[x] for x in self.rows)))
        )

    def hessian(self) -> ir.Expr:
        entries = ir.Ref("H", (*self.rows, *(COLUMNS[x] for x in self.rows)))
        return entries if self.make.flip() else plus(entries, swapped(entries))

    def side(self, row: ir.Index) -> ir.Expr:
        """A symmetric matrix over one side: known, a moment, or the identity."""
        column = COLUMNS[row]
        known = [x for x in self.from_.state.symmetric if self.from_.state.known[x][0] == row.space]
        kinds: list[Callable[[], ir.Expr]] = [lambda: ir.Delta(row, column)]
        if known:
            kinds += [lambda: ir.Ref(self.make.one_of(known), (row, column))] * 3
        kinds.append(lambda: self.make.gram(row, 1))
        return self.make.one_of(kinds)()

    def kronecker(self) -> ir.Expr:
        factors = [self.side(O), self.side(I)]
        if self.make.flip():
            factors.append(self.make.number(1))
        return times(*self.from_.draw_order(factors))

    def per_unit(self) -> ir.Expr:
        """One block for each output, or for each input."""
        axis, row = (I, O) if self.make.flip() else (O, I)
        half = self.make.expression((axis, row), 1)
        moved = rename(half, {row: COLUMNS[row]})
        return times(ir.Delta(axis, COLUMNS[axis]), half, moved)

    def _bases(self, row: ir.Index) -> list[Basis]:
        return [b for b in self.from_.state.bases if b.space == row.space]

    def _rotated(self) -> list[Callable[[], ir.Expr]]:
        both = self._bases(O) and self._bases(I)
        return [*([self.rotated] * 6 if both else [])]

    def one_sided(self) -> ir.Expr:
        """The identity on one side, eigenvectors on the other."""
        row, other = (O, I) if self.make.flip() else (I, O)
        bases = self._bases(row)
        if not bases:
            return self.kronecker()
        basis = self.make.one_of(bases)
        k = ir.Index(basis.letter)
        spectrum = self.spectrum((other, k))
        body = times(basis.at(row), spectrum, basis.at(COLUMNS[row]))
        return times(ir.Delta(other, COLUMNS[other]), ir.Reduce(ir.ReductionKind.SUM, (k,), body))

    def spectrum(self, axes: tuple[ir.Index, ...]) -> ir.Expr:
        """Numbers over axes; over fewer of them where nothing in scope has a made one."""
        spaces = self.from_.state.scope.spaces
        return self.make.expression([x for x in axes if x.space in spaces], 1)

    def rotated(self) -> ir.Expr:
        """Eigenvectors on both sides of a diagonal, or of their squares."""
        u, v = self.make.one_of(self._bases(O)), self.make.one_of(self._bases(I))
        m, k = ir.Index(u.letter), ir.Index(v.letter)
        spectrum = self.spectrum((m, k))
        factors = [u.at(O), v.at(I), spectrum, u.at(O2), v.at(I2)]
        if self.make.flip():
            factors += [u.at(O), u.at(O2)]
        return ir.Reduce(ir.ReductionKind.SUM, (m, k), times(*self.from_.draw_order(factors)))


__all__ = ["COLUMNS", "Yields", "swapped"]
