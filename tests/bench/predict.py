"""Operations and bytes of our part of a workload, from the plan: nothing is fitted."""

from __future__ import annotations

from curvlang.compiler.cost import Cost, total
from curvlang.compiler.program import Partition
from curvlang.evaluation.predicted import predicted_fit, predicted_scores
from curvlang.facade import chains_of, chosen
from curvlang.language import load
from curvlang.models.task import Task
from curvlang.runtime.fit import Prepared, prepare
from tests.bench.contest import Sizes
from tests.bench.inputs import task

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
        prepared = _prepared(spec, made)
        found[stage] = total(p.cost for p in predicted_fit(prepared, made, None))
    layers = prepared.blocks[Partition.LAYER]
    if letter in "abc":
        found["scores"] = predicted_scores([True] * len(layers), made, layers, None).cost
    if letter == "e":
        found["scores"] = predicted_scores(None, made, layers, None).cost
    return found


def _prepared(spec: str, made: Task) -> Prepared:
    return prepare(list(chains_of(chosen(load(spec)))), made, last=True)
