"""Inverses by their entries: a formula in gradients of examples becomes products that are applied, never formed.

In: `needs v[n,p]`, definitions, and `yield K[p,p'] = …`. Out: K as a sum of chains. Each chain is a number
times a product of matrices, and each matrix is the curvature itself or a Gram matrix of the examples'
gradients with a weight for each example.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import Diagnostic, Label, SpecError
from curvlang.diagnostics.source import Span
from curvlang.ir import expr as ir
from curvlang.ir.functions import ELEMENTWISE
from curvlang.ir.indices import free_indices, names, rename, substitute, walk, with_children
from curvlang.language.chain import Entries, EntryChain, Gram, Matrix, Statistic

N, P, P2 = ir.Index("n"), ir.Index("p"), ir.Index("p", 1)
GIVEN = {"v": (N, P), "C": (P, P2)}
"""What an inverse by its entries may read: gradients of the examples' losses, and the curvature."""
MOST_TERMS = 200
"""Products of a formula; those on paper have a few."""
_BOUND = 5_000


def entries_of(
    needs: Sequence[ir.Target],
    statements: Sequence[object],
    parameters: Sequence[str],
    span: Span,
) -> Entries:
    """The formula of an inverse as sums of products.

    Args:
        needs: Tensors that it reads.
        statements: Its definitions and its yield.
        parameters: Names of numbers.
        span: Of the declaration.

    Raises:
        SpecError: E0260 for a statement or a name that such a formula does not have, E0261 for entries
            that no product applies, E0262 for a matrix that is not symmetric.
    """
    wrong = [t for t in needs if GIVEN.get(t.name) != t.indices]
    if wrong:
        raise _refused(
            Code.E0260,
            f"an inverse cannot read `{_shown(wrong[0])}`",
            wrong[0].span,
            "it reads `v[n,p]`, gradients of the examples' losses, and `C[p,p']`, the curvature",
        )
    definitions: dict[str, tuple[tuple[ir.Index, ...], ir.Expr]] = {}
    known = {t.name for t in needs} | set(parameters)
    found: ir.Yield | None = None
    for statement in statements:
        match statement:
            case ir.Define(targets=(target,), value=value) if found is None:
                _check_names(value, known | definitions.keys())
                definitions[target.name] = (target.indices, substitute(value, definitions))
            case ir.Yield() if found is None:
                _check_names(statement.value, known | definitions.keys())
                found = statement
            case _:
                at = getattr(statement, "span", span)
                raise _refused(
                    Code.E0260,
                    "an inverse by its entries has definitions of one tensor each, and a yield at its end",
                    at,
                    "write `yield K[p,p'] = …` once, behind all definitions",
                )
    if found is None or found.target.indices != (P, P2):
        raise _refused(
            Code.E0260,
            "an inverse by its entries yields a matrix over the parameters of a block",
            span if found is None else found.span,
            "end with `yield K[p,p'] = …`",
        )
    return _Reader().read(substitute(found.value, definitions), found.span)


def _check_names(expr: ir.Expr, known: set[str]) -> None:
    for node in walk(expr):
        match node:
            case ir.Ref(name=name) if name not in known:
                raise _refused(
                    Code.E0260,
                    f"nothing defines `{name}` in this inverse",
                    node.span,
                    "name it in `needs`, among the parameters, or define it before",
                )
            case ir.Call(function=function):
                raise _refused(
                    Code.E0260,
                    f"`{function}` takes a whole matrix, and an inverse by its entries never forms one",
                    node.span,
                    "use sums, products and elementwise functions: "
                    + ", ".join(sorted(ELEMENTWISE)),
                )
            case _:
                pass


@dataclass(frozen=True, slots=True)
class _Term:
    """`Π factors`, reduced over bound indices."""

    factors: tuple[ir.Expr, ...] = ()
    bound: tuple[tuple[ir.ReductionKind, ir.Index], ...] = ()


