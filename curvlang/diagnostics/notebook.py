"""How values show themselves: a line as `repr`, escaped HTML in a notebook, a pandas frame."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from html import escape
from typing import Any

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal

LONGEST = 160
"""Characters of a value's line; of a longer one the end is left out."""
_PRE = '<pre style="white-space: pre; overflow-x: auto; line-height: 1.3">'


class Display(ABC):
    """What shows itself: one line as `repr`; in a notebook the text that it prints as.

    Abstract: a type says its line, and replaces `_repr_html_` where it has tables.
    """

    __slots__ = ()

    @abstractmethod
    def _summary(self) -> str:
        """What it is in one line, without its type's name."""

    def __repr__(self) -> str:
        return f"<{one_line(f'{type(self).__name__} {self._summary()}')}>"

    def _repr_html_(self) -> str:
        return html_text(str(self))


def one_line(text: str) -> str:
    """A text without its line breaks, and without its end where it is long.

    >>> one_line("two   words")
    'two words'
    """
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"


def html_text(text: str) -> str:
    """Text as it stands, in the notebook's fixed-width font.

    >>> html_text("a < b").removeprefix(_PRE)
    'a &lt; b</pre>'
    """
    return f"{_PRE}{escape(text)}</pre>"


def html_folded(title: str, text: str) -> str:
    """Text below a title that opens it; closed at first."""
    return f"<details><summary>{escape(title)}</summary>{html_text(text)}</details>"


def html_table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    title: str = "",
    right: Sequence[bool] = (),
) -> str:
    """A table of text cells.

    Args:
        head: The columns' heads; empty ones make a table without that line.
        rows: Their cells.
        title: Stands above it.
        right: Which columns stand to the right; none where not given.
    """
    sides = ["right" if k < len(right) and right[k] else "left" for k in range(len(head))]
    heads = [_row("th", head, sides)] if any(head) else []
    lines = [*heads, *(_row("td", row, sides) for row in rows)]
    caption = f"<p><b>{escape(title)}</b></p>" if title else ""
    return f"{caption}<table>{''.join(lines)}</table>"


def _row(tag: str, cells: Sequence[str], sides: Sequence[str]) -> str:
    shown = (
        f'<{tag} style="text-align: {side}">{escape(cell)}</{tag}>'
        for cell, side in zip(cells, sides, strict=True)
    )
    return f"<tr>{''.join(shown)}</tr>"


def html_list(title: str, sentences: Sequence[str]) -> str:
    """Sentences below a title; empty without any.

    >>> html_list("notes", ["a < b"])
    '<p><b>notes</b></p><ul><li>a &lt; b</li></ul>'
    """
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f"<p><b>{escape(title)}</b></p><ul>{items}</ul>" if items else ""


def text_table(
    head: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[int] = ()
) -> str:
    """The same as text, columns aligned to the left but for those in `right`; no line ends in blanks.

    >>> print(text_table(["layer", "size"], [["0", "12"]]))
    layer  size
    0      12
    """
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[k]) for line in lines) for k in range(len(head))]
    aligned = [
        [x.rjust(width) if k in right else x.ljust(width) for k, (x, width) in enumerate(cells)]
        for cells in (zip(line, widths, strict=True) for line in lines)
    ]
    return "\n".join("  ".join(line).rstrip() for line in aligned)


def frame(columns: Mapping[str, Sequence[object]]) -> Any:
    """A `pandas.DataFrame` of columns.

    Raises:
        SpecError: E0757 where pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise refusal(
            Code.E0757,
            "`to_pandas` needs `pandas`, which is not installed",
            'install it with `pip install "curvlang[pandas]"`, or use `table()`, which is text',
        ) from error
    return pd.DataFrame({name: list(values) for name, values in columns.items()})
