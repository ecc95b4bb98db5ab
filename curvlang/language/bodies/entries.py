"""Inverses by their entries: a formula in gradients of examples becomes products that are applied, never formed.

In: `needs v[n,p]`, definitions, and `yield K[p,p'] = …`. Out: K as a sum of chains. Each chain is a number
times a product of matrices: the curvature itself, Gram matrices of the examples' gradients with a weight for each
example, diagonals, and outer products of rows that all examples give.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import Diagnostic, Label, SpecError
from curvlang.diagnostics.source import Span
from curvlang.ir import expr as ir
from curvlang.ir.functions import ELEMENTWISE
from curvlang.ir.indices import alike, free_indices, names, rename, substitute, walk, with_children
from curvlang.language.chain import Entries, EntryChain, Gram, Matrix, Rows, Statistic

N, P, P2 = ir.Index("n"), ir.Index("p"), ir.Index("p", 1)
GIVEN = {"v": (N, P), "C": (P, P2)}
"""What an inverse by its entries may read: gradients of the examples' losses, and the curvature."""
MOST_TERMS = 200
"""Products of a formula; those on paper have a few."""
_BOUND = 5_000
_ROUNDING = 1e-12


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
            case ir.Size(index=index) if index.space not in (N.space, P.space):
                raise _refused(
                    Code.E0260,
                    f"an inverse has no `size[{index.space}]`",
                    node.span,
                    "it has `size[n]`, the training examples, and `size[p]`, the parameters of the block",
                )
            case _:
                pass


@dataclass(frozen=True, slots=True)
class _Term:
    """`Π factors`, reduced over bound indices."""

    factors: tuple[ir.Expr, ...] = ()
    bound: tuple[tuple[ir.ReductionKind, ir.Index], ...] = ()


@dataclass(frozen=True, slots=True)
class _Link:
    """A matrix between two indices over the parameters; the identity has no node."""

    ends: tuple[ir.Index, ir.Index]
    node: Gram | Matrix | None


@dataclass(slots=True)
class _Reader:
    """Takes a formula apart.

    Args:
        statistics: Reductions over all examples that stand in it as numbers, or as one for each parameter.
    """

    statistics: dict[ir.Expr, str] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=lambda: count(_BOUND))

    def read(self, formula: ir.Expr, span: Span) -> Entries:
        """All of it."""
        given = self._with_statistics(formula)
        chains = tuple(_Walk(self, term, span).chain() for term in self._terms(given, span))
        _check_symmetric(chains, span)
        found = tuple(Statistic(name, made) for made, name in self.statistics.items())
        return Entries(chains, found)

    def _with_statistics(self, expr: ir.Expr) -> ir.Expr:
        """Numbers and rows that all examples give, `mean[n] v[n,p]`, by names of their own."""
        match expr:
            case ir.Reduce(indices=bound) if N.space in {x.space for x in bound} and (
                len(free_indices(expr)) <= 1
            ):
                return self.statistic(replace(expr, body=self._with_statistics(expr.body)))
            case _:
                return with_children(expr, self._with_statistics)

    def statistic(self, value: ir.Expr) -> ir.Ref:
        """A number, or one for each parameter, that all examples give: by a name of its own."""
        free, form = alike(value)
        form = rename(form, dict(zip(free_indices(form), (P,), strict=False)))
        return ir.Ref(self.statistics.setdefault(form, f"·{len(self.statistics)}"), free)

    def _terms(self, expr: ir.Expr, span: Span) -> list[_Term]:
        """The products that a formula is the sum of; a number for each example, or for each parameter, is one factor."""
        free = free_indices(expr)
        if "C" not in names(expr):
            if not free and "v" in names(expr):
                raise _unapplied(expr, span)
            if _is_row(expr) or not any(x.space == P.space for x in free):
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
            case ir.Binary(operator=ir.BinaryOperator.DIVIDE, left=left, right=right) if _is_row(
                right
            ) or not ("C" in names(right) or P.space in {x.space for x in free_indices(right)}):
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


def _is_row(expr: ir.Expr) -> bool:
    """Whether an expression has a number for each parameter, and reads no example's own gradient and no matrix."""
    return [x.space for x in free_indices(expr)] == [P.space] and not names(expr) & set(GIVEN)


