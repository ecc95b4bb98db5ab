"""The reference of the Python names: signatures, arguments, results and errors, read from the code's docstrings."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import griffe

DOCS = Path(__file__).parents[1]
FOLDER = "reference"
GROUPS: dict[str, tuple[str, str]] = {
    "specs": (
        "Specs and messages",
        "load loads search check format_file Spec CheckedFile Diagnostic SpecError MachineError Interrupted "
        "first_files language_server write_extension",
    ),
    "tasks": (
        "Tasks, models and data",
        "Task task task_from TaskSource Recipe Trajectory StoredRows rows Metric BinaryCrossEntropy "
        "CrossEntropy coverage covered",
    ),
    "fitting": (
        "Fitting a curvature",
        "fit explain explanations FittedOperator load_operator Setup Precision World world FitRequest "
        "FitReport fit_request store_report benchmark installation Installation exhausted Bars Cache",
    ),
    "scores": (
        "Scores",
        "influence self_influence top top_examples TokenScores Scoring ScoreRequest ScoreReport score_request "
        "check_score_file precision_errors PrecisionErrors",
    ),
    "evaluation": (
        "Evaluations and studies",
        "evaluate lds LDS Report EvaluationRequest EvaluationSettings evaluation_requests evaluate_requests "
        "run_folders study StudyRequest StudyRun study_requests study_folders check_laws LawReport small_task",
    ),
    "applications": (
        "Applications and other tools",
        "NaturalGradient log_marginal_likelihood Evidence read_kronfluence write_kronfluence to_curvlinops "
        "read_scores",
    ),
    "more": ("More", ""),
}
"""Page to title and names; a public name that none of them lists stands on the last one."""
WIDE = 88
_CODE = re.compile(r"(?<![`\w\[])E[01]\d{3}\b(?!`)")


def names() -> list[str]:
    """The pages, as their places on the site."""
    return [
        f"{FOLDER}/index.md",
        *(f"{FOLDER}/{page}.md" for page, found in groups().items() if found),
    ]


@cache
def package() -> Any:
    """The package as its text has it: nothing is imported."""
    search = [DOCS.parent]
    return griffe.load(
        "curvlang", search_paths=search, docstring_parser="google", resolve_aliases=True
    )


@cache
def public() -> tuple[str, ...]:
    """Every name of `cv.__all__`."""
    return tuple(str(x) for x in package().exports if x != "__version__")


@cache
def groups() -> dict[str, tuple[str, ...]]:
    """The names of every page."""
    found = {
        page: tuple(x for x in listed.split() if x in public())
        for page, (_, listed) in GROUPS.items()
    }
    listed = {name for names_ in found.values() for name in names_}
    return {**found, "more": tuple(sorted({*public()} - listed))}


def pages() -> dict[str, str]:
    """Every page by its place."""
    made = {
        f"{FOLDER}/{page}.md": "\n\n".join(_page(page, found))
        for page, found in groups().items()
        if found
    }
    return {f"{FOLDER}/index.md": "\n".join(_index()), **made}


def _index() -> Iterator[str]:
    yield "# API reference\n"
    yield "Every name of `import curvlang as cv`, read from the docstrings of the code. The command line is written on these names alone."
    yield "Letters of shapes: `N` training examples, `Q` queries, `P` parameters, `T` positions; [more](../language.md#conventions).\n"
    for page, found in groups().items():
        if found:
            yield f"\n## [{GROUPS[page][0]}]({page}.md)\n\n| name | |\n|---|---|"
            yield from (
                f"| [`cv.{x}`]({page}.md#cv.{x}) | {_cell(_summary(_object(x)))} |" for x in found
            )


def _cell(text: str) -> str:
    return _linked(text).replace("\n", " ").replace("|", "\\|")


def _page(page: str, found: Sequence[str]) -> Iterator[str]:
    yield f"# {GROUPS[page][0]}"
    for name in found:
        yield from _entry(name)


def _object(name: str) -> Any:
    member = package()[name]
    return member.final_target if member.is_alias else member


def _entry(name: str) -> Iterator[str]:
    thing = _object(name)
    kind = "class" if thing.is_class else "function"
    yield f'## {name} {{: #cv.{name} data-toc-label="{name}" .api .{kind} }}'
    if thing.is_function:
        yield from _signatures(f"cv.{name}", thing)
        yield from _described(thing)
        return
    if not thing.is_class:
        yield f"```py\ncv.{name} = {thing.value}\n```"
        yield from _described(thing)
        return
    if _constructed(thing):
        yield _signature(f"cv.{name}", thing)
    yield from _described(thing)
    for member in _members(thing):
        yield from _member(name, member)


def _constructed(thing: Any) -> bool:
    bases = {str(x) for x in thing.bases}
    return not bases & {"StrEnum", "Enum", "Exception", "KeyboardInterrupt"}


def _members(thing: Any) -> list[Any]:
    """Public methods and properties that say what they do and what they are given; inherited ones, too.

    A method that names no argument is for the other rooms, and not for those who import curvlang.
    """
    every = {**thing.inherited_members, **thing.members}
    found = []
    for name, member in every.items():
        target = member.final_target if member.is_alias else member
        shown = target.is_function or (target.is_attribute and "property" in target.labels)
        if not name.startswith("_") and shown and _told(target):
            found.append(target)
    return sorted(found, key=lambda x: (x.is_function, x.lineno or 0))


def _told(member: Any) -> bool:
    """Whether a docstring says what a member is, and what it is given."""
    if member.docstring is None:
        return False
    given = [x.name for x in member.parameters] if member.is_function else []
    text = member.docstring.value
    return all(f"`{x}`" in text or f"{x}: " in text for x in given if x not in ("self", "cls"))


def _member(owner: str, member: Any) -> Iterator[str]:
    anchor = f"cv.{owner}.{member.name}"
    kind = "method" if member.is_function else "property"
    label = f"{owner}.{member.name}" + "()" * member.is_function
    yield f'### {label} {{: #{anchor} data-toc-label="{member.name}" .api .{kind} }}'
    if member.is_function:
        yield from _signatures(f"{_receiver(owner, member)}.{member.name}", member)
    elif member.annotation is not None:
        yield f"Type: `{member.annotation}`"
    yield from _described(member)


def _receiver(owner: str, member: Any) -> str:
    """`cv.Task` for what the class has, `task` for what a value has."""
    if {"classmethod", "staticmethod"} & set(member.labels):
        return f"cv.{owner}"
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", owner).lower()


def _signatures(shown: str, thing: Any) -> Iterator[str]:
    """The signature, and below it, folded, what is returned for which arguments."""
    yield _signature(shown, thing)
    if thing.overloads:
        each = "\n\n".join(_signature(shown, one) for one in thing.overloads)
        inside = "\n".join(f"    {line}".rstrip() for line in each.split("\n"))
        yield f'??? note "What is returned for which arguments"\n\n{inside}'


def _signature(shown: str, thing: Any) -> str:
    given = [x for x in thing.parameters if x.name not in ("self", "cls")]
    written = list(_written(given))
    returns = f" -> {thing.returns}" if getattr(thing, "returns", None) is not None else ""
    line = f"{shown}({', '.join(written)}){returns}"
    if len(line) > WIDE:
        inside = "".join(f"    {x},\n" for x in written)
        line = f"{shown}(\n{inside}){returns}"
    return f"```py\n{line}\n```"


def _written(given: Sequence[Any]) -> Iterator[str]:
    starred = False
    for one in given:
        kind = one.kind.value
        if kind == "keyword-only" and not starred:
            starred = True
            yield "*"
        starred = starred or kind == "variadic positional"
        mark = {"variadic positional": "*", "variadic keyword": "**"}.get(kind, "")
        annotation = f": {one.annotation}" if one.annotation is not None else ""
        known = one.default is not None and not mark
        equals = (" = " if annotation else "=") + str(one.default) if known else ""
        yield f"{mark}{one.name}{annotation}{equals}"


def _summary(thing: Any) -> str:
    return thing.docstring.value.split("\n\n")[0] if thing.docstring else ""


def _described(thing: Any) -> Iterator[str]:
    """The docstring, section by section."""
    for section in thing.docstring.parsed if thing.docstring else ():
        match section.kind.value:
            case "text" | "admonition":
                yield _linked(str(getattr(section.value, "description", section.value)))
            case "parameters" | "attributes" | "other parameters":
                yield "**Arguments**" if section.kind.value == "parameters" else "**Attributes**"
                yield "\n".join(_argument(x) for x in section.value)
            case "returns" | "yields":
                yield f"**{section.kind.value.capitalize()}**"
                yield "\n".join(f"* {_type(x)}{_flat(x.description)}" for x in section.value)
            case "raises" | "warns":
                yield f"**{section.kind.value.capitalize()}**"
                yield "\n".join(
                    f"* `{x.annotation}`: {_flat(x.description)}" for x in section.value
                )
            case "examples":
                yield "\n\n".join(_example(*x) for x in section.value)


def _example(kind: Any, text: str) -> str:
    return f"```pycon\n{text}\n```" if kind.value == "examples" else _linked(text)


def _argument(one: Any) -> str:
    annotation = f": {one.annotation}" if one.annotation is not None else ""
    default = getattr(one, "value", None)
    equals = f" = {default}" if default is not None else ""
    return f"* `{one.name}{annotation}{equals}`  \n  {_flat(one.description)}"


def _type(one: Any) -> str:
    return f"`{one.annotation}`: " if one.annotation is not None else ""


def _flat(text: str) -> str:
    return _linked(" ".join(text.split()))


def _linked(text: str) -> str:
    """Codes of diagnostics lead to their pages."""

    def link(found: re.Match[str]) -> str:
        code = found[0]
        there = (DOCS / "diagnostics" / f"{code}.md").exists()
        return f"[{code}](../diagnostics/{code}.md)" if there else code

    return _CODE.sub(link, text)
