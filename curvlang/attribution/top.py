"""The training examples that help and harm a query most, with what they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import index
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.notebook import Display, frame, html_table, text_table
from curvlang.diagnostics.plain_arguments import validated
from curvlang.diagnostics.refusal import refusal
from curvlang.diagnostics.values import another_type, whole_number
from curvlang.models.execution.packed import layout_in
from curvlang.models.task import Task, check_task

Inputs: TypeAlias = "Tensor | dict[str, Tensor]"
HEAD = ("query", "asked", "kind", "example", "score", "its target")
RIGHT = (True, False, False, True, True, False)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Neighbour(Display):
    """One training example beside a query.

    Args:
        index: Its place among the training examples.
        score: Its score.
        x: Its inputs, by name where the examples are dicts; None without a task.
        y: Its target; None without a task.
        text: Its inputs as text, where its numbers stand for text.
        label: Its target as text, where its numbers stand for names.
    """

    index: int
    score: float
    x: Inputs | None = None
    y: Tensor | None = None
    text: str | None = None
    label: str | None = None

    def _summary(self) -> str:
        own = _shown(self)
        return f"#{self.index}: {self.score:+.3g}{own and f', {own}'}"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Top(Display):
    """The extremes of one query's scores.

    Args:
        query: Its place among the queries (or groups).
        helpful: Highest scores first; all of them above 0.
        harmful: Lowest scores first; all of them below 0.
        x: The query's inputs; None without a task, and for groups.
        y: Its target, likewise.
        text: Its inputs as text, where its numbers stand for text.
        label: Its target as text, likewise.
    """

    query: int
    helpful: tuple[Neighbour, ...]
    harmful: tuple[Neighbour, ...]
    x: Inputs | None = None
    y: Tensor | None = None
    text: str | None = None
    label: str | None = None

    def _summary(self) -> str:
        return f"of query {self.query}: {len(self.helpful)} helpful, {len(self.harmful)} harmful"

    def __str__(self) -> str:
        return str(TopExamples([self]))

    def _repr_html_(self) -> str:
        return TopExamples([self])._repr_html_()


class TopExamples(Display, list[Top]):
    """The extremes of every query asked for; printable."""

    def table(self) -> str:
        """A line for every training example named, helpful ones first."""
        return text_table(self._head(), [_cells(*row) for row in self._rows()])

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame` with a row for every training example named.

        Raises:
            SpecError: E0757 where pandas is not installed.
        """
        rows = list(self._rows())
        columns: dict[str, list[Any]] = {
            "query": [one.query for one, _, _ in rows],
            "kind": [kind for _, kind, _ in rows],
            "example": [n.index for _, _, n in rows],
            "score": [n.score for _, _, n in rows],
        }
        if self._texts():
            columns |= {
                "asked": [one.text for one, _, _ in rows],
                "text": [n.text for *_, n in rows],
            }
        if any(n.label is not None for *_, n in rows):
            columns |= {
                "asked_label": [one.label for one, _, _ in rows],
                "label": [n.label for *_, n in rows],
            }
        return frame(columns)

    def _texts(self) -> bool:
        """Whether examples are shown as text."""
        return any(n.text is not None for *_, n in self._rows())

    def _head(self) -> tuple[str, ...]:
        return (*HEAD[:-1], "its text") if self._texts() else HEAD

    def _rows(self) -> Iterator[tuple[Top, str, Neighbour]]:
        for one in self:
            yield from ((one, "helpful", n) for n in one.helpful)
            yield from ((one, "harmful", n) for n in one.harmful)

    def __str__(self) -> str:
        return self.table()

    def _summary(self) -> str:
        helpful, harmful = (
            sum(len(x) for x in y) for y in ([k.helpful for k in self], [k.harmful for k in self])
        )
        return f"of {len(self)} queries: {helpful} helpful, {harmful} harmful"

    def _repr_html_(self) -> str:
        return html_table(self._head(), [_cells(*row) for row in self._rows()], right=RIGHT)


