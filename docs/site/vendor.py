"""What the site serves besides its pages, gathered when it is built: fonts, mathematics, Python and the language."""

from __future__ import annotations

import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import playground

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ROOMS = ("diagnostics", "storage", "ir", "language", "compiler", "editors")
"""What the playground imports of curvlang: rooms that need no torch, and the compiler up to its plans."""
BESIDE = {"grammars": "grammars", "specs": "specs", "docs/diagnostics": "pages"}
"""Folders of the repository that are packages of curvlang, as `pyproject.toml` has them."""
PURE = ("lark", "opt_einsum")
"""Distributions of pure Python that the compiler imports."""
PYODIDE = (
    "pyodide.mjs",
    "pyodide.asm.mjs",
    "pyodide.asm.wasm",
    "python_stdlib.zip",
    "pyodide-lock.json",
)
FONTS = {
    "inter": ("index.css", "wght-italic.css"),
    "jetbrains-mono": ("index.css", "wght-italic.css"),
}


def packages(folder: Path) -> Path:
    """The packages of npm, installed into a folder at the versions that `package.json` names."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = HERE / "package.json"
    there = folder / "package.json"
    if not there.exists() or there.read_bytes() != wanted.read_bytes():
        shutil.copy(wanted, there)
        command = [
            "npm",
            "install",
            "--no-audit",
            "--no-fund",
            "--no-package-lock",
            "--loglevel=error",
        ]
        try:
            subprocess.run(command, cwd=folder, check=True)
        except (OSError, subprocess.CalledProcessError):
            there.unlink()
            raise
    return folder / "node_modules"


def gather(npm: Path, assets: Path) -> None:
    """Copy what pages and playground load into the site's folder of assets.

    Args:
        npm: `node_modules`.
        assets: Where it goes.
    """
    for path in (HERE / "assets").iterdir():
        _copy(path, assets / path.name)
    katex = npm / "katex" / "dist"
    for name in ("katex.min.css", "katex.min.js"):
        _copy(katex / name, assets / "katex" / name)
    for path in (katex / "fonts").glob("*.woff2"):
        _copy(path, assets / "katex" / "fonts" / path.name)
    _fonts(npm / "@fontsource-variable", assets / "fonts")
    for name in PYODIDE:
        _copy(npm / "pyodide" / name, assets / "pyodide" / name)
    bundle(assets / "playground.zip")
    (assets / "playground.json").write_text(
        f'{{"examples": {playground.examples()}, "words": {playground.words()}}}', "utf-8"
    )


def _fonts(source: Path, target: Path) -> None:
    sheets = []
    for family, names in FONTS.items():
        for name in names:
            sheets.append((source / family / name).read_text("utf-8").replace("./files/", "./"))
        for path in (source / family / "files").glob("*-wght-*.woff2"):
            _copy(path, target / path.name)
    (target / "fonts.css").write_text("\n".join(sheets), "utf-8")


def bundle(path: Path) -> None:
    """Everything that the playground imports, as one archive that Python imports from."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, source in sorted(files().items()):
            archive.write(source, name)


def files() -> dict[str, Path]:
    """The files of the archive, by their places in it."""
    found = {"playground.py": HERE / "playground.py"}
    package = ROOT / "curvlang"
    for path in (package / "__init__.py", package / "version.py", *_inside(package, ROOMS)):
        found[path.relative_to(ROOT).as_posix()] = path
    for folder, name in BESIDE.items():
        for path in _readable(ROOT / folder):
            found[f"curvlang/{name}/{path.relative_to(ROOT / folder).as_posix()}"] = path
    for name in PURE:
        for file in metadata.files(name) or ():
            if (
                file.parts[0] == name
                and "tests" not in file.parts
                and file.suffix in (".py", ".lark")
            ):
                found[file.as_posix()] = Path(str(file.locate()))
    return found


def _inside(package: Path, rooms: tuple[str, ...]) -> Iterator[Path]:
    for room in rooms:
        yield from _readable(package / room)


def _readable(folder: Path) -> list[Path]:
    kinds = {".py", ".cv", ".lark", ".json", ".tables", ".md"}
    return [x for x in folder.rglob("*") if x.suffix in kinds and "__pycache__" not in x.parts]


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
