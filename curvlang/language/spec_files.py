"""Spec files as a whole: everything that is wrong with one, and its formatted text."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from curvlang.diagnostics.diagnostic import Diagnostic, SpecError
from curvlang.diagnostics.notebook import Display
from curvlang.diagnostics.plain_arguments import validated
from curvlang.diagnostics.render import render
from curvlang.language import load
from curvlang.language.chain import Spec
from curvlang.language.checking.spec import analyse, errors
from curvlang.language.checking.uses import task_in
from curvlang.language.syntax.files import read, rewrite, split_name
from curvlang.language.syntax.formatter import format_source
from curvlang.language.syntax.nodes import TaskDef
from curvlang.language.syntax.parser import parse
from curvlang.language.task_sources import code_in


@dataclass(frozen=True, slots=True, repr=False)
class CheckedFile(Display):
    """A spec with everything there is to say about it.

    Args:
        name: The path or name as it was given.
        spec: What could be read; None where that is nothing.
        problems: Errors and warnings, in the order of the file.
    """

    name: str
    spec: Spec | None
    problems: tuple[Diagnostic, ...]

    @property
    def failed(self) -> bool:
        """Whether there is an error among the problems."""
        return bool(errors(list(self.problems)))

    def _summary(self) -> str:
        count = len(self.problems)
        return f"{self.name}: {count or 'no'} problem{'s' * (count != 1)}"

    def __str__(self) -> str:
        return render(self.problems) or f"{self.name}: no problems"


@validated
def check(given: Spec | str | os.PathLike[str], *, allow_python: bool = False) -> CheckedFile:
    """Every error and warning about a spec; nothing is raised for them.

    Args:
        given: A path (`x.cv`, `x.cv:name`), the name of a spec that ships, or a spec.
        allow_python: Whether tasks of the file may name functions of the user's.
    """
    name = given.source.name if isinstance(given, Spec) else os.fspath(given)
    try:
        path, curvature = (name, None) if isinstance(given, Spec) else split_name(name)
        spec, problems = analyse(given.source if isinstance(given, Spec) else read(path))
        if curvature is not None and not problems:
            load(name)
    except SpecError as error:
        return CheckedFile(name, None, tuple(error.diagnostics))
    if not errors(problems) and not allow_python:
        problems = [*problems, *_functions(spec)]
    return CheckedFile(name, spec, tuple(problems))


def _functions(spec: Spec) -> list[Diagnostic]:
    """What the file's own tasks would run."""
    file, _ = parse(spec.source)
    names = [item.name for item in file.items if isinstance(item, TaskDef)]
    return [d for name in names for d in code_in(task_in(spec, name))]


@validated
def format_file(path: str | os.PathLike[str], *, write: bool = True) -> bool:
    """Give a spec file the one format: white space only, comments kept.

    Args:
        path: The file.
        write: Whether it is rewritten: all of it or nothing, its permissions kept.

    Returns:
        Whether its text is not in that format.

    Raises:
        SpecError: E0110 to E0115 where the file cannot be read, and for text that is not a spec.
    """
    source = read(os.fspath(path))
    text = format_source(source)
    if write and text != source.text:
        rewrite(Path(path), text)
    return text != source.text