@dataclass(slots=True)
class _Reader:
    """Takes a formula apart.

    Args:
        statistics: Reductions over all examples that stand in it as numbers.
    """

    statistics: dict[ir.Expr, str] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=lambda: count(_BOUND))

    def read(self, formula: ir.Expr, span: Span) -> Entries:
        """All of it."""
        given = self._with_statistics(formula, span)
        chains = tuple(self._chain(term, span) for term in self._terms(given, span))
        self._check_symmetric(chains, span)
        found = tuple(Statistic(name, made) for made, name in self.statistics.items())
        return Entries(chains, found)

    def _with_statistics(self, expr: ir.Expr, span: Span) -> ir.Expr:
        """Numbers that all examples give, `mean[n] sum[p] v[n,p]^2`, by names of their own."""
        match expr:
            case ir.Reduce(indices=bound) if N.space in {x.space for x in bound} and not (
                free_indices(expr)
            ):
                inner = replace(expr, body=self._with_statistics(expr.body, span))
                return self._statistic(inner)
            case _:
                return with_children(expr, lambda x: self._with_statistics(x, span))

    def _terms(self, expr: ir.Expr, span: Span) -> list[_Term]:
        """The products that a formula is the sum of; what has a number for each example at most is one factor."""
        free = free_indices(expr)
        if not any(x.space == P.space for x in free):
            if "C" in names(expr) or ("v" in names(expr) and not free):
                raise _unapplied(expr, span)
            return [_Term((expr,))]
        go = lambda x: self._terms(x, span)  # noqa: E731
        match expr:
            case ir.Negate(operand=operand):
                return [_times(ir.Number(-1.0), x) for x in go(operand)]
            case ir.Binary(operator=ir.BinaryOperator.ADD, left=left, right=right):
                found = [*go(left), *go(right)]
            case ir.Binary(operator=ir.BinaryOperator.SUBTRACT, left=left, right=right):
                found = [*go(left), *(_times(ir.Number(-1.0), x) for x in go(right))]
            case ir.Binary(operator=ir.BinaryOperator.MULTIPLY, left=left, right=right):
                found = [
                    _Term(x.factors + y.factors, x.bound + y.bound)
                    for x in go(left)
                    for y in go(right)
                ]
            case ir.Binary(operator=ir.BinaryOperator.DIVIDE, left=left, right=right) if not any(
                x.space == P.space for x in free_indices(right)
            ):
                inverse = ir.Binary(ir.BinaryOperator.DIVIDE, ir.Number(1.0), right)
                found = [_times(inverse, x) for x in go(left)]
            case ir.Reduce(kind=kind, indices=bound, body=body):
                own = {x: ir.Index(x.space, next(self.numbers)) for x in bound}
                pairs = tuple((kind, x) for x in own.values())
                found = [_Term(x.factors, x.bound + pairs) for x in go(rename(body, own))]
            case ir.Ref() | ir.Delta():
                found = [_Term((expr,))]
            case _:
                raise _unapplied(expr, span)
        if len(found) > MOST_TERMS:
            raise _refused(
                Code.E0261,
                f"the formula has more than {MOST_TERMS} products",
                span,
                "define the matrix that occurs in all of them once, and multiply by it",
            )
        return found

    def _chain(self, term: _Term, span: Span) -> EntryChain:
        """A product from K's row to its column, matrix after matrix."""
        left = list(term.factors)
        bound = {index: kind for kind, index in term.bound}
        coefficients: list[ir.Expr] = []
        nodes: list[Gram | Matrix] = []
        at = P
        node: Gram | Matrix | None
        while at != P2 or not nodes:
            taken = next((f for f in left if at in free_indices(f)), None)
            if taken is None:
                raise _unapplied(None, span)
            left.remove(taken)
            match taken:
                case ir.Delta(left=x, right=y):
                    at, node = _other(at, x, y), None
                case ir.Ref(name="C", indices=(x, y)):
                    at, node = _other(at, x, y), Matrix("C")
                case ir.Ref(name="v", indices=(n, _)):
                    at, node = self._gram(n, left, bound, span)
                case _:
                    raise _unapplied(taken, span)
            if at != P2 and bound.pop(at, None) is not ir.ReductionKind.SUM:
                raise _unapplied(taken, span)
            if node is not None:
                nodes.append(node)
            elif at == P2:
                break
        for index, kind in bound.items():
            own = [f for f in left if free_indices(f) == (index,)]
            if index.space != N.space or (kind is ir.ReductionKind.SUM and not own):
                raise _unapplied(None, span)
            left = [f for f in left if f not in own]
            weight = rename(_product(own), {index: N})
            made = ir.Reduce(kind, (N,), weight)
            coefficients += [self._statistic(made)] if own else []
        for factor in left:
            if free_indices(factor):
                raise _unapplied(factor, span)
            coefficients.append(factor)
        return EntryChain(_product(coefficients), tuple(nodes))

    def _statistic(self, value: ir.Expr) -> ir.Ref:
        """A number that all examples give, by a name of its own."""
        return ir.Ref(self.statistics.setdefault(value, f"·{len(self.statistics)}"))

    def _gram(
        self,
        n: ir.Index,
        left: list[ir.Expr],
        bound: dict[ir.Index, ir.ReductionKind],
        span: Span,
    ) -> tuple[ir.Index, Gram]:
        """The other gradient of the same example, and what stands between the two."""
        kind = bound.pop(n, None)
        if kind is None:
            raise _unapplied(ir.Ref("v", (n, P)), span)
        partner = next(
            (f for f in left if isinstance(f, ir.Ref) and f.name == "v" and f.indices[0] == n), None
        )
        if partner is None:
            raise _unapplied(ir.Ref("v", (n, P)), span)
        left.remove(partner)
        weights = [f for f in left if n in free_indices(f)]
        if any(free_indices(f) != (n,) for f in weights):
            raise _unapplied(weights[0], span)
        for factor in weights:
            left.remove(factor)
        weight = rename(_product(weights), {n: N})
        return partner.indices[1], Gram(weight, kind is ir.ReductionKind.MEAN)

    def _check_symmetric(self, chains: Sequence[EntryChain], span: Span) -> None:
        """Every product stands there with its matrices in reverse order too."""
        mirrored = [replace(x, nodes=x.nodes[::-1]) for x in chains]
        left = list(chains)
        for chain in mirrored:
            if chain not in left:
                raise _refused(
                    Code.E0262,
                    "this matrix is not symmetric, as the inverse of a curvature is",
                    span,
                    "add the product in reverse order, and take half of both",
                )
            left.remove(chain)


