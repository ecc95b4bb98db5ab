"""Errors, scores and LDS of every stage of a chain at every setting of the inverse."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from curvlang.compiler.spectral import Spectral, bind
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.evaluation.influence import cosine, influence_error, inverse_error, product, scores
from curvlang.language.chain import InverseUse
from curvlang.operators import Operator, tikhonov
from curvlang.runtime.fit import FittedStage


@dataclass(frozen=True, slots=True)
class Setting:
    """One inverse: a damping λ of the default sweep, or the inverse that the spec names."""

    damping: float | None
    use: InverseUse | None = None

    def function(self, form: Operator) -> Spectral:
        """The spectral function for an operator."""
        if self.use is not None:
            return bind(self.use, form.eigenvalues())
        assert self.damping is not None
        return tikhonov(self.damping)

    def apply(self, form: Operator) -> Operator:
        """The operator's inverse under this setting."""
        if form.structure == "MatrixFree" and self.damping is not None:
            return form.inverse(self.damping)
        return form.inverse(spectral=self.function(form))


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """One stage at one setting; a reason instead of numbers where the inverse is refused."""

    scores: Tensor | None
    inverse: float | None
    influence: float | None
    cosine: float | None
    note: str = ""


def settings(use: InverseUse | None, sweep: Sequence[float]) -> tuple[Setting, ...]:
    """The spec's inverse alone, or the sweep."""
    return (Setting(None, use),) if use is not None else tuple(Setting(x) for x in sweep)


def spectral_form(operator: Operator) -> Operator:
    """Decomposed once for the whole sweep; matrix-free operators stay as they are."""
    return operator if operator.structure == "MatrixFree" else operator.spectral_form()


def forward_error(operator: Operator, reference: Operator) -> float | None:
    """‖C − H‖_F/‖H‖_F; None where one of the two is known by its products alone."""
    if "MatrixFree" in (operator.structure, reference.structure):
        return None
    if operator is reference:
        return 0.0
    return float(operator.distance(reference) / reference.frobenius())


def measure(
    stages: Sequence[FittedStage],
    reference: Operator,
    chosen: Sequence[Setting],
    query: Tensor,
    train: Tensor,
    sample: Tensor,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[list[Measured]]:
    """Every stage at every setting, against the reference at the same setting.

    Args:
        stages: Fitted stages of the chain.
        reference: H.
        chosen: Settings of the inverse.
        query: `[Q, P]` gradients of the queries' metric.
        train: `[N, P]` gradients of the training losses.
        sample: `[M, P]` training gradients that the inverse error is averaged over.
        progress: Told about every stage and setting.
    """
    forms = [spectral_form(s.operator) for s in stages]
    known = next((k for k, s in enumerate(stages) if s.operator is reference), None)
    target = forms[known] if known is not None else spectral_form(reference)
    out: list[list[Measured]] = [[] for _ in stages]
    done = 0
    for setting in chosen:
        goal = _scored(target, setting, query, train, sample)
        for k, form in enumerate(forms):
            own = goal if form is target else _scored(form, setting, query, train, sample)
            out[k].append(_compare(own, goal, reference, sample))
            done += 1
            if progress is not None:
                progress("scores", done, len(chosen) * len(forms))
    return out


@dataclass(frozen=True, slots=True, eq=False)
class _Scored:
    scores: Tensor | None
    preconditioned: Tensor | None
    note: str = ""


def _scored(
    form: Operator, setting: Setting, query: Tensor, train: Tensor, sample: Tensor
) -> _Scored:
    try:
        inverse = setting.apply(form)
        found = scores(inverse, query, train)
        return _Scored(found, product(inverse, sample))
    except SpecError as error:
        # A refused inverse (singular, or indefinite under conjugate gradients) is a result about
        # this setting, shown with its reason; the other settings stand.
        return _Scored(None, None, "; ".join(d.headline for d in error.diagnostics))


def _compare(own: _Scored, goal: _Scored, reference: Operator, sample: Tensor) -> Measured:
    if own.scores is None or own.preconditioned is None:
        return Measured(None, None, None, None, own.note)
    inverse = inverse_error(reference, own.preconditioned, sample)
    if goal.scores is None or goal.preconditioned is None:
        return Measured(own.scores, inverse, None, None, f"no reference: {goal.note}")
    return Measured(
        own.scores,
        inverse,
        influence_error(own.scores, goal.scores),
        cosine(own.preconditioned, goal.preconditioned),
    )


def sampled(count: int, at_most: int, seed: int) -> Tensor:
    """Which training examples the inverse error is averaged over, in ascending order."""
    if count <= at_most:
        return torch.arange(count)
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(count, generator=generator)[:at_most].sort().values