@validated
def top(
    scores: Tensor | NDArray[Any],
    k: int = 5,
    task: Task | None = None,
    *,
    queries: Sequence[int] | None = None,
    grouped: bool = False,
) -> TopExamples:
    """The k most helpful and the k most harmful training examples of every query.

    An example with score 0 is neither. Ties go to the earlier example.

    Args:
        scores: `[Q, N]`.
        k: How many of each kind at most.
        task: Gives the examples themselves.
        queries: Which queries; all where not given.
        grouped: Whether the first axis is groups of queries, which have no example of their own.

    Raises:
        SpecError: E0563 for something else than scores, E0593 for scores of another shape, or a query
            that there is not.
    """
    if task is not None:
        check_task(task)
    scores, k = _tensor(scores), whole_number(k, "k", "5")
    if scores.ndim != 2 or k < 1:
        raise refusal(
            Code.E0593,
            f"scores of shape {list(scores.shape)} and k = {k}",
            "give scores [Q, N], k ≥ 1",
        )
    chosen = range(len(scores)) if queries is None else _numbers(queries)
    check_queries(chosen, len(scores))
    rows = len(scores) if grouped or task is None else task.Q
    if task is not None and tuple(scores.shape) != (rows, task.N):
        raise refusal(
            Code.E0593,
            f"scores of shape {list(scores.shape)} for {task.Q} queries and {task.N} examples",
            "give scores [Q, N] of this task, or `grouped=True`",
        )
    return TopExamples(_of(q, scores[q], k, task, grouped) for q in chosen)


def check_queries(chosen: Sequence[int], count: int) -> None:
    """Refuse numbers that no query has.

    Raises:
        SpecError: E0593.
    """
    outside = [q for q in chosen if not 0 <= q < count]
    if outside:
        raise refusal(
            Code.E0593, f"there is no query {outside[0]}", f"queries are numbered 0…{count - 1}"
        )


def top_of_rows(
    rows: Sequence[int], scores: Tensor, k: int, task: Task | None, *, grouped: bool = False
) -> TopExamples:
    """As `top`, from the scores of these queries alone.

    Args:
        rows: The queries' numbers.
        scores: Theirs, `[len(rows), N]`.
        k: How many of each kind at most.
        task: Gives the examples themselves.
        grouped: Whether they are groups of queries.
    """
    pairs = zip(rows, scores, strict=True)
    return TopExamples(_of(q, row, k, task, grouped) for q, row in pairs)


def top_from_extremes(
    rows: Sequence[int],
    largest: tuple[Tensor, Tensor],
    smallest: tuple[Tensor, Tensor],
    task: Task,
) -> TopExamples:
    """As `top`, from the extremes of each query.

    Args:
        rows: The queries' numbers.
        largest: The k largest scores `[len(rows), k]`, the largest first, and the examples' numbers.
        smallest: The k smallest, likewise.
        task: Gives the examples themselves.
    """

    def named(pair: tuple[Tensor, Tensor], row: int, sign: int) -> tuple[Neighbour, ...]:
        found = zip(pair[0][row].tolist(), pair[1][row].tolist(), strict=True)
        return tuple(_example(n, value, task) for value, n in found if sign * value > 0)

    return TopExamples(
        _asked(q, named(largest, k, 1), named(smallest, k, -1), task) for k, q in enumerate(rows)
    )


def _asked(
    q: int, helpful: tuple[Neighbour, ...], harmful: tuple[Neighbour, ...], task: Task
) -> Top:
    """A query itself with its neighbours."""
    x = _inputs(task, "query", q)
    y = task.query[1][q]
    return Top(q, helpful, harmful, x, y, _text(task, x), _label(task, y))


def largest(scores: Tensor, k: int = 5, task: Task | None = None) -> list[Neighbour]:
    """The k training examples with the largest self-influence, the largest first.

    Args:
        scores: `[N]`, of the training examples.
        k: How many at most.
        task: Gives the examples themselves.

    Raises:
        SpecError: E0593 for scores of another shape.
    """
    if scores.ndim != 1 or k < 1 or (task is not None and len(scores) != task.N):
        raise refusal(
            Code.E0593,
            f"self-influence of shape {list(scores.shape)} and k = {k}",
            "give [N], k ≥ 1",
        )
    order = torch.argsort(scores, stable=True, descending=True).tolist()
    return [_neighbour(n, scores, task) for n in order[:k]]


