"""What `cv.evaluate` returns: a result that shows itself as tables, in a notebook, and as a run folder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from curvlang.diagnostics.notebook import frame, html_list, html_table
from curvlang.diagnostics.values import another_type
from curvlang.evaluation.experiment import Outcome
from curvlang.evaluation.result import Point, Result, Step
from curvlang.language.chain import Spec
from curvlang.reporting.figures.figures import figure_of
from curvlang.reporting.figures.style import Drawing
from curvlang.reporting.runfolder import Record, write_run
from curvlang.reporting.tables.table import show, to_text
from curvlang.reporting.tables.view import Column, Panel, chain, curve, steps
from curvlang.reporting.tables.words import comparison, header, notes, title

WIDTH = 100
"""Characters of a line of the tables where no width is given."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Report(Result):
    """A result with the run behind it.

    `print(report)` shows the tables of `curvlang eval`; its fields are those of `Result`.
    """

    run: Record = field(kw_only=True)

    def __eq__(self, other: object) -> bool:
        """Equal to a result with the same fields, whichever runs made them."""
        if not isinstance(other, Result):
            return NotImplemented
        return all(getattr(self, f.name) == getattr(other, f.name) for f in fields(Result))

    __hash__ = None  # type: ignore[assignment]

    @property
    def scores(self) -> NDArray[np.floating[Any]]:
        """`[Q, N]` of the curvature itself, at the setting that all steps are compared at.

        Raises:
            SpecError: E0506 where it has none: its inverse is refused at every setting.
        """
        if self.run.scores is None:
            assert self.run.problem is not None
            raise self.run.problem
        return self.run.scores

    def table(self, width: int = WIDTH) -> str:
        """The tables as plain text.

        Args:
            width: Characters that a line may have.
        """
        return "\n\n".join(to_text(x, width) for x in (self, *self.run.others))

    def show(self, console: Console | None = None) -> None:
        """Print the tables, in the width and the character set that the console has.

        Args:
            console: Of `rich`; standard output where not given.
        """
        console = console or Console(highlight=False)
        for result in (self.plain(), *self.run.others):
            show(result, console)

    def solves(self) -> Iterator[str]:
        """What the solver took at every step and λ, a line each."""
        for step in self.steps:
            for point in step.points:
                if point.solve is not None:
                    at = "" if point.damping is None else f" at λ = {point.damping:g}"
                    yield (
                        f"{step.label}{at}: {point.solve.method}, {point.solve.iterations} "
                        f"iterations, {point.solve.products} products, residual "
                        f"{point.solve.residual:.1e}"
                    )

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame` with a row for every step at every setting of the inverse.

        Raises:
            SpecError: E0757 where pandas is not installed.
        """
        rows = [_row(step, point) for step in self.steps for point in step.points]
        return frame({name: [row[name] for row in rows] for name in (rows[0] if rows else ())})

    def figure(self, name: str) -> Drawing:
        """One figure of the report: a notebook shows it, `save("sweep.svg")` writes it.

        Args:
            name: `chain` (the error of every step), `sweep` (LDS against λ), `forward` or `inverse` (LDS
                against that error).

        Raises:
            SpecError: E0722 for another name, and where the result has nothing to draw.
        """
        return figure_of(self, name)

    def save(
        self,
        folder: str | os.PathLike[str],
        *,
        step_scores: bool = False,
        command: Sequence[str] = (),
    ) -> Path:
        """Write the run folder that `curvlang eval` writes; read it with `read_result`.

        Args:
            folder: Where. A run folder of that name is replaced, anything else is left alone.
            step_scores: Whether the scores of every step are written too.
            command: The command line that asked for the run, if there was one.

        Returns:
            The folder, absolute.

        Raises:
            SpecError: E0903 where the folder holds files that no run wrote, E0905 where the system
                does not let it be written.
            MachineError: E0802 where the disk is full.
        """
        if not isinstance(folder, str | os.PathLike):
            raise another_type("folder", folder, "a path", '`result.save("runs/mine")`')
        said = {"command": [*command]} if command else {}
        kept = replace(
            self.run,
            provenance={**self.run.provenance, **said},
            step_scores=self.run.step_scores if step_scores else {},
        )
        return write_run(folder, self.plain(), kept)

    def plain(self) -> Result:
        """The result alone, as `read_result` reads it back."""
        return Result(**content(Result, self))

    def to_json(self) -> dict[str, Any]:
        """The content of `result.json`."""
        return self.plain().to_json()

    def __str__(self) -> str:
        return self.table()

    def _repr_html_(self) -> str:
        return "".join(piece for x in (self, *self.run.others) for piece in _html(x))


def content(kind: type[Any], made: object) -> dict[str, Any]:
    """The fields of a kind of result, of one that may show itself with more beside them."""
    return {item.name: getattr(made, item.name) for item in fields(kind)}


def report(result: Result, run: Record) -> Report:
    """A result as it shows itself."""
    return Report(**content(Result, result), run=run)


def report_of(done: Outcome, spec: Spec, left: Mapping[str, object]) -> Report:
    """What an evaluation found, as it shows itself.

    Args:
        done: The evaluation.
        spec: The spec as run.
        left: What would repeat it.
    """
    text = spec.source.text
    record = Record(done.scores, done.step_scores, text, left, done.times, done.problem)
    return report(done.result, replace(record, others=done.results[1:], measures=done.measures))


def _row(step: Step, point: Point) -> dict[str, object]:
    """One row of the frame: the step's own values, then those at one setting."""
    lds = point.lds
    return {
        "step": step.label,
        "stage": step.stage,
        "structure": step.structure,
        "memory": step.memory,
        "passes": step.passes,
        "forward": step.forward,
        "damping": point.damping,
        "inverse": point.inverse,
        "influence": point.influence,
        "cosine": point.cosine,
        "lds": None if lds is None else lds.estimate,
        "lds_low": None if lds is None else lds.low,
        "lds_high": None if lds is None else lds.high,
        "note": point.note or step.note,
    }


def _html(result: Result) -> Iterator[str]:
    yield f"<h4>{escape(title(result))}</h4>"
    yield html_table(("", ""), header(result))
    names = steps(result)
    sweep = curve(result)
    for panel in (*chain(result), *(() if sweep is None else (sweep,))):
        yield html_panel(names, panel)
    yield html_list("comparisons", [comparison(item) for item in result.comparisons])
    yield html_list("notes", notes(result))


def html_panel(names: Column, panel: Panel) -> str:
    """A panel as HTML, with the column that names its rows."""
    columns = (names, *panel.columns)
    rows = [tuple(column.cells[k] for column in columns) for k in range(len(names.cells))]
    heads, right = [c.head for c in columns], [c.right for c in columns]
    return html_table(heads, rows, title=panel.heading, right=right)