def _times(factor: ir.Expr, term: _Term) -> _Term:
    return _Term((factor, *term.factors), term.bound)


def _other(at: ir.Index, x: ir.Index, y: ir.Index) -> ir.Index:
    return y if x == at else x


def _product(factors: Sequence[ir.Expr]) -> ir.Expr:
    found: ir.Expr = ir.Number(1.0)
    for factor in factors:
        found = (
            factor
            if found == ir.Number(1.0)
            else ir.Binary(ir.BinaryOperator.MULTIPLY, found, factor)
        )
    return found


def _shown(target: ir.Target) -> str:
    inside = ",".join(f"{x.space}{chr(39) * x.primes}" for x in target.indices)
    return f"{target.name}[{inside}]" if inside else target.name


def _unapplied(expr: ir.Expr | None, span: Span) -> SpecError:
    at = span if expr is None or not expr.span.text else expr.span
    return _refused(
        Code.E0261,
        "these entries cannot be applied without forming the matrix",
        at,
        "write sums and products of `identity[p,p']`, `C[p,p']` and `mean[n] v[n,p] * v[n,p'] * w[n]`",
    )


def _refused(code: Code, headline: str, span: Span, help_: str) -> SpecError:
    return SpecError(Diagnostic(code, headline, (Label(span),), (help_,)))
