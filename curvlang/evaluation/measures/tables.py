"""Every measure by name, checked before anything is trained, and computed under every inverse."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise

from curvlang.evaluation.fidelity import Setting
from curvlang.evaluation.measures.brittleness import brittleness, check_classes
from curvlang.evaluation.measures.grid import Grid, MeasureInput, MeasureTable
from curvlang.evaluation.measures.mislabelled import check_labels, mislabelled
from curvlang.evaluation.measures.proximal import proximal_response
from curvlang.language.chain import Part
from curvlang.models.arguments import placed
from curvlang.models.task import Task
from curvlang.training.training import check_trainable

MEASURES: Mapping[str, Callable[..., Grid]] = {
    "mislabelled": mislabelled,
    "proximal_response": proximal_response,
    "brittleness": brittleness,
}
"""By the name that a study gives; signatures stand in `language.registry`."""


def check_measures(parts: Sequence[Part], task: Task) -> None:
    """Refuse, before anything is trained, what could not be measured after it.

    Args:
        parts: The measures that are asked for.
        task: Its model need not be trained.

    Raises:
        SpecError: E0503 where the model cannot be trained again, E0508 where there are no classes.
    """
    for part in parts:
        with placed(part.span):
            if part.name in ("mislabelled", "brittleness"):
                check_trainable(task, f"`{part.name}`")
            if part.name == "mislabelled":
                check_labels(task)
            if part.name == "brittleness":
                check_classes(task)


def measure_tables(
    parts: Sequence[Part], given: MeasureInput, inverses: Sequence[Sequence[Setting]]
) -> dict[str, tuple[MeasureTable, ...]]:
    """Every measure by name, under every inverse; what a measure trains is trained once for all of them."""
    whole = replace(given, chosen=[setting for chosen in inverses for setting in chosen])
    ends = list(accumulate((len(chosen) for chosen in inverses), initial=0))
    found = {}
    for part in parts:
        grid = MEASURES[part.name](whole, **part.arguments)
        found[part.name] = tuple(grid.table(slice(*ends_)) for ends_ in pairwise(ends))
    return found
