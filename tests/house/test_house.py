"""The laws of the house hold: floors, circles, sizes, names, dead code and words; each law can fail."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Iterator

import pytest

import curvlang
from curvlang.diagnostics.codes import Code
from tests.house import dead_code, laws
from tests.house.breaches import BREACHES
from tests.house.imports import ROOT, texts
from tests.house.rooms import ROOMS, table
from tests.house.words import words

PROSE = ("*.py", "*.md", "*.cv", "*.lark", "*.jinja", "*.js")


def paths(*folders: str) -> list[str]:
    return [
        path.relative_to(ROOT).as_posix()
        for folder in folders
        for path in sorted((ROOT / folder).rglob("*.py"))
    ]


def words_of_all() -> Iterator[str]:
    places = [p for f in ("curvlang", "cli", "docs", "specs", "grammars") for p in (ROOT / f,)]
    for path in [
        *(path for place in places for kind in PROSE for path in place.rglob(kind)),
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
    ]:
        yield from words(path.relative_to(ROOT).as_posix(), path.read_text("utf-8"))


def packages() -> Iterator[str]:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    moved = set(listed["package-dir"]) - {"curvlang"}
    there = {"curvlang", *moved} | {
        path.parent.relative_to(ROOT).as_posix().replace("/", ".")
        for path in (ROOT / "curvlang").rglob("*.py")
    }
    yield from (f"{name}: listed, not there" for name in set(listed["packages"]) - there)
    yield from (f"{name}: there, not listed" for name in there - set(listed["packages"]))
    for folder in ("curvlang", "cli", "tests"):
        for name in {path.parent for path in (ROOT / folder).rglob("*.py")}:
            if not (name / "__init__.py").exists():
                yield f"{name.relative_to(ROOT)}: no __init__.py"


def offered() -> set[str]:
    """Where the functions and the constructors that `curvlang` offers are defined."""
    found = set()
    for public in (getattr(curvlang, name) for name in curvlang.__all__):
        if callable(public):
            inside = ".__init__" * isinstance(public, type)
            found.add(f"{public.__module__}.{public.__qualname__}{inside}")
    return found


LAWS: dict[str, Callable[[], Iterable[str]]] = {
    "imports point down": lambda: laws.floors(texts()),
    "every module has its room": lambda: laws.homeless(texts()),
    "no circles": lambda: laws.circles(texts()),
    "no torch in the language half": lambda: laws.torch_at_import(texts()),
    "at most 16 files in a folder": lambda: laws.folders(paths("curvlang", "cli", "tests", "docs")),
    "no file twice in a room": lambda: laws.files_twice(texts()),
    "no class twice in a room": lambda: laws.classes_twice(texts()),
    "types are nouns": lambda: laws.participles(texts()),
    "no code outside the registry": lambda: laws.codes_as_text(texts()),
    "no title of a code twice": lambda: laws.twice(code.meaning for code in Code),
    "at most 6 parameters": lambda: laws.parameters(texts(), offered()),
    "no file above 500 lines": lambda: laws.long_files(texts()),
    "no function above 60 lines": lambda: laws.long_functions(texts()),
    "the packages are the folders": packages,
    "no dead code": lambda: dead_code.unused(ROOT / "curvlang", ROOT / "cli"),
    "plain words": words_of_all,
}


@pytest.mark.parametrize("law", LAWS)
def test_the_law_holds(law):
    found, listed = set(LAWS[law]()), BREACHES.get(law, set())
    assert sorted(found - listed) == []
    assert sorted(listed - found) == [], "no breach any more: take them off tests/house/breaches.py"


def test_the_breaches_are_of_laws():
    assert set(BREACHES) <= set(LAWS)


def test_every_allowed_name_would_be_reported():
    assert dead_code.never_reported(ROOT / "curvlang", ROOT / "cli") == set()


def test_the_rooms_are_the_folders():
    for room in ROOMS:
        place = ROOT / room.name if room.name == "cli" else ROOT / "curvlang" / room.name
        if room.name == "facade":
            continue
        there = {p.name for p in place.iterdir() if p.is_dir() and p.name != "__pycache__"}
        assert there == set(room.subrooms), room.name
    folders = {p.name for p in (ROOT / "curvlang").iterdir() if p.is_dir()} - {"__pycache__"}
    assert folders == {room.name for room in ROOMS} - {"facade", "cli"}


def test_the_architecture_shows_the_rooms():
    assert "\n".join(table()) in (ROOT / "docs" / "architecture.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("law", "bad", "good"),
    [
        (laws.floors, "from curvlang.runtime.fit import x", "from curvlang.ir.b import x"),
        (laws.floors, "def f():\n    import curvlang.runtime.fit", "import torch"),
        (laws.floors, "if TYPE_CHECKING:\n    from curvlang.runtime import fit", ""),
        (laws.floors, "from ..runtime import fit", "from .b import x"),
        (laws.floors, "import_module('curvlang.runtime.fit')", "import_module('curvlang.ir.b')"),
        (laws.torch_at_import, "import torch", "def f():\n    import torch"),
        (laws.torch_at_import, "try:\n    from torch import Tensor\nexcept E:\n    pass", ""),
        (laws.torch_at_import, "import curvlang.runtime.fit",
         "if TYPE_CHECKING:\n    from torch import Tensor"),
        (laws.classes_twice, "class B: ...", "class A: ..."),
        (laws.codes_as_text, "refusal('E0101', 'x')", "refusal(Code.E0101, 'E0101: see the page')"),
        (laws.parameters, "def f(a, b, c, *, d, e, f, g): ...", "def f(self, a, b, c, *, d, e, f): ..."),
        (laws.participles, "class Told: ...", "class Progress: ..."),
        (laws.participles, "class BlockMeasured: ...", "class Stacked: ..."),
        (laws.parameters, "class C:\n    def __init__(self, a, b, c, d, e, f, g): ...", ""),
        (laws.long_files, "\n" * 501, "\n" * 500),
        (laws.long_functions, "def f():\n" + "    x\n" * 61, "def f():\n    '''D\n" + "\n" * 60 + "    '''\n    x"),
    ],
)  # fmt: skip
def test_the_laws_can_fail(law, bad, good):
    rest = {"curvlang.ir.b": "class B: ...", "curvlang.runtime.fit": "import torch"}
    assert len(list(law({"curvlang.ir.a": bad, **rest}))) == 1
    assert list(law({"curvlang.ir.a": good, **rest})) == []


def test_circles_are_found_however_late_the_import():
    texts = {"curvlang.ir.a": "import curvlang.ir.b", "curvlang.ir.b": "import curvlang.ir.c"}
    assert list(laws.circles({**texts, "curvlang.ir.c": ""})) == []
    late = "def f():\n    from curvlang.ir.a import x"
    found = list(laws.circles({**texts, "curvlang.ir.c": late, "curvlang.ir.d": late}))
    assert found == ["curvlang.ir.a ↔ curvlang.ir.b ↔ curvlang.ir.c"]


def test_what_a_user_calls_may_have_more_parameters():
    long = "def command(a, b, c, d, e, f, g): ..."
    assert list(laws.parameters({"curvlang.ir.a": long}, {"curvlang.ir.a.command"})) == []
    assert list(laws.parameters({"curvlang.ir.b": long}, {"curvlang.ir.a.command"})) != []
    assert list(laws.parameters({"curvlang.cli.a": long})) == []
    assert "curvlang.models.task.Task.__init__" in offered()


def test_the_laws_of_names_and_sizes_can_fail():
    assert list(laws.files_twice({"curvlang.ir.one.x": "", "curvlang.ir.two.x": ""})) != []
    assert list(laws.files_twice({"curvlang.ir.one.x": "", "curvlang.language.x": ""})) == []
    assert list(laws.folders([f"ir/{k}.py" for k in range(17)])) == ["ir: 17 files"]
    assert list(laws.folders([f"ir/{k}.py" for k in range(16)])) == []
    assert list(laws.homeless({"curvlang.attic.x": ""})) == ["curvlang.attic.x"]
    assert list(laws.twice(["a", "b", "a"])) == ["a"]


def test_dead_code_is_found(tmp_path):
    path = tmp_path / "a.py"
    path.write_text("def used(): ...\n\n\ndef unused(): ...\n\n\nused()\n")
    assert dead_code.unused(path) == ["a.py: function unused"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("# this is no value", ["is no"]),
        ("def f():\n    '''Where there is no value.'''", []),
        ("raise E('nobody asked')", ["nobody"]),
        ("nobody = anew", []),
        ("f'{x} is made anew'", ["anew"]),
        ("'''What the\n\nsum comes to.'''", ["What the sum comes to"]),
        ("'a commend'", []),
    ],
)
def test_words_are_found_in_prose(text, found):
    assert [x.split(": ", 1)[1] for x in words("a.py", text)] == found


def test_words_are_found_in_pages():
    assert list(words("a.md", "One\nline is no page.")) == ["a.md: is no"]
