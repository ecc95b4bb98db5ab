"""A score read directly from its text, with every row held: slow on purpose, what compiled scores are compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
) -> Array:
    """The scores, in the order of the yield's indices.

    Args:
        statements: Definitions and a yield.
        leaves: Array and indices of each leaf.
        inverses: C⁻¹ as a matrix [P, P], with an axis in front for each of the letters that it is
            known by: `()` at the evaluated model, `("h",)` at its checkpoints.
        sizes: Length of each space.
    """
    known = dict(leaves)
    for spaces, matrix in inverses.items():
        axes = tuple(map(ir.Index, spaces))
        known[_name(spaces)] = matrix, (*axes, ir.Index(PARAMETER), _COLUMN)
    plain = [_plain(x) for x in statements]
    return interpret(plain, known, sizes, frozenset(CONTEXTS))[0]


def _name(spaces: Sequence[str]) -> str:
    return SOLVE + "".join(spaces)


def _plain(statement: ir.Statement) -> ir.Statement:
    """`z[n,p] = solve(v)` as a sum with the entries of C⁻¹."""
    match statement:
        case ir.Define(targets=(target,), value=ir.Call(function="solve", arguments=(given,))):
            assert isinstance(given, ir.Ref)
            (row,) = (x for x in target.indices if x.space == PARAMETER)
            outer = tuple(x for x in target.indices if x.space in CONTEXTS)
            spaces = tuple(x.space for x in outer)
            moved = tuple(_COLUMN if x == row else x for x in target.indices)
            product = ir.Binary(
                ir.BinaryOperator.MULTIPLY,
                ir.Ref(_name(spaces), (*outer, row, _COLUMN)),
                ir.Ref(given.name, moved),
            )
            return ir.Define((target,), ir.Reduce(ir.ReductionKind.SUM, (_COLUMN,), product))
        case _:
            return statement
