"""Everything that ships, with its signature, one line about it and where it is defined."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass

from curvlang.diagnostics.notebook import Display
from curvlang.diagnostics.source import Source
from curvlang.diagnostics.values import another_type
from curvlang.language.bodies.values import show
from curvlang.language.checking.names import Named, shipped_names
from curvlang.language.law import MEASURES as LAW_MEASURES
from curvlang.language.law import PROPERTIES
from curvlang.language.registry import (
    BASELINES,
    CHECKPOINTS,
    DATA,
    ENSEMBLES,
    LAYERS,
    LDS,
    LOSSES,
    MEASURES,
    METRICS,
    MODELS,
    OPTIMISERS,
    SOLVERS,
    SOURCES,
    STAGES,
    Entry,
    Parameter,
)
from curvlang.language.registry.kind_words import in_words
from curvlang.language.syntax.docs import doc_of
from curvlang.language.syntax.files import shipped_studies
from curvlang.language.syntax.nodes import StudyDef
from curvlang.language.syntax.parser import parse

TABLES: Mapping[str, Mapping[str, Entry]] = {
    "data": DATA,
    "model": MODELS,
    "loss": LOSSES,
    "metric": METRICS,
    "optimiser": OPTIMISERS,
    "checkpoints": CHECKPOINTS,
    "models": ENSEMBLES,
    "solver": SOLVERS,
    "baseline": BASELINES,
}


@dataclass(frozen=True, slots=True, repr=False)
class ShippedName(Display):
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

    def _summary(self) -> str:
        return f"{self.kind} {self.name}: {self.doc}"

    def __str__(self) -> str:
        lines = (f"{self.kind} {self.name}", self.doc, self.signature, self.where)
        return "\n".join(line for line in lines if line)


def shipped() -> list[ShippedName]:
    """Everything that ships, by kind."""
    names = shipped_names()
    found = [_written("curvature", d) for d in names.curvatures.values()]
    found += [_entry("stage", n, e) for n, e in {**SOURCES, **STAGES}.items()]
    found += [_written("transform", d) for d in names.transforms.values()]
    found += [_written("score", d) for d in names.scores.values()]
    found += [_written("inverse", d) for d in names.inverses.values()]
    found += [_written("task", d) for d in names.tasks.values()]
    for kind, table in TABLES.items():
        found += [_entry(kind, n, e) for n, e in table.items()]
    found += [ShippedName("layer", n, doc, n) for n, doc in LAYERS.items()]
    found += list(_studies())
    found += [ShippedName("law", n, doc, f"law {n}") for n, doc in PROPERTIES.items()]
    found += [ShippedName("measure", "lds", LDS.doc, f"lds {_parameters(LDS)}")]
    found += [_entry("measure", n, e) for n, e in MEASURES.items()]
    found += [ShippedName("measure", n, doc, f"{n}(…)") for n, doc in LAW_MEASURES.items()]
    return found


def _studies() -> Iterator[ShippedName]:
    """The studies that ship: `depth`, or `residual:residual_width` where a file states several."""
    for file, text in shipped_studies().items():
        items = [x for x in parse(Source(file, text))[0].items if isinstance(x, StudyDef)]
        for item in items:
            name = file if len(items) == 1 else f"{file}:{item.name}"
            line, _ = item.span.source.position(item.span.start)
            where = f"studies/{file}.cv:{line}"
            yield ShippedName("study", name, item.doc, f"curvlang study {name}", where)


def search(words: Sequence[str]) -> list[ShippedName]:
    """What contains every one of the words, in its kind, name, line, signature or place.

    Args:
        words: In any order, and in capitals or not.
    """
    if not (isinstance(words, list | tuple) and all(isinstance(x, str) for x in words)):
        raise another_type("words", words, "a list of words", '`["fisher"]`')
    wanted = [word.lower() for word in words]
    texts = ((x, " ".join(astuple(x)).lower()) for x in shipped())
    return [x for x, text in texts if all(word in text for word in wanted)]


def _written(kind: str, definition: Named) -> ShippedName:
    source = definition.span.source
    line, _ = source.position(definition.span.start)
    where = f"{source.name.removeprefix('<shipped>/')}:{line}"
    signature = _header(definition)
    return ShippedName(kind, definition.name, doc_of(definition) or signature, signature, where)


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


def _entry(kind: str, name: str, entry: Entry) -> ShippedName:
    return ShippedName(kind, name, entry.doc, signature(name, entry))


def signature(name: str, entry: Entry) -> str:
    """A name with its parameters: `block_diagonal(by: {layer, parameter} = layer)`."""
    return f"{name}({_parameters(entry)})" if entry.parameters else name


def _parameters(entry: Entry) -> str:
    return ", ".join(f"{k}: {describe(p)}" for k, p in entry.parameters.items())


def describe(parameter: Parameter) -> str:
    """A parameter's words or type, and its default: `{layer, parameter} = layer`."""
    kind, default = in_words(parameter.kind).type, parameter.default
    return kind if default is None else f"{kind} = {show(default)}"


def facts(parameter: Parameter) -> list[str]:
    """What a parameter is, and what its value must be."""
    must = in_words(parameter.kind).limits
    return [x for x in (parameter.doc, f"must be {must}" if must else "") if x]


def about(parameter: Parameter) -> str:
    """A parameter in one line: `int = 1: labels sampled for each example, for `mc``."""
    return f"{describe(parameter)}: {parameter.doc}" if parameter.doc else describe(parameter)
