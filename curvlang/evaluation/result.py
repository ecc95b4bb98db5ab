"""What an evaluation found, as plain values: the contract between measuring and reporting.

`Result.to_json` is the content of `result.json`; the schema is documented in `docs/result.md`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from curvlang.diagnostics.notebook import Display
from curvlang.evaluation.statistics.interval import Interval

SCHEMA = 2


@dataclass(frozen=True, slots=True)
class Solve:
    """What a solver took for one step at one setting.

    `iterations` of the vector that took the most, `products` vectors multiplied by C in all,
    `residual` the largest ‖v − (C + λI)x‖/‖v‖ at the end.
    """

    method: str
    iterations: int
    products: int
    residual: float


@dataclass(frozen=True, slots=True)
class Point:
    """One step at one setting of the inverse; `damping` is None for a single named inverse.

    `inverse`: mean of ‖H C⁻¹v − v‖²/‖v‖². `influence`: 1 − Spearman against the reference's scores.
    `cosine`: of the preconditioned gradients against the reference's. `lds`: None without LDS.
    Where H is known by its products alone, `inverse_standard_error` is that of the mean over
    `inverse_gradients`. `solve` says what a solver took; None for closed forms. The shares are of the path's total (numerics, section 3); None at the first step.
    """

    damping: float | None
    inverse: float | None = None
    inverse_share: float | None = None
    influence: float | None = None
    influence_share: float | None = None
    cosine: float | None = None
    lds: Interval | None = None
    lds_share: float | None = None
    note: str = ""
    solve: Solve | None = None
    inverse_standard_error: float | None = None
    inverse_gradients: int | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One row of the chain.

    `label` is the curvature's name (`mine`), `stage` the stage as written
    (`drop_residual(fisher = mc)`), `structures` maps each block to its structure
    (`0.weight` -> `Kronecker 16×16 ⊗ 64×64`), `structure` is the common word, `memory` the bytes
    that the operator holds, `passes` how often the data is read up to here. `forward` is
    ‖C − H‖_F/‖H‖_F; where it is estimated, with its standard error and the random vectors behind it. `points` follow the sweep; `best` and `shared` index into it.
    """

    label: str
    stage: str
    structure: str
    structures: Mapping[str, str]
    memory: int
    passes: int
    forward: float | None
    forward_share: float | None
    points: tuple[Point, ...]
    best: int | None = None
    shared: int = 0
    note: str = ""
    forward_standard_error: float | None = None
    forward_probes: int | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """`first` against `second` by LDS at the shared λ: paired bootstrap of the difference.

    `verdict` is one of `better`, `worse`, `cannot be told apart`.
    """

    first: str
    second: str
    difference: Interval
    verdict: str


@dataclass(frozen=True, slots=True)
class Protocol:
    """LDS protocol as run. `initialisation` is `fresh` or `shared`, `groups` what a subset leaves out."""

    subsets: int
    keep: float
    retrains: int
    queries: int
    initialisation: str
    seed: int
    bootstrap: int
    level: float = 0.95
    groups: str = "random"


@dataclass(frozen=True, slots=True)
class TaskSummary:
    """The task as run: sizes, the trained model's quality, the recipe, where its parameters came from."""

    name: str
    arguments: Mapping[str, Any]
    model: str
    loss: str
    train_examples: int
    query_examples: int
    parameters: int
    train_loss: float
    query_loss: float
    query_accuracy: float | None
    recipe: Mapping[str, Any] | None
    weight_decay: float
    origin: str


@dataclass(frozen=True, slots=True, repr=False)
class Result(Display):
    """All that `curvlang eval` found about one curvature on one task.

    `inverse` says what C⁻¹ meant, `sweep` the λ grid (empty for a single named inverse),
    `ceiling` the split-half noise ceiling of the ground truth (Spearman–Brown corrected).
    """

    name: str
    version: str
    reference: str
    task: TaskSummary
    inverse: str
    sweep: tuple[float, ...]
    protocol: Protocol | None
    ceiling: Interval | None
    steps: tuple[Step, ...]
    comparisons: tuple[Comparison, ...] = ()
    notes: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    convention: str = "score[q,n] = grad m_q . C^-1 . grad l_n; positive: training on n lowers the query's loss; no 1/N"

    def _summary(self) -> str:
        lds = "no LDS" if self.protocol is None else f"LDS from {self.protocol.subsets} subsets"
        count = f"{len(self.steps)} step{'s' * (len(self.steps) != 1)}"
        return f"of {self.name} on {self.task.name}: {count}, {lds}"

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries, lists and numbers, with the schema's number first."""
        return {"schema": SCHEMA, **asdict(self)}
