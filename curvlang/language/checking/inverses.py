"""Inverses, checked: every name known, every formula elementwise, every argument in its limits."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import Diagnostic, Label, SpecError
from curvlang.diagnostics.source import NOWHERE, Span
from curvlang.diagnostics.suggestion import suggestion
from curvlang.ir import expr as ir
from curvlang.ir.functions import ELEMENTWISE, SPECTRUM
from curvlang.ir.indices import children
from curvlang.ir.places import is_places
from curvlang.language.bodies.entries import entries_of
from curvlang.language.bodies.values import value
from curvlang.language.chain import Entries, Inverse, InverseUse
from curvlang.language.checking.arguments import checked
from curvlang.language.registry import INVERSES, Parameter
from curvlang.language.registry.kind_words import in_words
from curvlang.language.registry.kinds import Real
from curvlang.language.syntax import nodes as s
from curvlang.language.syntax.problems import Problems

FACTORS = 2
"""Arguments of a function of the factors' eigenvalues."""
_CONDITIONS = ("less", "less_equal")


def typed(definition: s.InverseDef) -> Inverse:
    """The declaration as the rest reads it."""
    return Inverse(
        definition.name,
        tuple(x.name for x in definition.arguments),
        {x.name: x.value for x in definition.parameters},
        definition.body,
        definition.per_block,
        tuple((x.name, x.value) for x in definition.bindings if x.value is not None),
        entries(definition),
        definition.doc,
        definition.span,
    )


def entries(definition: s.InverseDef) -> Entries | None:
    """What an inverse states by its entries; None for a function of eigenvalues.

    Raises:
        SpecError: As `entries_of`.
    """
    if definition.arguments:
        return None
    parameters = [x.name for x in definition.parameters]
    return entries_of(definition.needs, definition.statements, parameters, definition.name_span)


def check_inverse(definition: s.InverseDef, problems: Problems) -> Inverse:
    """A declaration with its names and its formulas checked."""
    checker = InverseChecker(problems)
    try:
        entries(definition)
    except SpecError as error:
        problems += error.diagnostics
        definition = replace(definition, arguments=_ANY)
    checker.form(definition)
    arguments = tuple(x.name for x in definition.arguments)
    known = dict.fromkeys(arguments)
    for parameter in definition.parameters:
        if parameter.value is not None:
            checker.formula(parameter.value, known)
            checker.number(parameter.value, parameter.name, arguments)
        known[parameter.name] = None
    for binding in definition.bindings:
        if binding.value is not None:
            checker.formula(binding.value, known)
        known[binding.name] = None
    checker.formula(definition.body, known)
    return typed(definition)


_ANY = (s.Binding("s", None, NOWHERE),)
"""In place of the argument of a declaration that is wrong otherwise."""


def check_use(
    use: s.Use, known: Mapping[str, s.InverseDef], problems: Problems
) -> InverseUse | None:
    """An inverse with its arguments, as `with tikhonov(damping = 1e-3)` names it."""
    checker = InverseChecker(problems)
    definition = known.get(use.name)
    if definition is None:
        problems.unknown(Code.E0712, "inverse", use.name, use.name_span, known)
        return None
    try:
        inverse = typed(definition)
    except SpecError:
        # Said where it is declared; one of another file has been checked there.
        return None
    given: dict[str, ir.Expr] = {}
    for argument in use.arguments:
        if argument.name not in inverse.parameters:
            headline = f"`{use.name}` has no parameter `{argument.name}`"
            near = suggestion(argument.name, inverse.parameters)
            problems.say(Code.E0703, headline, argument.span, *(near or ("leave it out",)))
        elif argument.name in given:
            headline = f"`{argument.name}` is given twice"
            problems.say(Code.E0702, headline, argument.span, "leave one out")
        elif checker.within(argument) and not isinstance(argument.value, s.Text | s.ListValue):
            checker.formula(argument.value, inverse.arguments)
            checker.number(argument.value, argument.name, inverse.arguments)
            given[argument.name] = argument.value
    for name, default in inverse.parameters.items():
        if default is None and name not in given:
            headline = f"`{use.name}` needs a value for `{name}`"
            problems.say(Code.E0704, headline, use.span, f"write `{use.name}({name} = …)`")
    return InverseUse(inverse, given, use.span)


def shift(inverse: Inverse) -> ir.Expr | None:
    """λ where the inverse is `1 / (s + λ)`, which a linear solver can apply; None elsewhere."""
    match inverse.arguments, inverse.body:
        case (
            (argument,),
            ir.Binary(
                operator=ir.BinaryOperator.DIVIDE, left=ir.Number(value=1.0), right=denominator
            ),
        ):
            terms = _terms(denominator)
            rest = [x for x in terms if x != ir.Ref(argument)]
            moving = _moving(inverse)
            if len(rest) != len(terms) - 1 or any(_moves(x, moving) for x in rest):
                return None
            total: ir.Expr = ir.Number(0.0)
            for term in rest:
                total = ir.Binary(ir.BinaryOperator.ADD, total, term)
            return total
        case _:
            return None


def _terms(expr: ir.Expr) -> list[ir.Expr]:
    """The terms of a sum, from left to right."""
    match expr:
        case ir.Binary(operator=ir.BinaryOperator.ADD, left=left, right=right):
            return [*_terms(left), *_terms(right)]
        case _:
            return [expr]


def _moving(inverse: Inverse) -> set[str]:
    """The arguments, and the bindings that change with them."""
    found = set(inverse.arguments)
    for name, formula in inverse.bindings:
        if _moves(formula, found):
            found.add(name)
    return found