@dataclass(slots=True)
class _Walk:
    """Goes through a product from K's row to its column, matrix after matrix.

    Where the way ends at a row of numbers, `sum[p''] C[p,p''] * m[p'']`, what is left begins with another
    one: an outer product stands there.
    """

    reader: _Reader
    term: _Term
    span: Span
    left: list[ir.Expr] = field(init=False)
    bound: dict[ir.Index, ir.ReductionKind] = field(init=False)
    links: list[_Link] = field(init=False)

    def chain(self) -> EntryChain:
        """The product as a number times matrices.

        Raises:
            SpecError: E0261 where a factor is none of them.
        """
        self.left = list(self.term.factors)
        self.bound = {index: kind for kind, index in self.term.bound}
        self.links = [x for x in map(self._link, list(self.left)) if x is not None]
        nodes: list[Gram | Matrix | Rows] = []
        at = P
        while True:
            row = self._row(at)
            link = next((x for x in self.links if at in x.ends), None)
            if link is None and at == P2:
                nodes += [] if row is None else [Rows(row)]
                break
            if link is None:
                at = self._other_start()
                other = self._row(at)
                if row is None or other is None:
                    raise _unapplied(None, self.span)
                nodes.append(Rows(row, other))
                link = next((x for x in self.links if at in x.ends), None)
                if link is None:
                    break
            elif row is not None:
                nodes.append(Rows(row))
            self.links.remove(link)
            at = link.ends[link.ends[0] == at]
            if at != P2 and self.bound.pop(at, None) is not ir.ReductionKind.SUM:
                raise _unapplied(None, self.span)
            nodes += [] if link.node is None else [link.node]
        return EntryChain(self._coefficient(), tuple(nodes))

    def _row(self, at: ir.Index) -> ir.Expr | None:
        """The numbers that stand at an index, multiplied."""
        own = [x for x in self.left if free_indices(x) == (at,)]
        self.left = [x for x in self.left if x not in own]
        return rename(_product(own), {at: P}) if own else None

    def _other_start(self) -> ir.Index:
        """Where the rest of a product begins behind a way that has ended."""
        open_ends = [x for link in self.links for x in link.ends if x in self.bound]
        ends = [x for x in dict.fromkeys(open_ends) if open_ends.count(x) == 1]
        if not ends:
            return P2
        if self.bound.pop(ends[0]) is not ir.ReductionKind.SUM:
            raise _unapplied(None, self.span)
        return ends[0]

    def _link(self, factor: ir.Expr) -> _Link | None:
        """What is a matrix; the two gradients of an example and what stands between them are one."""
        if factor not in self.left:
            return None
        match factor:
            case ir.Delta(left=x, right=y):
                self.left.remove(factor)
                return _Link((x, y), None)
            case ir.Ref(name="C", indices=(x, y)):
                if x == y:
                    raise _unapplied(factor, self.span)
                self.left.remove(factor)
                return _Link((x, y), Matrix("C"))
            case ir.Ref(name="v", indices=(n, p)):
                self.left.remove(factor)
                return self._gram(n, p)
            case _:
                return None

    def _gram(self, n: ir.Index, p: ir.Index) -> _Link | None:
        """A Gram matrix of the gradients; of a gradient that stands alone its mean, which is a row."""
        kind = self.bound.pop(n, None)
        partner = next(
            (x for x in self.left if isinstance(x, ir.Ref) and x.name == "v" and x.indices[0] == n),
            None,
        )
        if partner is not None:
            self.left.remove(partner)
        weights = [x for x in self.left if n in free_indices(x)]
        if kind is None or any(free_indices(x) != (n,) for x in weights):
            raise _unapplied(weights[0] if weights else ir.Ref("v", (n, P)), self.span)
        self.left = [x for x in self.left if x not in weights]
        if partner is None:
            own = ir.Reduce(kind, (N,), rename(_product([*weights, ir.Ref("v", (n, p))]), {n: N}))
            self.left.append(self.reader.statistic(own))
            return None
        return _Link(
            (p, partner.indices[1]), Gram(_weight(weights, n), kind is ir.ReductionKind.MEAN)
        )

    def _coefficient(self) -> ir.Expr:
        """The number in front: what is left, each part of it reduced by itself."""
        found: list[ir.Expr] = []
        for index, kind in self.bound.items():
            own = [x for x in self.left if free_indices(x) == (index,)]
            if kind is ir.ReductionKind.SUM and not own:
                raise _unapplied(None, self.span)
            self.left = [x for x in self.left if x not in own]
            if not own:
                continue
            made = ir.Reduce(kind, (index,), _product(own))
            found.append(self.reader.statistic(made) if index.space == N.space else made)
        for factor in self.left:
            if free_indices(factor):
                raise _unapplied(factor, self.span)
        if self.links:
            raise _unapplied(None, self.span)
        return _product([*found, *self.left])


def _weight(weights: Sequence[ir.Expr], n: ir.Index) -> ir.Expr:
    """The weight of an example, alike for all that mean the same."""
    made = rename(_product(weights), {n: N})
    free, form = alike(made)
    return rename(form, dict(zip(free_indices(form), free, strict=True)))


def _check_symmetric(chains: Sequence[EntryChain], span: Span) -> None:
    """Every product stands there with its matrices in reverse order too; equal ones are added up."""
    found: defaultdict[object, float] = defaultdict(float)
    for chain in chains:
        number, others = _factors(chain.coefficient)
        mirrored = tuple(map(_transposed, chain.nodes[::-1]))
        found[others, chain.nodes] += number
        found[others, mirrored] -= number
    if any(abs(x) > _ROUNDING for x in found.values()):
        raise _refused(
            Code.E0262,
            "this matrix is not symmetric, as the inverse of a curvature is",
            span,
            "add the product in reverse order, and take half of both",
        )


def _factors(expr: ir.Expr) -> tuple[float, frozenset[tuple[ir.Expr, int]]]:
    """A number and what it multiplies, in any order."""
    number, others, left = 1.0, Counter[ir.Expr](), [expr]
    while left:
        match left.pop():
            case ir.Number(value=value):
                number *= value
            case ir.Binary(operator=ir.BinaryOperator.MULTIPLY, left=x, right=y):
                left += (x, y)
            case ir.Binary(operator=ir.BinaryOperator.DIVIDE, left=x, right=ir.Number(value=value)):
                number /= value
                left.append(x)
            case other:
                others[other] += 1
    return number, frozenset(others.items())


def _transposed(node: Gram | Matrix | Rows) -> Gram | Matrix | Rows:
    if isinstance(node, Rows) and node.right is not None:
        return Rows(node.right, node.left)
    return node


def _times(factor: ir.Expr, term: _Term) -> _Term:
    return _Term((factor, *term.factors), term.bound)


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
        "write sums and products of `identity[p,p']`, `C[p,p']`, `mean[n] v[n,p] * v[n,p'] * w[n]`, and rows such as "
        "`m[p] = mean[n] v[n,p]`: `m[p] * m[p']`, `identity[p,p'] / m[p]`",
    )


def _refused(code: Code, headline: str, span: Span, help_: str) -> SpecError:
    return SpecError(Diagnostic(code, headline, (Label(span),), (help_,)))
