"""The terminal's report: header, chain, λ curve, comparisons and notes, by rich.

A table that is too wide is split into panels that repeat the step's name, so that a row stays
on one line. Without a terminal the text is plain: no colour, and rules of hyphens.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Literal

from rich.box import Box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from curvlang.evaluation.result import Result
from curvlang.reporting.tables.view import Column, Panel, chain, curve, joined, steps
from curvlang.reporting.tables.words import comparison, header, notes, title

_RULED = Box("    \n    \n ── \n    \n    \n    \n    \n    \n")
_PLAIN = Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)
_UNBOUNDED = 100_000
_ASCII = str.maketrans(
    {"–": "-", "−": "-", "λ": "lambda", "α": "alpha", "·": "|", "×": "x", "⊗": "(x)", "∞": "inf"}
)


def show(result: Result, console: Console) -> None:
    """Print the report on a console, in the width and the character set that it has.

    Without a terminal no line ends in blanks, so that the text can be compared and kept.
    """
    printed(list(_parts(result, console)), console)


def printed(parts: Sequence[RenderableType], console: Console) -> None:
    """Print parts one below the other; without a terminal no line ends in blanks."""
    if console.is_terminal:
        console.print(*parts, sep="\n")
        return
    with console.capture() as captured:
        console.print(*parts, sep="\n")
    lines = (line.rstrip() for line in captured.get().split("\n"))
    console.out("\n".join(lines), end="", highlight=False)


def to_text(result: Result, width: int = 100) -> str:
    """The report as plain text, lines of at most `width` characters."""
    file = io.StringIO()
    show(result, Console(file=file, width=width, force_terminal=False, color_system=None))
    return file.getvalue()


def _parts(result: Result, console: Console) -> Iterator[RenderableType]:
    yield text(title(result), console, "bold")
    yield pairs(header(result), console)
    names = steps(result)
    for panel in fit(names, chain(result), console):
        yield from titled(names, panel, console)
    if (sweep := curve(result)) is not None:
        for panel in fill(names, sweep, console):
            yield from titled(names, panel, console)
        if any(column.strong for column in sweep.columns):
            yield text("* best of its row", console, "dim")
    sentences = [comparison(item) for item in result.comparisons]
    yield from listed("comparisons", sentences, console)
    yield from listed("notes", notes(result), console)


def fit(names: Column, panels: Sequence[Panel], console: Console) -> list[Panel]:
    """Join neighbouring panels: as few tables as fit the width, of one title each if possible.

    Among those, the narrowest. A panel that alone is wider than the console stays alone; its
    long cells wrap.
    """
    fits = [
        way
        for way in _cuts(list(panels))
        if all(len(run) == 1 or _width(names, run, console) <= console.width for run in way)
    ]
    best = min(
        fits,
        key=lambda way: (len(way), _torn(way), max(_width(names, run, console) for run in way)),
    )
    return [joined(run) for run in best]


def _cuts(panels: list[Panel]) -> Iterator[list[list[Panel]]]:
    """Every way to cut a list into runs.

    >>> [len(cut) for cut in _cuts([Panel("", ())] * 3)]
    [1, 2, 2, 3]
    """
    if len(panels) == 1:
        yield [panels]
        return
    for rest in _cuts(panels[1:]):
        yield [[panels[0], *rest[0]], *rest[1:]]
    for rest in _cuts(panels[1:]):
        yield [[panels[0]], *rest]


def _torn(way: Sequence[Sequence[Panel]]) -> int:
    """How many cuts part panels of one title."""
    return sum(before[-1].title == after[0].title for before, after in pairwise(way))


def fill(names: Column, panel: Panel, console: Console) -> list[Panel]:
    """Cut a panel of equal columns wherever the console is full."""
    runs: list[list[Panel]] = []
    for column in panel.columns:
        one = Panel(panel.title, (column,), panel.place)
        if runs and _width(names, [*runs[-1], one], console) <= console.width:
            runs[-1].append(one)
        else:
            runs.append([one])
    return [joined(run) for run in runs]


def _width(names: Column, run: Sequence[Panel], console: Console) -> int:
    """Columns that the table of a run needs, had it all the space it wants."""
    options = console.options.update(max_width=_UNBOUNDED)
    return console.measure(_table(names, joined(run), console), options=options).maximum


def titled(names: Column, panel: Panel, console: Console) -> Iterator[RenderableType]:
    """A panel under its heading."""
    yield Text()
    yield text(panel.heading, console, "bold")
    yield _table(names, panel, console)


def ruled(console: Console) -> Table:
    """A table without columns, in the one style of all reports."""
    return Table(
        box=_RULED if console.is_terminal and not _narrow(console) else _PLAIN,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        header_style="dim",
        safe_box=False,
    )


def _table(names: Column, panel: Panel, console: Console) -> Table:
    table = ruled(console)
    starred = any(column.strong for column in panel.columns)
    for column in (names, *panel.columns):
        justify: Literal["left", "right"] = "right" if column.right else "left"
        table.add_column(text(column.head, console), justify=justify, overflow="fold")
    for row, name in enumerate(names.cells):
        cells = (_cell(column, row, console, starred=starred) for column in panel.columns)
        table.add_row(text(name, console), *cells)
    return table


def _cell(column: Column, row: int, console: Console, *, starred: bool) -> Text:
    """One cell; a star marks what stands out, and blanks keep the others aligned with it."""
    marked = row in column.strong
    mark = "" if not starred else " *" if marked else "  "
    return text(column.cells[row] + mark, console, "bold" if marked else "")


def pairs(lines: Sequence[tuple[str, str]], console: Console) -> Table:
    """Labels and their texts, aligned."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for label, content in lines:
        grid.add_row(text(label, console, "dim"), text(content, console))
    return grid


def listed(name: str, sentences: Sequence[str], console: Console) -> Iterator[RenderableType]:
    """Sentences under a name; nothing where there are none."""
    if not sentences:
        return
    yield Text()
    yield text(name, console, "bold")
    yield pairs([("-", sentence) for sentence in sentences], console)


def text(content: str, console: Console, style: str = "") -> Text:
    """Text that is never read as markup, in ASCII where the console can write nothing else."""
    if _narrow(console):
        content = content.translate(_ASCII).encode("ascii", "replace").decode("ascii")
    return Text(content, style)


def _narrow(console: Console) -> bool:
    return not console.encoding.lower().startswith("utf")
