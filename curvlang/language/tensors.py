"""Index spaces inside a transform: every tensor's letters, every free index, every function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import assert_never

from curvlang.diagnostics.diagnostic import Diagnostic, Label
from curvlang.diagnostics.source import Span
from curvlang.ir.expr import (
    Apply,
    Binary,
    BinaryOperator,
    Call,
    Define,
    Delta,
    Expr,
    Index,
    Negate,
    Number,
    Reduce,
    Ref,
    Size,
    Target,
    Yield,
)
from curvlang.ir.indices import free_indices, walk
from curvlang.language.functions import FUNCTIONS, MAKERS
from curvlang.language.values import suggestion

Scope = dict[str, tuple[str, ...]]
"""Name of each tensor to the letters of its spaces."""

MODEL_LETTERS: Mapping[str, str] = {
    "n": "training example",
    "t": "shared position",
    "i": "input feature",
    "o": "output feature",
    "r": "column of the loss-curvature factor",
    "c": "model output",
    "p": "parameter",
    "l": "layer",
}
MODEL_LEAVES: Scope = {"H": ("p", "p"), "J": ("n", "c", "p"), "L": ("n", "c", "c"), "C": ("p", "p")}
LAYER_LEAVES: Scope = {
    "a": ("n", "t", "i"),
    "e": ("n", "t", "o"),
    "C": ("o", "i", "o", "i"),
    "H": ("o", "i", "o", "i"),
}
COLUMNS: Scope = {"g": ("n", "r", "t", "o")}
MEANING: Mapping[str, str] = {
    "g": "per-layer Gauss–Newton columns",
    "a": "per-layer inputs",
    "e": "per-layer loss gradients",
    "J": "the model's Jacobian",
    "L": "the loss Hessian at the output",
    "H": "the Hessian",
}

ROWS = ((Index("o"), Index("i"), Index("o", 1), Index("i", 1)), (Index("p"), Index("p", 1)))
DEEPEST = 200
"""Nesting of an expression that is still read; deeper is a slip or an attack."""


def letters(target: Target) -> tuple[str, ...]:
    """The spaces of a target's indices."""
    return tuple(x.space for x in target.indices)


