"""A study on a model of one's own: which step costs what, as the network grows wider."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch

import curvlang as cv

STUDY = """
task own(width = 4) {
  data  digits
  model python("own_study:network", width = width)
  loss  cross_entropy
  train sgd(lr = 0.05, epochs = 5)
}

# The norm has no weight matrix: Kronecker factors do not fit it, and its exact diagonal is kept.
curvature factored = block_ggn |> kronecker_factor(others = diagonal)

study widths {
  "Does the Kronecker step cost more in a wider network?"
  task     own(width = width) for width in [2, 6]
  path     block_ggn > factored
  seeds    1
  inverses tikhonov
  protocol subsets = 20, retrains = 1
}
"""


def network(width: int) -> torch.nn.Module:
    """Any module of torch; a function makes it, so that every retraining starts afresh."""
    return torch.nn.Sequential(
        torch.nn.Linear(64, width),
        torch.nn.GELU(),
        torch.nn.LayerNorm(width),
        torch.nn.Linear(width, 10),
    )


def main(folder: Path, widths: str = "[2, 6]") -> cv.StudyRun:
    """The study; its folder holds tables, figures and a report."""
    sys.path.insert(0, str(Path(__file__).parent))
    spec = folder / "widths.cv"
    spec.write_text(STUDY.replace("[2, 6]", widths))
    (asked,) = cv.study_requests(
        spec, allow_python=True, quick=True, cache=cv.Cache(folder / "cache")
    )
    run = asked.run(folder / "widths", progress=False)
    run.show()
    shutil.copy(folder / "widths" / "figures" / "lds-damping.svg", folder / "own_study.svg")
    return run


if __name__ == "__main__":
    main(Path())
