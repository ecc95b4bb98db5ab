"""What an evaluation does where the spec is silent: every default in one place, printed with the result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal
from curvlang.diagnostics.values import real_number, whole_number

SWEEP = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""λ of the default inverse, `tikhonov`: a short logarithmic grid."""
GRADIENTS = 500
"""Per-example gradients that the inverse error is averaged over, drawn with the protocol's seed."""
GRADIENTS_BY_PRODUCTS = 20
"""The same where a stage or the reference is known by its products alone."""


@dataclass(frozen=True, slots=True)
class LDS:
    """The linear datamodelling score's protocol.

    Args:
        subsets: K random subsets of the training examples.
        keep: Share α of the examples that a subset keeps.
        retrains: R trainings of each subset, averaged.
        queries: How many of the task's queries are scored, from the first; None for all.
        initialisation: `fresh` for every training, or `shared`: the baseline's.
        groups: What a subset leaves out: a `random` share 1 − α, `one` example, or one `class`
            (as many subsets as classes); the latter two do not read `keep`.
        seed: Of subsets, initialisations, orders and the bootstrap.
        bootstrap: Resamples of subsets and queries for the intervals.

    Raises:
        SpecError: E0501 for a value that leaves nothing to measure.
    """

    subsets: int = 100
    keep: float = 0.5
    retrains: int = 5
    queries: int | None = None
    initialisation: str = "fresh"
    seed: int = 0
    bootstrap: int = 1000
    groups: str = "random"

    def __post_init__(self) -> None:
        """Refuse values that leave nothing to measure."""
        for name in ("subsets", "retrains", "bootstrap", "seed"):
            whole_number(getattr(self, name), name, "10")
        real_number(self.keep, "keep", "0.5")
        if self.queries is not None:
            whole_number(self.queries, "queries", "10")
        wrong = (
            ("subsets", self.subsets, self.subsets >= 2, "at least 2"),
            ("keep", self.keep, 0 < self.keep < 1, "between 0 and 1, both excluded"),
            ("retrains", self.retrains, self.retrains >= 1, "at least 1"),
            ("queries", self.queries, self.queries is None or self.queries >= 1, "at least 1"),
            ("bootstrap", self.bootstrap, self.bootstrap >= 1, "at least 1"),
            (
                "initialisation",
                self.initialisation,
                self.initialisation in ("fresh", "shared"),
                "`fresh` or `shared`",
            ),
            (
                "groups",
                self.groups,
                self.groups in ("random", "one", "class"),
                "`random`, `one` or `class`",
            ),
        )
        for name, value, fine, rule in wrong:
            if not fine:
                raise refusal(
                    Code.E0501,
                    f"`{name} = {value}` is not a value of the LDS protocol",
                    f"`{name}` must be {rule}",
                )

    def quick(self) -> LDS:
        """A small protocol: under half a minute on two cores."""
        return replace(
            self,
            subsets=min(self.subsets, 30),
            retrains=min(self.retrains, 2),
            bootstrap=min(self.bootstrap, 200),
        )


def protocol_from(said: Mapping[str, Any]) -> LDS:
    """The protocol that a spec's arguments state; `queries = all` is no limit."""
    found = dict(said)
    if found.get("queries") == "all":
        found["queries"] = None
    return LDS(**found)