class TensorChecker:
    """Checks the statements of one transform in order, from the tensors that its `needs` names."""

    def __init__(self, needs: Sequence[Target], scalars: frozenset[str]) -> None:
        self.scope: Scope = {}
        self.scalars = set(scalars)
        self.parameters = scalars
        self.spaces: set[str] = set(MODEL_LETTERS)
        self.problems: list[Diagnostic] = []
        for target in needs:
            self._twice(target.indices, target.span)
            self.scope[target.name] = letters(target)
            self.spaces.update(letters(target))

    def define(self, statement: Define) -> None:
        """A definition: the right side's free indices are the left side's."""
        value = statement.value
        for target in statement.targets:
            self._twice(target.indices, target.span)
        if (
            isinstance(value, Call)
            and value.function in FUNCTIONS
            and FUNCTIONS[value.function].results
        ):
            self._function(statement, value)
        elif len(statement.targets) > 1:
            self._say(
                "E0301",
                "several names on the left need a function of several results",
                statement.span,
                "one tensor comes from the right",
                ("use one name, or `eigh(A)` or `svd(A)` on the right",),
            )
        else:
            self._sides(statement.targets[0], value)
        for target in statement.targets:
            self._bind(target)

    def yields(self, statement: Yield) -> None:
        """A yield: `C[o,i,o',i']`, or `C[p,p']` for the whole model."""
        target = statement.target
        if target.indices not in ROWS:
            self._say(
                "E0302",
                "a yield states the entries of the block",
                target.span,
                "rows, then the same columns with primes",
                ("write `yield C[o,i,o',i'] = …`, or `yield C[p,p'] = …` for the whole model",),
            )
        self._sides(target, statement.value)

    def _bind(self, target: Target) -> None:
        if target.name == "_":
            self.spaces.update(letters(target))
            return
        if target.indices:
            self.scope[target.name] = letters(target)
        else:
            self.scalars.add(target.name)
        self.spaces.update(letters(target))

    def _sides(self, target: Target, value: Expr) -> None:
        if not self._expression(value):
            return
        left, right = set(target.indices), set(free_indices(value))
        for index in sorted(right - left):
            place = _place(value, index)
            self._say(
                "E0303",
                f"the index `{index}` is free on the right and absent on the left",
                place,
                f"`{index}` is not summed",
                (
                    f"add `sum[{index}]` (or `mean[{index}]`) in front, or `{index}` to the left side",
                ),
            )
        for index in sorted(left - right):
            if index.space not in self.spaces:
                self._say(
                    "E0304",
                    f"the index `{index}` names no space",
                    target.span,
                    "nothing on the right has it",
                    suggestion(index.space, tuple(sorted(self.spaces))),
                )
                continue
            self._say(
                "E0304",
                f"the index `{index}` stands on the left and nowhere on the right",
                target.span,
                f"`{index}` has no meaning here",
                (f"use `{index}` on the right, or leave it out",),
            )

    def _function(self, statement: Define, call: Call) -> None:
        signature = FUNCTIONS[call.function]
        argument = self._tensor_argument(call)
        if argument is None:
            return
        numbers = len(call.arguments) - 1
        if numbers != signature.numbers:
            self._arity(call, 1 + signature.numbers)
            return
        if len(argument) != len(signature.argument):
            self._say(
                "E0306",
                f"`{call.function}` takes a matrix, and this has {len(argument)} indices",
                call.span,
                "not a matrix",
            )
            return
        bound = dict(zip(signature.argument, argument, strict=True))
        if len(set(zip(signature.argument, argument, strict=True))) != len(set(signature.argument)):
            self._say(
                "E0306",
                f"`{call.function}` takes a square matrix of one space, "
                f"and this is over `{','.join(argument)}`",
                call.span,
                "two different spaces",
            )
        if len(statement.targets) > len(signature.results):
            self._say(
                "E0301",
                f"`{call.function}` gives {len(signature.results)} tensors",
                statement.span,
                f"{len(statement.targets)} names for them",
            )
            return
        for target, result in zip(statement.targets, signature.results, strict=False):
            self._result(target, result, bound, call)

    def _result(self, target: Target, result: str, bound: dict[str, str], call: Call) -> None:
        if len(target.indices) != len(result):
            self._say(
                "E0305",
                f"this result of `{call.function}` has {len(result)} "
                f"ind{'ices' if len(result) > 1 else 'ex'}",
                target.span,
                f"`{target.name}` is written with {len(target.indices)}",
            )
            return
        for index, letter in zip(target.indices, result, strict=True):
            if letter not in bound:
                if index.space in MODEL_LETTERS or index.space in bound.values():
                    self._say(
                        "E0307",
                        f"`{call.function}` makes a new space here, and `{index.space}` is taken",
                        target.span,
                        f"`{index.space}`: {MODEL_LETTERS.get(index.space, 'the matrix itself')}",
                        ("use a letter of its own, such as `k`",),
                    )
                bound[letter] = index.space
            elif bound[letter] != index.space:
                self._say(
                    "E0305",
                    f"`{target.name}` has the space `{bound[letter]}` here, not `{index.space}`",
                    target.span,
                    f"expected `{bound[letter]}`",
                )

    def _tensor_argument(self, call: Call) -> tuple[str, ...] | None:
        match call.arguments:
            case (Ref(name=name, indices=()), *rest):
                for other in rest:
                    if free_indices(other) or any(
                        isinstance(x, Ref) and x.name not in self.scalars for x in walk(other)
                    ):
                        self._arity(call, 1 + FUNCTIONS[call.function].numbers)
                        return None
                if name in self.scope:
                    return self.scope[name]
                self._unknown(name, call.arguments[0].span)
                return None
            case _:
                self._say(
                    "E0308",
                    f"`{call.function}` takes a tensor as a whole",
                    call.span,
                    "an expression or an indexed tensor",
                    (f"give the tensor a name first, then write `{call.function}(A)`",),
                )
                return None

    def _arity(self, call: Call, wanted: int) -> None:
        self._say(
            "E0309",
            f"`{call.function}` takes {wanted} argument{'s' if wanted > 1 else ''}",
            call.span,
            f"{len(call.arguments)} given",
        )

    def _expression(self, expr: Expr) -> bool:
        """Check every node; whether all of it is meaningful."""
        before = len(self.problems)
        self._visit(expr)
        return len(self.problems) == before

    def _visit(self, expr: Expr) -> None:
        match expr:
            case Number():
                pass
            case Size(index=index):
                self._space(index, expr.span)
            case Ref():
                self._ref(expr)
            case Delta(left=left, right=right):
                for index in (left, right):
                    self._space(index, expr.span)
                if left.space != right.space:
                    self._say(
                        "E0305",
                        f"`identity` has both indices in one space, not `{left}` and `{right}`",
                        expr.span,
                        "two spaces",
                    )
            case Negate(operand=operand):
                self._visit(operand)
            case Binary():
                self._binary(expr)
            case Apply(function=function, arguments=arguments):
                wanted = 2 if function in ("max", "min") else 1
                if len(arguments) != wanted:
                    self._say(
                        "E0309",
                        f"`{function}` takes {wanted} argument{'s' if wanted > 1 else ''}",
                        expr.span,
                        f"{len(arguments)} given",
                    )
                for argument in arguments:
                    self._visit(argument)
            case Reduce(indices=indices, body=body):
                self._visit(body)
                self._twice(indices, expr.span)
                inside = free_indices(body)
                for index in indices:
                    if index not in inside:
                        self._say(
                            "E0315",
                            f"`{expr.kind}[{index}]` reduces over an index that nothing inside has",
                            expr.span,
                            f"no `{index}` in here",
                            _close_index(index, inside),
                        )
            case Call():
                self._call(expr)
            case _:
                assert_never(expr)

    def _call(self, call: Call) -> None:
        if call.function in MAKERS:
            if not call.indices:
                self._say(
                    "E0308",
                    f"`{call.function}` needs the indices of the tensor it makes",
                    call.span,
                    "no indices",
                    (f"write `{call.function}[k,i](0)`",),
                )
            return
        if call.function not in FUNCTIONS:
            known = (*FUNCTIONS, *MAKERS, "sqrt", "exp", "log", "abs", "max", "min", "sum", "mean")
            self._say(
                "E0316",
                f"unknown function `{call.function}`",
                call.span,
                "",
                suggestion(call.function, known),
            )
            return
        if FUNCTIONS[call.function].results:
            self._say(
                "E0308",
                f"`{call.function}` gives whole tensors and stands alone on the right",
                call.span,
                "inside an expression",
                (f"first `B[…] = {call.function}(A)`, then use `B`",),
            )
            return
        argument = self._tensor_argument(call)
        square = FUNCTIONS[call.function].argument == "xx"
        if argument is not None and square and (len(argument) != 2 or len(set(argument)) != 1):
            self._say("E0306", f"`{call.function}` takes a square matrix", call.span, "not one")

    def _ref(self, ref: Ref) -> None:
        if ref.name in self.scalars and not ref.indices:
            return
        if ref.name not in self.scope:
            self._unknown(ref.name, ref.span)
            return
        spaces = self.scope[ref.name]
        if len(spaces) != len(ref.indices):
            self._say(
                "E0305",
                f"`{ref.name}` has {len(spaces)} indices (`{','.join(spaces)}`), "
                f"not {len(ref.indices)}",
                ref.span,
                f"written with {len(ref.indices)}",
            )
            return
        for index, space in zip(ref.indices, spaces, strict=True):
            if index.space != space:
                self._say(
                    "E0305",
                    f"`{ref.name}` has the space `{space}` where `{index}` stands",
                    ref.span,
                    f"`{','.join(spaces)}` is how it was defined",
                    (f"write `{space}` there",),
                )

    def _binary(self, expr: Binary) -> None:
        self._visit(expr.left)
        self._visit(expr.right)
        left, right = set(free_indices(expr.left)), set(free_indices(expr.right))
        match expr.operator:
            case BinaryOperator.ADD | BinaryOperator.SUBTRACT:
                if not (left <= right or right <= left):
                    names = ", ".join(f"`{x}`" for x in sorted(left ^ right))
                    self._say(
                        "E0317",
                        f"the two sides of `{expr.operator}` have different indices: {names}",
                        expr.span,
                        "one side lacks them",
                        ("give both sides the same free indices",),
                    )
            case BinaryOperator.POWER:
                inside = {x.name for x in walk(expr.right) if isinstance(x, Ref)}
                if right or not inside <= self.parameters:
                    self._say(
                        "E0318",
                        "an exponent is a number",
                        expr.right.span,
                        "not a constant",
                        ("for the power of a matrix write `power(A, 1/2)`",),
                    )
            case BinaryOperator.MULTIPLY | BinaryOperator.DIVIDE:
                pass
            case _:
                assert_never(expr.operator)

    def _space(self, index: Index, span: Span) -> None:
        if index.space not in self.spaces:
            self._say(
                "E0304",
                f"the index `{index}` names no space",
                span,
                "",
                suggestion(index.space, tuple(sorted(self.spaces))),
            )

    def _unknown(self, name: str, span: Span) -> None:
        everything = {**MODEL_LEAVES, **LAYER_LEAVES, **COLUMNS}
        if name in everything:
            written = f"{name}[{','.join(everything[name])}]"
            help_: tuple[str, ...] = (f"add it to `needs`: `needs {written}`",)
        else:
            help_ = suggestion(name, (*self.scope, *self.scalars))
        self._say("E0319", f"unknown tensor `{name}`", span, "not in `needs`, not defined", help_)

    def _twice(self, indices: Sequence[Index], span: Span) -> None:
        for index in dict.fromkeys(x for x in indices if list(indices).count(x) > 1):
            self._say(
                "E0320",
                f"the index `{index}` stands twice",
                span,
                "",
                (f"write the second one with a prime: `{index}'`",),
            )

    def _say(
        self, code: str, headline: str, span: Span, label: str, help_: tuple[str, ...] = ()
    ) -> None:
        self.problems.append(Diagnostic(code, headline, (Label(span, label),), help_))


def _place(expr: Expr, index: Index) -> Span:
    """The first tensor that brings a free index in."""
    for node in walk(expr):
        if isinstance(node, Ref | Call) and index in node.indices:
            return node.span
        if isinstance(node, Delta) and index in (node.left, node.right):
            return node.span
    return expr.span


def _close_index(index: Index, inside: Sequence[Index]) -> tuple[str, ...]:
    free = ", ".join(f"`{x}`" for x in inside)
    return (f"free inside: {free}",) if free else ("leave the reduction out",)
