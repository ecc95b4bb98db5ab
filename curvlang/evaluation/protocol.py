"""What an evaluation does where the spec is silent: every default in one place, printed with the result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from curvlang.diagnostics.plain_arguments import keyworded
from curvlang.language import registry
from curvlang.language.checking.arguments import OPEN, settle

ALL = "all"
"""How the table says what `None` says in Python."""
SWEEP = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""λ of the default inverse, `tikhonov`: a short logarithmic grid."""
GRADIENTS = 500
"""Per-example gradients that the inverse error is averaged over, drawn with the protocol's seed."""
GRADIENTS_BY_PRODUCTS = 20
"""The same where a stage or the reference is known by its products alone."""


@keyworded
@dataclass(frozen=True, slots=True)
class LDS:
    """The linear datamodelling score's protocol; what is left open has the default of a spec's `lds` line.

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
        SpecError: E0705 to E0707, as for a spec's `lds` line.
    """

    subsets: int = OPEN
    keep: float = OPEN
    retrains: int = OPEN
    queries: int | None = OPEN
    initialisation: str = OPEN
    seed: int = OPEN
    bootstrap: int = OPEN
    groups: str = OPEN

    def __post_init__(self) -> None:
        """Check what is given, and fill in the defaults."""
        if self.queries is None:
            object.__setattr__(self, "queries", ALL)
        settle(self, "lds", registry.LDS)
        if str(self.queries) == ALL:
            object.__setattr__(self, "queries", None)

    def quick(self) -> LDS:
        """A small protocol: under half a minute on two cores."""
        return replace(
            self,
            subsets=min(self.subsets, 30),
            retrains=min(self.retrains, 2),
            bootstrap=min(self.bootstrap, 200),
        )


def protocol_from(said: Mapping[str, Any]) -> LDS:
    """The protocol that a spec's arguments state."""
    return LDS(**said)