def _moves(expr: ir.Expr, moving: Collection[str]) -> bool:
    """Whether a formula names one of these outside a reduction over the spectrum."""
    match expr:
        case ir.Ref(name=name):
            return name in moving
        case ir.Call(function=function) if function in SPECTRUM:
            return False
        case _:
            return any(_moves(x, moving) for x in children(expr))


@dataclass(frozen=True, slots=True)
class InverseChecker:
    """What is wrong with a declaration of an inverse, or with a use of one."""

    problems: Problems

    def form(self, definition: s.InverseDef) -> None:
        """One or two arguments, and every name once."""
        arguments = definition.arguments
        if len(arguments) > FACTORS:
            self.problems.say(
                Code.E0732,
                "an inverse is a function of one eigenvalue, or of two factors' eigenvalues",
                arguments[FACTORS].span,
                "write `s -> …`, or `g, a -> …` for a Kronecker product G ⊗ A",
            )
        if len(arguments) == FACTORS and definition.per_block:
            self.problems.say(
                Code.E0732,
                "a function of the factors' eigenvalues is read per block anyway",
                definition.name_span,
                "leave `per block` out",
            )
        seen: dict[str, Span] = {}
        for binding in (*arguments, *definition.parameters, *definition.bindings):
            if binding.name in seen:
                headline = f"`{binding.name}` is named twice in the inverse `{definition.name}`"
                first, help_ = seen[binding.name], "give one of them another name"
                self.problems.twice(Code.E0732, headline, binding.span, first, help_)
            seen.setdefault(binding.name, binding.span)

    def formula(self, expr: ir.Expr, known: Collection[str]) -> None:
        """An elementwise formula in known names."""
        match expr:
            case ir.Ref(name=name, indices=()):
                if name not in known:
                    near = suggestion(name, tuple(sorted(known)))
                    self.problems.say(
                        Code.E0719, f"unknown name `{name}` in an inverse", expr.span, *near
                    )
            case ir.Call() if is_places(expr):
                self.problems.say(
                    Code.E0730,
                    "an inverse is a formula in eigenvalues, without indices",
                    expr.span,
                    "choose between values by `if x < y then … else …`",
                )
                return
            case ir.Ref() | ir.Delta() | ir.Size() | ir.Reduce():
                self.problems.say(
                    Code.E0730,
                    "an inverse is a formula in eigenvalues, without indices",
                    expr.span,
                    "reduce over the whole spectrum by `mean(s)`, `max(s)` or `min(s)`",
                )
                return
            case ir.Apply() | ir.Call(function="where"):
                self._count(expr)
            case ir.Call():
                self._call(expr)
            case ir.Number() | ir.Negate() | ir.Binary():
                pass
        for child in children(expr):
            # A condition stands in `if … then … else …` alone: its two sides are looked at here.
            condition = isinstance(child, ir.Call) and child.function in _CONDITIONS
            if condition and isinstance(expr, ir.Call) and expr.function == "where":
                for side in children(child):
                    self.formula(side, known)
            else:
                self.formula(child, known)

    def _call(self, call: ir.Call) -> None:
        if call.function not in SPECTRUM or call.indices:
            headline = f"unknown function `{call.function}` in an inverse"
            near = suggestion(call.function, (*ELEMENTWISE, *SPECTRUM))
            self.problems.say(Code.E0316, headline, call.span, *near)
        elif len(call.arguments) != 1:
            self._arity(call.function, "one number", call.span)

    def _count(self, node: ir.Apply | ir.Call) -> None:
        """`sqrt(x)`, `max(x, y)`; and `where` is written `if … then … else …`."""
        given = len(node.arguments)
        if isinstance(node, ir.Call):
            first = node.arguments[0] if node.arguments else None
            if given != 3 or not isinstance(first, ir.Call) or first.function not in _CONDITIONS:
                help_ = ("write `if x < y then … else …`",)
                self.problems.say(
                    Code.E0316, "`where` is not a function of the language", node.span, *help_
                )
        elif node.function in ("max", "min") and given != 2:
            self._arity(node.function, "one or two numbers", node.span)
        elif node.function not in ("max", "min") and given != 1:
            self._arity(node.function, "one number", node.span)

    def _arity(self, function: str, wanted: str, span: Span) -> None:
        help_ = (f"for example `{function}(s{', 1e-3' if 'two' in wanted else ''})`",)
        self.problems.say(Code.E0733, f"`{function}` takes {wanted}", span, *help_)

    def number(self, expr: ir.Expr, name: str, arguments: tuple[str, ...]) -> None:
        """A parameter is one number: eigenvalues stand in it inside reductions only."""
        if _moves(expr, arguments):
            first = arguments[0]
            self.problems.say(
                Code.E0731,
                f"`{name}` is one number, and there are many eigenvalues",
                expr.span,
                f"write `mean({first})`, `max({first})` or `min({first})`",
            )

    def within(self, argument: s.Argument) -> bool:
        """Whether what is known of a value without a spectrum lets it be a number in its limits."""
        parameter = INVERSES.get(argument.name, Parameter(Real()))
        formula = Problems()
        known = value(argument.value, {}, formula)
        if isinstance(argument.value, ir.Ref) and isinstance(known, str):
            return True
        if formula or known is None:
            must = in_words(parameter.kind).limits
            if not isinstance(argument.value, ir.Negate) or not must:
                return True
            headline = f"`{argument.span.text}` is out of range"
            label = Label(argument.span, f"must be {must}")
            help_ = (f"for example `{argument.name} = 0.1`",)
            self.problems.append(Diagnostic(Code.E0707, headline, (label,), help_))
            return False
        try:
            checked(argument.name, known, parameter, argument.span)
        except SpecError as error:
            self.problems.extend(error.diagnostics)
            return False
        return True
