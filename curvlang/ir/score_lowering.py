"""Statements of a score to its program: sums over parameters become products of a part for each kind of example."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from curvlang.ir import expr as ir
from curvlang.ir.indices import free_indices, names, rename, substitute, with_children
from curvlang.ir.row_terms import over, product_of, row_terms, sum_of
from curvlang.ir.score_program import (
    APPLY,
    CARRY,
    CONTEXTS,
    EXAMPLE,
    PARAMETER,
    QUERY,
    SOLVE,
    SOLVED,
    Assignment,
    ExampleSum,
    Formula,
    Matrix,
    Product,
    ScoreProgram,
    Solution,
    contexts,
    gradient_of,
)


class NotScoredError(Exception):
    """Raised where a formula needs more than a score may hold.

    Args:
        kind: `parameters` (a number for several examples and every parameter), `examples` (one for every two
            training examples), `matrix` (one for every two parameters), or `solve` (of something else than rows).
        expr: What needs it.
        indices: The indices that it has.
    """

    def __init__(self, kind: str, expr: ir.Expr, indices: Iterable[ir.Index] = ()) -> None:
        super().__init__(kind)
        self.kind = kind
        self.expr = expr
        self.indices = tuple(indices)


def score_program(needs: Sequence[ir.Target], statements: Sequence[ir.Statement]) -> ScoreProgram:
    """The program of a checked score.

    Args:
        needs: Its leaves.
        statements: Its definitions, and its yield.

    Raises:
        NotScoredError: Where it needs more than a score may hold.
        TooManyTermsError: Where a sum over the parameters has too many products.
    """
    lowering = _Lowering({x.name: x.indices for x in needs})
    spaces = tuple(x for x in statements if isinstance(x, ir.Space))
    result: ScoreProgram | None = None
    for statement in statements:
        match statement:
            case ir.Define():
                lowering.define(statement)
            case ir.Yield(target=target, value=value):
                found = lowering.number(value)
                kept = _needed(found, lowering.made)
                result = ScoreProgram(lowering.leaves, spaces, kept, target.indices, found)
            case ir.Space():
                pass
    assert result is not None
    return result


def _needed(value: ir.Expr, made: Mapping[str, Assignment]) -> dict[str, Assignment]:
    """The assignments that a value rests on, in their order."""
    wanted = set(names(value))
    for name in reversed(tuple(made)):
        if name in wanted:
            wanted |= {x for expr in made[name].reads for x in names(expr)}
    return {name: x for name, x in made.items() if name in wanted}


class _Lowering:
    """Statements read so far: rows stand for their expressions, numbers for assignments."""

    def __init__(self, leaves: Mapping[str, tuple[ir.Index, ...]]) -> None:
        self.leaves = leaves
        self.rows: dict[str, tuple[tuple[ir.Index, ...], ir.Expr]] = {}
        self.versions: dict[str, str] = {}
        self.made: dict[str, Assignment] = {}
        self._known: dict[object, str] = {}

    def define(self, statement: ir.Define) -> None:
        """Take a definition in."""
        value = statement.value
        if isinstance(value, ir.Call) and value.function == SOLVE:
            self._solve(statement.targets[0], value)
        elif isinstance(value, ir.Call) and value.function in (APPLY, CARRY):
            self._apply(statement.targets[0], value)
        elif isinstance(value, ir.Call) and not value.indices:
            call = replace(value, arguments=tuple(map(self._renamed, value.arguments)))
            for position, target in enumerate(statement.targets):
                if target.name != "_":
                    name = self._own(target)
                    self.made[name] = Matrix(name, target.indices, call, position, statement.span)
        elif any(x.space == PARAMETER for x in statement.targets[0].indices):
            (target,) = statement.targets
            self.rows[target.name] = target.indices, self.collected(self._inlined(value))
        else:
            (target,) = statement.targets
            found = self.number(value)
            name = self._own(target)
            self.made[name] = Formula(name, target.indices, found, statement.span)

    def _own(self, target: ir.Target) -> str:
        """A name for what is defined here: one that is defined again is another."""
        self.rows.pop(target.name, None)
        name, count = target.name, 1
        while name in self.made or name in self.leaves:
            count += 1
            name = f"{target.name}#{count}"
        self.versions[target.name] = name
        return name

    def _renamed(self, expr: ir.Expr) -> ir.Expr:
        """The expression with names as they are meant at this place."""
        if isinstance(expr, ir.Ref) and expr.name not in self.rows:
            return replace(expr, name=self.versions.get(expr.name, expr.name))
        return with_children(expr, self._renamed)

    def _inlined(self, expr: ir.Expr) -> ir.Expr:
        """The expression with rows written out."""
        return substitute(self._renamed(expr), self.rows)

    def number(self, value: ir.Expr) -> ir.Expr:
        """An expression without parameters: every sum over them becomes a product."""
        return self.collected(self._inlined(value))

    def collected(self, expr: ir.Expr) -> ir.Expr:
        """The expression with sums over parameters and over examples as assignments of their own."""
        if not isinstance(expr, ir.Reduce):
            return with_children(expr, self.collected)
        over_parameters = tuple(x for x in expr.indices if x.space == PARAMETER)
        over_examples = tuple(x for x in expr.indices if x.space in (QUERY, EXAMPLE))
        rest = tuple(x for x in expr.indices if x not in (*over_parameters, *over_examples))
        body = expr.body
        if rest and (over_parameters or over_examples):
            # One kind of index at a time: the parameters innermost, then examples, then all others.
            inner = replace(expr, indices=(*over_parameters, *over_examples))
            return self._reduced(expr, rest, self.collected(inner))
        if over_parameters and over_examples:
            inner = replace(expr, indices=over_parameters)
            return self._collect(replace(expr, indices=over_examples), self.collected(inner))
        if over_parameters:
            return self._products(expr, body)
        if over_examples:
            return self._collect(expr, self.collected(body))
        return replace(expr, body=self.collected(body))

    def _reduced(self, expr: ir.Reduce, indices: tuple[ir.Index, ...], body: ir.Expr) -> ir.Expr:
        return replace(expr, indices=indices, body=body)

    def _products(self, expr: ir.Reduce, body: ir.Expr) -> ir.Expr:
        """A sum over parameters as numbers times products."""
        indices = expr.indices
        found = []
        for term in row_terms(body, indices, self.collected):
            factors = [self.collected(x) for x in term.factors]
            parts = list(term.numbers)
            for index in indices:
                own = [x for x in factors if over(x, (index,))]
                for x in own:
                    crossed = [y for y in free_indices(x) if y.space == PARAMETER]
                    if len(crossed) > 1:
                        raise NotScoredError("matrix", x, crossed)
                if own:
                    parts.append(self._product(expr, index, own))
                elif expr.kind is ir.ReductionKind.SUM:
                    parts.append(ir.Size(index))
                if own and expr.kind is ir.ReductionKind.MEAN:
                    size = ir.Size(index)
                    parts.append(
                        ir.Binary(ir.BinaryOperator.DIVIDE, ir.Number(1.0), size, expr.span)
                    )
            found.append(product_of(parts))
        return sum_of(found, expr.span)

    def _product(self, expr: ir.Reduce, index: ir.Index, factors: Sequence[ir.Expr]) -> ir.Expr:
        """One product: its factors gathered by the examples that they are of."""
        groups: dict[tuple[ir.Index, ...], list[ir.Expr]] = {}
        for factor in factors:
            groups.setdefault(_examples(factor), []).append(factor)
        alone = groups.pop((), [])
        for key, own in groups.items():
            if len(key) > 1:
                raise NotScoredError("parameters", own[0], (*key, index))
        if len(groups) > 2:
            kinds = tuple(x for key in groups for x in key)
            raise NotScoredError(
                "parameters", replace(expr, body=product_of(factors)), (*kinds, index)
            )
        keys = sorted(groups, key=lambda key: (key[0].space != QUERY, key))
        sides = [groups[key] for key in keys]
        if alone:
            sides = [[*sides[0], *alone], *sides[1:]] if sides else [alone]
        left, right = sides[0], sides[1] if len(sides) > 1 else []
        if not right and len(left) > 1:
            left, right = left[:1], left[1:]
        self._check_pairs(expr, keys)
        moved = self._asking(left, right) if len(keys) == 2 else None
        if moved is not None:
            left, right = moved[0], [moved[1]]
        if len(left) == len(right) == 1:
            left, right = _solves_first(left, right)
        return self._named(expr, index, product_of(left), product_of(right) if right else None)

    def _check_pairs(self, expr: ir.Reduce, keys: Sequence[tuple[ir.Index, ...]]) -> None:
        if len(keys) == 2 and all(key[0].space == EXAMPLE for key in keys):
            raise NotScoredError("examples", expr, (keys[0][0], keys[1][0]))

    def _named(
        self, expr: ir.Reduce, index: ir.Index, left: ir.Expr, right: ir.Expr | None
    ) -> ir.Expr:
        """A reference to a product; the same product has one name."""
        both = left if right is None else ir.Binary(ir.BinaryOperator.MULTIPLY, left, right)
        indices = _in_order(x for x in free_indices(both) if x != index)
        formal = {x: ir.Index(x.space, k) for x, k in _numbered(indices)}
        plain = rename(both, {**formal, index: ir.Index(PARAMETER)})
        key = ("product", right is None, plain)
        if key not in self._known:
            name = f"product{SOLVED}{len(self._known)}"
            own = tuple(formal[x] for x in indices)
            mapping = {**formal, index: ir.Index(PARAMETER)}
            self.made[name] = Product(
                name,
                own,
                rename(left, mapping),
                None if right is None else rename(right, mapping),
                ir.Index(PARAMETER),
                expr.span,
            )
            self._known[key] = name
        return ir.Ref(self._known[key], indices, expr.span)

    def _collect(self, expr: ir.Reduce, body: ir.Expr) -> ir.Expr:
        """A sum over examples as an assignment of its own."""
        parameters = tuple(x for x in free_indices(body) if x.space == PARAMETER)
        if len(parameters) > 1:
            raise NotScoredError("matrix", expr, parameters)
        terms: list[tuple[ir.Expr, ir.Expr]] = []
        for term in row_terms(body, parameters, lambda x: x):
            rows = product_of(term.factors)
            if len(_examples(rows)) > 1:
                raise NotScoredError("parameters", rows, (*_examples(rows), *parameters))
            terms.append((product_of(term.numbers), rows))
        indices = _in_order(x for x in free_indices(body) if x not in expr.indices)
        if sum(x.space == EXAMPLE for x in (*indices, *expr.indices)) > 1:
            raise NotScoredError("examples", expr, (*expr.indices, *indices))
        name = f"over{SOLVED}{len(self.made)}"
        self.made[name] = ExampleSum(
            name, indices, expr.kind, expr.indices, tuple(terms), expr.span
        )
        return ir.Ref(name, indices, expr.span)

    def _solve(self, target: ir.Target, call: ir.Call) -> None:
        """`z[n,p] = solve(v)`: gradients times numbers stay what they are, solved once more."""
        (given,) = call.arguments
        assert isinstance(given, ir.Ref)
        rows = self.collected(self._inlined(replace(given, indices=target.indices)))
        (index,) = (x for x in target.indices if x.space == PARAMETER)
        found = []
        for term in row_terms(rows, (index,), lambda x: x):
            (factor,) = term.factors if len(term.factors) == 1 else (None,)
            own = None if factor is None else gradient_of(factor)
            if own is None or not isinstance(factor, ir.Ref):
                break
            leaf, solves = own
            moved = replace(factor, name=f"{leaf}{SOLVED}{solves + 1}")
            found.append(product_of((*term.numbers, moved)))
        else:
            self.rows[target.name] = target.indices, sum_of(found, call.span)
            return
        if len(_examples(rows)) > 1:
            raise NotScoredError("parameters", rows, (*_examples(rows), index))
        name = self._own(target)
        at = _contexts(target.indices)
        self.made[name] = Solution(name, target.indices, rows, at, span=call.span)

    def _apply(self, target: ir.Target, call: ir.Call) -> None:
        """`z[h,n,p] = apply(flowed(time[h]), v)`: a function of the spectrum, applied to rows."""
        function, given = call.arguments
        assert isinstance(function, ir.Call)
        assert isinstance(given, ir.Ref)
        carried = call.function == CARRY
        own = tuple(x for x in target.indices if not (carried and x.space == "h"))
        rows = self.collected(self._inlined(replace(given, indices=own)))
        numbers = replace(function, arguments=tuple(map(self.number, function.arguments)))
        if len(_examples(rows)) > 1:
            raise NotScoredError("parameters", rows, (*_examples(rows), ir.Index(PARAMETER)))
        name, at = self._own(target), _contexts(target.indices)
        self.made[name] = Solution(name, target.indices, rows, at, numbers, carried, call.span)

    def _asking(
        self, left: list[ir.Expr], right: list[ir.Expr]
    ) -> tuple[list[ir.Expr], ir.Expr] | None:
        """A function of the spectrum on rows of training examples, applied to those of the queries instead.

        f(C) is symmetric: w · f(C)v is f(C)w · v, and then no gradient of a training example is formed.
        """
        (factor,) = right if len(right) == 1 else (None,)
        one = self.made.get(factor.name) if isinstance(factor, ir.Ref) else None
        if not isinstance(one, Solution) or one.function is None or one.carried:
            return None
        assert isinstance(factor, ir.Ref)
        names = dict(zip(one.indices, factor.indices, strict=True))
        rows = rename(one.rows, names)
        queries = product_of(left)
        if gradient_of(rows) is None or not any(x.space == QUERY for x in free_indices(queries)):
            return None
        function = replace(
            one.function, arguments=tuple(rename(x, names) for x in one.function.arguments)
        )
        at = tuple(names[x] for x in one.at)
        indices = _in_order(dict.fromkeys((*free_indices(queries), *at)))
        name = f"asked{SOLVED}{len(self.made)}"
        self.made[name] = Solution(name, indices, queries, at, function, span=one.span)
        return [ir.Ref(name, indices, one.span)], rows


def _solves_first(left: list[ir.Expr], right: list[ir.Expr]) -> tuple[list[ir.Expr], list[ir.Expr]]:
    """Two gradients with all solves on the first one: C⁻¹ is symmetric, so that u·C⁻¹v is C⁻¹u·v."""
    own, other = gradient_of(left[0]), gradient_of(right[0])
    if own is None or other is None or contexts(left[0]) != contexts(right[0]):
        return left, right
    first, second = left[0], right[0]
    assert isinstance(first, ir.Ref)
    assert isinstance(second, ir.Ref)
    solves = own[1] + other[1]
    moved = own[0] if not solves else f"{own[0]}{SOLVED}{solves}"
    return [replace(first, name=moved)], [replace(second, name=other[0])]


def _examples(expr: ir.Expr) -> tuple[ir.Index, ...]:
    """The indices of rows besides the parameters and the models that they are taken at."""
    return tuple(x for x in free_indices(expr) if x.space != PARAMETER and x.space not in CONTEXTS)


def _contexts(indices: Sequence[ir.Index]) -> tuple[ir.Index, ...]:
    return tuple(x for x in indices if x.space in CONTEXTS)


def _in_order(indices: Iterable[ir.Index]) -> tuple[ir.Index, ...]:
    """Models and checkpoints first, then queries, then all others."""
    return tuple(sorted(indices, key=lambda x: (x.space not in CONTEXTS, x.space != QUERY, x)))


def _numbered(indices: Sequence[ir.Index]) -> Iterator[tuple[ir.Index, int]]:
    """Each index with its number among those of its space."""
    seen: dict[str, int] = {}
    for index in indices:
        yield index, seen.get(index.space, 0)
        seen[index.space] = seen.get(index.space, 0) + 1
