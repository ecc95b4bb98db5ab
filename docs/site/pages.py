"""Which pages the site has, in which order, and their files: written, generated, and the data beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import figure
import reference
from dialect import normalised, relinked, title

HERE = Path(__file__).parent
DOCS = HERE.parent
ROOT = DOCS.parent
MOVED = {
    "README.md": "index.md",
    "docs/site/home.md": "index.md",
    "docs/README.md": "documents.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "CODE_OF_CONDUCT.md": "conduct.md",
}
"""Files that lie elsewhere on the site than in `docs`; the README's place is taken by the first page."""
DATA = (".json", ".gz", ".svg", ".png", ".html", ".ipynb", ".py", ".cv", ".txt", ".csv")
"""Kinds of files beside the pages that links may lead to."""
OWN = ("make_pages.py", "make_tables.py", "make_site.py")


@dataclass(frozen=True)
class Section:
    """A part of the site: its title, and patterns of its pages in their order."""

    title: str
    pages: tuple[str | Section, ...]


SECTIONS = (
    Section("Start", ("index.md", "start.md", "tutorial.md", "examples/*.md", "documents.md")),
    Section(
        "Guide",
        (
            Section("Write a spec", ("scores.md", "testing.md", "editors.md")),
            Section(
                "Your model",
                ("tasks.md", "influence.md", "python.md", "language_models.md", "laplace.md",
                 "other_tools.md"),
            ),
            Section("Large models", ("scale.md", "precision.md", "devices.md")),
        ),
    ),
    Section(
        "Results",
        ("results/README.md", "evidence.md", "results/*.md", "studies.md", "result.md",
         "benchmarks.md", "benchmarks/*.md"),
    ),
    Section(
        "Language",
        ("language.md", "limits.md", "parameters.md", Section("Diagnostics", ("diagnostics/README.md", "diagnostics/*.md"))),
    ),
    Section("Methods", ("transformations/README.md", "kronecker.md", "transformations/*.md")),
    Section("API", ("reference/index.md", *(f"reference/{x}.md" for x in reference.GROUPS))),
    Section("Playground", ("playground.md",)),
    Section(
        "Project",
        ("architecture.md", "contributing.md", "versions.md", "security.md", "conduct.md", "changelog.md",
         "**"),
    ),
)  # fmt: skip
"""Every page has one place: the first pattern that it matches. `**` at the end takes what has none of its own."""


def written() -> dict[Path, Path]:
    """Every file that the site takes from the repository: where it lies there, and where on the site."""
    found = {}
    for path in sorted(DOCS.rglob("*")):
        inside = path.relative_to(DOCS)
        if path.is_dir() or "__pycache__" in inside.parts or inside.name in OWN:
            continue
        if inside.parts[0] == "site":
            if path.suffix == ".md":
                found[path] = Path(inside.name)
        elif path.suffix == ".md" or (len(inside.parts) > 1 and path.suffix in DATA):
            found[path] = inside
    for name, place in MOVED.items():
        if (ROOT / name).exists():
            found[ROOT / name] = Path(place)
    return found


def staged() -> Callable[[Path], Path | None]:
    """Where a file of the repository lies on the site."""
    places = written()
    generated = {DOCS / name: Path(name) for name in reference.names()}
    return lambda path: places.get(path) or generated.get(path) or _listed(path, places)


def _listed(path: Path, places: dict[Path, Path]) -> Path | None:
    """A folder is its first page."""
    return places.get(path / "README.md")


def texts() -> dict[Path, str]:
    """Every page of the site by its place, as the generator reads it."""
    where = staged()
    found = {}
    for source, place in written().items():
        if place.suffix != ".md" or source == ROOT / "README.md":
            continue
        text = relinked(source.read_text("utf-8"), source, place, where)
        found[place] = normalised(text)
    for name, text in reference.pages().items():
        found[Path(name)] = normalised(relinked(text, DOCS / name, Path(name), where))
    home = Path("index.md")
    found[home] = found[home].replace("<!-- figure -->", figure.svg())
    return found


def stage(folder: Path) -> None:
    """Write all pages and the files beside them into a folder, for the generator."""
    for place, text in texts().items():
        _into(folder / place, text.encode())
    for source, place in written().items():
        if place.suffix != ".md":
            _into(folder / place, source.read_bytes())


def _into(path: Path, data: bytes) -> None:
    """Write a file where it is new, so that a server that watches sees what has changed."""
    if path.exists() and path.read_bytes() == data:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


# The order ---------------------------------------------------------------------------------------


def navigation(texts: dict[Path, str]) -> list[Any]:
    """The sections with their pages, as the generator's `nav`.

    Args:
        texts: Every page.
    """
    left = dict(sorted(texts.items()))
    explicit = {Path(x) for x in _named(SECTIONS)}
    return [entry for section in SECTIONS for entry in _entries(section, left, explicit)]


def _named(pages: Sequence[str | Section]) -> Iterator[str]:
    for page in pages:
        if isinstance(page, Section):
            yield from _named(page.pages)
        elif "*" not in page:
            yield page


def _entries(
    section: Section, left: dict[Path, str], explicit: set[Path]
) -> Iterator[dict[str, Any]]:
    found: list[Any] = []
    for page in section.pages:
        if isinstance(page, Section):
            found += _entries(page, left, explicit)
            continue
        exact = "*" not in page
        taken = {
            x: left[x] for x in left if (x == Path(page) if exact else _matches(x, page, explicit))
        }
        for path in taken:
            left.pop(path)
        found += GROUPED.get(page, _plain)(taken)
    if found:
        yield {section.title: found}


def _matches(path: Path, pattern: str, explicit: set[Path]) -> bool:
    """Whether a page lies in the pattern's folder and has no place of its own; `**` is every page."""
    inside = path.match(pattern) and len(path.parts) == pattern.count("/") + 1
    return path not in explicit and (pattern == "**" or inside)


def _plain(found: dict[Path, str]) -> list[Any]:
    return [x.as_posix() for x in found]


def _families(found: dict[Path, str]) -> list[Any]:
    """The pages of the diagnostics, by the first two digits of their codes."""
    families: dict[str, list[str]] = {}
    for path in found:
        families.setdefault(f"{path.stem[:3]}xx", []).append(path.as_posix())
    return [{family: pages} for family, pages in families.items()]


def _kinds(found: dict[Path, str]) -> list[Any]:
    """The pages of the transformations by what they are of first: a curvature, a transform or a stage."""
    kinds: dict[str, list[str]] = {"Curvatures": [], "Transforms": [], "Stages": []}
    for path, text in found.items():
        words = {"Spec": "Curvatures", "Transform": "Transforms", "Stage": "Stages"}
        kind = next(v for k, v in words.items() if f"\n## {k}\n" in text)
        kinds[kind].append(path.as_posix())
    return [{kind: pages} for kind, pages in kinds.items() if pages]


GROUPED: dict[str, Callable[[dict[Path, str]], list[Any]]] = {
    "diagnostics/*.md": _families,
    "transformations/*.md": _kinds,
}
"""Patterns whose pages have headings of their own."""


def titles() -> dict[Path, str]:
    """Every page and its first heading."""
    return {place: title(text) for place, text in texts().items()}
