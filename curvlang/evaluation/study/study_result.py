"""What a study found, as plain values: cells as they are kept, and the tables made of them.

`StudyResult.to_json` is the content of `study.json`; docs/studies.md documents it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from curvlang.diagnostics.notebook import Display
from curvlang.evaluation.measures.grid import MeasureTable
from curvlang.evaluation.result import Protocol, Result, TaskSummary
from curvlang.evaluation.statistics.comparison import Pair
from curvlang.evaluation.statistics.interval import Interval
from curvlang.evaluation.study.attributed import Attribution
from curvlang.evaluation.study.spectra import Spectrum

SCHEMA = 4


@dataclass(frozen=True, slots=True)
class Cell:
    """One trained model of one cell, evaluated: a result for every inverse of the study.

    `additive` is the datamodel ceiling; `flops` what fitting each curvature alone takes, with the
    model's own passes; `measures` holds a table of each for every inverse; `trained` of
    `trained + reused` retrained models were new. `spectra` and `attributed` are what the report
    draws of a single model.
    """

    values: Mapping[str, Any]
    seed: int
    results: tuple[Result, ...]
    additive: Interval | None
    flops: Mapping[str, int]
    seconds: Mapping[str, float]
    trained: int = 0
    reused: int = 0
    measures: Mapping[str, tuple[MeasureTable, ...]] = field(default_factory=dict)
    spectra: tuple[Spectrum, ...] = ()
    attributed: tuple[Attribution, ...] = ()


@dataclass(frozen=True, slots=True)
class Spot:
    """A method at one setting of the inverse, averaged over models.

    `lds` carries the hierarchical interval; `per_seed` holds the estimates of every model, in the
    order of the group's seeds.
    """

    damping: float | None
    inverse: float | None
    influence: float | None
    cosine: float | None
    lds: Interval | None
    per_seed: tuple[float, ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class Honest:
    """The LDS of a method at a setting that is chosen by cross-validation over subsets and queries.

    `optimism` is the LDS at the best setting, chosen on what it is scored on, minus this one;
    `chosen` has the settings with the share of the folds that chose them.
    """

    lds: Interval
    optimism: Interval
    chosen: tuple[tuple[float | None, float], ...]


@dataclass(frozen=True, slots=True)
class Row:
    """A method in a group; `forward` is averaged over models, `forwards` has them all."""

    label: str
    structure: str
    memory: int
    passes: int
    flops: int | None
    forward: float | None
    forwards: tuple[float, ...]
    spots: tuple[Spot, ...]
    best: int | None = None
    honest: Honest | None = None


@dataclass(frozen=True, slots=True)
class Share:
    """What one step of the path adds: to the forward and inverse error, to the loss of LDS.

    Shares are of the path's total, last minus first; None where the steps all but cancel. `lds` is
    the change at the shared λ with its interval, `best` the change where each has its best λ,
    `honest` where each has its λ chosen by cross-validation.
    """

    label: str
    forward: float | None
    inverse: float | None
    lds_share: float | None
    lds: Interval | None
    best: Interval | None
    honest: Interval | None = None


@dataclass(frozen=True, slots=True)
class Measure:
    """A measure beyond the LDS: `[curvature][setting]`, averaged over models; `notes` say what is missing."""

    name: str
    values: tuple[tuple[Interval | None, ...], ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Group:
    """One point of the sweep under one inverse, over all its models.

    Pairs of `pairs` are compared at the shared setting, those of `best_pairs` each at its best one,
    those of `honest_pairs` each at settings chosen by cross-validation; none without a sweep.
    """

    values: Mapping[str, Any]
    inverse: str
    sweep: tuple[float, ...]
    seeds: tuple[int, ...]
    task: TaskSummary
    protocol: Protocol | None
    rows: tuple[Row, ...]
    shares: tuple[Share, ...]
    shared: int
    ceiling: Interval | None
    additive: Interval | None
    pairs: tuple[Pair, ...]
    best_pairs: tuple[Pair, ...]
    seconds: float
    measures: tuple[Measure, ...] = ()
    honest_pairs: tuple[Pair, ...] = ()


@dataclass(frozen=True, slots=True)
class FirstModel:
    """What is shown of one model at each point of the sweep: spectra, and attributed queries."""

    values: Mapping[str, Any]
    seed: int
    spectra: tuple[Spectrum, ...]
    attributed: tuple[Attribution, ...]


@dataclass(frozen=True, slots=True, repr=False)
class StudyResult(Display):
    """All that a study has found so far: `done` of `cells` models are evaluated."""

    name: str
    question: str
    version: str
    axes: Mapping[str, tuple[Any, ...]]
    seeds: tuple[int, ...]
    path: tuple[str, ...]
    methods: tuple[str, ...]
    baselines: tuple[str, ...]
    done: int
    cells: int
    groups: tuple[Group, ...]
    first_models: tuple[FirstModel, ...] = ()
    notes: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def _summary(self) -> str:
        return f"of {self.name}: {self.done} of {self.cells} models, {len(self.groups)} groups"

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries, lists and numbers, with the schema's number first."""
        return {"schema": SCHEMA, **asdict(self)}
