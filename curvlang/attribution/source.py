"""SOURCE: the derivative through training, with a training cut into stationary segments.

Step k takes θ ← θ − η_k (1/B) Σ w_n ∇ℓ_n(θ) over a minibatch that holds n with probability B/N, so that
on the mean over orders, and to first order around w = 1,

    ∂θ_T/∂w_n = −(1/N) Σ_k η_k [∏_{j>k} (I − η_j H_j)] ∇ℓ_n(θ_k),     the last j on the left.

Segment l of L has the steps of K_l neighbours, and the time τ_l = Σ η_k of their learning rates. With
its Hessian H_l and gradients g_{n,l} constant and steps small, ∏ (I − η_j H_l) = exp(−τ H_l) over any
part of it of time τ, and its own terms add up to

    ∫_0^{τ_l} exp(−t H_l) dt g_{n,l} = S_l g_{n,l},     S_l = H_l⁻¹ (I − exp(−τ_l H_l)),

a function of the spectrum of H_l: τ_l where an eigenvalue is 0, 1/s where τ_l s is large. What a
segment has moved then goes through the segments behind it:

    −N ∂m_q/∂w_n = Σ_l ∇m_qᵀ exp(−τ_L H_L) … exp(−τ_{l+1} H_{l+1}) S_l g_{n,l}.

Bae et al. 2024 (arXiv:2405.12186). One segment whose τ s is large for all s is the influence function;
one of a single short step is the gradients' dot product. With momentum μ a gradient goes on to move
the parameters, by η (1 + μ + μ² + …) in all: τ is over η/(1 − μ). An L2 term is part of H.

H_l and g_{n,l} are means over C models of the segment, those in the middle of C parts with equally many
steps. The curvature is fitted once for a segment, to the examples at all of its models: every mean over
n in its formulas is over n and the models. For a curvature that is one mean, as the Gauss–Newton matrix
is, this is the mean of the C matrices; one in factors keeps its structure, its factors being means
over the models, and moments in an eigenbasis are taken in the basis of these factors.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from curvlang.attribution.factored import scores_together, whole_queries
from curvlang.attribution.gradients import product, query_gradients
from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.language.chain import Chain, Curvature
from curvlang.models.execution.copies import copied
from curvlang.models.execution.process_state import kept_streams
from curvlang.models.execution.widened import accumulation_dtype
from curvlang.models.task import Task
from curvlang.operators import Operator, Spectral
from curvlang.operators.validation import trusting
from curvlang.runtime.combine import fit_combination
from curvlang.runtime.fit import fit_chains
from curvlang.training.replay import (
    State,
    check_followed,
    followed,
    not_followed,
    rates,
    step_count,
)


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """Neighbouring steps of a training.

    Args:
        time: τ, the sum of their learning rates over 1 − momentum.
        points: The task at the models of the segment, in the precision of the analysis.
    """

    time: float
    points: tuple[Task, ...]


@kept_streams()
@trusting()  # What overflows is refused below, with its reason.
def source_scores(
    base: Task, task: Task, queries: int, seed: int, curvature: Curvature, cuts: tuple[int, int]
) -> Tensor:
    """−N ∂m_q/∂w_n as SOURCE has it, `[Q, N]`: positive where more weight on n lowers the loss.

    Args:
        base: With `build` and `recipe`, in the precision of the training.
        task: The same in the precision of the analysis; parameters that are constants in it stay so.
        queries: The first of the queries, as many as are scored.
        seed: Of the model's initialisation, as the evaluated model has it.
        curvature: The structure of every H_l.
        cuts: Segments L, and models C of each.

    Raises:
        SpecError: E0509 for a recipe that is not SGD, for fewer steps than models, for a curvature
            without a known spectrum, or with one that grows without bound.
    """
    trajectory, last = segments(base, task, seed, *cuts)
    first = last.queries(slice(queries))
    ask = query_gradients(first, last.loss).to(accumulation_dtype(task.device))
    found = ask.new_zeros(len(ask), task.N)
    for segment in reversed(trajectory):
        h = _fitted(curvature, segment.points, seed).spectral_form()
        moved = product(h.spectral(accumulated(segment.time)), ask)
        for point in segment.points:
            queries_here = whole_queries(h, moved, point)
            found += scores_together(point, [queries_here])[0].to(found) / len(segment.points)
        ask = product(h.spectral(propagated(segment.time)), ask)
        _check_bounded(ask, curvature)
    return found


def accumulated(time: float) -> Spectral:
    """S → (1 − e^{−τ s}) / s, which tends to τ where s tends to 0."""

    def function(s: Tensor) -> Tensor:
        zero = s.abs() * time <= torch.finfo(s.dtype).eps
        return torch.where(zero, time, -torch.expm1(-time * s) / torch.where(zero, 1.0, s))

    return function


def propagated(time: float) -> Spectral:
    """S → e^{−τ s}."""
    return lambda s: torch.exp(-time * s)


def segments(
    base: Task, task: Task, seed: int, count: int, checkpoints: int
) -> tuple[list[Segment], Task]:
    """The training in `count` segments of as many steps each, and the task at its end.

    Raises:
        SpecError: E0509 for a recipe that is not SGD, or of fewer steps than models.
    """
    assert base.build is not None
    assert base.recipe is not None
    check_source(base, count, checkpoints)
    total = step_count(base)
    every = _middles(total, count * checkpoints)
    model = copied(base.build(seed), base.dtype, base.device)
    kept: list[Task] = []
    end: State = {}
    for number, step in enumerate(followed(base, model, seed)):
        if number in every:
            kept.append(_at(task, step.theta))
        end = step.after
    lr = [x / (1 - base.recipe.momentum) for x in rates(base)]
    found = [
        Segment(sum(lr[start:stop]), tuple(kept[k * checkpoints : (k + 1) * checkpoints]))
        for k, (start, stop) in enumerate(pairwise(_bounds(total, count)))
    ]
    return found, _at(task, end)


def check_source(task: Task, count: int, checkpoints: int) -> None:
    """Refuse, before anything is trained, a training that is not SGD or has fewer steps than models.

    Raises:
        SpecError: E0509.
    """
    assert task.recipe is not None
    check_followed("source", task.recipe)
    total = step_count(task)
    if count * checkpoints > total:
        raise _too_short(total, count, checkpoints)


def _bounds(total: int, parts: int) -> list[int]:
    """Where parts of a range begin and end, as equal as whole numbers allow."""
    return [k * total // parts for k in range(parts + 1)]


def _middles(total: int, parts: int) -> set[int]:
    return {(start + stop) // 2 for start, stop in pairwise(_bounds(total, parts))}


def _at(task: Task, theta: State) -> Task:
    """The task with its model at these parameters; what is constant in it is at them, and constant."""
    model = copied(task.model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in theta:
                parameter.copy_(theta[name])
    return task.with_model(model)


def _fitted(curvature: Curvature, points: tuple[Task, ...], seed: int) -> Operator:
    """The curvature of the examples at all models of a segment; its spectrum must be known."""
    if isinstance(curvature, Chain):
        ((*_, stage),) = fit_chains([curvature], points, seed=seed, last=True)
    else:
        stage = fit_combination(curvature, points, seed=seed)
    if not stage.operator.spectrum_known:
        raise _no_spectrum(curvature, points[0])
    return stage.operator


def _check_bounded(ask: Tensor, curvature: Curvature) -> None:
    if not bool(torch.isfinite(ask).all()):
        raise refusal(
            Code.E0797,
            f"`source` takes exp(−τ s) over the spectrum of `{curvature.name}`, and a negative s "
            "makes it overflow",
            "give it a curvature without negative eigenvalues, as one after `drop_residual`",
        )


def _no_spectrum(curvature: Curvature, task: Task) -> SpecError:
    return refusal(
        Code.E0797,
        f"`source` needs the spectrum of `{curvature.name}`, which is known by its products alone "
        f"for {task.P} parameters",
        "give it a structured curvature, such as one in Kronecker factors, or a diagonal",
    )


def _too_short(total: int, count: int, checkpoints: int) -> SpecError:
    return not_followed(
        "source",
        f"{count} × {checkpoints} models were asked for, where there are {total} "
        f"{'step' if total == 1 else 'steps'}",
        "give fewer `segments` or `checkpoints`, or train for longer",
    )
