"""Arguments of a task's lines, checked against the table; refusals get the place of their line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from curvlang.diagnostics.diagnostic import Label, SpecError
from curvlang.diagnostics.source import NOWHERE, Span
from curvlang.language.chain import Part
from curvlang.language.checking.arguments import completed, named
from curvlang.language.registry import Entry


def arguments(part: Part, kind: str, table: Mapping[str, Entry]) -> dict[str, Any]:
    """All parameters of a line with their values, defaults filled in.

    Args:
        part: The line.
        kind: What it names, for messages: `model`, `optimiser`.
        table: Everything that it may name.

    Raises:
        SpecError: E0715 for an unknown name, E0703 to E0707 for its arguments, at the line.
    """
    return completed(part.name, part.arguments, named(kind, part.name, table, part.span), part.span)


@contextmanager
def placed(span: Span) -> Iterator[None]:
    """Give refusals that have no place the place of the part that caused them."""
    try:
        yield
    except SpecError as error:
        found = [
            d
            if d.labels or span is NOWHERE
            else replace(d, labels=(Label(span, "asked for here"),))
            for d in error.diagnostics
        ]
        raise SpecError(found) from error