def _numbers(queries: Sequence[int]) -> list[int]:
    """The queries' numbers; truth values are none."""
    try:
        found = [index(q) for q in queries]
    except TypeError:
        found = []
    if not found or any(isinstance(q, bool) for q in queries):
        raise another_type("queries", queries, "a list of queries' numbers", "`queries=[0, 3]`")
    return found


def _tensor(scores: object) -> Tensor:
    if isinstance(scores, Tensor | np.ndarray):
        return torch.as_tensor(scores)
    how = "one layer of them, `scores[name]`" if isinstance(scores, dict) else "`cv.influence(…)`"
    raise another_type("scores", scores, "a tensor [Q, N]", how)


def _of(q: int, row: Tensor, k: int, task: Task | None, grouped: bool) -> Top:
    order = torch.argsort(row, stable=True, descending=True).tolist()
    back = torch.argsort(row, stable=True).tolist()
    helpful = tuple(_neighbour(n, row, task) for n in order[:k] if row[n] > 0)
    harmful = tuple(_neighbour(n, row, task) for n in back[:k] if row[n] < 0)
    if task is None or grouped:
        return Top(q, helpful, harmful)
    return _asked(q, helpful, harmful, task)


def _neighbour(n: int, row: Tensor, task: Task | None) -> Neighbour:
    if task is None:
        return Neighbour(n, float(row[n]))
    return _example(n, float(row[n]), task)


def _example(n: int, score: float, task: Task) -> Neighbour:
    x = _inputs(task, "train", n)
    y = task.train[1][n]
    return Neighbour(n, score, x, y, _text(task, x), _label(task, y))


def example_text(task: Task, part: str, k: int) -> str | None:
    """One example of a part as text, where the task says how."""
    return _text(task, _inputs(task, part, k))


def example_label(task: Task, part: str, k: int) -> str | None:
    """The target of one example of a part as text, where the task says how."""
    return _label(task, task.part(part)[1][k])


def _label(task: Task, y: Tensor) -> str | None:
    return None if task.label_of is None else task.label_of(y)


def _text(task: Task, x: Inputs) -> str | None:
    """An example's inputs as text, where the task says how."""
    if task.text_of is None or not isinstance(x, dict):
        return None
    return task.text_of(x)


def _inputs(task: Task, part: str, k: int) -> Inputs:
    """One example's inputs as they came: a tensor, or fields."""
    X = task.part(part)[0]
    layout = layout_in(task.model)
    if layout is None:
        return X[k]
    return {name: value[0] for name, value in layout.unpack(X[k : k + 1]).items()}


def _cells(one: Top, kind: str, neighbour: Neighbour) -> tuple[str, ...]:
    asked, own = _shown(one), _shown(neighbour)
    return (
        str(one.query),
        asked,
        kind,
        f"#{neighbour.index}",
        f"{neighbour.score:+.3g}",
        own,
    )


def _shown(one: Top | Neighbour) -> str:
    """The text of an example with the name of its target; its target where it has no text."""
    if one.text is None:
        return in_words(one)
    named = "" if one.label is None else f" [{shortened(one.label)}]"
    return f"{shortened(one.text)}{named}"


def in_words(one: Top | Neighbour) -> str:
    """The target of an example: by its name where it has one, else by its numbers."""
    if one.label is not None:
        return f"label {shortened(one.label)}"
    return "" if one.y is None else target(one.y)


def shortened(text: str, most: int = 48) -> str:
    """A text on one line, its beginning where it is long."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1].rstrip()}…"


def target(y: Tensor) -> str:
    """`label 3` for a class, `target 0.5` for a number, the first few of several."""
    word = "target" if y.is_floating_point() else "label"
    return f"{word} {first_of(y)}" if y.numel() == 1 else f"{word}s {first_of(y)}"


def first_of(values: Tensor, most: int = 6) -> str:
    """The first of a tensor's numbers, as text."""
    flat = values.detach().reshape(-1)
    shown = [f"{v:.3g}" if values.is_floating_point() else str(v) for v in flat[:most].tolist()]
    if values.numel() == 1:
        return shown[0]
    return "[" + ", ".join(shown) + (", …]" if flat.numel() > most else "]")
