"""A score read directly from its text, with every row held: slow on purpose, what compiled scores are compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from curvlang.ir import expr as ir
from curvlang.ir.interpreter import Array, interpret
from curvlang.ir.score_program import CONTEXTS, PARAMETER, SOLVE

_COLUMN = ir.Index(PARAMETER, 1_000)
"""An index that no person writes."""


def read_score(
    statements: Sequence[ir.Statement],
    leaves: Mapping[str, tuple[Array, tuple[ir.Index, ...]]],
    inverses: Mapping[tuple[str, ...], Array],
    sizes: Mapping[str, int],
    functions: Mapping[str, Callable[..., Array]] | None = None,
) -> Array:
    """The scores, in the order of the yield's indices.

    Args:
        statements: Definitions and a yield.
        leaves: Array and indices of each leaf.
        inverses: C⁻¹ as a matrix [P, P], with an axis in front for each of the letters that it is
            known by: `()` at the evaluated model, `("h",)` at its checkpoints.
        sizes: Length of each space.
        functions: What `apply` applies at the evaluated model, by name: a matrix [P, P] for the numbers
            that it is given.

    Raises:
        AssertionError: For a function that is not among them, or is applied elsewhere.
    """
    known = dict(leaves)
    for spaces, matrix in inverses.items():
        axes = tuple(map(ir.Index, spaces))
        known[_name(spaces)] = matrix, (*axes, ir.Index(PARAMETER), _COLUMN)
    plain = []
    for k, statement in enumerate(statements):
        match statement:
            case ir.Define(targets=(target,), value=ir.Call("apply", (ir.Call() as call, rows))):
                name = f"{SOLVE}{k}"
                known[name] = _matrix(call, target, functions or {}), (ir.Index(PARAMETER), _COLUMN)
                plain.append(_multiplied(target, rows, name, ()))
            case _:
                plain.append(_plain(statement))
    return interpret(plain, known, sizes, frozenset(CONTEXTS))[0]


def _name(spaces: Sequence[str]) -> str:
    return SOLVE + "".join(spaces)


def _plain(statement: ir.Statement) -> ir.Statement:
    """`z[n,p] = solve(v)` as a sum with the entries of C⁻¹."""
    match statement:
        case ir.Define(targets=(target,), value=ir.Call(function="solve", arguments=(given,))):
            outer = tuple(x for x in target.indices if x.space in CONTEXTS)
            return _multiplied(target, given, _name([x.space for x in outer]), outer)
        case _:
            return statement


def _multiplied(
    target: ir.Target, rows: ir.Expr, matrix: str, outer: tuple[ir.Index, ...]
) -> ir.Statement:
    """Rows times a matrix, as a sum over its columns."""
    assert isinstance(rows, ir.Ref)
    (row,) = (x for x in target.indices if x.space == PARAMETER)
    moved = tuple(_COLUMN if x == row else x for x in target.indices)
    product = ir.Binary(
        ir.BinaryOperator.MULTIPLY,
        ir.Ref(matrix, (*outer, row, _COLUMN)),
        ir.Ref(rows.name, moved),
    )
    return ir.Define((target,), ir.Reduce(ir.ReductionKind.SUM, (_COLUMN,), product))


def _matrix(
    call: ir.Call, target: ir.Target, functions: Mapping[str, Callable[..., Array]]
) -> Array:
    """A function of the spectrum as a matrix."""
    name = call.function
    numbers = [x.value for x in call.arguments if isinstance(x, ir.Number)]
    assert name in functions, f"the score applies `{name}`: give its matrix in `functions`"
    here = not any(x.space in CONTEXTS for x in target.indices)
    assert here, f"`{target.name}` applies `{name}` at other models than the evaluated one"
    known = len(numbers) == len(call.arguments)
    assert known, f"`{target.name}` applies `{name}` with numbers that are computed"
    return functions[name](*numbers)
