"""Which scores are asked for, in words: their metric, their inverse, their parts, their groups."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from curvlang.attribution.groups import check_reduce, label_groups
from curvlang.attribution.scorer import check_products, no_use
from curvlang.attribution.streams.request import check_share
from curvlang.diagnostics.plain_arguments import keyworded, validate_fields
from curvlang.diagnostics.values import finite_number
from curvlang.models.execution.precision import Precision, agreed
from curvlang.models.task import Task

WITH_QUERIES = (
    "metric",
    "per_layer",
    "per_position",
    "per_token",
    "group",
    "reduce",
    "products",
    "compress",
    "score",
)
"""Of a scoring, what is about queries, which self-influence has none of."""


@keyworded
@dataclass(frozen=True, slots=True)
class Scoring:
    """Which scores: `score[q, n] = ∇m_qᵀ C⁻¹ ∇ℓ_n`, or a variant of it.

    Args:
        metric: The quantity m of the queries: `loss`, `margin` or `logit`.
        damping: λ of `(C + λI)⁻¹`; the spec's inverse where not given.
        inverse: An inverse as a spec writes it, in place of the spec's.
        per_layer: Scores of every layer; they add up to the total.
        per_position: Scores of every output position of the training examples.
        own: Every training example against itself alone (self-influence).
        group: Queries asked together: `label` (one group for each class) or `all`.
        reduce: `sum` or `mean` over a group.
        products: `bfloat16`: the precision of products with training examples.
        compress: Share of every query that may be left out for a lower rank.
        per_token: Scores of every token: of output positions without padding, one example behind the
            other, with the place where each begins.
        score: A score as a spec writes it, `relatif`; the one that the spec evaluates the curvature by
            where not given, `influence` for plain influence.
    """

    metric: str = "loss"
    damping: float | None = None
    inverse: str | None = None
    per_layer: bool = False
    per_position: bool = False
    own: bool = False
    group: str | None = None
    reduce: str = "sum"
    products: str | None = None
    compress: float | None = None
    per_token: bool = False
    score: str | None = None

    def __post_init__(self) -> None:
        """Refuse words that mean nothing here, and what would be ignored.

        Raises:
            SpecError: E0591 for groups, E0594 for products and low rank, E0595 for what
                self-influence has no use for.
        """
        validate_fields(self)
        if self.own:
            _check_alone(self)
        check_reduce(self.group, self.reduce)
        check_products(self.products)
        if self.compress is not None:
            check_share(finite_number(self.compress, "compress"))

    @property
    def axes(self) -> tuple[str, ...]:
        """The axes of the scores."""
        if self.own:
            return ("train",)
        first = "query" if self.group is None else "group"
        if self.per_token:
            return (first, "token")
        return (first, "train", "position") if self.per_position else (first, "train")

    def kind(self, policy: Precision | None) -> torch.dtype | None:
        """Of products, where they are in another precision than the passes, however that was said.

        Raises:
            SpecError: E0877 where two options disagree.
        """
        own = None if self.products is None else torch.bfloat16
        if policy is None or policy.apart is None:
            return own
        agreed(policy, None, own)
        return policy.apart

    def groups(self, task: Task) -> tuple[Tensor, list[object]] | None:
        """A number for every query, and what the groups are called.

        Raises:
            SpecError: E0591 for groups by label of queries that have no class.
        """
        return None if self.group is None else label_groups(task, self.group)


def _check_alone(scoring: Scoring) -> None:
    """Refuse what self-influence has no use for.

    Raises:
        SpecError: E0595.
    """
    for field in fields(scoring):
        value = getattr(scoring, field.name)
        if field.name in WITH_QUERIES and value != field.default:
            raise no_use(field.name)
