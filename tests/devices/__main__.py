"""Runs every stage of every shipped spec on every shipped task on the simulated card, and writes docs/devices.md.

    python -m tests.devices                  what is not known yet
    python -m tests.devices kfac my_spec     these specs again

It takes half an hour of one processor; each result is kept as soon as it is there.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from pathlib import Path

import torch

from tests.devices.page import keep, known, written
from tests.devices.runs import made, outcomes, specs, stages_of, tasks


def main(again: list[str]) -> int:
    """Run what is asked for, and write the page."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for name in tasks():
            task, there = None, known()
            for spec in specs():
                if (spec, name) in there and spec not in again:
                    continue
                task = task or made(name, Path(folder))
                found = outcomes(spec, task, stages_of(spec, name))
                stalls = {stage: x.stalls for stage, x in found.items() if x.stalls}
                far = {stage: x.apart for stage, x in found.items() if x.apart > 1e-9}
                print(name, spec, stalls or "", far or "", flush=True)
                if stalls or far:
                    failed += 1
                    continue
                keep(spec, name, {stage: str(x) for stage, x in found.items()})
    written()
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
