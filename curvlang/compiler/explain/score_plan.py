"""A score before anything runs: its formula, the products over parameters that it needs, and what they cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from curvlang.compiler.explain.listing import count
from curvlang.compiler.explain.mathematics import Unicode, mathematics
from curvlang.ir import expr as ir
from curvlang.ir.indices import with_children
from curvlang.ir.score_lowering import score_program
from curvlang.ir.score_program import (
    EXAMPLE,
    PARAMETER,
    Assignment,
    ExampleSum,
    Formula,
    Matrix,
    Product,
    ScoreProgram,
    Solution,
    gradient_of,
    passes_of,
)
from curvlang.language.chain import ScoreFormula


@dataclass(frozen=True, slots=True)
class ScorePlan:
    """What scoring by a formula takes.

    Args:
        formula: The score.
        program: What it is computed by.
        lengths: How many values the indices take that are known: of queries, examples, parameters.
        refits: To how many models each fit of the curvature is, the one at the evaluated model left out.
    """

    formula: ScoreFormula
    program: ScoreProgram
    lengths: Mapping[str, int]
    refits: Sequence[int] = ()

    @property
    def passes(self) -> int:
        """How often the training examples are read for a turn of queries."""
        return 1 + len(passes_of(self.program))

    @property
    def flops(self) -> int:
        """Multiplications and additions of all products, those of solves aside."""
        return sum(map(self._flops, self.program.products))

    def _flops(self, one: Product) -> int:
        sizes = (self.lengths.get(x.space, 1) for x in one.indices)
        return 2 * prod(sizes) * self.lengths[PARAMETER]

    def lines(self) -> Iterator[str]:
        """As text."""
        formula, program = self.formula, self.program
        yield f"Score {formula.name}"
        if formula.doc:
            yield f"  {formula.doc}"
        result = Unicode().tensor("s", program.result)
        yield f"  {result} = {self._text(program.value)}"
        for one in program.assignments.values():
            if not isinstance(one, Product):
                yield f"    {self._defined(one)}"
        if program.products:
            yield "  products over the parameters, streamed"
        for product in program.products:
            yield f"    {self._name(product)}: {count(self._flops(product), 'FLOP')}"
        more = self.passes - 1
        before = f", {more} of them for sums over all training examples" if more else ""
        yield f"  {self.passes} pass{'es' if more else ''} over the training examples{before}"
        yield f"  {_rows(program)}"
        if self.refits:
            fits = f"{len(self.refits)} more fit{'s' if len(self.refits) > 1 else ''}"
            yield f"  {fits} of the curvature, at other models: {sum(self.refits)} × the passes below"

    def to_json(self) -> dict[str, object]:
        """The formula, its products, its passes and its operations, plain."""
        return {
            "name": self.formula.name,
            "formula": self._text(self.program.value),
            "products": [self._name(x) for x in self.program.products],
            "passes": self.passes,
            "flops": self.flops,
            "rows": not self.program.by_products,
            "refits": list(self.refits),
        }

    def _text(self, expr: ir.Expr) -> str:
        return mathematics(self._shown(expr), Unicode())

    def _shown(self, expr: ir.Expr) -> ir.Expr:
        """The expression with products and solved gradients as a reader writes them."""
        if isinstance(expr, ir.Ref):
            one = self.program.assignments.get(expr.name)
            own = gradient_of(expr)
            if isinstance(one, Product):
                return replace(expr, name=self._bracket(one))
            if own is not None:
                return replace(expr, name=f"{_solves(own[1])}{own[0]}")
            return replace(expr, name=expr.name.replace("over@", "m"))
        return with_children(expr, self._shown)

    def _bracket(self, one: Product) -> str:
        sides = [x for x in (one.left, one.right) if x is not None]
        texts = []
        for side in sides:
            own = gradient_of(side)
            texts.append(f"{_solves(own[1])}{own[0]}" if own else self._text(side))
        return f"⟨{', '.join(texts)}⟩"

    def _name(self, one: Product) -> str:
        return Unicode().tensor(self._bracket(one), one.indices)

    def _defined(self, one: Assignment) -> str:
        name = Unicode().tensor(one.name.replace("over@", "m"), one.indices)
        match one:
            case Formula(value=value):
                return f"{name} = {self._text(value)}"
            case ExampleSum(terms=terms, kind=kind, bound=bound):
                return f"{name} = {self._text(ir.Reduce(kind, bound, _sum(terms)))}"
            case Solution(rows=rows, function=call, carried=carried):
                matrix = "C⁻¹" if call is None else f"{self._text(call)} of C"
                through = " from the end, through every later checkpoint" if carried else ""
                return f"{name} = {matrix} applied to {self._text(rows)}{through}"
            case Matrix(call=call):
                return f"{name} = {self._text(call)}"
            case Product():
                return self._name(one)


def _sum(terms: Sequence[tuple[ir.Expr, ir.Expr]]) -> ir.Expr:
    found: ir.Expr | None = None
    one = ir.Number(1.0)
    for number, rows in terms:
        term = rows if number == one else number
        if number != one and rows != one:
            term = ir.Binary(ir.BinaryOperator.MULTIPLY, number, rows)
        found = term if found is None else ir.Binary(ir.BinaryOperator.ADD, found, term)
    assert found is not None
    return found


def _solves(times: int) -> str:
    return {0: "", 1: "C⁻¹"}.get(times, "C⁻¹" * times)


def _rows(program: ScoreProgram) -> str:
    if not any(x.space == EXAMPLE for p in program.products for x in p.indices):
        return "no gradient of a training example is needed"
    if program.by_products:
        return "no gradient over all parameters is formed of a training example where C⁻¹ is of blocks by layer"
    return "gradients over all parameters are formed of a chunk of training examples at a time"


def score_plan(
    formula: ScoreFormula, lengths: Mapping[str, int], refits: Sequence[int] = ()
) -> ScorePlan:
    """The plan of a score.

    Args:
        formula: The score.
        lengths: Of the spaces of queries, training examples and parameters.
        refits: To how many models each fit of the curvature is, the one at the evaluated model left out.
    """
    return ScorePlan(formula, score_program(formula.needs, formula.body), lengths, refits)
