"""The laws of the house as functions of texts: each yields one line for every breach that it finds."""

from __future__ import annotations

import ast
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence

from tests.house.imports import Texts, at_import, imported, parsed
from tests.house.rooms import MOST_FILES, room_of

MOST_PARAMETERS = 6
MOST_LINES = 500
STRUCTURES = ("Projected", "Scaled", "Stacked", "StackedMLP", "Unexpected")
"""Operators as mathematics names them, and nouns of this form."""
PARTICIPLE = (
    r"\w+[^e]ed|Asked|Built|Drawn|Found|Given|Held|Kept|Known|Made|Meant|Read|Seen|Shown|Sought|Told|"
    r"Written|Wanted"
)
MOST_LINES_OF_A_FUNCTION = 60
"""Without the docstring. Most have 2 to 25."""


def floors(texts: Texts) -> Iterator[str]:
    """Imports that do not go to a lower floor."""
    for name in texts:
        room = room_of(name)
        for other in sorted(imported(name, texts)):
            goal = room_of(other)
            if room is None or goal is None or room is goal:
                continue
            if goal.floor >= room.floor:
                yield f"{name} imports {other}"


def homeless(texts: Texts) -> Iterator[str]:
    """Modules that are in no room of the table."""
    yield from (x for x in texts if room_of(x) is None and x != "curvlang.version")


def circles(texts: Texts) -> Iterator[str]:
    """Sets of files that import each other in a circle, however late."""
    graph = {name: sorted(imported(name, texts)) for name in texts}
    for part in _strong_components(graph):
        if len(part) > 1:
            yield " ↔ ".join(sorted(part))


def _strong_components(graph: dict[str, list[str]]) -> Iterator[set[str]]:
    """Kosaraju: reversed reach in the order in which a first walk ends."""
    seen: set[str] = set()
    order: list[str] = []

    def walk(edges: dict[str, list[str]], start: str) -> Iterator[str]:
        stack = [(start, iter(edges[start]))]
        seen.add(start)
        while stack:
            node, rest = stack[-1]
            following = next((x for x in rest if x not in seen), None)
            if following is None:
                stack.pop()
                yield node
            else:
                seen.add(following)
                stack.append((following, iter(edges[following])))

    for node in graph:
        if node not in seen:
            order += walk(graph, node)
    back: dict[str, list[str]] = {x: [] for x in graph}
    for node, goals in graph.items():
        for goal in goals:
            back[goal].append(node)
    seen = set()
    for node in reversed(order):
        if node not in seen:
            yield set(walk(back, node))


def torch_at_import(texts: Texts) -> Iterator[str]:
    """Modules of rooms without torch whose import reaches it, with the module that imports it."""
    for name in texts:
        room = room_of(name)
        if room is None or room.torch:
            continue
        reached, waiting = set(), {name}
        while waiting:
            module = waiting.pop()
            reached.add(module)
            parents = {module.rsplit(".", k)[0] for k in range(1, module.count(".") + 1)}
            inside, outside = at_import(module, texts)
            waiting |= (inside | parents & set(texts)) - reached
            if "torch" in outside:
                yield f"{name} reaches torch in {module}"


def folders(paths: Sequence[str]) -> Iterator[str]:
    """Folders with more Python files than a reader can survey."""
    count = Counter(path.rpartition("/")[0] for path in paths)
    yield from (f"{k}: {n} files" for k, n in sorted(count.items()) if n > MOST_FILES)


def files_twice(texts: Texts) -> Iterator[str]:
    """File names that stand twice in a room, its sub-rooms included."""
    places = defaultdict(list)
    for name in texts:
        room = room_of(name)
        last = name.rpartition(".")[2]
        if room is not None and not _is_package(name, texts):
            places[room.name, last].append(name)
    yield from (" and ".join(x) for x in places.values() if len(x) > 1)


def _is_package(name: str, texts: Texts) -> bool:
    return any(x.startswith(f"{name}.") for x in texts)


def classes_twice(texts: Texts) -> Iterator[str]:
    """Names of classes that are defined twice in a room."""
    places = defaultdict(list)
    for name, text in texts.items():
        room = room_of(name)
        for node in ast.walk(parsed(text)):
            if isinstance(node, ast.ClassDef) and room is not None:
                places[room.name, node.name].append(name)
    yield from (f"{k[1]} in {' and '.join(x)}" for k, x in places.items() if len(x) > 1)


def participles(texts: Texts) -> Iterator[str]:
    """Classes that are named as participles: `Told`, `Measured`. Types are nouns."""
    for name, text in texts.items():
        for node in ast.walk(parsed(text)):
            if not isinstance(node, ast.ClassDef) or node.name in STRUCTURES:
                continue
            words = re.findall(r"[A-Z][a-z]+", node.name) or [node.name]
            bases = {ast.unparse(base) for base in node.bases}
            if re.fullmatch(PARTICIPLE, words[-1]) and not bases & {
                "KeyboardInterrupt",
                "UserWarning",
            }:
                yield f"{name}.{node.name}"


def codes_as_text(texts: Texts) -> Iterator[str]:
    """Codes of diagnostics that are written as texts: the registry is the one place where they are."""
    for name, text in texts.items():
        for node in ast.walk(parsed(text)):
            match node:
                case ast.Constant(value=str(code)) if re.fullmatch(r"E[01]\d{3}", code):
                    if name != "curvlang.diagnostics.codes":
                        yield f"{name} writes {code}"
                case _:
                    pass


def twice(names: Iterable[str]) -> Iterator[str]:
    """Names that come more than once."""
    yield from (name for name, count in Counter(names).items() if count > 1)


def parameters(texts: Texts, offered: Collection[str] = ()) -> Iterator[str]:
    """Functions with more than six parameters, but for what a user calls with named options.

    These are the commands of the shell, and the functions and classes `offered` by `curvlang`.
    """
    for name, text in texts.items():
        command = name.startswith("curvlang.cli.")
        for owner, node in _functions(parsed(text)):
            given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            count = sum(x.arg not in ("self", "cls") for x in given)
            place = ".".join(filter(None, (name, owner, node.name)))
            exempt = place in offered or (command and node.name == "command")
            if count > MOST_PARAMETERS and not exempt:
                yield place


def _functions(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Every function with the class that it is a method of."""
    methods = {
        id(x): node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        for x in node.body
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield methods.get(id(node), ""), node


def long_files(texts: Texts) -> Iterator[str]:
    """Files above the hard limit."""
    for name, text in texts.items():
        lines = len(text.splitlines())
        if lines > MOST_LINES:
            yield name


def long_functions(texts: Texts) -> Iterator[str]:
    """Functions above the hard limit, docstrings not counted."""
    for name, text in texts.items():
        for owner, node in _functions(parsed(text)):
            body = node.body[1:] if ast.get_docstring(node, clean=False) else node.body
            lines = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
            if lines > MOST_LINES_OF_A_FUNCTION:
                yield ".".join(filter(None, (name, owner, node.name)))
