"""`curvlang explain`: the plan as text that a person can learn from. Nothing is fitted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from curvlang.compiler.derive.program import Result
from curvlang.compiler.explain.derivation import StageDerivation, derivation, latex, structure_name
from curvlang.compiler.explain.listing import binary, cost_text, count, listing
from curvlang.compiler.explain.score_plan import ScorePlan
from curvlang.compiler.planning.cost import Cost, plan_cost, total
from curvlang.compiler.planning.plan import Plan, first_plan, plan_of
from curvlang.diagnostics.notebook import Display, frame, html_folded, html_text, text_table


class Prediction(Protocol):
    """What more is predicted of the run, for a machine."""

    def lines(self) -> Iterator[str]:
        """As text."""

    def to_json(self) -> dict[str, Any]:
        """All numbers, plain."""


_STAGES = ("curvature", "stage", "structure", "passes")


@dataclass(frozen=True, slots=True, repr=False)
class Explanation(Display):
    """The plans of a run and the result of every stage of every chain. Printable.

    Args:
        plans: One for each program.
        chains: What every stage of every chain yields.
        headline: What is explained, on what.
        model: Operations of the model itself by what they are for, over the whole run.
        memory: Predicted bytes by phase of the run, and what they are.
        notes: Lines above the derivation: the result of a sum of curvatures.
        prediction: Of seconds and bytes on a number of processes, where it was asked for.
        score: The score that the curvature is evaluated by; None for plain influence.
        scoring: What scores and an index of them take; None where that cannot be predicted.
    """

    plans: tuple[Plan, ...]
    chains: tuple[tuple[Result, ...], ...]
    headline: str = ""
    model: Mapping[str, int] = field(default_factory=dict)
    memory: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    prediction: Prediction | None = None
    score: ScorePlan | None = None
    scoring: Prediction | None = None

    @property
    def cost(self) -> Cost:
        """Operations and bytes of the generated code: all passes and everything between them."""
        return total(map(plan_cost, self.plans))

    @property
    def flops(self) -> int:
        """Floating-point operations of the run, those of the model included."""
        return self.cost.flops + sum(self.model.values())

    @property
    def peak(self) -> int:
        """Predicted bytes at the peak of the run."""
        return max((sum(parts.values()) for parts in self.memory.values()), default=0)

    @property
    def passes(self) -> int:
        """How often the data is read."""
        return max((p.passes for p in self.plans), default=0)

    def stages(self, chain: int = 0) -> tuple[StageDerivation, ...]:
        """Every stage of a chain with its structure."""
        return tuple(self._derived(result) for result in self.chains[chain])

    def _derived(self, result: Result) -> StageDerivation:
        found = first_plan(result, self.plans)
        others = result.beside
        if others is None or not plan_of(others, self.plans).blocks:
            return StageDerivation(result, found.shape, found.level)
        return StageDerivation(result, found.shape, found.level, self._derived(others))

    def latex(self) -> str:
        """The derivation of every chain as LaTeX (`amsmath`)."""
        return "\n".join(x for k in range(len(self.chains)) for x in latex(self.stages(k)))

    def text(self, *, code: bool = True) -> str:
        """The whole explanation, with the torch code or without."""
        return "\n".join(_explain(self, code)).rstrip()

    def to_json(self) -> dict[str, Any]:
        """Structures, operations, predicted memory, and the prediction for several processes, plain."""
        return {
            "what": self.headline,
            "stages": [dict(zip(_STAGES, _stage(x), strict=True)) for x in self._all_stages()],
            "passes": self.passes,
            "flops": self.flops,
            "memory": {name: dict(parts) for name, parts in self.memory.items()},
            "prediction": None if self.prediction is None else self.prediction.to_json(),
            **({} if self.score is None else {"score": self.score.to_json()}),
            **({} if self.scoring is None else {"scores": self.scoring.to_json()}),
        }

    def _summary(self) -> str:
        passes = f"{self.passes} pass{'es' if self.passes != 1 else ''}"
        return f"of {self.headline}: {passes}, {count(self.flops, 'FLOP')}"

    def __str__(self) -> str:
        """The whole explanation as plain text."""
        return self.text()

    def table(self) -> str:
        """Every stage as a line: what it is called, as written, its structure, and the passes it takes."""
        return text_table(_STAGES, [_stage(x) for x in self._all_stages()])

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame` with a row for every stage.

        Raises:
            SpecError: E0757 where pandas is not installed.
        """
        rows = list(self._all_stages())
        cells = zip(*map(_stage, rows), strict=True)
        return frame(dict(zip(_STAGES, cells, strict=True)) | {"passes": [x.level for x in rows]})

    def _all_stages(self) -> Iterator[StageDerivation]:
        for k in range(len(self.chains)):
            yield from self.stages(k)

    def _repr_html_(self) -> str:
        code = "\n".join(line for plan in self.plans for line in listing(plan, code=True))
        return html_text(self.text(code=False)) + html_folded("torch code", code)


def _stage(stage: StageDerivation) -> tuple[str, str, str, str]:
    result = stage.result
    return result.label, result.stage, structure_name(stage.shape), str(stage.level)


def _explain(explanation: Explanation, code: bool) -> Iterator[str]:
    if explanation.headline:
        yield explanation.headline
    yield ""
    if explanation.notes:
        yield from explanation.notes
        yield ""
    for k, chain in enumerate(explanation.chains):
        yield f"Derivation of {chain[-1].label}"
        yield from derivation(explanation.stages(k))
        yield ""
    if explanation.score is not None:
        yield from explanation.score.lines()
        yield ""
    yield from _costs(explanation)
    if explanation.prediction is not None:
        yield from explanation.prediction.lines()
        yield ""
    for plan in explanation.plans:
        yield from listing(plan, code=code)


def _costs(explanation: Explanation) -> Iterator[str]:
    number = explanation.passes
    yield "Cost"
    yield f"  {number} pass{'es' if number != 1 else ''} over the data, {count(explanation.flops, 'FLOP')} in all"
    for name, flops in explanation.model.items():
        yield f"    {name}: {count(flops, 'FLOP')}"
    yield f"    statistics and results: {cost_text(explanation.cost)}"
    for phase, parts in explanation.memory.items():
        held = sum(parts.values())
        inside = ", ".join(f"{name} {binary(size)}" for name, size in parts.items() if size)
        mark = "  ← peak" if held == explanation.peak else ""
        yield f"  memory in {phase}: {binary(held)} ({inside}){mark}"
    if explanation.scoring is not None:
        yield from explanation.scoring.lines()
    yield ""
