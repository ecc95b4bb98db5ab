"""What a file imports, by its text: deferred imports and those for the type checker count too."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
Texts = Mapping[str, str]
"""Dotted name of a module to its text; a package's own name is its `__init__.py`."""


@cache
def texts() -> dict[str, str]:
    """Every module of curvlang with its text; `cli/` is installed as `curvlang.cli`."""
    found = {}
    for folder, package in (("curvlang", "curvlang"), ("cli", "curvlang.cli")):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            name = ".".join([package, *parts]).removesuffix(".__init__")
            found[name] = path.read_text("utf-8")
    return found


@cache
def parsed(text: str) -> ast.Module:
    """The syntax tree of a text, made once."""
    return ast.parse(text)


def imported(name: str, all_texts: Texts, tree: ast.AST | None = None) -> set[str]:
    """Modules of the same texts that one imports anywhere in it, also by `import_module("…")`."""
    found: set[str] = set()
    for node in ast.walk(tree if tree is not None else parsed(all_texts[name])):
        match node:
            case ast.Import(names=names):
                found |= {x.name for x in names}
            case ast.ImportFrom(names=names):
                module = _source(node, name, all_texts)
                within = {f"{module}.{x.name}" for x in names}
                found |= within & set(all_texts)
                if within - set(all_texts):
                    found.add(module)
            case ast.Call(
                func=ast.Name(id="import_module") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(module)), *_],
            ):
                found.add(module)
            case _:
                pass
    return {x for x in found if x in all_texts and x != name}


def _source(node: ast.ImportFrom, name: str, all_texts: Texts) -> str:
    """The module that a statement imports from, with leading dots resolved."""
    if not node.level:
        return node.module or ""
    package = any(x.startswith(f"{name}.") for x in all_texts)
    above = name.split(".")[: len(name.split(".")) - node.level + package]
    return ".".join([*above, *([node.module] if node.module else [])])


def at_import(name: str, all_texts: Texts) -> tuple[set[str], set[str]]:
    """What importing a module imports at once: modules of the same texts, and packages from outside."""
    inside: set[str] = set()
    outside: set[str] = set()
    for node in _at_once(parsed(all_texts[name]).body):
        inside |= imported(name, all_texts, node)
        match node:
            case ast.Import(names=names):
                outside |= {x.name.partition(".")[0] for x in names}
            case ast.ImportFrom(module=str(module), level=0):
                outside.add(module.partition(".")[0])
            case _:
                pass
    return inside, outside - {"curvlang"}


def _at_once(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Import statements that run when the module does: none of functions, nor of `if TYPE_CHECKING`."""
    for node in body:
        match node:
            case ast.Import() | ast.ImportFrom():
                yield node
            case ast.If(test=ast.Name(id="TYPE_CHECKING"), orelse=orelse):
                yield from _at_once(orelse)
            case ast.If() | ast.Try() | ast.With() | ast.ClassDef():
                yield from _at_once(node.body)
            case _:
                pass
