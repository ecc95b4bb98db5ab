"""Expressions as a person writes them: the language's own notation, for explain and messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

from curvlang.ir import expr as ir
from curvlang.ir.places import condition, is_places

_STRENGTH = {
    ir.BinaryOperator.ADD: 1,
    ir.BinaryOperator.SUBTRACT: 1,
    ir.BinaryOperator.MULTIPLY: 2,
    ir.BinaryOperator.DIVIDE: 2,
    ir.BinaryOperator.POWER: 4,
}


def statement(node: ir.Statement) -> str:
    """`A[i,i'] = mean[n,t] a[n,t,i] * a[n,t,i']`."""
    match node:
        case ir.Define(targets=targets, value=value):
            left = ", ".join(f"{t.name}{indices(t.indices)}" for t in targets)
            return f"{left} = {expression(value)}"
        case ir.Space(letter=letter, length=length):
            return f"space {letter} = {expression(length)}{_split(node)}"
        case ir.Yield(target=target, value=value):
            return f"{target.name}{indices(target.indices)} = {expression(value)}"
        case _:
            assert_never(node)


def _split(space: ir.Space) -> str:
    """What the last part of a split says of its index."""
    if not space.parts:
        return ""
    old, *parts = space.parts
    return f" of {old} = ({','.join(parts)})"


def indices(given: Sequence[ir.Index]) -> str:
    """`[o,i,o',i']`, or nothing for a scalar."""
    return f"[{','.join(map(str, given))}]" if given else ""


def expression(expr: ir.Expr, outer: int = 0) -> str:
    """The expression with as few parentheses as the grammar allows."""
    match expr:
        case ir.Number(value=value):
            return _wrap(_number(value), value < 0 and outer > 1)
        case ir.Ref(name=name, indices=own, cut=cut) if cut:
            rows, columns = (",".join(map(str, part)) for part in (own[:cut], own[cut:]))
            return f"{name}[{rows} | {columns}]"
        case ir.Ref(name=name, indices=own):
            return f"{name}{indices(own)}"
        case ir.Delta(left=left, right=right):
            return f"identity[{left},{right}]"
        case ir.Size(index=index):
            return f"size[{index}]"
        case ir.Negate(operand=operand):
            return _wrap(f"-{expression(operand, 2)}", outer > 1)
        case ir.Binary(operator=operator, left=left, right=right):
            strength = _STRENGTH[operator]
            glue = "^" if operator is ir.BinaryOperator.POWER else f" {operator} "
            # `x + (y - z)` keeps its parentheses: both sides of every sign stand as they were.
            nested = isinstance(right, ir.Binary) and _STRENGTH[right.operator] == strength
            tight = operator in (ir.BinaryOperator.SUBTRACT, ir.BinaryOperator.DIVIDE) or nested
            # What stands to the right of an open reduction would be reduced with it.
            closed = strength == 4 or (strength == 2 and _open(left))
            first = expression(left, strength + closed)
            text = f"{first}{glue}{expression(right, strength + (tight or strength == 4))}"
            return _wrap(text, strength < outer)
        case ir.Reduce(kind=kind, indices=bound, body=body):
            return _wrap(f"{kind}{indices(bound)} {expression(body, 2)}", outer > 2)
        case ir.Apply(function=function, arguments=arguments):
            return f"{function}({', '.join(map(expression, arguments))})"
        case ir.Call() if is_places(expr):
            return f"where({condition(expr, str, expression)})"
        case ir.Call(function=function, arguments=arguments, indices=own):
            return f"{function}{indices(own)}({', '.join(map(expression, arguments))})"
        case _:
            assert_never(expr)


def _number(value: float) -> str:
    """The shortest text that reads as this number."""
    return repr(value).removesuffix(".0")


def _open(expr: ir.Expr) -> bool:
    """Whether the text of an expression ends inside a reduction."""
    match expr:
        case ir.Reduce():
            return True
        case ir.Binary(operator=ir.BinaryOperator.MULTIPLY | ir.BinaryOperator.DIVIDE, right=right):
            return _open(right)
        case _:
            return False


def _wrap(text: str, needed: bool) -> str:
    return f"({text})" if needed else text
