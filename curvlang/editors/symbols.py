"""Outline, occurrences and renaming of what a text defines."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import Label, Severity
from curvlang.diagnostics.refusal import refusal
from curvlang.diagnostics.source import Span
from curvlang.editors.document import Document, origins
from curvlang.editors.reading import Item, Role, Word
from curvlang.editors.scope import Binding, bound
from curvlang.editors.vocabulary import NAME, vocabulary

RENAMED = frozenset(
    [
        Role.DEFINITION, Role.CURVATURE, Role.STAGE, Role.SCORE, Role.INVERSE, Role.TASK, Role.NAME,
        Role.TENSOR, Role.PARAMETER, Role.SCALAR, Role.ARGUMENT, Role.VALUE,
    ]
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Symbol:
    """A definition of the outline, with the tensors it defines."""

    name: Word
    kind: str
    start: int
    end: int
    children: tuple[Symbol, ...] = ()


def outline(document: Document) -> list[Symbol]:
    """Every named item, and every tensor of every transform and score."""
    found = []
    for item in document.reading.items:
        name = item.name or next((w for w in item.words if w.role is Role.CURVATURE), None)
        if name is not None:
            found.append(Symbol(name, item.keyword, item.start, item.end, _tensors(document, item)))
    return found


def _tensors(document: Document, item: Item) -> tuple[Symbol, ...]:
    if item.keyword not in ("transform", "score"):
        return ()
    return tuple(
        Symbol(b.name, "tensor", b.name.start, b.name.end)
        for b in bound(item, document.text)
        if b.binding is Binding.DEFINES and b.name.text != "_"
    )


def occurrences(document: Document, word: Word) -> list[Word]:
    """Every word of this text that names the same thing, itself among them."""
    if word.role not in RENAMED:
        return []
    item = document.reading.item_at(word.start)
    assert item is not None
    if word.role is Role.TENSOR:
        return [w for w in item.words if w.role is Role.TENSOR and w.text == word.text]
    home = _home(document, word)
    if home is None:
        return []
    return [w for w in _same_text(document, word.text) if _home(document, w) == home]


def _same_text(document: Document, text: str) -> Iterator[Word]:
    for item in document.reading.items:
        for word in item.words:
            if word.text == text and word.role in RENAMED and word.role is not Role.TENSOR:
                yield word


def _home(document: Document, word: Word) -> int | None:
    """Where in this text the thing is defined; None for what another file defines."""
    if word.role is Role.DEFINITION:
        return word.start
    places = origins(document, word)
    return next((p.start for p in places if p.name == document.name), None)


def rename(document: Document, word: Word, name: str) -> list[Word]:
    """The words that a renaming replaces.

    The result is checked: a renaming that changes what `check` says is refused.

    Raises:
        SpecError: E1003 for a word that has no other name, E1004 for a name that cannot be taken.
    """
    found = occurrences(document, word)
    if not found:
        raise refusal(
            Code.E1003, f"`{word.text}` is not defined in this file", labels=(_at(document, word),)
        )
    if re.fullmatch(NAME, name) is None or name in vocabulary().keywords:
        raise refusal(Code.E1004, f"`{name}` cannot be a name", labels=(_at(document, word),))
    if any(w.text == name for w in _near(document, word)):
        raise refusal(Code.E1004, f"`{name}` is taken here", labels=(_at(document, word),))
    after = Document(document.name, replaced(document.text, found, name))
    new = [p for p in after.problems if p.severity is Severity.ERROR]
    old = [p for p in document.problems if p.severity is Severity.ERROR]
    if len(new) > len(old):
        raise refusal(Code.E1004, f"`{name}` would break the file: {new[0].headline}")
    return found


def _near(document: Document, word: Word) -> Iterator[Word]:
    """The words that a new name could be confused with."""
    item = document.reading.item_at(word.start)
    local = word.role in (Role.TENSOR, Role.PARAMETER, Role.SCALAR, Role.ARGUMENT)
    for other in document.reading.items:
        if not local or other is item:
            yield from (w for w in other.words if w.role in RENAMED)


def replaced(text: str, words: list[Word], name: str) -> str:
    """The text with other words in place of these."""
    for word in sorted(words, key=lambda w: -w.start):
        text = text[: word.start] + name + text[word.end :]
    return text


def _at(document: Document, word: Word) -> Label:
    return Label(Span(document.source, word.start, word.end))
