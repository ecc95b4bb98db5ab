"""Names: this file's, then the files it uses, then what ships."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import Diagnostic, Label, Severity, SpecError
from curvlang.diagnostics.source import Source
from curvlang.language.registry import SOURCES, STAGES
from curvlang.language.syntax import nodes as s
from curvlang.language.syntax.files import read, shipped_files, shipped_scores
from curvlang.language.syntax.parser import parse
from curvlang.language.syntax.problems import Problems

MOST_FILES = 100
"""Files that a spec uses, directly or through others."""
Named = s.CurvatureDef | s.TransformDef | s.ScoreDef | s.InverseDef | s.TaskDef


@dataclass(slots=True)
class Names:
    """Definitions by kind and name; the file's own come before used ones and shipped ones."""

    curvatures: dict[str, s.CurvatureDef] = field(default_factory=dict)
    transforms: dict[str, s.TransformDef] = field(default_factory=dict)
    inverses: dict[str, s.InverseDef] = field(default_factory=dict)
    tasks: dict[str, s.TaskDef] = field(default_factory=dict)
    scores: dict[str, s.ScoreDef] = field(default_factory=dict)

    @property
    def starts(self) -> tuple[str, ...]:
        """The names that a chain can start from."""
        return (*SOURCES, *self.curvatures)

    def table(self, item: Named) -> dict[str, Named]:
        """The table that an item belongs to."""
        tables: dict[type, Any] = {
            s.CurvatureDef: self.curvatures,
            s.TransformDef: self.transforms,
            s.InverseDef: self.inverses,
            s.TaskDef: self.tasks,
            s.ScoreDef: self.scores,
        }
        return tables[type(item)]

    def add(self, items: Iterable[s.Item], *, over: bool) -> list[Diagnostic]:
        """Take definitions in; `over` lets them shadow earlier ones."""
        problems = Problems()
        seen: dict[tuple[type, str], Named] = {}
        for item in items:
            if not isinstance(item, Named):
                continue
            key = (type(item), item.name)
            if key in seen:
                headline, first = f"`{item.name}` is defined twice", seen[key].name_span
                help_ = "give one of them another name"
                problems.twice(Code.E0201, headline, item.name_span, first, help_)
                continue
            seen[key] = item
            if over or item.name not in self.table(item):
                self.table(item)[item.name] = item
        return problems


@lru_cache(maxsize=1)
def shipped_names() -> Names:
    """Everything that ships."""
    names = Names()
    texts = shipped_files() | {f"scores/{x}": text for x, text in shipped_scores().items()}
    for name, text in texts.items():
        file, problems = parse(Source(f"<shipped>/{name}.cv", text))
        if problems:
            raise SpecError(problems)
        names.add(file.items, over=True)
    return names


def shipped_copy() -> Names:
    """What ships, in tables of its own."""
    all_names = shipped_names()
    return Names(
        dict(all_names.curvatures),
        dict(all_names.transforms),
        dict(all_names.inverses),
        dict(all_names.tasks),
        dict(all_names.scores),
    )


def collect(file: s.File, source: Source) -> tuple[Names, list[Diagnostic]]:
    """The names that a file sees, with diagnostics for clashes, shadows and missing files."""
    names = shipped_copy()
    problems = Problems()
    _used(file, source, names, problems, {os.path.realpath(source.name): False})
    if not source.name.startswith("<shipped>"):
        problems += _shadows(file)
    problems += names.add(file.items, over=True)
    return names, problems


def _used(
    file: s.File, source: Source, names: Names, problems: Problems, done: dict[str, bool]
) -> None:
    """Add the definitions of the files that a file uses, each once.

    Args:
        file: What the file says.
        source: Its text.
        names: Takes the definitions.
        problems: Collects diagnostics.
        done: By path whether a file has been added, or is being read.
    """
    for item in file.items:
        if not isinstance(item, s.UseFile):
            continue
        where = str(Path(source.name).parent / item.path)
        path = os.path.realpath(where)
        problem = _unused(item, done.get(path), len(done))
        if problem is not None:
            problems.append(problem)
        if path in done or problem is not None:
            continue
        done[path] = False
        try:
            other = read(where)
        except SpecError as error:
            (wrong,) = error.diagnostics
            problems.append(replace(wrong, labels=(Label(item.span),)))
        else:
            inner, found = parse(other)
            problems += found
            _used(inner, other, names, problems, done)
            problems += names.add(inner.items, over=True)
        done[path] = True


def _unused(item: s.UseFile, done: bool | None, count: int) -> Diagnostic | None:
    """Why a file is not read, where that is a mistake."""
    if done is False:
        return Diagnostic(
            Code.E0203,
            f"`{item.path}` is used by a file that it uses itself",
            (Label(item.span, "closes a circle"),),
            ("move what both need into a third file",),
        )
    if done is None and count > MOST_FILES:
        return Diagnostic(
            Code.E0118,
            f"a spec uses at most {MOST_FILES} files, those that they use counted",
            (Label(item.span, "one too many"),),
            ("put definitions that belong together into one file",),
        )
    return None


def used_files(source: Source) -> dict[str, str]:
    """Texts of the files that a checked spec uses, and of those that they use, by path."""
    found: dict[str, str] = {}
    waiting = [source]
    while waiting:
        here = waiting.pop()
        for item in parse(here)[0].items:
            if isinstance(item, s.UseFile):
                other = read(str(Path(here.name).parent / item.path))
                if other.name not in found:
                    found[other.name] = other.text
                    waiting.append(other)
    return found


def _shadows(file: s.File) -> list[Diagnostic]:
    """A warning for every name that shadows a shipped one with another meaning."""
    shipped = shipped_names()
    found = []
    for item in file.items:
        if not isinstance(item, Named):
            continue
        table = shipped.table(item)
        builtin = item.name in SOURCES or item.name in STAGES
        if builtin or (item.name in table and table[item.name] != item):
            found.append(
                Diagnostic(
                    Code.E0202,
                    f"`{item.name}` shadows the shipped one of that name",
                    (Label(item.name_span),),
                    ("give it another name, so that readers know which is meant",),
                    (),
                    Severity.WARNING,
                )
            )
    return found
