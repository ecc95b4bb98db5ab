"""Lark's tree to the syntax tree, every node with its place."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, isfinite
from typing import Any

from lark import Token, Tree

from curvlang.diagnostics.source import Source, Span
from curvlang.ir import expr as ir
from curvlang.ir.functions import ELEMENTWISE
from curvlang.language.syntax import nodes as s
from curvlang.language.syntax.build_law import build_law
from curvlang.language.syntax.build_places import PlaceBuilder, in_parts, index_of
from curvlang.language.syntax.build_study import build_study

Node = Tree[Token] | Token
_Body = tuple[
    str,
    tuple[s.ParameterSyntax, ...],
    tuple[ir.Target, ...],
    tuple[s.BodySyntax, ...],
    str,
    Span,
    Span,
]
"""The name, parameters, needs, statements, text and places of a transform or a score."""


class Builder:
    """Builds the syntax tree of one source."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.places = PlaceBuilder()

    def build(self, tree: Tree[Token]) -> s.File:
        """The file."""
        return s.File(tuple(self.item(x) for x in tree.children if isinstance(x, Tree)))

    def span(self, node: Node) -> Span:
        """Where a node stands."""
        if isinstance(node, Token):
            start = node.start_pos or 0
            return Span(self.source, start, start + len(node))
        if node.meta.empty:
            return Span(self.source, 0, 0)
        return Span(self.source, node.meta.start_pos, node.meta.end_pos)

    def item(self, tree: Tree[Token]) -> s.Item:
        """One top-level item."""
        made: s.Item = getattr(self, f"_{tree.data}")(tree)
        return made

    def _use(self, tree: Tree[Token]) -> s.UseFile:
        return s.UseFile(_unquote(tree.children[0]), self.span(tree))

    def _law(self, tree: Tree[Token]) -> s.LawDef:
        return build_law(tree, self)

    def _study(self, tree: Tree[Token]) -> s.StudyDef:
        return build_study(tree, self)

    def _curvature(self, tree: Tree[Token]) -> s.CurvatureDef:
        name, *rest = tree.children
        doc = _doc(rest)
        (body,) = [x for x in rest if isinstance(x, Tree)]
        return s.CurvatureDef(
            str(name), self._combination(body), doc, self.span(tree), self.span(name)
        )

    def _combination(self, tree: Tree[Token]) -> s.CombinationSyntax:
        terms: list[s.WeightedChain] = []
        sign = 1.0
        for child in tree.children:
            if isinstance(child, Tree):
                terms.append(self._weighted(child, sign))
                sign = 1.0
            elif child is not None:
                sign = -1.0
        return s.CombinationSyntax(tuple(terms), self.span(tree))

    def _weighted(self, tree: Tree[Token], sign: float) -> s.WeightedChain:
        *scales, chain = [x for x in tree.children if isinstance(x, Tree)]
        weight, names = sign, []
        for scale in scales:
            first, *below = [str(x) for x in scale.children]
            match scale.data:
                case "name_scale":
                    names.append(s.Word(first, self.span(scale)))
                case "ratio_scale":
                    divisor = float(below[0])
                    weight *= float(first) / divisor if divisor else inf
                case _:
                    weight *= float(first)
        # One value for all that is not a number: two readings of one text are equal.
        whole = weight if isfinite(weight) else inf
        return s.WeightedChain(whole, self._chain(chain), tuple(names), self.span(tree))

    def _chain(self, tree: Tree[Token]) -> s.ChainSyntax:
        source, *stages = [x for x in tree.children if isinstance(x, Tree)]
        first: s.Use | s.CombinationSyntax
        if source.data == "named_source":
            token = source.children[0]
            first = s.Use(str(token), (), self.span(token), self.span(token))
        else:
            inner = source.children[0]
            assert isinstance(inner, Tree)
            first = self._combination(inner)
        return s.ChainSyntax(first, tuple(self.use(x) for x in stages), self.span(tree))

    def use(self, tree: Tree[Token]) -> s.Use:
        """`name(arguments)`."""
        name, *rest = tree.children
        arguments = self.arguments(rest[0]) if rest and isinstance(rest[0], Tree) else ()
        return s.Use(str(name), arguments, self.span(tree), self.span(name))

    def arguments(self, tree: Tree[Token]) -> tuple[s.Argument, ...]:
        """Named arguments in brackets."""
        return tuple(self.argument(x) for x in tree.children if isinstance(x, Tree))

    def argument(self, tree: Tree[Token]) -> s.Argument:
        """`name = value`; a text before a part's arguments has the name ``."""
        if tree.data == "path":
            text = s.Text(_unquote(tree.children[0]), self.span(tree))
            return s.Argument("", text, self.span(tree))
        name, value = tree.children
        return s.Argument(str(name), self.value(value), self.span(tree))

    def value(self, node: Any) -> s.ValueSyntax:
        """A value: a list, a text, or an expression."""
        if isinstance(node, Tree):
            match node.data:
                case "list":
                    items = tuple(self.value(x) for x in node.children if x is not None)
                    return s.ListValue(items, None, self.span(node))
                case "repeated":
                    inner, times = node.children
                    made = self.value(inner)
                    assert isinstance(made, s.ListValue)
                    return s.ListValue(made.items, self.expr(times), self.span(node))
                case "text":
                    return s.Text(_unquote(node.children[0]), self.span(node))
                case _:
                    pass
        return self.expr(node)

    def _transform(self, tree: Tree[Token]) -> s.TransformDef:
        return s.TransformDef(*self._body(tree))

    def _score(self, tree: Tree[Token]) -> s.ScoreDef:
        return s.ScoreDef(*self._body(tree))

    def _body(self, tree: Tree[Token]) -> _Body:
        """What a transform and a score are made of."""
        name, *rest = tree.children
        parameters: tuple[s.ParameterSyntax, ...] = ()
        needs: tuple[ir.Target, ...] = ()
        body: list[s.BodySyntax] = []
        self.places = PlaceBuilder()
        for child in rest:
            if not isinstance(child, Tree):
                continue
            match child.data:
                case "parameters":
                    parameters = tuple(
                        self._parameter(x) for x in child.children if isinstance(x, Tree)
                    )
                    self.places = PlaceBuilder(frozenset(p.name for p in parameters))
                case "needs":
                    needs = tuple(self.target(x) for x in child.children)
                case _:
                    body += self.statements(child)
        return (
            str(name),
            parameters,
            needs,
            tuple(body),
            _doc(rest),
            self.span(tree),
            self.span(name),
        )

    def _parameter(self, tree: Tree[Token]) -> s.ParameterSyntax:
        # Without a default the tree has no third child: the rule of values is inlined.
        name, kind, *default = tree.children
        assert isinstance(kind, Tree)
        words = tuple(str(x) for x in kind.children)
        plain = kind.data == "plain_type"
        value = self.value(default[0]) if default else None
        return s.ParameterSyntax(
            str(name), words[0] if plain else "word", () if plain else words, value, self.span(tree)
        )

    def statements(self, tree: Tree[Token]) -> tuple[s.BodySyntax, ...]:
        """The spaces of a split, or one statement."""
        if tree.data == "split":
            return self.places.split(tree, self.expr, self.span(tree))
        return (self.statement(tree),)

    def _block(self, children: Sequence[Any]) -> tuple[s.BodySyntax, ...]:
        """The statements between two braces."""
        return tuple(y for x in children if isinstance(x, Tree) for y in self.statements(x))

    def statement(self, tree: Tree[Token]) -> s.BodySyntax:
        """A definition, a yield, a choice, or a repetition."""
        match tree.data:
            case "define":
                *targets, value = tree.children
                made = tuple(self.target(x) for x in targets)
                whole = self.places.joined(targets, self.expr(value))
                return ir.Define(made, whole, self.span(tree))
            case "yield_":
                target, value = tree.children
                whole = self.places.joined([target], self.expr(value))
                return ir.Yield(self.target(target), whole, self.span(tree))
            case "space":
                letter, length = tree.children
                return ir.Space(str(letter), self.expr(length), self.span(tree))
            case "project":
                old, new, name, indices = tree.children
                assert isinstance(indices, Tree)
                assert isinstance(name, Token)
                start, end = self.span(name).start, self.span(indices).end
                basis = ir.Ref(str(name), self.indices(indices), Span(self.source, start, end))
                return ir.Project(str(old), str(new), basis, self.span(tree))
            case "repeat":
                count, *inside = tree.children
                return s.Repeat(self.expr(count), self._block(inside), self.span(tree))
            case _:
                return self._when(tree)

    def _when(self, tree: Tree[Token]) -> s.When:
        name, word, *blocks = tree.children
        then, other = (self._block(b.children) if isinstance(b, Tree) else () for b in blocks)
        return s.When(str(name), str(word), then, other, self.span(tree))

    def target(self, tree: Any) -> ir.Target:
        """A name with its indices."""
        name, indices = tree.children
        return ir.Target(str(name), self.indices(indices), self.span(tree))

    def indices(self, tree: Any) -> tuple[ir.Index, ...]:
        """Letters with their primes; an index for each group of parts."""
        return () if tree is None else self.places.indices(tree.children)[0]

    def _inverse(self, tree: Tree[Token]) -> s.InverseDef:
        name, *rest = tree.children
        found = {x.data: x for x in rest if isinstance(x, Tree)}
        if "eigenvalues" not in found:
            return self._inverse_by_entries(tree)
        parts = ("inverse_parameters", "eigenvalues", "bindings")
        parameters, arguments, bindings = (self._bindings(found.get(x)) for x in parts)
        (body,) = [x for x in rest if isinstance(x, Tree) and x.data not in (*parts, "per_block")]
        return s.InverseDef(
            str(name),
            parameters,
            arguments,
            self.expr(body),
            bindings,
            "per_block" in found,
            self.span(tree),
            self.span(name),
        )

    def _inverse_by_entries(self, tree: Tree[Token]) -> s.InverseDef:
        name, *rest = tree.children
        parameters: tuple[s.Binding, ...] = ()
        needs: tuple[ir.Target, ...] = ()
        self.places = PlaceBuilder()
        statements: list[s.BodySyntax] = []
        for child in rest:
            match child:
                case Tree(data="inverse_parameters"):
                    parameters = self._bindings(child)
                case Tree(data="needs"):
                    needs = tuple(self.target(x) for x in child.children)
                case Tree():
                    statements += self.statements(child)
                case _:
                    pass
        return s.InverseDef(
            str(name),
            parameters,
            (),
            ir.Number(0.0),
            needs=needs,
            statements=tuple(statements),
            doc=_doc(rest),
            span=self.span(tree),
            name_span=self.span(name),
        )

    def _bindings(self, tree: Tree[Token] | None) -> tuple[s.Binding, ...]:
        """Names with their values; a bare name has none."""
        if tree is None:
            return ()
        found = []
        for child in tree.children:
            if isinstance(child, Tree):
                name, value = child.children
                made = None if value is None else self.expr(value)
                found.append(s.Binding(str(name), made, self.span(child)))
            elif child is not None:
                found.append(s.Binding(str(child), None, self.span(child)))
        return tuple(found)

    def _task(self, tree: Tree[Token]) -> s.TaskDef:
        name, *rest = tree.children
        parameters: tuple[s.Argument, ...] = ()
        parts: list[tuple[str, s.Use]] = []
        for child in rest:
            if isinstance(child, Tree) and child.data == "arguments":
                parameters = self.arguments(child)
            elif isinstance(child, Tree):
                parts.append((str(child.children[0]), self._part(child)))
        return s.TaskDef(
            str(name), parameters, tuple(parts), _doc(rest), self.span(tree), self.span(name)
        )

    def _part(self, tree: Tree[Token]) -> s.Use:
        _, name, *rest = tree.children
        arguments = self.arguments(rest[0]) if rest and isinstance(rest[0], Tree) else ()
        return s.Use(str(name), arguments, self.span(tree), self.span(name))

    def _evaluate(self, tree: Tree[Token]) -> s.EvaluateDef:
        scored, name, inverse, task, *measures = tree.children
        against: ir.Target | None = None
        influence: tuple[str, str] | None = None
        lds: tuple[s.Argument, ...] | None = None
        solve: s.Use | None = None
        first: dict[str, Span] = {}
        repeated: list[s.RepeatedLine] = []
        for child in measures:
            if not isinstance(child, Tree):
                continue
            word, place = child.data.removesuffix("_measure"), self.span(child)
            if word in first:
                repeated.append(s.RepeatedLine(word, first[word], place))
            first.setdefault(word, place)
            match child.data:
                case "error_measure":
                    token = child.children[0]
                    against = ir.Target(str(token), (), self.span(token))
                case "influence_measure":
                    influence = (str(child.children[0]), str(child.children[1]))
                case "solve_measure":
                    inner = child.children[0]
                    assert isinstance(inner, Tree)
                    solve = self.use(inner)
                case _:
                    lds = self.arguments(child)
        return s.EvaluateDef(
            str(name),
            self.use(inverse) if isinstance(inverse, Tree) else None,
            self.use(task) if isinstance(task, Tree) else None,
            against,
            influence,
            lds,
            solve,
            self._scored(scored),
            tuple(repeated),
            self.span(tree),
            self.span(name),
        )

    def _scored(self, tree: Node | None) -> s.Use | None:
        """The score in front of `of`."""
        if not isinstance(tree, Tree):
            return None
        (named,) = (x for x in tree.children if isinstance(x, Tree))
        return self.use(named)

    def expr(self, node: Any) -> ir.Expr:
        """An expression."""
        assert isinstance(node, Tree)
        span = self.span(node)
        kids = node.children
        match node.data:
            case "number":
                return ir.Number(float(str(kids[0])), span)
            case "reference":
                return self._reference(node)
            case "grouped":
                return self._grouped(node)
            case "bracketed":
                return self.expr(kids[0])
            case "where":
                return self.places.where(node, span)
            case "negate":
                return ir.Negate(self.expr(kids[-1]), span)
            case "add" | "multiply" | "divide" | "raise_" | "subtract":
                operator = _OPERATORS[node.data]
                return ir.Binary(operator, self.expr(kids[0]), self.expr(kids[-1]), span)
            case "reduction":
                kind = ir.ReductionKind(str(kids[0]))
                return ir.Reduce(kind, self.indices(kids[1]), self.expr(kids[2]), span)
            case "call_reduce":
                return ir.Call(str(kids[0]), (self.expr(kids[1]),), (), span)
            case "call":
                return self._call(node)
            case "conditional":
                return self._conditional(node)
            case _:
                raise AssertionError(f"no expression `{node.data}`")

    def _grouped(self, node: Tree[Token]) -> ir.Ref:
        """`Y[o,i | k]`: a tensor read as a matrix."""
        name, matrix = node.children
        assert isinstance(matrix, Tree)
        flat: list[Any] = [
            y for x in matrix.children for y in (x.children if isinstance(x, Tree) else [x])
        ]
        written = tuple(map(index_of, (x for x in flat if x != "|")))
        return ir.Ref(str(name), written, self.span(node), flat.index("|"))

    def _reference(self, node: Tree[Token]) -> ir.Expr:
        name, *places = node.children
        written = places[0].children if places and isinstance(places[0], Tree) else ()
        indices, groups = self.places.indices(written)
        span = self.span(node)
        made: ir.Expr = ir.Ref(str(name), indices, span)
        if name == "identity" and len(indices) == 2:
            made = ir.Delta(indices[0], indices[1], span)
        if name == "size" and len(indices) == 1:
            made = ir.Size(indices[0], span)
        return in_parts(made, groups, span)

    def _call(self, node: Tree[Token]) -> ir.Expr:
        name = str(node.children[0])
        rest = [x for x in node.children[1:] if x is not None]
        indices: tuple[ir.Index, ...] = ()
        groups: tuple[ir.Call, ...] = ()
        if rest and isinstance(rest[0], Tree) and rest[0].data == "places":
            indices, groups = self.places.indices(rest[0].children)
            rest = rest[1:]
        arguments = tuple(self.expr(x) for x in rest)
        span = self.span(node)
        if name in ELEMENTWISE and not (name in ("max", "min") and len(arguments) == 1):
            return ir.Apply(name, arguments, span)
        return in_parts(ir.Call(name, arguments, indices, span), groups, span)

    def _conditional(self, node: Tree[Token]) -> ir.Expr:
        comparison, yes, no = node.children
        assert isinstance(comparison, Tree)
        left, sign, right = comparison.children
        x, y = self.expr(left), self.expr(right)
        if str(sign).startswith(">"):
            x, y = y, x
        function = "less_equal" if str(sign).endswith("=") else "less"
        condition = ir.Call(function, (x, y), (), self.span(comparison))
        return ir.Call("where", (condition, self.expr(yes), self.expr(no)), (), self.span(node))


_OPERATORS = {
    "add": ir.BinaryOperator.ADD,
    "subtract": ir.BinaryOperator.SUBTRACT,
    "multiply": ir.BinaryOperator.MULTIPLY,
    "divide": ir.BinaryOperator.DIVIDE,
    "raise_": ir.BinaryOperator.POWER,
}


def _unquote(token: Any) -> str:
    return str(token)[1:-1]


def _doc(children: Any) -> str:
    for child in children:
        if isinstance(child, Token) and child.type == "STRING":
            return _unquote(child)
    return ""
