"""Queries with the training examples that help and harm them most, as text for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from textwrap import wrap

from torch import Tensor

from curvlang.attribution.top import Inputs, Neighbour, Top, first_of, in_words
from curvlang.evaluation.study.attributed import gray
from curvlang.models.data.rows import Rows

GAP = "   "
WIDTH = 96
"""Columns that panels may take before they go on in the next row."""
TEXT_WIDTH, TEXT_LINES = 44, 6
"""Columns and lines of a text."""
_HALVES = {(0, 0): " ", (1, 0): "▀", (0, 1): "▄", (1, 1): "█"}


@dataclass(frozen=True, slots=True, eq=False)
class InputTexts:
    """What the inputs look like, as lines of text, where their numbers say little.

    Args:
        train: Of a training example, by its place.
        query: Of a query, by its place.
    """

    train: Callable[[int], list[str]]
    query: Callable[[int], list[str]]


def images(train: Rows, query: Rows) -> InputTexts:
    """Images [N, H, W] or [N, C, H, W]."""
    return InputTexts(lambda n: picture(train[n]), lambda q: picture(query[q]))


def texts(train: Rows, query: Rows, spelt: Callable[[Tensor], str]) -> InputTexts:
    """Sequences [N, T] of numbers that stand for text."""
    return InputTexts(lambda n: [f"“{spelt(train[n])}”"], lambda q: [f"“{spelt(query[q])}”"])


def show_top(
    found: Sequence[Top],
    looks: InputTexts | None,
    sign: str,
    groups: Sequence[object] | None = None,
) -> str:
    """All queries, each with its neighbours, as what they look like.

    Args:
        found: What `top` gave.
        looks: What the inputs look like; None for their first numbers.
        sign: What a positive score says.
        groups: What the groups are called, where the rows are groups of queries.
    """
    head = f"scores: positive where {sign}"
    return "\n".join([head, *(_query(one, looks, groups) for one in found)])


def show_largest(found: Sequence[Neighbour], looks: InputTexts | None) -> str:
    """Examples with the largest self-influence."""
    rows = _beside([_panel(n, looks) for n in found])
    return "\n".join(["largest self-influence:", *(f"  {row}".rstrip() for row in rows)])


def _query(one: Top, looks: InputTexts | None, groups: Sequence[object] | None) -> str:
    title = f"query {one.query}" if groups is None else f"group {groups[one.query]}"
    lines = ["", title if one.y is None or _predicted(one) else f"{title}, {in_words(one)}"]
    if one.text is not None:
        lines += [f"  {row}" for row in _wrapped(one.text)]
    elif looks is not None and one.x is not None:
        lines += [f"  {row}".rstrip() for row in looks.query(one.query)]
    for kind, neighbours in (("helpful", one.helpful), ("harmful", one.harmful)):
        lines.append(f"  most {kind}:" if neighbours else f"  none is {kind}")
        panels = [_panel(n, looks) for n in neighbours]
        lines += [f"    {row}".rstrip() for row in _beside(panels)]
    return "\n".join(lines)


def _panel(neighbour: Neighbour, looks: InputTexts | None) -> list[str]:
    """Place, score and target; below them what the input looks like, or its first numbers."""
    lines = [f"#{neighbour.index}  {neighbour.score:+.3g}"]
    if neighbour.y is None or neighbour.x is None:
        return lines
    if not _predicted(neighbour):
        lines.append(in_words(neighbour))
    if neighbour.text is not None:
        return [*lines, *_wrapped(neighbour.text)]
    if looks is None:
        return [*lines, *numbers(neighbour.x)]
    return lines + looks.train(neighbour.index)


def _predicted(one: Top | Neighbour) -> bool:
    """Whether the targets are the text's own tokens, which the text shows."""
    tokens = one.y is not None and one.y.ndim > 0 and not one.y.is_floating_point()
    return one.text is not None and one.label is None and tokens


def _wrapped(text: str) -> list[str]:
    """A text in quotes, in lines that fit beside others; of a long one the beginning."""
    line = " ".join(text.split())
    found = wrap(f"“{line}”", TEXT_WIDTH) or ["“”"]
    if len(found) <= TEXT_LINES:
        return found
    return [*found[: TEXT_LINES - 1], f"{found[TEXT_LINES - 1][: TEXT_WIDTH - 2].rstrip()}…”"]


def _beside(panels: Sequence[list[str]]) -> list[str]:
    """Panels side by side, as many in a row as fit."""
    rows: list[list[list[str]]] = [[]]
    taken = 0
    for panel in panels:
        width = max(map(len, panel)) + len(GAP)
        if rows[-1] and taken + width > WIDTH:
            rows.append([])
            taken = 0
        rows[-1].append(panel)
        taken += width
    return [line for row in rows for line in _row(row)]


def _row(panels: Sequence[list[str]]) -> list[str]:
    widths = [max(map(len, panel)) for panel in panels]
    return [
        GAP.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in zip_longest(*panels, fillvalue="")
    ]


def picture(image: Tensor) -> list[str]:
    """An image [H, W] or [C, H, W] in half blocks: black where brighter than mid-range."""
    x = gray(image)
    dark = (x > (x.min() + x.max()) / 2).int().tolist()
    if len(dark) % 2:
        dark.append([0] * len(dark[0]))
    return [
        "".join(_HALVES[a, b] for a, b in zip(upper, lower, strict=True))
        for upper, lower in zip(dark[::2], dark[1::2], strict=True)
    ]


def numbers(x: Inputs) -> list[str]:
    """The first of an input's numbers, of every field where it has some."""
    fields = x if isinstance(x, dict) else {"x": x}
    return [f"{name} = {first_of(value)}" for name, value in fields.items()]
