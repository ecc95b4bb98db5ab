"""What may be given as `progress`, and what else a listener of a run may want to know."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias, runtime_checkable

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""

ProgressOption: TypeAlias = Progress | bool | None
"""The `progress` of every public function that works long.

`True`, the default, shows it on standard error: bars on a terminal, lines with times elsewhere, in notebooks
too. `False` and `None` show nothing. A function is called as `Progress` says, and nothing is shown.
"""


@runtime_checkable
class StageProgress(Protocol):
    """Progress that also learns when a stage of the run has ended."""

    def ended(self, stage: str) -> None:
        """Called with `plan`, `Hessian`, `pass 1`, `after pass 1`, …, `results`."""


@runtime_checkable
class PlanProgress(Protocol):
    """Progress that also learns what is planned, before the first stage."""

    def planned(self, prepared: Any, task: Any) -> None:
        """Called with the plans of a run, and the task that they are for."""
