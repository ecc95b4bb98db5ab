"""A sum over the examples that is wanted now: chunk by chunk, folded by the tree, shared by processes in step."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from curvlang.compiler.planning.chunks import Chunks
from curvlang.runtime.processes.distributed import World
from curvlang.runtime.processes.in_step import bits, steps
from curvlang.runtime.processes.ledger import Folding
from curvlang.runtime.processes.sharing import Share, SharedFold

_NAME = "sum"


def summed(
    over: Callable[[range], Tensor],
    chunks: Chunks,
    device: torch.device,
    given: Tensor | None = None,
) -> Tensor:
    """Σ over all examples, the same bits in any number of processes.

    Args:
        over: The sum over consecutive examples, in memory of its own.
        chunks: Of all examples.
        device: Where the sums are.
        given: What the sum is a function of, the same in all processes that are in step.
    """
    found = steps() if chunks.count > 1 else None
    processes = World() if found is None else found.processes
    key = "" if found is None else found.next(_step(chunks, given))
    share = Share.of(chunks.root, frozenset(), processes)
    folding = Folding(chunks.count)
    for node in share.own:
        folding.add(node, {_NAME: over(range(*chunks.bounds(node.lo)))})
        processes.check()
    whole = SharedFold(share, folding.folded, processes, key, device).whole(chunks.root)
    return processes.share(f"{key}, whole", whole, share.owner(chunks.root), device)[_NAME]


def _step(chunks: Chunks, given: Tensor | None) -> str:
    vectors = "" if given is None else f" {tuple(given.shape)} {bits(given)}"
    return f"sum over {chunks.total} examples{vectors}"
