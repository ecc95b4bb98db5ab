"""A text with everything known about it: its words, the names it sees, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from curvlang.diagnostics.diagnostic import Diagnostic, SpecError
from curvlang.diagnostics.source import Source, Span
from curvlang.editors.reading import Item, Reading, Role, Word, read
from curvlang.editors.scope import binding_of, bound, leaf_meaning
from curvlang.language import check_text
from curvlang.language.checking.names import Named, Names, collect, shipped_copy
from curvlang.language.syntax.parser import parse

if TYPE_CHECKING:
    from collections.abc import Iterator

SHIPPED = "<shipped>/"
_KINDS: Mapping[Role, tuple[str, ...]] = {
    Role.CURVATURE: ("curvatures",),
    Role.STAGE: ("transforms",),
    Role.INVERSE: ("inverses",),
    Role.TASK: ("tasks",),
    Role.SCORE: ("scores",),
    Role.NAME: ("curvatures", "transforms", "inverses", "tasks", "scores"),
    Role.VALUE: ("curvatures", "transforms"),
}
_KEYWORDS = {
    "curvature": "curvatures",
    "transform": "transforms",
    "score": "scores",
    "inverse": "inverses",
    "task": "tasks",
}


@dataclass(frozen=True)
class Document:
    """A text under a name: a path, or what the editor calls it."""

    name: str
    text: str

    @cached_property
    def reading(self) -> Reading:
        """Words with their roles."""
        return read(self.text)

    @cached_property
    def source(self) -> Source:
        """The text as diagnostics refer to it."""
        return Source(self.name, self.text)

    @cached_property
    def problems(self) -> tuple[Diagnostic, ...]:
        """Everything that `check` says."""
        return tuple(check_text(self.text, self.name))

    @cached_property
    def names(self) -> Names:
        """What ships, what the files in use define, and what could be read of this text."""
        try:
            return collect(parse(self.source)[0], self.source)[0]
        except SpecError:
            return shipped_copy()

    def word_at(self, offset: int) -> Word | None:
        """The word at an offset."""
        return self.reading.word_at(offset)

    def own(self, kind: str, name: str) -> Word | None:
        """The name of this text's own definition: `kind` is a table of `Names`."""
        return self._own.get((kind, name))

    @cached_property
    def _own(self) -> Mapping[tuple[str, str], Word]:
        """The first definition of each kind and name."""
        found: dict[tuple[str, str], Word] = {}
        for item in self.reading.items:
            if item.name is not None and item.keyword in _KEYWORDS:
                found.setdefault((_KEYWORDS[item.keyword], item.name.text), item.name)
        return found

    def definition(self, word: Word) -> Named | None:
        """The definition that a word names, wherever it stands."""
        for kind in self.kinds(word):
            found = getattr(self.names, kind).get(word.text)
            if found is not None:
                return found
        return None

    def kinds(self, word: Word) -> tuple[str, ...]:
        """The tables of names in which a word is looked up."""
        if word.role is Role.DEFINITION:
            item = self.reading.item_at(word.start)
            return (_KEYWORDS[item.keyword],) if item and item.keyword in _KEYWORDS else ()
        return _KINDS.get(word.role, ())


@dataclass(frozen=True, slots=True)
class Place:
    """A range of characters of a file; `name` is that of the document, or of another source."""

    name: str
    text: str
    start: int
    end: int


def shipped_path(name: str) -> Path | None:
    """The file of a source that ships, where the package stands in a folder."""
    if not name.startswith(SHIPPED):
        return None
    path = Path(str(resources.files("curvlang.specs") / name.removeprefix(SHIPPED)))
    return path if path.exists() else None


def origins(document: Document, word: Word) -> list[Place]:
    """Where what a word names is defined: in this text, a file in use, or what ships."""
    item = document.reading.item_at(word.start)
    assert item is not None
    if word.role is Role.FILE:
        return _file(document, word)
    local = _local(document, item, word)
    if local is not None:
        return [Place(document.name, document.text, local.start, local.end)]
    if word.role is Role.TENSOR:
        return list(_definers(document, word.text))
    return _named(document, word)


def _local(document: Document, item: Item, word: Word) -> Word | None:
    """The binding inside the same item; a tensor of `needs` comes from elsewhere."""
    match word.role:
        case Role.TENSOR:
            made = binding_of(item, document.text, word)
            itself = made is not None and made.name.start == word.start
            needed = made is not None and made.binding == "needs"
            elsewhere = item.keyword != "score" and any(_definers(document, word.text))
            if made is None or (itself and needed and elsewhere):
                return None
            return made.name
        case Role.INDEX:
            space = word.text.rstrip("'")
            marks = [w for w in item.words if w.role is Role.INDEX]
            return next((w for w in marks if w.text.rstrip("'") == space), None)
        case Role.SCALAR | Role.PARAMETER:
            return item.by_name.get(word.text)
        case _:
            return None


def _named(document: Document, word: Word) -> list[Place]:
    if word.role is Role.ARGUMENT:
        return list(_parameter(document, word))
    for kind in document.kinds(word):
        own = document.own(kind, word.text)
        if own is not None:
            return [Place(document.name, document.text, own.start, own.end)]
    found = document.definition(word)
    return [] if found is None else [_place(found.name_span)]


def _place(span: Span) -> Place:
    return Place(span.source.name, span.source.text, span.start, span.end)


def _parameter(document: Document, word: Word) -> Iterator[Place]:
    """The parameter that an argument gives a value to."""
    owner = word.owner
    if owner is None:
        return
    named = Word(owner.role, owner.name, 0, 0)
    for place in _named(document, named):
        item = read(place.text).item_at(place.start)
        if item is not None and item.name is not None and item.name.start == place.start:
            parameter = item.by_name.get(word.text)
            if parameter is not None:
                yield Place(place.name, place.text, parameter.start, parameter.end)


def _definers(document: Document, name: str) -> Iterator[Place]:
    """Where transforms define a tensor: this text's own first."""
    if leaf_meaning(name):
        return
    texts = {document.name: document.text}
    texts |= {d.span.source.name: d.span.source.text for d in document.names.transforms.values()}
    for source, text in texts.items():
        for item in read(text).items:
            if item.keyword == "transform":
                for made in bound(item, text):
                    if made.binding == "defines" and made.name.text == name:
                        yield Place(source, text, made.name.start, made.name.end)


def _file(document: Document, word: Word) -> list[Place]:
    """The file that `use "…"` names."""
    path = Path(document.name).parent / word.text.strip('"')
    if path.is_file():
        return [Place(str(path), "", 0, 0)]
    return []
