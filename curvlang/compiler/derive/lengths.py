"""How long every index space of a program is, for one block, before anything runs.

In: a program's statements in order, and the lengths that the block gives. Out: the lengths of all
spaces, those that the program declares and those that tensor functions make included.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import floor, prod
from typing import assert_never

from curvlang.compiler.derive.program import Program
from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import label_at, refusal
from curvlang.ir import expr as ir
from curvlang.ir.constants import ARITHMETIC, NUMERIC
from curvlang.ir.functions import FUNCTIONS
from curvlang.ir.indices import is_function, matrix_shape

LONGEST = 2.0**53
"""Above it lengths are no longer whole numbers; no memory holds such a tensor."""


def lengths(program: Program, given: Mapping[str, int], block: str) -> dict[str, int]:
    """Lengths of all spaces of a block.

    Raises:
        SpecError: E0331 where a declared space has no entry, E0332 where it is longer than any tensor
            or than what a function makes, E0333 where a matrix has more columns than rows.
    """
    sizes = dict(given)
    known = {name: leaf.indices for name, leaf in program.leaves.items()}
    for statement in program.definitions:
        match statement:
            case ir.Space(letter=letter, length=length):
                value = length_of(length, sizes)
                if statement.parts:
                    _divides(statement, value, sizes, block)
                sizes[letter] = _declared(statement, value, block)
            case ir.Define(targets=targets, value=value):
                known |= {t.name: t.indices for t in targets}
                if is_function(value):
                    assert isinstance(value, ir.Call)
                    rows, columns = matrix_shape(value, known, sizes)
                    _made(statement, value, rows, columns, sizes, block)
            case _:
                assert_never(statement)
    return sizes


def _made(
    define: ir.Define, call: ir.Call, rows: int, columns: int, sizes: dict[str, int], block: str
) -> None:
    function = FUNCTIONS[call.function]
    if function.tall and rows < columns:
        raise refusal(
            Code.E0333,
            f"`{call.function}` needs at least as many rows as columns, "
            f"and in block `{block}` this is {rows} × {columns}",
            "declare the space no longer: `space k = min(rank, size[o] * size[i])`",
            labels=label_at(define.span, "more directions than the space has"),
        )
    for target, pattern in zip(define.targets, function.results, strict=False):
        if "k" not in pattern:
            continue
        # The made space stands last in each result; the groups before it have other letters.
        space = target.indices[-1].space
        most = min(rows, columns)
        if sizes.setdefault(space, most) > most:
            raise refusal(
                Code.E0332,
                f"`{_letter(space)}` is declared {sizes[space]} long, and `{call.function}` of a "
                f"{rows} × {columns} matrix makes {most} (block `{block}`)",
                f"declare the space no longer: `space {_letter(space)} = min(rank, {most})`",
                labels=label_at(define.span, "fewer than declared"),
            )


def _divides(statement: ir.Space, value: float, sizes: Mapping[str, int], block: str) -> None:
    """The parts of an index have exactly its entries."""
    old, *parts = statement.parts
    lengths_ = [value if x == statement.letter else sizes[x] for x in parts]
    if value == floor(value) and prod(lengths_) == sizes[old]:
        return
    shown = " × ".join(f"{x:g}" for x in lengths_ if x == floor(x))
    raise refusal(
        Code.E0335,
        f"`{_letter(old)}` has {sizes[old]} entries in block `{block}`, which are not split into "
        f"parts of {shown}",
        "give lengths whose product is that of the index; a layer's input `i` has the constant 1 of "
        "a bias as its last entry",
        labels=label_at(statement.span, "the parts together have as many entries as the index"),
    )


def _letter(space: str) -> str:
    """The letter that a spec gives a space; a second `k` is `k2` in the program."""
    return space[0]


def _declared(statement: ir.Space, value: float, block: str) -> int:
    if not value < LONGEST:
        raise refusal(
            Code.E0332,
            f"the space `{_letter(statement.letter)}` is {value:.2g} long in block `{block}`, longer than any "
            "tensor",
            "declare a shorter one, for example `min(rank, size[i])`",
            labels=label_at(statement.span, "with the lengths of this model's spaces"),
        )
    length = floor(value)
    if length < 1:
        raise refusal(
            Code.E0331,
            f"the space `{_letter(statement.letter)}` is {length} long in block `{block}`",
            "give a length of 1 or more, for example `max(1, size[i] / 2)`",
            labels=label_at(statement.span, "a space has at least one entry"),
        )
    return length


def length_of(expr: ir.Expr, sizes: Mapping[str, int]) -> float:
    """The value of an expression of numbers and sizes."""
    go = lambda x: length_of(x, sizes)  # noqa: E731
    match expr:
        case ir.Number(value=value):
            return value
        case ir.Size(index=index):
            return float(sizes[index.space])
        case ir.Negate(operand=operand):
            return -go(operand)
        case ir.Binary(operator=operator, left=left, right=right):
            return _binary(operator, go(left), go(right))
        case ir.Apply(function="min", arguments=arguments):
            return min(map(go, arguments))
        case ir.Apply(function="max", arguments=arguments):
            return max(map(go, arguments))
        case ir.Apply(function=function, arguments=(argument,)):
            return _function(function, go(argument))
        case ir.Ref() | ir.Delta() | ir.Reduce() | ir.Call() | ir.Apply():
            raise AssertionError("a length is made of numbers and sizes")
        case _:
            assert_never(expr)


def _function(function: str, argument: float) -> float:
    """A function of a length; NaN where it has no value."""
    try:
        return float(NUMERIC[function](argument))
    except (OverflowError, ValueError):
        return float("inf") if function == "exp" else float("nan")


def _binary(operator: ir.BinaryOperator, left: float, right: float) -> float:
    if operator is ir.BinaryOperator.DIVIDE and not right:
        return float("inf")
    try:
        found = ARITHMETIC[operator](left, right)
    except (OverflowError, ZeroDivisionError):
        return float("inf")
    # A root of a negative length has no real value.
    return float("nan") if isinstance(found, complex) else float(found)
