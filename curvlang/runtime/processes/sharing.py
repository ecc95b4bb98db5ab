"""Which process folds which chunks, and the tree over all of them completed between the processes."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import torch

from curvlang.compiler.planning.chunks import Node
from curvlang.runtime.processes.distributed import World
from curvlang.runtime.processes.ledger import Sums, joined

Halves: TypeAlias = "tuple[tuple[int, Sums | None], ...]"
"""What all sums are joined from, in order: each a process, and the sums in that process, None in others."""


@dataclass(frozen=True, slots=True)
class Share:
    """What all chunks are folded from, in their order, and whose it is.

    Every process has as many of the chunks that are still to be computed as any other, give or take one. A
    node of the tree is owned by the process that owns its first chunk.

    Args:
        nodes: Subtrees that are known, and single chunks.
        owners: The process of each.
        known: Those that need not be computed.
        rank: Of this process.
    """

    nodes: tuple[Node, ...]
    owners: tuple[int, ...]
    known: frozenset[Node]
    rank: int

    @staticmethod
    def of(root: Node, known: Collection[Node], processes: World) -> Share:
        """The shares of all processes, where they know the same subtrees."""
        nodes = tuple(parts(root, known))
        todo = sum(node not in known for node in nodes)
        owners, place = [], 0
        for node in nodes:
            owners.append(processes.owner(min(place, todo - 1), todo) if todo else 0)
            place += node not in known
        return Share(nodes, tuple(owners), frozenset(known) & set(nodes), processes.rank)

    @property
    def own(self) -> list[Node]:
        """What this process works on."""
        return [node for node, r in zip(self.nodes, self.owners, strict=True) if r == self.rank]

    def owner(self, node: Node) -> int:
        """The process of a node of the tree."""
        return self.owners[bisect_right(self.nodes, node.lo, key=lambda x: x.lo) - 1]

    def part(self, node: Node) -> bool:
        """Whether this process has any part of a node."""
        return any(node.lo <= x.lo < node.hi for x in self.own)


def parts(node: Node, known: Collection[Node]) -> Iterator[Node]:
    """What a subtree is folded from, in the order of the chunks: subtrees that are known, and chunks."""
    if node in known or node.leaf:
        yield node
        return
    for child in node.children:
        yield from parts(child, known)


@dataclass(frozen=True, slots=True, eq=False)
class SharedFold:
    """The subtrees that the processes have folded, and how they are joined.

    All processes go through the tree in one order, so that of two the one sends when the other receives.

    Args:
        share: Whose is what.
        folded: What this process has folded; given up.
        processes: All of them.
        key: Of this fold, in the run.
        device: Where sums are.
    """

    share: Share
    folded: dict[Node, Sums]
    processes: World
    key: str
    device: torch.device

    def halves(self, root: Node) -> Halves:
        """The sums of the two halves of the tree, not yet joined; the whole tree's where one process has them."""
        if root in self.folded:
            return ((self.share.rank, self.folded.pop(root)),)
        if root.leaf or root in self.share.nodes:
            return ((self.share.owner(root), None),)
        return tuple((self.share.owner(node), self.whole(node)) for node in root.children)

    def whole(self, node: Node) -> Sums | None:
        """The sums of a node, in the process that owns it; None in the others."""
        if node in self.folded:
            return self.folded.pop(node)
        if not self.share.part(node):
            return None
        left, right = node.children
        first, second = self.whole(left), self.whole(right)
        taker, giver = self.share.owner(left), self.share.owner(right)
        key = f"{self.key}, {right.lo} to {right.hi}"
        if taker != giver and giver == self.share.rank:
            assert second is not None
            self.processes.send(key, second, taker)
        if taker != self.share.rank:
            return None
        if taker != giver:
            second = self.processes.receive(key, giver, self.device)
        assert first is not None
        assert second is not None
        return joined(first, second)
