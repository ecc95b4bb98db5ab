"""Expressions inside a transform: every tensor's spaces, every function's arguments."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import assert_never

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import Label
from curvlang.diagnostics.source import Span
from curvlang.diagnostics.suggestion import suggestion
from curvlang.ir import expr as ir
from curvlang.ir import places
from curvlang.ir.functions import ELEMENTWISE, FUNCTIONS, MAKERS, TensorFunction
from curvlang.ir.indices import FreeIndices, walk
from curvlang.language.bodies.letters import (
    COLUMNS,
    LAYER_LEAVES,
    MODEL_LEAVES,
    MODEL_LETTERS,
    Scope,
    letters,
)
from curvlang.language.bodies.places import check_places
from curvlang.language.syntax.problems import Problems

MOST_SUGGESTED = 50
"""Mistakes of one transform for which the nearest name is looked up."""


class ExpressionChecker:
    """What is known inside a transform so far, and the rules of expressions that read it.

    Args:
        needs: The tensors that are given.
        scalars: Names of numbers.
    """

    examples: tuple[str, ...] = ("n",)
    """Letters of indices that run over examples."""

    def __init__(self, needs: Sequence[ir.Target], scalars: frozenset[str]) -> None:
        self.scope: Scope = {}
        self.scalars = set(scalars)
        self.parameters = scalars
        self.spaces: set[str] = set(MODEL_LETTERS)
        self.problems = Problems()
        self.free = FreeIndices()
        self.splits: dict[tuple[str, ...], str] = {}
        self.written: dict[str, tuple[ir.Index, ...]] = {}
        for target in needs:
            self._twice(target.indices, target.span)
            self.scope[target.name] = letters(target)
            self.written[target.name] = target.indices
            self.spaces.update(letters(target))

    def _expression(self, expr: ir.Expr) -> bool:
        """Check every node; whether all of it is meaningful."""
        before = len(self.problems)
        self._visit(expr)
        return len(self.problems) == before

    def _visit(self, expr: ir.Expr) -> None:
        match expr:
            case ir.Number():
                pass
            case ir.Size(index=index):
                self._space(index, expr.span)
            case ir.Ref():
                self._ref(expr)
            case ir.Delta(left=left, right=right):
                for index in (left, right):
                    self._space(index, expr.span)
                if left.space != right.space:
                    self.problems.say(
                        Code.E0305,
                        f"`identity` has both indices in one space, not `{left}` and `{right}`",
                        Label(expr.span, "two spaces"),
                    )
            case ir.Negate(operand=operand):
                self._visit(operand)
            case ir.Binary():
                self._binary(expr)
            case ir.Apply(function=function, arguments=arguments):
                wanted = 2 if function in ("max", "min") else 1
                if len(arguments) != wanted:
                    self.problems.say(
                        Code.E0309,
                        f"`{function}` takes {wanted} argument{'s' if wanted > 1 else ''}",
                        Label(expr.span, f"{len(arguments)} given"),
                    )
                for argument in arguments:
                    self._visit(argument)
            case ir.Reduce(indices=indices, body=body):
                self._visit(body)
                self._twice(indices, expr.span)
                inside = self.free(body)
                for index in indices:
                    if index not in inside:
                        self.problems.say(
                            Code.E0315,
                            f"`{expr.kind}[{index}]` reduces over an index that nothing inside has",
                            Label(expr.span, f"no `{index}` in here"),
                            *_close_index(index, inside),
                        )
            case ir.Call():
                self._call(expr)
            case _:
                assert_never(expr)

    def _call(self, call: ir.Call) -> None:
        if places.is_places(call):
            found = check_places(call, self.splits, self.parameters, self.examples)
            self.problems += found
            for index in () if found else call.indices:
                self._space(index, call.span)
            return
        if call.function in MAKERS:
            if not call.indices:
                self.problems.say(
                    Code.E0308,
                    f"`{call.function}` needs the indices of the tensor it makes",
                    Label(call.span, "no indices"),
                    f"write `{call.function}[k,i](0)`",
                )
            for index in call.indices:
                self._space(index, call.span)
            self._twice(call.indices, call.span)
            self._seed(call)
            return
        if call.function not in FUNCTIONS:
            known = (*FUNCTIONS, *MAKERS, *ELEMENTWISE, "sum", "mean")
            self.problems.unknown(Code.E0316, "function", call.function, call.span, known)
            return
        if FUNCTIONS[call.function].results:
            self.problems.say(
                Code.E0308,
                f"`{call.function}` gives whole tensors and stands alone on the right",
                Label(call.span, "inside an expression"),
                f"first `B[…] = {call.function}(A)`, then use `B`",
            )
            return
        self._matrix(call, FUNCTIONS[call.function])

    def _matrix(self, call: ir.Call, function: TensorFunction) -> dict[str, tuple[str, ...]] | None:
        """The spaces of the rows and of the columns of a function's argument."""
        argument = self._tensor_argument(call)
        if argument is None:
            return None
        numbers = len(call.arguments) - 1
        if numbers != function.numbers:
            self._arity(call, 1 + function.numbers)
            return None
        (tensor, *_) = call.arguments
        assert isinstance(tensor, ir.Ref)
        cut = tensor.cut or 1
        if not tensor.cut and len(argument) != 2 and function.argument != "*":
            written = ",".join(map(str, self.written.get(tensor.name, ())))
            self.problems.say(
                Code.E0306,
                f"`{call.function}` takes a matrix, and this has {len(argument)} indices",
                Label(call.span, "not a matrix"),
                *(
                    (
                        f"say which indices are rows, as in `{tensor.name}[{written}]` with a `|` inside",
                    )
                    if len(argument) > 2
                    else ()
                ),
            )
            return None
        rows, columns = argument[:cut], argument[cut:]
        if function.argument == "xx" and rows != columns:
            self.problems.say(
                Code.E0306,
                f"`{call.function}` takes a square matrix of one space, "
                f"and this is over `{','.join(rows)}` and `{','.join(columns)}`",
                Label(call.span, "rows and columns differ"),
            )
            return None
        return {"x": rows, "y": columns}

    def _tensor_argument(self, call: ir.Call) -> tuple[str, ...] | None:
        """The spaces of a function's tensor, in the order it is read in."""
        match call.arguments:
            case (ir.Ref(name=name, indices=indices, cut=cut), *rest) if cut or not indices:
                for other in rest:
                    if self.free(other) or any(
                        isinstance(x, ir.Ref) and x.name not in self.scalars for x in walk(other)
                    ):
                        self._arity(call, 1 + FUNCTIONS[call.function].numbers)
                        return None
                if name not in self.scope:
                    self._unknown(name, call.arguments[0].span)
                    return None
                if not cut:
                    return self.scope[name]
                return self._grouped(name, indices, call.arguments[0].span)
            case _:
                self.problems.say(
                    Code.E0308,
                    f"`{call.function}` takes a tensor as a whole",
                    Label(call.span, "an expression or an indexed tensor"),
                    f"give the tensor a name first, then write `{call.function}(A)`, or "
                    f"`{call.function}(A[o,i | k])` to say which indices are rows",
                )
                return None

    def _grouped(
        self, name: str, indices: tuple[ir.Index, ...], span: Span
    ) -> tuple[str, ...] | None:
        """`Y[o,i | k]` names each index of `Y` once, in any order."""
        written = self.written[name]
        if sorted(indices) == sorted(written):
            return tuple(x.space for x in indices)
        shown = ",".join(map(str, written))
        self.problems.say(
            Code.E0327,
            f"`{name}` is read as a matrix by its own indices `{shown}`, each of them once",
            Label(span, "other indices"),
            f"put a `|` between the rows and the columns of `{name}[{shown}]`",
        )
        return None

    def _arity(self, call: ir.Call, wanted: int) -> None:
        self.problems.say(
            Code.E0309,
            f"`{call.function}` takes {wanted} argument{'s' if wanted > 1 else ''}",
            Label(call.span, f"{len(call.arguments)} given"),
        )

    def _seed(self, call: ir.Call) -> None:
        if len(call.arguments) != 1:
            self._arity(call, 1)
            return
        for node in walk(call.arguments[0]):
            if not isinstance(node, ir.Number | ir.Binary | ir.Negate) and not (
                isinstance(node, ir.Ref) and node.name in self.parameters and not node.indices
            ):
                self.problems.say(
                    Code.E0309,
                    f"the seed of `{call.function}` is a number or a parameter",
                    Label(node.span, "not a number"),
                )
                return

    def _ref(self, ref: ir.Ref) -> None:
        if ref.cut:
            self.problems.say(
                Code.E0328,
                "`|` splits a tensor into rows and columns only as a function's argument",
                Label(ref.span, "an entry has plain indices"),
                "write commas, or give it to a function as in `orthonormal(Y[o,i | k])`",
            )
            return
        if ref.name in self.scalars and not ref.indices:
            return
        if ref.name not in self.scope:
            self._unknown(ref.name, ref.span)
            return
        spaces = self.scope[ref.name]
        if len(spaces) != len(ref.indices):
            self.problems.say(
                Code.E0305,
                f"`{ref.name}` has {len(spaces)} indices (`{','.join(spaces)}`), "
                f"not {len(ref.indices)}",
                Label(ref.span, f"written with {len(ref.indices)}"),
            )
            return
        for index, space in zip(ref.indices, spaces, strict=True):
            if index.space not in (space, places.UNDECLARED):
                self.problems.say(
                    Code.E0305,
                    f"`{ref.name}` has the space `{space}` where `{index}` stands",
                    Label(ref.span, f"`{','.join(spaces)}` is how it was defined"),
                    _meant(space, index),
                )

    def _binary(self, expr: ir.Binary) -> None:
        self._visit(expr.left)
        self._visit(expr.right)
        left, right = set(self.free(expr.left)), set(self.free(expr.right))
        match expr.operator:
            case ir.BinaryOperator.ADD | ir.BinaryOperator.SUBTRACT:
                if not (left <= right or right <= left):
                    names = ", ".join(f"`{x}`" for x in sorted(left ^ right))
                    self.problems.say(
                        Code.E0317,
                        f"the two sides of `{expr.operator}` have different indices: {names}",
                        Label(expr.span, "one side lacks them"),
                        "give both sides the same free indices",
                    )
            case ir.BinaryOperator.POWER:
                inside = {x.name for x in walk(expr.right) if isinstance(x, ir.Ref)}
                if right or not inside <= self.parameters:
                    self.problems.say(
                        Code.E0318,
                        "an exponent is a number",
                        Label(expr.right.span, "not a constant"),
                        "for the power of a matrix write `power(A, 1/2)`",
                    )
            case ir.BinaryOperator.MULTIPLY | ir.BinaryOperator.DIVIDE:
                pass
            case _:
                assert_never(expr.operator)

    def _space(self, index: ir.Index, span: Span) -> None:
        if index.space not in self.spaces:
            self.problems.say(
                Code.E0304,
                f"the index `{index}` belongs to no index space",
                span,
                *suggestion(index.space, tuple(sorted(self.spaces))),
                f"or declare it: `space {index.space} = 16`",
            )

    def _unknown(self, name: str, span: Span) -> None:
        everything = {**MODEL_LEAVES, **LAYER_LEAVES, **COLUMNS}
        if name in everything:
            written = f"{name}[{','.join(everything[name])}]"
            help_: tuple[str, ...] = (f"add it to `needs`: `needs {written}`",)
        elif name in _IDENTITIES:
            help_ = ("the identity is `identity[o,o']`, 1 where both indices are equal",)
        else:
            # A text with that many mistakes is helped by none of them.
            few = len(self.problems) < MOST_SUGGESTED
            help_ = suggestion(name, (*self.scope, *self.scalars)) if few else ()
        self.problems.say(
            Code.E0319,
            f"unknown tensor `{name}`",
            Label(span, "not in `needs`, not defined"),
            *help_,
        )

    def _twice(self, indices: Sequence[ir.Index], span: Span) -> None:
        for index in (x for x, count in Counter(indices).items() if count > 1):
            self.problems.say(
                Code.E0320,
                f"the index `{index}` stands twice",
                span,
                f"write the second one with a prime: `{index}'`",
            )


_IDENTITIES = ("eye", "delta", "I", "Id")
"""What other languages and papers call the identity."""


def _close_index(index: ir.Index, inside: Sequence[ir.Index]) -> tuple[str, ...]:
    free = ", ".join(f"`{x}`" for x in inside)
    return (f"free inside: {free}",) if free else ("leave the reduction out",)


def _meant(space: str, index: ir.Index) -> str:
    """The index that a tensor takes; further ones of its space have primes, not letters of their own."""
    primes = "'" * index.primes
    second = "" if primes else f", or `{space}'` for a second index of that space"
    return f"write `{space}{primes}` there{second}"
