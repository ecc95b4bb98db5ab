"""Sums of chunks folded by the tree, and the ledger that keeps folded subtrees and finished statistics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from curvlang.compiler.planning.chunks import Node
from curvlang.storage.repeated import once

Sums = dict[str, Tensor]
"""Raw sums over the examples of some chunks, by `plan/block/name`, with the plan's number in the run."""


@dataclass(frozen=True, slots=True, eq=False)
class Begun:
    """A chunk under way: the sums over its first batches, which depend on the size of the batches as well.

    Args:
        chunk: Its number.
        batches: How many.
        sums: Over them.
    """

    chunk: int
    batches: int
    sums: Sums


class Ledger(Protocol):
    """What is kept of a run while it goes on; a store on disk implements it.

    Keys: a subtree is named by the number of its pass (from 1) and by its chunks (`Node(lo, hi)`), a node of
    the tree over all chunks and never another range, so that it can be used whatever the number of
    processes. Statistics are named by the number of their pass, the plan's number in the run, and the block.
    All tensors are exact: what is read back gives the same bits as what was computed.
    """

    def known(self, number: int) -> Mapping[Node, Sums]:
        """Subtrees of a pass that are there.

        Asked once a pass, in every process. The mapping may load lazily, but lists only what can be read. What
        it gives is the caller's: it is added to in place.
        """

    def begun(self, number: int) -> Mapping[int, Begun]:
        """Chunks of a pass that were under way, by their numbers, in batches of the size of this run's."""

    def keep(self, number: int, folded: Mapping[Node, Sums], begun: Begun | None) -> None:
        """Keep what a process has, if it is time to; the sums are the caller's and must not be changed.

        Called after every batch, in the process that works on it.

        Args:
            number: Of the pass.
            folded: All that this process has folded of its chunks so far and cannot join yet. What was
                written before and lies inside one of them is not needed any more.
            begun: The chunk under way; None where this process adds nothing more to what it has folded in
                this pass: now it is time.
        """

    def statistics(self, number: int) -> dict[tuple[int, str], dict[str, Tensor]]:
        """What follows from a pass, by plan and block, of the blocks that it is there of."""

    def complete(self, number: int, known: Mapping[tuple[int, str], object]) -> bool:
        """Whether what follows from a pass is there of all blocks that have it; it is then not run."""

    def finish(self, number: int, plan: int, block: str, statistics: dict[str, Tensor]) -> None:
        """Keep the statistics of a block after a pass; called by the block's owner alone."""

    def forget(self, number: int) -> None:
        """The subtrees of a pass are not needed any more: all that follows from it is there."""


class MemoryLedger:
    """The ledger of a run that keeps nothing for another one."""

    def known(self, number: int) -> Mapping[Node, Sums]:
        """Nothing."""
        return {}

    def begun(self, number: int) -> Mapping[int, Begun]:
        """Nothing."""
        return {}

    def keep(self, number: int, folded: Mapping[Node, Sums], begun: Begun | None) -> None:
        """Keep nothing."""

    def statistics(self, number: int) -> dict[tuple[int, str], dict[str, Tensor]]:
        """Nothing."""
        return {}

    def complete(self, number: int, known: Mapping[tuple[int, str], object]) -> bool:
        """Nothing is there."""
        return False

    def finish(self, number: int, plan: int, block: str, statistics: dict[str, Tensor]) -> None:
        """Keep nothing."""

    def forget(self, number: int) -> None:
        """Nothing is there."""


class Folding:
    """Subtrees in the order of their chunks, joined as soon as the tree has a node for two of them.

    Args:
        count: Chunks of the whole tree.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.folded: dict[Node, Sums] = {}

    def add(self, node: Node, sums: Sums) -> None:
        """A further subtree, behind those that are there; its sums are given up to it."""
        while self.folded:
            before = next(reversed(self.folded))
            whole = node.parent(self.count)
            if whole is None or whole.children != (before, node):
                break
            node, sums = whole, joined(self.folded.pop(before), sums)
        self.folded[node] = sums


def joined(left: Sums, right: Sums) -> Sums:
    """The sums of two neighbours, added into the left one's memory; the right one's is given up."""
    for name in list(right):
        value = right.pop(name)
        if name in left:
            once(left[name]).add_(once(value))
        else:
            left[name] = value
    return left
