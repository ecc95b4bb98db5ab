"""Which scores are wanted and how, and what a curvature without blocks by layer rules out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from curvlang.attribution.groups import Groups, group_matrix, group_members
from curvlang.attribution.layer_forms import splits
from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.models.task import Task
from curvlang.operators import Operator
from curvlang.runtime.progress.listeners import Progress


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """Which scores are wanted, and how; every name means what it means in `influence`."""

    per_layer: bool = False
    per_position: bool = False
    per_token: bool = False
    groups: Groups | None = None
    reduce: str = "sum"
    chunk: int = 4096
    products: torch.dtype | None = None
    compress: float | None = None
    progress: Progress | None = None

    @property
    def by_parts(self) -> bool:
        """Whether a score is of a part of an example's loss."""
        return self.per_position or self.per_token

    def rows(self, task: Task) -> int:
        """Queries, or groups of them."""
        return task.Q if self.groups is None else len(group_members(self.groups, task.Q))

    def weights(self, task: Task) -> Tensor | None:
        """[G, Q] of the queries in every group; None for the queries themselves."""
        if self.groups is None:
            return None
        found = group_matrix(self.groups, self.reduce, task.Q)
        return found.to(device=task.device, dtype=task.precision)


def check_share(share: float) -> None:
    """Refuse a `compress` that is not a share.

    Raises:
        SpecError: E0594.
    """
    if not 0 < share < 1:
        raise refusal(
            Code.E0594,
            f"`compress = {share:g}` is not a share of a query",
            "give a number between 0 and 1, `1e-3`",
        )


def _without_blocks(option: str, what: str, request: Request) -> SpecError:
    why = "of a curvature without blocks by layer"
    if request.by_parts:
        why = "by token" if request.per_token else "by position"
    other = "" if request.by_parts else ", or use a chain with `block_diagonal(by = layer)`"
    return refusal(Code.E0594, f"scores {why} have no {what}", f"leave `{option}` out{other}")


def check_blocks(inverse: Operator, request: Request) -> None:
    """Refuse scores that only a curvature of blocks has.

    The structure of C⁻¹ is enough: known before anything is fitted.

    Raises:
        SpecError: E0710 for scores by layer, E0594 for an option that scores by layers have.
    """
    check_parts(request)
    whole = not splits(inverse)
    if request.per_layer and whole:
        raise without_layers()
    if whole or request.by_parts:
        check_options(request)


def check_options(request: Request) -> None:
    """Refuse options that need blocks by layer.

    Raises:
        SpecError: E0594.
    """
    for option, what in (
        ("products", "products in another precision"),
        ("compress", "queries of low rank"),
    ):
        if getattr(request, option) is not None:
            raise _without_blocks(option, what, request)


def check_parts(request: Request) -> None:
    """Refuse scores by token that are by layer or by position too.

    Raises:
        SpecError: E0863.
    """
    for option in ("per_layer", "per_position"):
        if request.per_token and getattr(request, option):
            raise refusal(
                Code.E0863,
                f"`per_token` and `{option}` exclude each other: a token's score is of all layers, and of one "
                "position",
                f"leave `{option}` out",
            )


def without_layers() -> SpecError:
    """The refusal of scores by layer where the curvature is one matrix."""
    return refusal(
        Code.E0710,
        "the curvature is one matrix, which has no scores per layer",
        "put `block_diagonal(by = layer)` into the chain",
    )
