"""Which statements a program's results need: the others are never computed.

In: statements in order and the yields. Out: the statements that a yield reads, directly or not,
in their order; one that makes a space stays where anything over that space does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

from curvlang.ir.expr import Define, Expr, Space, Target, Yield
from curvlang.ir.indices import names, spaces
from curvlang.language.bodies.letters import MODEL_LETTERS


def needed(
    definitions: Sequence[Define | Space], results: Sequence[Yield]
) -> tuple[Define | Space, ...]:
    """The statements that the results need, in order."""
    makers = _makers(definitions)
    read: set[str] = set()
    made: set[int] = set()

    def reads(value: Expr, targets: Sequence[Target]) -> None:
        read.update(names(value))
        letters = spaces(value).union(*({x.space for x in t.indices} for t in targets))
        made.update(id(makers[x]) for x in letters if x in makers)

    for result in results:
        reads(result.value, (result.target,))
        for basis in result.lift:
            if basis is not None:
                reads(basis, ())
    live: list[Define | Space] = []
    for statement in reversed(definitions):
        match statement:
            case Space(length=length) if id(statement) in made:
                live.append(statement)
                reads(length, ())
            case Define(targets=targets, value=value) if id(statement) in made or any(
                t.name in read for t in targets
            ):
                live.append(statement)
                reads(value, targets)
            case _:
                pass
    return tuple(reversed(live))


def _makers(definitions: Sequence[Define | Space]) -> dict[str, Define | Space]:
    """For every made space the statement that makes it: the first that has it."""
    found: dict[str, Define | Space] = {}
    for statement in definitions:
        match statement:
            case Space(letter=letter):
                found.setdefault(letter, statement)
            case Define(targets=targets):
                for index in (x for t in targets for x in t.indices):
                    if index.space not in MODEL_LETTERS:
                        found.setdefault(index.space, statement)
            case _:
                assert_never(statement)
    return found
