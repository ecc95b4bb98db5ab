"""Groups of queries that are asked together: by lists of indices, or by a label for each query."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index
from typing import TypeAlias

import torch
from torch import Tensor

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal
from curvlang.models.task import Task

Groups: TypeAlias = "Tensor | Sequence[Sequence[int]]"
"""Whole numbers [Q], one group's label for each query; or the indices of each group's queries."""
REDUCTIONS = ("sum", "mean")
_REPAIR = "give a whole number for every query, or lists of the queries' indices"


def group_members(groups: Groups, queries: int) -> list[tuple[object, list[int]]]:
    """Label and members of every group, in the order of the labels.

    Raises:
        SpecError: E0591 for labels or indices that do not fit the queries.
    """
    if isinstance(groups, Tensor):
        if groups.ndim != 1 or len(groups) != queries or groups.is_floating_point():
            raise refusal(
                Code.E0591,
                f"labels of groups of shape {list(groups.shape)} and type {groups.dtype} for "
                f"{queries} queries",
                _REPAIR,
            )
        labels = groups.unique(sorted=True).tolist()
        return [(label, (groups == label).nonzero()[:, 0].tolist()) for label in labels]
    try:
        members = [[index(k) for k in group] for group in groups]
    except TypeError as error:
        raise refusal(Code.E0591, f"`{groups!r}` is not groups of queries", _REPAIR) from error
    if not members or not all(members):
        raise refusal(
            Code.E0591, "a group has no queries" if members else "there are no groups", _REPAIR
        )
    outside = [k for group in members for k in group if not 0 <= k < queries]
    if outside:
        raise refusal(
            Code.E0591,
            f"there is no query {outside[0]}: they are numbered 0…{queries - 1}",
            _REPAIR,
        )
    return list(enumerate(members))


def check_reduce(group: str | None, reduce: str, option: str = "group") -> None:
    """Refuse words for groups that there are none of, and what is taken over a group without one.

    Args:
        group: `label`, `all`, or None for no groups.
        reduce: `sum` or `mean`.
        option: What groups are asked for by.

    Raises:
        SpecError: E0591.
    """
    if group not in (None, "label", "all"):
        raise refusal(
            Code.E0591, f"queries are grouped by `label` or `all`, not `{group}`", "use one of them"
        )
    _check_reduction(reduce)
    if group is None and reduce != "sum":
        raise refusal(
            Code.E0591,
            f"`reduce = {reduce}` is about groups of queries, and there are none",
            "add `group`: `label` or `all`" if option == "group" else f"add `{option}`",
        )


def _check_reduction(reduce: str) -> None:
    if reduce not in REDUCTIONS:
        raise refusal(
            Code.E0591, f"groups are reduced by `sum` or `mean`, not `{reduce}`", "use one of them"
        )


def label_groups(task: Task, by: str) -> tuple[Tensor, list[object]]:
    """A number for every query, and what the groups are called.

    Args:
        task: Its queries.
        by: `label` for a group of each class, `all` for one group.

    Raises:
        SpecError: E0591 for groups by label of queries that have no class.
    """
    y = task.query[1]
    if by == "all":
        return torch.zeros(task.Q, dtype=torch.int64), ["all"]
    if y.ndim != 1 or y.is_floating_point():
        raise refusal(
            Code.E0591,
            f"groups by label need one class for every query; targets have shape {list(y.shape)}",
            "use `--group all`",
        )
    labels = y[:]
    named = task.label_of
    return labels, [
        label if named is None else named(y[members[0]])
        for label, members in group_members(labels, task.Q)
    ]


def group_matrix(groups: Groups, reduce: str, queries: int) -> Tensor:
    """Weights `[G, Q]` that add up the queries of each group, or average them."""
    _check_reduction(reduce)
    members = group_members(groups, queries)
    weights = torch.zeros(len(members), queries, dtype=torch.float64)
    for row, (_, group) in zip(weights, members, strict=True):
        at = torch.tensor(group)
        row.index_add_(0, at, torch.full_like(at, 1, dtype=torch.float64))
        if reduce == "mean":
            row /= len(group)
    return weights
