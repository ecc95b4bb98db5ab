"""The same fit and the same scores by several processes: `torchrun --nproc-per-node 2 several_processes.py`."""

from __future__ import annotations

from pathlib import Path

import torch
from drawing import picture

import curvlang as cv


def main(folder: Path, *, examples: int = 4000) -> torch.Tensor:
    """The scores, which every process has; the first one draws and prints."""
    torch.manual_seed(0)
    X, y = torch.randn(examples, 32), torch.randint(0, 5, (examples,))
    model = torch.nn.Sequential(torch.nn.Linear(32, 24), torch.nn.ReLU(), torch.nn.Linear(24, 5))
    task = cv.Task(model.eval(), loss="cross_entropy", train=(X, y), query=(X[:8], y[:8]))
    op = cv.fit("ekfac", task, progress=False)
    scores = cv.influence(op, task, damping=0.01, progress=False)
    if cv.world().first:
        # The sums of a pass have one shape whatever the number of processes is: so have their bits.
        print(f"{cv.world().size} processes, trace {op.trace():.6f}, {scores.shape}")
        with picture(folder / "several_processes.svg") as axes:
            axes.hist(scores[0], bins=60)
            axes.set(
                xlabel="influence on the first query", ylabel="training examples", yscale="log"
            )
    return scores


if __name__ == "__main__":
    import os

    if "WORLD_SIZE" in os.environ:
        torch.distributed.init_process_group("gloo")
    main(Path())
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
