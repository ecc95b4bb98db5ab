"""Which parameters are covered, summed by the type of their layer."""

from __future__ import annotations

from dataclasses import dataclass
from math import fsum

from curvlang.diagnostics.diagnostic import Diagnostic
from curvlang.diagnostics.notebook import Display, text_table
from curvlang.models.tracing.coverage import Coverage, Row


@dataclass(frozen=True, slots=True, repr=False)
class CoverageReport(Display):
    """The parameters of a task's model, and the stages of curvatures that do not fit them; printable.

    Args:
        task: The task in one line.
        found: Every parameter.
        weights: Whether the gradients are those of given weights.
        problems: Every stage that would be refused in a run.
    """

    task: str
    found: Coverage
    weights: bool
    problems: tuple[Diagnostic, ...]

    def _summary(self) -> str:
        misfits = f"; {len(self.problems)} stages do not fit" if self.problems else ""
        return f"of {self.task}: {self.found._summary()}{misfits}"

    def __str__(self) -> str:
        at = "the weights given" if self.weights else "the model as it is initialised, not trained"
        head = f"{self.task}, gradients at {at}"
        return f"{head}\n\n{self.found}\n\n{by_type(self.found)}"


def by_type(found: Coverage) -> str:
    """A line for every layer type and status: parameters, entries, share of the squared gradient norm."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in found.rows:
        groups.setdefault((row.type, row.status), []).append(row)
    head = ("layer type", "status", "parameters", "entries", "‖∇‖² share")
    return text_table(head, [_line(*key, rows) for key, rows in groups.items()], right=(2, 3, 4))


def _line(kind: str, status: str, rows: list[Row]) -> tuple[str, ...]:
    shares = [row.share for row in rows if row.share is not None]
    share = f"{fsum(shares):.1%}" if shares else ""
    return (kind, status, str(len(rows)), str(sum(row.size for row in rows)), share)
