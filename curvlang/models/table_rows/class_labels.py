"""Labels of a classifier's checkpoint: one class, several, or numbers; classes by number or by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.models.data.fields import IGNORED, LABELS
from curvlang.models.language_models.checkpoint import Checkpoint
from curvlang.models.language_models.heads import class_names
from curvlang.models.language_models.text_table import TextTable


class Problem(Enum):
    """What a classifier was trained for, by the word of its configuration; the value is its loss."""

    single_label_classification = "cross_entropy"
    multi_label_classification = "bce_with_logits"
    regression = "mse"


@dataclass(frozen=True, slots=True)
class LabelNames:
    """A label as the names of its classes, for people.

    Args:
        names: Of the classes.
    """

    names: tuple[str, ...]

    def __call__(self, y: Tensor) -> str:
        """One class; several that hold; a class for every word, where there is one."""
        if y.is_floating_point():
            held = [name for name, x in zip(self.names, y.tolist(), strict=True) if x > 0.5]
            return ", ".join(held) or "none"
        return ", ".join(self.names[k] for k in y.reshape(-1).tolist() if k != IGNORED)


def label_names(model: Checkpoint) -> LabelNames | None:
    """The names of a checkpoint's classes, likewise."""
    return names_of(model.config)


def names_of(config: Mapping[str, Any]) -> LabelNames | None:
    """The names of the classes in a configuration; None where it has none but `LABEL_0` and so on."""
    names = class_names(config)
    if not names or all(name == f"LABEL_{k}" for k, name in enumerate(names)):
        return None
    return LabelNames(names)


@dataclass(frozen=True, slots=True, eq=False)
class ClassLabels:
    """Reads a column of labels as a model's own.

    Args:
        model: The classifier.
        column: The column of labels.
        problem: What one is.
    """

    model: Checkpoint
    column: str
    problem: Problem

    def of(self, table: TextTable) -> Tensor:
        """The labels of all rows: classes [N], or numbers [N, C].

        Raises:
            SpecError: E0896 for a label that the model does not have.
        """
        values = table.classes(self.column, class_names(self.model.config))
        read = self._several if self.problem is Problem.multi_label_classification else self._class
        if self.problem is Problem.regression:
            read = self._numbers
        rows = [read(x, table, n) for n, x in enumerate(values)]
        one = self.problem is Problem.single_label_classification
        return torch.tensor(rows, dtype=torch.int64 if one else torch.float32)

    def _class(self, x: Any, table: TextTable, n: int) -> int:
        names = class_names(self.model.config)
        if isinstance(x, str) and x in names:
            return names.index(x)
        if isinstance(x, int) and not isinstance(x, bool) and 0 <= x < len(names):
            return x
        raise not_a_class(self.model, x, self.column, table, n)

    def _several(self, x: Any, table: TextTable, n: int) -> list[float]:
        names = class_names(self.model.config)
        if isinstance(x, list) and all(isinstance(k, str) and k in names for k in x):
            return [float(name in x) for name in names]
        if _are_numbers(x, len(names)) and all(0 <= k <= 1 for k in x):
            return [float(k) for k in x]
        raise self._odd(x, table, n, f"a list of {len(names)} numbers from 0 to 1, or of names")

    def _numbers(self, x: Any, table: TextTable, n: int) -> list[float]:
        count = len(class_names(self.model.config))
        row = x if isinstance(x, list) else [x]
        if _are_numbers(row, count):
            return [float(k) for k in row]
        raise self._odd(x, table, n, "a number" if count == 1 else f"a list of {count} numbers")

    def _odd(self, x: Any, table: TextTable, n: int, wanted: str) -> SpecError:
        return refusal(
            Code.E0896,
            f"column `{self.column}` of `{table.name}` has `{x}` at row {table.number(n)}, and "
            f"`{self.model.path}` predicts {wanted}",
            f"give every row {wanted}",
            notes=(f"its `problem_type` is `{self.problem.name}`",),
        )


def _are_numbers(x: Any, count: int) -> bool:
    plain = isinstance(x, list) and len(x) == count
    return plain and all(isinstance(k, int | float) and not isinstance(k, bool) for k in x)


def not_a_class(model: Checkpoint, x: object, column: str, table: TextTable, n: int) -> SpecError:
    """E0896: a label that a model has no class for."""
    names = class_names(model.config)
    known = ", ".join(f"`{name}`" for name in names[:10]) + (", …" if len(names) > 10 else "")
    return refusal(
        Code.E0896,
        f"column `{column}` of `{table.name}` has `{x}` at row {table.number(n)}, which is not "
        f"a class of `{model.path}`",
        f"give numbers from 0 to {len(names) - 1}, or the model's names: {known}",
    )


def class_labels(model: Checkpoint, named: str | None, train: TextTable) -> ClassLabels:
    """How a model's labels are read from tables like this one.

    Args:
        model: The classifier.
        named: The column that is named; None for `labels` or `label`.
        train: Where it is not in the configuration, lists say that several classes hold at once.

    Raises:
        SpecError: E0899 where no column is named for classes.
    """
    column = column_of(model, named, LABELS, "label", train)
    said = str(model.config.get("problem_type"))
    if said in Problem.__members__:
        return ClassLabels(model, column, Problem[said])
    if len(class_names(model.config)) == 1:
        return ClassLabels(model, column, Problem.regression)
    several = isinstance(next(iter(train.column(column)), None), list)
    kind = "multi_label_classification" if several else "single_label_classification"
    return ClassLabels(model, column, Problem[kind])


def column_of(
    model: Checkpoint, named: str | None, usual: Sequence[str], word: str, table: TextTable
) -> str:
    """The column that is named, else one of the usual names.

    Raises:
        SpecError: E0899 where there is none of them.
    """
    found = named or next((x for x in usual if x in table.columns), None)
    if found is None:
        known = ", ".join(f"`{x}`" for x in table.columns)
        raise refusal(
            Code.E0899,
            f"`{model.architecture}` predicts {model.head.predicts}, and `{table.name}` has no column "
            f"{' or '.join(f'`{x}`' for x in usual)}",
            f"name it, `{word} = …`: the columns are {known}",
        )
    return found
