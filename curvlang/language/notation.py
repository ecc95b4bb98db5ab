"""Expressions as a person writes them: the language's own notation, for explain and messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

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
    Space,
    Statement,
    Yield,
)

_STRENGTH = {
    BinaryOperator.ADD: 1,
    BinaryOperator.SUBTRACT: 1,
    BinaryOperator.MULTIPLY: 2,
    BinaryOperator.DIVIDE: 2,
    BinaryOperator.POWER: 4,
}


def statement(node: Statement) -> str:
    """`A[i,i'] = mean[n,t] a[n,t,i] * a[n,t,i']`."""
    match node:
        case Define(targets=targets, value=value):
            left = ", ".join(f"{t.name}{indices(t.indices)}" for t in targets)
            return f"{left} = {expression(value)}"
        case Space(letter=letter, length=length):
            return f"space {letter} = {expression(length)}"
        case Yield(target=target, value=value):
            return f"{target.name}{indices(target.indices)} = {expression(value)}"
        case _:
            assert_never(node)


def indices(given: Sequence[Index]) -> str:
    """`[o,i,o',i']`, or nothing for a scalar."""
    return f"[{','.join(map(str, given))}]" if given else ""


def expression(expr: Expr, outer: int = 0) -> str:
    """The expression with as few parentheses as the grammar allows."""
    match expr:
        case Number(value=value):
            return _wrap(_number(value), value < 0 and outer > 1)
        case Ref(name=name, indices=own, cut=cut) if cut:
            rows, columns = (",".join(map(str, part)) for part in (own[:cut], own[cut:]))
            return f"{name}[{rows} | {columns}]"
        case Ref(name=name, indices=own):
            return f"{name}{indices(own)}"
        case Delta(left=left, right=right):
            return f"identity[{left},{right}]"
        case Size(index=index):
            return f"size[{index}]"
        case Negate(operand=operand):
            return _wrap(f"-{expression(operand, 2)}", outer > 1)
        case Binary(operator=operator, left=left, right=right):
            strength = _STRENGTH[operator]
            glue = "^" if operator is BinaryOperator.POWER else f" {operator} "
            # `x + (y - z)` keeps its parentheses: both sides of every sign stand as they were.
            nested = isinstance(right, Binary) and _STRENGTH[right.operator] == strength
            tight = operator in (BinaryOperator.SUBTRACT, BinaryOperator.DIVIDE) or nested
            # What stands to the right of an open reduction would be reduced with it.
            closed = strength == 4 or (strength == 2 and _open(left))
            first = expression(left, strength + closed)
            text = f"{first}{glue}{expression(right, strength + (tight or strength == 4))}"
            return _wrap(text, strength < outer)
        case Reduce(kind=kind, indices=bound, body=body):
            return _wrap(f"{kind}{indices(bound)} {expression(body, 2)}", outer > 2)
        case Apply(function=function, arguments=arguments):
            return f"{function}({', '.join(map(expression, arguments))})"
        case Call(function=function, arguments=arguments, indices=own):
            return f"{function}{indices(own)}({', '.join(map(expression, arguments))})"
        case _:
            assert_never(expr)


def _number(value: float) -> str:
    """The shortest text that reads as this number."""
    return repr(value).removesuffix(".0")


def _open(expr: Expr) -> bool:
    """Whether the text of an expression ends inside a reduction."""
    match expr:
        case Reduce():
            return True
        case Binary(operator=BinaryOperator.MULTIPLY | BinaryOperator.DIVIDE, right=right):
            return _open(right)
        case _:
            return False


def _wrap(text: str, needed: bool) -> str:
    return f"({text})" if needed else text
