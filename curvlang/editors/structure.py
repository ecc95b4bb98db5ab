"""The structure of every step of a chain, found by the compiler on a small layer without running anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from curvlang.compiler.derive.derive import derive
from curvlang.compiler.derive.program import Partition
from curvlang.compiler.explain.derivation import structure_name
from curvlang.compiler.planning.plan import Geometry
from curvlang.compiler.planning.planner import plan
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.language.chain import Chain

EXAMPLES = 7
SIZES = {"t": 3, "r": 5, "o": 11, "i": 13, "c": 5, "p": 143}
"""Lengths above 1 and all different: a structure that holds here holds by the letters alone."""
MEMORY = 2**30


@dataclass(frozen=True, slots=True)
class Step:
    """A stage of a chain: what it is called, how it is written, its structure and why."""

    label: str
    stage: str
    scope: str
    structure: str
    reason: str


def structures(chain: Chain) -> tuple[Step, ...]:
    """Every step of a chain with its structure, for layers with several positions.

    Raises:
        SpecError: Where the compiler refuses the chain.
    """
    programs, (results,) = derive([chain])
    layer = [Geometry("block", SIZES)]
    plans = {p.key: plan(p, layer, EXAMPLES, memory=MEMORY) for p in programs}
    steps = []
    for result in results:
        found = plans[result.key].blocks[0].results[result.value].shape
        scope = "whole model" if result.partition == Partition.MODEL else f"each {result.partition}"
        steps.append(Step(result.label, result.stage, scope, structure_name(found), found.reason))
    return tuple(steps)


def table(chain: Chain) -> str:
    """The steps as a Markdown table, or the reason why there is none."""
    try:
        steps = structures(chain)
    except SpecError as error:
        return "\n\n".join(f"{d.code}: {d.headline}" for d in error.diagnostics)
    return _markdown(["step", "stage", "structure"], [_row(s) for s in steps])


def _row(step: Step) -> Sequence[str]:
    stage = step.stage.replace("|", "\\|")
    return f"`{step.label}`", f"`{stage}`", f"{step.structure}, {step.scope}: {step.reason}"


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
