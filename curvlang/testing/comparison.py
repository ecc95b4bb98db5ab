"""The law behind all others: a compiled program gives what a direct reading of its text gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray

from curvlang.compiler.algebra.shapes import Shape
from curvlang.compiler.derive.derive import derive
from curvlang.compiler.derive.program import Partition, Program
from curvlang.compiler.planning.plan import Geometry, Limits, Plan
from curvlang.compiler.planning.planner import plan
from curvlang.ir.expr import Index, Yield
from curvlang.ir.interpreter import interpret
from curvlang.language import loads
from curvlang.language.chain import Chain
from curvlang.operators import MatrixFree, Operator
from curvlang.runtime.assemble import operator
from curvlang.runtime.execute import Execution

Array = NDArray[np.float64]

TOLERANCE = 1e-10
"""Of the largest entry: float64 with sums over some hundred terms."""
NUDGE = 1e-11
"""Relative change of the data by which a program's condition is measured."""


@dataclass(frozen=True, slots=True)
class YieldComparison:
    """One yield: the operator that was compiled, its structure, and the entries as read."""

    result: Yield
    shape: Shape
    operator: Operator
    wanted: Array
    allowed: float


def compare(
    text: str, sizes: Mapping[str, int], batch: int, seed: int = 0
) -> list[tuple[Plan, list[YieldComparison]]]:
    """Compile and interpret every curvature of a spec on random leaves.

    Args:
        text: A spec.
        sizes: Lengths of `n` and of the spaces a model gives.
        batch: Examples in a batch; the last batch has the rest.
        seed: Of the leaves' values.

    Returns:
        For every program of the spec its plan and its yields.
    """
    curvatures = [c for c in loads(text).curvatures.values() if isinstance(c, Chain)]
    programs, _ = derive(curvatures)
    return [_program(p, dict(sizes), min(batch, sizes["n"]), seed) for p in programs]


def assert_compiled_equals_interpreted(
    text: str, sizes: Mapping[str, int], batch: int, seed: int = 0
) -> None:
    """Every yield's operator has the entries that the interpreter reads off the text.

    The tolerance is relative to the largest entry, and wider by as much as a tiny change of the
    data changes the entries themselves.
    """
    for _, compared in compare(text, sizes, batch, seed):
        for one in compared:
            gap = float(np.abs(one.operator.dense().numpy() - one.wanted).max())
            if not gap <= one.allowed:
                kind = type(one.shape).__name__
                raise AssertionError(
                    f"{kind} differs by {gap:.3g}, {one.allowed:.3g} allowed: {one.result.span.text}"
                )


def _plan(program: Program, sizes: Mapping[str, int], batch: int) -> Plan:
    inner = {k: v for k, v in sizes.items() if k != "n" and _has(program, k)}
    return plan(
        program, [Geometry("x", inner)], sizes["n"], memory=10**9, limits=Limits(batch=batch)
    )


def _program(
    program: Program, sizes: dict[str, int], batch: int, seed: int
) -> tuple[Plan, list[YieldComparison]]:
    rng = np.random.default_rng(seed)
    leaves = {n: _leaf(x.indices, x.kind, sizes, rng) for n, x in program.leaves.items()}
    made = _plan(program, sizes, batch)
    run = _run(made, leaves)
    tensors = {n: (leaves[n], leaf.indices) for n, leaf in program.leaves.items()}
    nudged = {n: (_nudged(v, rng), axes) for n, (v, axes) in tensors.items()}
    found = []
    for result in program.results:
        wanted = _read(program, result, tensors, sizes)
        moved = float(np.abs(_read(program, result, nudged, sizes) - wanted).max())
        scale = max(1.0, float(np.abs(wanted).max()))
        shape = made.blocks[0].results[result].shape
        op = operator(shape, run.result(made.blocks[0], result), len(wanted), _no_products)
        if not float(np.abs(wanted - wanted.T).max()) <= TOLERANCE * scale:
            raise AssertionError("the yield is not symmetric")
        found.append(YieldComparison(result, shape, op, wanted, TOLERANCE * scale + 10 * moved))
    return made, found


def _has(program: Program, letter: str) -> bool:
    """Whether a space belongs to the partition: parameters to the model, features to layers."""
    return letter in ("cp" if program.partition == Partition.MODEL else "tio") or letter == "r"


def _leaf(
    axes: tuple[Index, ...], kind: str, sizes: Mapping[str, int], rng: np.random.Generator
) -> Array:
    values = rng.standard_normal([sizes[x.space] for x in axes])
    if kind in ("H", "L"):
        # Symmetric in rows and columns, after the example index.
        half = (values.ndim - values.ndim % 2) // 2
        lead = list(range(values.ndim % 2))
        rows = [len(lead) + k for k in range(half)]
        values = (values + values.transpose(*lead, *[r + half for r in rows], *rows)) / 2
    return values


def _nudged(values: Array, rng: np.random.Generator) -> Array:
    return values * (1 + NUDGE * rng.standard_normal(values.shape))


def _read(
    program: Program, result: Yield, tensors: Mapping[str, object], sizes: Mapping[str, int]
) -> Array:
    entries, _ = interpret([*program.definitions, result], tensors, sizes)  # type: ignore[arg-type]
    size = prod(entries.shape[: entries.ndim // 2])
    return entries.reshape(size, size)


def _run(made: Plan, leaves: Mapping[str, Array]) -> Execution:
    streamed = {n for n, leaf in made.program.leaves.items() if leaf.per_example}
    static = {n: torch.tensor(v) for n, v in leaves.items() if n not in streamed}
    run = Execution(made, torch.float64, torch.device("cpu"), {"x": static})
    for number in range(1, made.passes + 1):
        for start in range(0, made.total, made.batch):
            rows = slice(start, start + made.batch)
            run.feed(number, {"x": {n: torch.tensor(leaves[n][rows]) for n in streamed}})
        run.close(number)
    return run


def _no_products(_: object) -> MatrixFree:
    raise AssertionError("small programs are formed")
