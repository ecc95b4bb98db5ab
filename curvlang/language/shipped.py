"""Everything that ships, with its signature, one line about it and where it stands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from curvlang.diagnostics.source import Source
from curvlang.language.checking.names import Named, shipped_names
from curvlang.language.checking.values import show
from curvlang.language.files import shipped_studies
from curvlang.language.law import MEASURES, PROPERTIES
from curvlang.language.registry import (
    DATA,
    LAYERS,
    LOSSES,
    METRICS,
    MODELS,
    OPTIMISERS,
    SOLVERS,
    SOURCES,
    STAGES,
    Entry,
    Rule,
)
from curvlang.language.syntax.docs import doc_of
from curvlang.language.syntax.nodes import StudyDef
from curvlang.language.syntax.parser import parse

TABLES: Mapping[str, Mapping[str, Entry]] = {
    "data": DATA,
    "model": MODELS,
    "loss": LOSSES,
    "metric": METRICS,
    "optimiser": OPTIMISERS,
    "solver": SOLVERS,
}


_OR_WORDS: Mapping[str, str] = {"number": "float", "count": "int"}
"""Types of parameters that are a number or one of some words."""


@dataclass(frozen=True, slots=True)
class Shipped:
    """Something that ships.

    Args:
        kind: `curvature`, `stage`, `transform`, `inverse`, `task`, `data`, `model`, `loss`, …
        name: What a spec writes.
        doc: One line, with its source in the literature.
        signature: How it is written: a chain, or the name with its parameters.
        where: `prelude.cv:3`; empty for what is built in.
    """

    kind: str
    name: str
    doc: str
    signature: str = ""
    where: str = ""


def shipped() -> list[Shipped]:
    """Everything that ships, by kind."""
    names = shipped_names()
    found = [_written("curvature", d) for d in names.curvatures.values()]
    found += [_entry("stage", n, e) for n, e in {**SOURCES, **STAGES}.items()]
    found += [_written("transform", d) for d in names.transforms.values()]
    found += [_written("inverse", d) for d in names.inverses.values()]
    found += [_written("task", d) for d in names.tasks.values()]
    for kind, table in TABLES.items():
        found += [_entry(kind, n, e) for n, e in table.items()]
    found += [Shipped("layer", n, doc, n) for n, doc in LAYERS.items()]
    found += list(_studies())
    found += [Shipped("law", n, doc, f"law {n}") for n, doc in PROPERTIES.items()]
    found += [Shipped("measure", n, doc, f"{n}(…)") for n, doc in MEASURES.items()]
    return found


def _studies() -> Iterator[Shipped]:
    """The studies that ship: `depth`, or `residual:residual_width` where a file states several."""
    for file, text in shipped_studies().items():
        items = [x for x in parse(Source(file, text))[0].items if isinstance(x, StudyDef)]
        for item in items:
            name = file if len(items) == 1 else f"{file}:{item.name}"
            line, _ = item.span.source.position(item.span.start)
            where = f"studies/{file}.cv:{line}"
            yield Shipped("study", name, item.doc, f"curvlang study {name}", where)


def search(words: Sequence[str]) -> list[Shipped]:
    """What contains every one of the words, in its kind, name, line, signature or place."""
    wanted = [word.lower() for word in words]
    return [x for x in shipped() if all(word in _text(x) for word in wanted)]


def _text(x: Shipped) -> str:
    return f"{x.kind} {x.name} {x.doc} {x.signature} {x.where}".lower()


def _written(kind: str, definition: Named) -> Shipped:
    source = definition.span.source
    line, _ = source.position(definition.span.start)
    where = f"{source.name.removeprefix('<shipped>/')}:{line}"
    signature = _header(definition)
    return Shipped(kind, definition.name, doc_of(definition) or signature, signature, where)


def _header(definition: Named) -> str:
    """The definition as it is written, without the body in braces, on one line."""
    text = definition.span.text
    cut = len(text)
    depth = 0
    for at, sign in enumerate(text):
        if sign == "{" and depth == 0:
            cut = at
            break
        depth += {"(": 1, ")": -1}.get(sign, 0)
    return " ".join(text[:cut].split()).partition(" ")[2]


def _entry(kind: str, name: str, entry: Entry) -> Shipped:
    inside = ", ".join(f"{k}: {describe_rule(r)}" for k, r in entry.parameters.items())
    return Shipped(kind, name, entry.doc, f"{name}({inside})" if inside else name)


def describe_rule(rule: Rule) -> str:
    """A parameter's words or type, and its default: `{layer, parameter} = layer`."""
    kind = "{" + ", ".join(rule.words) + "}" if rule.words else rule.type
    if rule.type in _OR_WORDS:
        kind = " or ".join((_OR_WORDS[rule.type], *rule.words))
    return kind if rule.default is None else f"{kind} = {show(rule.default)}"
