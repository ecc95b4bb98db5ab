"""Text to typed chains and back. No torch."""

from __future__ import annotations

import os
from dataclasses import replace

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import Diagnostic, SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.diagnostics.source import NOWHERE, Source
from curvlang.diagnostics.suggestion import suggestion
from curvlang.diagnostics.values import another_type
from curvlang.ir.expr import Number
from curvlang.language.chain import DAMPING, InverseUse, Spec, Study
from curvlang.language.checking.arguments import number
from curvlang.language.checking.names import used_files
from curvlang.language.checking.shipped import ShippedName, search, shipped
from curvlang.language.checking.spec import (
    analyse,
    curvature_named,
    errors,
)
from curvlang.language.checking.uses import (
    declared,
    declared_inverses,
    inverse_kept,
    inverse_read,
    inverse_text,
    part_text,
    score_kept,
    score_read,
    score_text,
    solver_text,
    task_text,
)
from curvlang.language.registry import INVERSES
from curvlang.language.syntax.files import (
    PRELUDE,
    decode,
    read,
    shipped_files,
    shipped_scores,
    shipped_studies,
    split_name,
)


def load(given: str | os.PathLike[str]) -> Spec:
    """A checked spec from a path, or from the bare name of one that ships.

    `path.cv:name` keeps one curvature of the file.

    Args:
        given: The path or the name.

    Raises:
        SpecError: With every problem of the file; E0563 for something else than a path or a name.
    """
    if not isinstance(given, str | os.PathLike):
        raise another_type("given", given, "a path or the name of a spec that ships", '`"ggn"`')
    path, name = split_name(os.fspath(given))
    source = read(path)
    spec = _checked(source)
    return spec if name is None else _only(spec, name)


def load_studies(given: str) -> tuple[Spec, tuple[Study, ...]]:
    """A checked spec and its studies; `path.cv:name` keeps one of them.

    Raises:
        SpecError: With every problem of the file; E0919 where it has no such study.
    """
    path, name = split_name(given)
    spec = _checked(read(path))
    found = tuple(s for n, s in spec.studies.items() if name in (None, n))
    if not found:
        what = f"no study `{name}`" if name is not None else "no study"
        help_ = suggestion(name, spec.studies) if name is not None else ()
        example = "write `study depth { task … for … in […] path hessian > ggn }`"
        raise refusal(Code.E0919, f"`{spec.source.name}` states {what}", *(help_ or (example,)))
    return spec, found


def load_study(given: str) -> tuple[Spec, Study]:
    """A checked spec and its only study, or the one named: `path.cv:name`.

    Raises:
        SpecError: With every problem of the file; E0919 where it has no such study, or several.
    """
    spec, found = load_studies(given)
    if len(found) > 1:
        names = ", ".join(f"`{study.name}`" for study in found)
        headline = f"`{spec.source.name}` states {len(found)} studies: {names}"
        raise refusal(Code.E0919, headline, f"name one: `{given}:{found[0].name}`")
    return spec, found[0]


def loads(text: str, name: str = "<text>") -> Spec:
    """A checked spec from text.

    Args:
        text: What a file would have.
        name: How messages call it.

    Raises:
        SpecError: With every problem of the text; E0563 for something else than a text.
    """
    if not isinstance(text, str):
        raise another_type("text", text, "a text", '`"curvature mine = ggn"`, or `cv.load(path)`')
    return _checked(Source(name, decode(name, text.encode("utf-8", "surrogatepass"))))


def check_text(text: str, name: str = "<text>") -> list[Diagnostic]:
    """Every error and warning about a text; empty where there is nothing to say."""
    try:
        source = Source(name, decode(name, text.encode("utf-8", "surrogatepass")))
    except SpecError as error:
        return list(error.diagnostics)
    return analyse(source)[1]


DEFAULT_INVERSE = "tikhonov"
"""The inverse of a spec that names none."""


def default_inverse(damping: float | None = None) -> InverseUse:
    """The inverse of a spec that names none, with a damping where one is given."""
    found = replace(inverse_text(DEFAULT_INVERSE, "<default>"), span=NOWHERE)
    return found if damping is None else with_damping(found, damping)


def with_damping(use: InverseUse, damping: float) -> InverseUse:
    """The same inverse with its parameter `damping` set.

    Raises:
        SpecError: E0705, E0707 for a damping that is not a number of 0 or more.
    """
    found = Number(number(DAMPING, damping, INVERSES[DAMPING]))
    return replace(use, arguments={**use.arguments, DAMPING: found})


def _checked(source: Source) -> Spec:
    spec, problems = analyse(source)
    if errors(problems):
        raise SpecError(errors(problems))
    return spec


def _only(spec: Spec, name: str) -> Spec:
    kept = tuple(e for e in spec.evaluations if e.curvature == name)
    if kept and name not in spec.curvatures:
        return replace(spec, curvatures={}, evaluations=kept)
    if name not in spec.curvatures:
        raise no_curvature(spec, name)
    return replace(spec, curvatures={name: spec.curvatures[name]}, evaluations=kept)


def no_curvature(spec: Spec, name: str | None = None) -> SpecError:
    """The refusal of a spec that defines no curvature, or none of that name."""
    what = f"no curvature `{name}`" if name else "no curvature"
    near = suggestion(name, spec.curvatures) if name else ()
    example = "add `curvature mine = hessian |> drop_residual`"
    return refusal(Code.E0206, f"`{spec.source.name}` defines {what}", *(near or (example,)))


__all__ = [
    "DEFAULT_INVERSE",
    "PRELUDE",
    "ShippedName",
    "analyse",
    "check_text",
    "curvature_named",
    "declared",
    "declared_inverses",
    "default_inverse",
    "inverse_kept",
    "inverse_read",
    "inverse_text",
    "load",
    "load_studies",
    "load_study",
    "loads",
    "no_curvature",
    "part_text",
    "score_kept",
    "score_read",
    "score_text",
    "search",
    "shipped",
    "shipped_files",
    "shipped_scores",
    "shipped_studies",
    "solver_text",
    "task_text",
    "used_files",
    "with_damping",
]
