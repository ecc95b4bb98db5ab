"""Operations and bytes of our part of a workload, from the plan.

Scores of layers with one position are taken in an order that the spectrum decides, so that it is fitted first.
"""

from __future__ import annotations

from collections.abc import Sequence

from curvlang.attribution.blocks import scored_blocks
from curvlang.compiler.derive.program import Partition
from curvlang.compiler.planning.cost import Cost, total
from curvlang.costs.predicted import predicted_fit, predicted_scores, score_ranks
from curvlang.facade import chains_of, chosen, fit
from curvlang.language import load
from curvlang.models.task import Task
from curvlang.models.tracing.blocks import LayerBlock
from curvlang.runtime.prepare import Preparation, prepare
from tests.bench.contest import Sizes
from tests.bench.contestants.attribution import DAMPING
from tests.bench.contestants.inputs import task

FITS = {
    "a": {"fit": "ekfac_empirical"},
    "b": {"fit": "ekfac_empirical"},
    "c": {"fit": "ekfac_empirical"},
    "d": {"K-FAC": "kfac", "EK-FAC": "ekfac"},
    "e": {"GGN": "ggn", "Hessian": "hessian"},
}


def predicted(letter: str, sizes: Sizes) -> dict[str, Cost]:
    """Costs by stage; none for workloads that have no plan."""
    if letter not in FITS:
        return {}
    made = task(sizes)
    found = {}
    for stage, spec in FITS[letter].items():
        prepared = prepared_fit(spec, made)
        found[stage] = total(p.cost for p in predicted_fit(prepared, made, None))
    layers = prepared.blocks[Partition.LAYER]
    if letter in "abc":
        ranks = _ranks(FITS[letter]["fit"], made, layers)
        found["scores"] = predicted_scores([True] * len(layers), made, layers, None, ranks).cost
    if letter == "e":
        found["scores"] = predicted_scores(None, made, layers, None).cost
    return found


def _ranks(spec: str, made: Task, layers: Sequence[LayerBlock]) -> tuple[int | None, ...] | None:
    if any(layer.positions > 1 for layer in layers):
        return None
    inverse = fit(spec, made).inverse(DAMPING)
    return score_ranks(scored_blocks(inverse.operator, made), made)


def prepared_fit(spec: str, made: Task) -> Preparation:
    return prepare(list(chains_of(chosen(load(spec)))), made, last=True)
