"""What a precision changes: fits and scores of a few examples, in it and in float64, compared."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from curvlang.attribution.factored import probed_count
from curvlang.attribution.influence import influence
from curvlang.attribution.streams.reduced import ReducedPrecision
from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.notebook import Display
from curvlang.diagnostics.plain_arguments import validated
from curvlang.facade import as_spec, fit
from curvlang.language.chain import Spec
from curvlang.language.selection import chains_of, chosen
from curvlang.models.execution.precision import Precision, PrecisionLike
from curvlang.models.execution.torch_state import settled
from curvlang.models.task import Task
from curvlang.runtime.fitted import FittedOperator
from curvlang.runtime.others import without_ignored

QUERIES = 8
"""Queries that are scored twice."""
CUBES = 2e10
"""Σ d³ over the sides of the layers that are looked at: what decompositions of them take grows so."""
EXACT = Precision()
USEFUL = 0.1
"""Share of the largest score above which an error is said to be large."""
ABOVE = "and of all of them up to 10 times that was seen"
"""How far the error of all examples has been above that of a few: `docs/precision.md` says where."""
LARGE = "so large an error leaves little of the scores: take a wider precision, or a larger λ"

Fit = Callable[[Task], FittedOperator]
Score = Callable[[FittedOperator, Task], Tensor]


@dataclass(frozen=True, slots=True, repr=False)
class PrecisionErrors(Display):
    """By how much scores in a precision differ from those in float64, of the largest; printable.

    Args:
        precision: The policy.
        errors: Of each part that is narrower than float64 alone, and of `all` together.
        examples: Training examples that it was measured on.
        layers: Blocks of layers that it was measured on, and how many there are.
        unmeasured: Why nothing was measured; empty where it was.
    """

    precision: Precision
    errors: Mapping[str, float]
    examples: int
    layers: tuple[int, int]
    unmeasured: str = ""

    @property
    def whole(self) -> float:
        """That of all parts together; 0 where everything is in float64."""
        return self.errors.get("all", 0.0)

    def to_json(self) -> dict[str, Any]:
        """The same as plain values."""
        parts = {x.name: getattr(self.precision, x.name) for x in fields(self.precision)}
        return {
            "precision": parts,
            "errors": dict(self.errors),
            "examples": self.examples,
            "layers": list(self.layers),
            **({"unmeasured": self.unmeasured} if self.unmeasured else {}),
        }

    def _summary(self) -> str:
        if self.unmeasured:
            return f"in {self.precision}, not compared with float64"
        return f"in {self.precision}: {self.whole:.1g} of the largest score"

    def __str__(self) -> str:
        if self.unmeasured:
            return (
                f"{self.precision}: how much that changes is not known, since nothing runs in float64 "
                f"({self.unmeasured})"
            )
        if not self.errors:
            return f"{self.precision}, in which nothing is rounded to less than float64"
        parts = [f"{name} {error:.1g}" for name, error in self.errors.items() if name != "all"]
        apart = f" ({', '.join(parts)})" if len(parts) > 1 else ""
        large = f"; {LARGE}" if self.whole > USEFUL else ""
        of = (
            ""
            if self.layers[0] == self.layers[1]
            else f" of {self.layers[0]} of {self.layers[1]} layers"
        )
        return (
            f"{self.precision}: scores{of} differ from those in float64 by {self.whole:.1g} of the largest"
            f"{apart}; fitted and scored both ways on {self.examples} training examples, {ABOVE}{large}"
        )


@settled
@validated
def precision_errors(
    spec: Spec | str | Path,
    task: Task,
    precision: PrecisionLike,
    *,
    curvature: str | None = None,
    damping: float | None = None,
    inverse: str | None = None,
    seed: int = 0,
) -> PrecisionErrors:
    """Measure what a precision changes: a few examples are fitted and scored in it, and in float64.

    A curvature of fewer examples has more small eigenvalues, which rounding shows in: where λ is small the
    error of all examples is below the measured one.

    Args:
        spec: A spec, a path, or the name of one that ships.
        task: Model, loss and data, with the parameters as they are known best.
        precision: `"bfloat16"`, `"passes=float32,products=bfloat16"`, or a `Precision`.
        curvature: Which of the spec's curvatures.
        damping: λ of the inverse; the spec's inverse where not given.
        inverse: An inverse as a spec writes it, in place of the spec's.
        seed: Of sampled labels.

    Raises:
        SpecError: E0875 to E0878 for a precision that cannot be had, else as `fit` and `influence`.
    """

    def fitted(some: Task) -> FittedOperator:
        return fit(spec, some, curvature=curvature, seed=seed, progress=False)

    def scored(op: FittedOperator, some: Task) -> Tensor:
        return influence(op, some, damping=damping, inverse=inverse, progress=False)

    policy = Precision.of(precision)
    policy.check_on(task.device)
    chains = chains_of(chosen(as_spec(spec), curvature))
    return measured_errors(without_ignored(chains, task), policy, fitted, scored)


def measured_errors(task: Task, policy: Precision, fitted: Fit, scored: Score) -> PrecisionErrors:
    """What each part of a policy changes by itself, and all of it together.

    Args:
        task: The parameters as they are known best.
        policy: What is looked at.
        fitted: Fits a task in its precision.
        scored: Scores of a task by a curvature.
    """
    few, layers = _few(task)
    known: dict[str, FittedOperator] = {}

    def scores(own: Precision) -> Tensor:
        some = few.to(precision=own)
        if own.fitted not in known:
            known[own.fitted] = fitted(some)
        with warnings.catch_warnings():
            # What it warns of is measured here.
            warnings.simplefilter("ignore", ReducedPrecision)
            return scored(known[own.fitted], some).double()

    errors: dict[str, float] = {}
    if not policy.exact:
        try:
            wanted = scores(EXACT)
        except SpecError as error:
            (first, *_) = error.diagnostics
            if first.code not in (Code.E0408, Code.E0420):
                raise
            return PrecisionErrors(policy, {}, few.N, layers, first.headline)
        scale = float(wanted.abs().max().clamp_min(torch.finfo(torch.float64).tiny))
        asked = dict(_parts(policy))
        if set(asked.values()) == {policy}:
            asked = {"all": policy}
        errors = {
            name: float((scores(own) - wanted).abs().max()) / scale for name, own in asked.items()
        }
    return PrecisionErrors(policy, errors, few.N, layers)


def _parts(policy: Precision) -> Iterator[tuple[str, Precision]]:
    """A policy for each part that is narrower than float64, with all others in float64; then all of it.

    Products that follow the passes are measured with them: some curvatures have no others.
    """
    for field in fields(policy):
        value = getattr(policy, field.name)
        follows = field.name == "products" and policy.apart is None
        if value != "float64" and not follows:
            own = {field.name: value}
            if policy.apart is not None:
                own = {"products": "float64", **own}
            yield field.name, Precision(**own)
    yield "all", policy


def _few(task: Task) -> tuple[Task, tuple[int, int]]:
    """A few training examples and queries, and layers whose decompositions take seconds at most."""
    count = probed_count(task)
    some = task.examples(_spread(task.N, count)).queries(_spread(task.Q, min(task.Q, QUERIES)))
    layers = sorted(some.blocks(), key=lambda x: x.count * (x.d_in**3 + x.d_out**3))
    taken, spent = 0, 0.0
    for layer in layers:
        spent += layer.count * (float(layer.d_in) ** 3 + float(layer.d_out) ** 3)
        if taken and spent > CUBES:
            break
        taken += 1
    if taken == len(layers):
        return some, (taken, taken)
    # From the smallest: what a wide one would take is what this is to spare.
    names = {name for layer in layers[:taken] for name in _parameters(layer.name, some)}
    return some.restricted([x for x in some.parameters if x in names]), (taken, len(layers))


def _parameters(layer: str, task: Task) -> Iterator[str]:
    return (x for x in task.parameters if x == layer or x.startswith(f"{layer}."))


def _spread(total: int, count: int) -> Tensor:
    """Places that lie apart from each other, since examples that follow each other are often alike."""
    return torch.linspace(0, total - 1, count).round().long()
