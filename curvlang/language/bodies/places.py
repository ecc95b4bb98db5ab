"""What is wrong with comparisons of indices, and with indices written in parts."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import Diagnostic, Label
from curvlang.ir import expr as ir
from curvlang.ir import places
from curvlang.ir.indices import walk


def check_places(
    call: ir.Call,
    splits: Mapping[tuple[str, ...], str],
    parameters: Collection[str],
    examples: Collection[str],
) -> list[Diagnostic]:
    """What is wrong with one of them.

    Args:
        call: A comparison, or a split.
        splits: The letter of every index that is split so far, by those of its parts.
        parameters: Names of numbers.
        examples: Letters of what is read in batches: the place of an example in one has no meaning.
    """
    if places.is_split(call):
        return list(_split(call, splits))
    return list(_comparison(call, parameters, examples))


def _split(call: ir.Call, splits: Mapping[tuple[str, ...], str]) -> Iterator[Diagnostic]:
    first, *parts = call.indices
    letters = tuple(x.space for x in parts)
    if splits.get(letters) == first.space:
        return
    written = ",".join(letters)
    old = "o" if first.space == places.UNDECLARED else first.space
    yield Diagnostic(
        Code.E0336,
        f"`({','.join(map(str, parts))})` are not the parts of an index that is split before",
        (Label(call.span, "which index has these parts?"),),
        (f"write `split {old} = ({written}) with {letters[0]} = 2` in a line before this one",),
    )


def _comparison(
    call: ir.Call, parameters: Collection[str], examples: Collection[str]
) -> Iterator[Diagnostic]:
    for index in call.indices:
        if index.space in examples:
            yield Diagnostic(
                Code.E0337,
                f"`{index}` runs over examples, whose order has no meaning",
                (Label(call.span, "compares the places of examples"),),
                ("compare indices of features, positions, or spaces of your own",),
            )
    help_ = "for example `where(|i - i'| <= 2)`, `where(t <= t')`, `where(2 * o < size[o])`"
    if not call.indices:
        yield Diagnostic(
            Code.E0338,
            "`where` compares a sum of indices with another, or its absolute value with a number",
            (Label(call.span, "not such a comparison"),),
            (help_,),
        )
    for node in (x for argument in call.arguments for x in walk(argument)):
        if isinstance(node, ir.Ref) and (node.indices or node.name not in parameters):
            yield Diagnostic(
                Code.E0338,
                f"`{node.name}` is not a number that `where` can compare with",
                (Label(call.span, "known only from data, or not at all"),),
                ("a comparison is made of indices, numbers, parameters and sizes; " + help_,),
            )
