"""What would make a run fit: each repair is tried on the plan before a refusal names it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch

from curvlang.compiler.derive.program import Partition
from curvlang.compiler.planning.plan import Plan
from curvlang.diagnostics.diagnostic import CurvlangError
from curvlang.language.chain import Chain, Stage
from curvlang.models.task import Task
from curvlang.models.tracing.blocks import LayerBlock
from curvlang.runtime.limits.footprint import footprint, largest
from curvlang.runtime.limits.lighter_chains import candidates, named
from curvlang.runtime.limits.memory import available

SINGLE = 4
"""Bytes of a number in float32."""
HESSIAN = "hessian"
DROP = Stage("drop_residual", {"fisher": "exact", "samples": 1})


def lighter(
    chains: Sequence[Chain],
    plans: Sequence[Plan],
    blocks: Mapping[Partition, Sequence[LayerBlock]],
    task: Task,
    planned: Callable[[Sequence[Chain]], object],
) -> Iterator[str]:
    """What to write so that a run fits; nothing is tried before the first is asked for.

    Args:
        chains: The chains of the run.
        plans: Their plans, which do not fit.
        blocks: The model's blocks for each partition.
        task: Model and data.
        planned: Plans other chains, or raises as this run does.
    """
    for other, text in candidates(chains):
        if other != list(chains) and _fits(other, planned):
            yield named(other, text)
            break
    if task.precision is torch.float64:
        single = [replace(p, itemsize=SINGLE) for p in plans]
        if largest(footprint(single, blocks, task)).bytes <= available(task.device):
            yield "use `--dtype float32` (`dtype=torch.float32` in Python)"
    dropped = [_without_residual(chain) for chain in chains]
    if dropped != list(chains) and _fits(dropped, planned):
        yield (
            "put `drop_residual` behind `hessian`: a formula multiplies with Gauss–Newton blocks, "
            "and forms those of the Hessian"
        )


def _without_residual(chain: Chain) -> Chain:
    """The chain with the Gauss-Newton matrix in place of the Hessian, where a formula reads that."""
    stages = chain.stages
    formula = any(not stage.builtin for stage in stages)
    dropped = any(stage.name == DROP.name for stage in stages)
    if stages[0].name != HESSIAN or dropped or not formula:
        return chain
    first, *labels = chain.labels
    return replace(chain, stages=(stages[0], DROP, *stages[1:]), labels=(first, DROP.name, *labels))


def _fits(chains: Sequence[Chain], planned: Callable[[Sequence[Chain]], object]) -> bool:
    try:
        planned(chains)
    except CurvlangError:
        return False
    return True
