"""Tables of the pages that are written by hand, made from the code: between marks in the text."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from curvlang.diagnostics.codes import Code
from curvlang.ir.functions import ELEMENTWISE, FUNCTIONS, MAKERS
from curvlang.language.bodies.values import show
from curvlang.language.checking.shipped import shipped
from curvlang.language.law import MEASURES as LAW_MEASURES
from curvlang.language.registry import (
    BASELINES,
    DATA,
    EXTRAS,
    INVERSES,
    LDS,
    LOSSES,
    MEASURES,
    MODELS,
    OPTIMISERS,
    SOLVERS,
    STAGES,
)
from curvlang.language.registry.kind_words import in_words

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent))
from tests.house.rooms import table as floors  # noqa: E402

_TAKES = {"xx": "a square matrix", "xy": "a matrix", "*": "a tensor"}
_BUILT_IN = (
    "stage",
    "data",
    "model",
    "loss",
    "optimiser",
    "checkpoints",
    "models",
    "solver",
    "baseline",
    "measure",
)
LISTED = {
    "Stages": STAGES,
    "Data": DATA,
    "Models": MODELS,
    "Losses": LOSSES,
    "Training": OPTIMISERS,
    "Checkpoints": EXTRAS["checkpoints"],
    "Ensembles": EXTRAS["models"],
    "LDS": {"lds": LDS},
    "Baselines": BASELINES,
    "Measures": MEASURES,
    "Solvers": SOLVERS,
}


def functions() -> Iterator[str]:
    """Functions of tensors and of numbers, with what they take and give."""
    yield "| function | takes | gives | |"
    yield "|---|---|---|---|"
    for name, entry in FUNCTIONS.items():
        kind = "symmetric" if entry.symmetric else "square"
        takes = _TAKES[entry.argument].replace("square", kind) + ", a number" * entry.numbers
        gives = ", ".join(f"`[{','.join(x)}]`" for x in entry.results) or "a number"
        tall = "; at least as many rows as columns" if entry.tall else ""
        yield f"| `{name}` | {takes} | {gives} | {entry.doc}{tall} |"
    for name, doc in MAKERS.items():
        yield f"| `{name}[…](seed)` | a whole number | the indices written | {doc} |"
    names = ", ".join(f"`{name}`" for name in ELEMENTWISE)
    yield f"| {names} | numbers | a number | of every entry |"


def built_in() -> Iterator[str]:
    """Stages, data, models, losses, optimisers, solvers and measures with their parameters."""
    yield "| kind | written | |"
    yield "|---|---|---|"
    for x in shipped():
        if x.kind in _BUILT_IN and x.name not in LAW_MEASURES:
            yield f"| {x.kind} | `{x.signature}` | {x.doc} |"


def parameters() -> Iterator[str]:
    """Every parameter of everything that is built in: what it may be, its default, and what it says."""
    for heading, table in LISTED.items():
        yield f"## {heading}\n"
        for name, entry in table.items():
            yield f"**`{name}`**: {entry.doc}\n"
            if entry.parameters:
                yield "| parameter | value | default | |"
                yield "|---|---|---|---|"
            for key, p in entry.parameters.items():
                must = ", ".join(x for x in (in_words(p.kind).type, in_words(p.kind).limits) if x)
                default = "" if p.default is None else f"`{show(p.default)}`"
                yield f"| `{key}` | {must} | {default} | {p.doc} |"
            yield ""


def inverses() -> Iterator[str]:
    """Parameters of inverses that have limits, by name."""
    yield "| parameter | value | |"
    yield "|---|---|---|"
    for name, p in INVERSES.items():
        yield f"| `{name}` | {in_words(p.kind).limits} | {p.doc} |"


def rooms() -> Iterator[str]:
    """Every file of the package with the first line of its docstring."""
    package = DOCS.parent / "curvlang"
    yield "| file | duty |"
    yield "|---|---|"
    for path in sorted(package.rglob("*.py"), key=lambda p: (p.parent, p.name)):
        doc = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
        if path.name != "__init__.py":
            shown = doc.split("\n", 1)[0].replace("|", "\\|")
            yield f"| `{path.relative_to(package).as_posix()}` | {shown} |"


def codes() -> Iterator[str]:
    """Every code of a diagnostic, with its page."""
    yield "| code | meaning |"
    yield "|---|---|"
    yield from (f"| [{code}]({code}.md) | {code.meaning} |" for code in Code)


TABLES: Mapping[str, Mapping[str, Callable[[], Iterable[str]]]] = {
    "language.md": {"functions": functions, "built in": built_in},
    "architecture.md": {"floors": floors, "rooms": rooms},
    "parameters.md": {"parameters": parameters, "inverses": inverses},
    "diagnostics/README.md": {"codes": codes},
}
"""Page to its tables, each named as its marks are."""


def renewed(page: str) -> str:
    """The text of a page with every table between its marks renewed."""
    text = (DOCS / page).read_text("utf-8")
    for name, rows in TABLES[page].items():
        start, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
        before, found, rest = text.partition(start)
        _, closed, after = rest.partition(end)
        if not (found and closed):
            raise ValueError(f"{page} has no marks for the table `{name}`")
        text = before + start + "\n".join(rows()) + "\n" + end + after
    return text
