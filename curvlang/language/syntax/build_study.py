"""A `study` of lark's tree to the syntax tree: its lines in any order, each with its place."""

from __future__ import annotations

from typing import Any, Protocol

from lark import Token, Tree

from curvlang.diagnostics.source import Span
from curvlang.language.syntax import nodes as s


class Reader(Protocol):
    """What reads the parts that a study shares with other items."""

    def span(self, node: Tree[Token] | Token) -> Span:
        """Where a node stands."""

    def use(self, tree: Tree[Token]) -> s.Use:
        """`name(arguments)`."""

    def argument(self, tree: Tree[Token]) -> s.Argument:
        """`name = value`."""

    def value(self, node: Any) -> s.ValueSyntax:
        """A value."""


def build_study(tree: Tree[Token], reader: Reader) -> s.StudyDef:
    """The study; of a line that stands twice the last is kept, and `repeated` says so."""
    name, *rest = tree.children
    assert isinstance(name, Token)
    found: dict[str, Any] = {}
    sweeps: list[s.Sweep] = []
    first: dict[str, Span] = {}
    repeated: list[s.RepeatedLine] = []
    doc = ""
    for child in rest:
        if isinstance(child, Token):
            doc = str(child)[1:-1]
        if not isinstance(child, Tree):
            continue
        word, place = child.data.removeprefix("study_"), reader.span(child)
        if word in first:
            repeated.append(s.RepeatedLine(word, first[word], place))
        first.setdefault(word, place)
        sweeps += [_sweep(x, reader) for x in _trees(child, "sweep")]
        found |= _line(word, child, reader)
    span, at = reader.span(tree), reader.span(name)
    return s.StudyDef(
        str(name),
        doc,
        sweeps=tuple(sweeps),
        repeated=tuple(repeated),
        span=span,
        name_span=at,
        **found,
    )


def _line(word: str, tree: Tree[Token], reader: Reader) -> dict[str, Any]:
    """The fields that one line fills."""
    tokens = [x for x in tree.children[word != "task" :] if isinstance(x, Token)]
    words = tuple(s.Word(str(x), reader.span(x)) for x in tokens)
    match word:
        case "task":
            (named,) = _trees(tree, "named")
            return {"task": reader.use(named)}
        case "path":
            return {"path": words[::2], "signs": words[1::2]}
        case "curvatures":
            return {"curvatures": words}
        case "baselines":
            return {word: tuple(_baseline(x, reader) for x in _trees(tree, "baseline"))}
        case "inverses" | "measures":
            return {word: tuple(reader.use(x) for x in _trees(tree, "named"))}
        case "seeds" | "damping":
            return {word: reader.value(tree.children[1])}
        case _:
            given = tuple(reader.argument(x) for x in _trees(tree, "argument"))
            return {"protocol": given, "silent": words[0] if words else None}


def _baseline(tree: Tree[Token], reader: Reader) -> s.BaselineUse:
    """`name(arguments) of curvature with inverse`."""
    named, *rest = tree.children
    assert isinstance(named, Tree)
    words = [s.Word(str(x), reader.span(x)) for x in rest if isinstance(x, Token)]
    inverse = next((reader.use(x) for x in rest if isinstance(x, Tree)), None)
    return s.BaselineUse(reader.use(named), words[0] if words else None, inverse, reader.span(tree))


def _sweep(tree: Tree[Token], reader: Reader) -> s.Sweep:
    name, values = tree.children
    assert isinstance(name, Token)
    word = s.Word(str(name), reader.span(name))
    return s.Sweep(word, reader.value(values), reader.span(tree))


def _trees(tree: Tree[Token], kind: str) -> list[Tree[Token]]:
    return [x for x in tree.children if isinstance(x, Tree) and x.data == kind]
