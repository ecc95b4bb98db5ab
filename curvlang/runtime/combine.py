"""Sums and multiples of curvatures: all terms fitted in one run over the data, added block by block.

What is combined is the curvature of the mean loss. The task's L2 term λ·I is added to the sum once
and exactly, whatever the weights; a sum that writes it, as `kfac + weight_decay * identity` does,
has said what it wants, and nothing is added.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from curvlang.language.chain import Chain, Combination, Curvature, Weight
from curvlang.models.task import Task
from curvlang.operators import BlockDiagonal, Identity, Operator, added, scaled
from curvlang.runtime.fit import FittedStage, Progress, fit_chains, regularised

ONE = Weight()


def fit_combination(
    curvature: Combination,
    task: Task,
    *,
    seed: int = 0,
    batch: int | None = None,
    progress: Progress | None = None,
) -> FittedStage:
    """The weighted sum of the last stages of its chains, as one stage.

    Args:
        curvature: The combination; sums inside sums are multiplied out.
        task: Model, loss and data.
        seed: Seeds the sampled labels of every pass.
        batch: Examples per batch; chosen by the plan otherwise.
        progress: Told about every batch.
    """
    terms = list(weighted_chains(curvature))
    chains = [chain for _, chain in terms]
    fitted = fit_chains(
        chains, task, seed=seed, batch=batch, last=True, progress=progress, bare=True
    )
    last = [stages[-1] for stages in fitted]
    values = {"weight_decay": task.weight_decay}
    parts = [
        scaled(weight.value(values), stage.operator)
        for (weight, _), stage in zip(terms, last, strict=True)
    ]
    whole = added(parts)
    if not _states_decay([weight for weight, _ in terms], [stage.operator for stage in last]):
        whole = regularised(whole, task)
    return FittedStage(
        curvature.name,
        text(curvature),
        whole,
        _structures(whole),
        max(stage.passes for stage in last),
        curvature.span,
    )


def weighted_chains(curvature: Curvature, weight: Weight = ONE) -> Iterator[tuple[Weight, Chain]]:
    """The chains of a curvature with their weights, sums inside sums multiplied out."""
    match curvature:
        case Chain():
            yield weight, curvature
        case Combination(terms=terms):
            for own, part in terms:
                yield from weighted_chains(part, weight * own)


def text(curvature: Combination) -> str:
    """The sum as the language writes it, multiplied out."""
    out = ""
    for weight, chain in weighted_chains(curvature):
        sign = "-" if weight.number < 0 else "+"
        size = Weight(abs(weight.number), weight.names)
        name = chain.labels[-1]
        term = name if size == ONE else f"{size} * {name}"
        out += f" {sign} {term}" if out else f"-{term}" if sign == "-" else term
    return out


def _states_decay(weights: list[Weight], operators: list[Operator]) -> bool:
    """Whether a term is a multiple of the identity by the task's own weight decay."""
    return any(
        "weight_decay" in weight.names and isinstance(operator, Identity)
        for weight, operator in zip(weights, operators, strict=True)
    )


def _structures(whole: Operator) -> Mapping[str, str]:
    if isinstance(whole, BlockDiagonal):
        pairs = zip(whole.names, whole.blocks, strict=True)
        return {name: block.describe() for name, block in pairs}
    return {"model": whole.describe()}
