"""Arguments of a task's lines, checked against the table; refusals get the place of their line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from curvlang.diagnostics.diagnostic import Diagnostic, Label, SpecError
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
        labels = (Label(span, "requested here"),)
        raise SpecError([located(d, labels) for d in error.diagnostics]) from error


def located(diagnostic: Diagnostic, labels: Sequence[Label]) -> Diagnostic:
    """A diagnostic without a place at these, those left out that no text wrote."""
    there = tuple(x for x in labels if x.span is not NOWHERE)
    return diagnostic if diagnostic.labels else replace(diagnostic, labels=there)
