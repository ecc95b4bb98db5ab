"""Property: whatever a generated chain computes on a drawn task, two processes give the bits of one.

`python -m tests.runtime.passes.test_shared_programs 4 100` compares four processes on a hundred of them.
"""

from __future__ import annotations

import sys

import torch
from hypothesis import HealthCheck, given, settings

from curvlang.compiler.planning import chunks
from curvlang.diagnostics.diagnostic import CurvlangError
from curvlang.language import loads
from curvlang.language.selection import chains_of, chosen
from curvlang.runtime.fit import fit_losses
from curvlang.testing.programs import programs
from curvlang.testing.strategies import tasks
from tests.processes import together

EXAMPLES = 12


def fitted(examples):
    """The matrices of drawn chains on drawn tasks, the same draws in every process; codes of refusals."""
    chunks.ROWS, chunks.LONG_ROWS, chunks.WORK = 1, 1, 1
    found = []

    @settings(
        derandomize=True, database=None, deadline=None, max_examples=examples,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(programs(), tasks("examples > 2"))
    def each(text, task):
        try:
            fits = fit_losses(chains_of(chosen(loads(text))), task, last=True)
            found.append([stages[-1].operator.dense() for stages in fits])
        except CurvlangError as error:
            found.append([str(d.code) for d in error.diagnostics])

    each()
    return found


def differing(one, other):
    """The draws that two runs do not agree on, by their numbers."""
    assert len(one) == len(other)
    return [
        k
        for k, (a, b) in enumerate(zip(one, other, strict=True))
        if not all(
            torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y
            for x, y in zip(a, b, strict=True)
        )
    ]


def test_two_processes_give_the_bits_of_one():
    (alone,) = together(fitted, 1, EXAMPLES, limit=180.0)
    assert sum(isinstance(x[0], torch.Tensor) for x in alone) > EXAMPLES // 3
    for found in together(fitted, 2, EXAMPLES, limit=180.0):
        assert differing(alone, found) == []


if __name__ == "__main__":
    size, count = map(int, sys.argv[1:])
    (expected,) = together(fitted, 1, count, limit=3600.0)
    wrong = [differing(expected, x) for x in together(fitted, size, count, limit=3600.0)]
    fits = sum(isinstance(x[0], torch.Tensor) for x in expected)
    print(f"{fits} fits of {len(expected)} draws in {size} processes; differing: {wrong}")
