"""Fit, store, scores and the same again from the store: any number of processes gives the bits of one.

`python -m tests.runtime.processes.test_whole_command 4` compares four processes, on more specs.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch

import curvlang as cv
from curvlang.compiler.planning import chunks
from tests.processes import together
from tests.small import network, task

SHORT, ALL = ("ekfac",), ("ekfac", "kfac", "diagonal", "hessian")


def whole(folder, specs):
    """Scores of every spec, fitted with a store, and of what a second fit finds there."""
    chunks.ROWS, chunks.LONG_ROWS, chunks.WORK, chunks.PRODUCT_WORK = 4, 4, 1, 1
    given, found = task(network([3, 4, 2]), "cross_entropy", n=53), {}
    for spec in specs:
        solve = "cg" if spec == "hessian" else None
        for again in ("", " again"):
            fitted = cv.fit(spec, given, store=f"{folder}/{spec}", progress=False)
            found[spec + again] = cv.influence(
                fitted, given, damping=3.0, solve=solve, progress=False
            )
    return found


def differing(one, other):
    """The scores that two runs do not agree on."""
    assert one.keys() == other.keys()
    return [name for name, x in one.items() if not torch.equal(x, other[name])]


def compared(folder, size, specs, limit=60.0):
    """Names of scores that differ from those of one process, in any process, or after going on with its store."""
    (one,) = together(whole, 1, f"{folder}/1", specs, limit=limit)
    found = together(whole, size, f"{folder}/{size}", specs, limit=limit)
    resumed = together(whole, size, f"{folder}/1", specs, limit=limit)
    return [name for other in (*found, *resumed) for name in differing(one, other)]


def test_two_processes_give_the_bits_of_one(tmp_path):
    assert compared(tmp_path, 2, SHORT) == []


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        wrong = compared(Path(place), int(sys.argv[1]), ALL, 300.0)
    sys.exit(f"differing: {wrong}" if wrong else None)
