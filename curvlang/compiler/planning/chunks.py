"""How the training examples are cut into chunks, and the one tree by which the sums of chunks are folded.

The number of chunks depends on the number of examples and on shapes alone, and the tree on the number of
chunks alone: not on the processes, not on free memory, not on what an earlier run has left.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

MOST = 64
"""Chunks of a pass whose sums are small."""
ROWS = 256
"""Rows of a chunk (examples times positions) below which adding its sums costs more than a few percent of
making them, and symmetric products are made whole."""
CACHED, LONG_ROWS = 2**24, 512
"""Bytes of a sum that no cache holds, and the rows of a chunk with such sums."""
WORK = 2**25
"""Rows times parameters, or times entries of sums, of a chunk below which its overhead counts."""
FEWER = ((2**30, 4), (2**28, 8), (2**25, 16))
"""Most chunks where the sums take more than so many bytes: log2(chunks) + 1 of them are kept at a time."""


def chunk_count(total: int, positions: int, parameters: int, sums: int, largest: int) -> int:
    """How many chunks a run has, a power of two.

    Args:
        total: Examples; of several points those of all of them.
        positions: Of the layer that has most.
        parameters: Of all blocks together.
        sums: Bytes of the sums of a pass.
        largest: Bytes of the largest of them.
    """
    rows = total * positions
    least = LONG_ROWS if largest > CACHED else ROWS
    most = next((count for size, count in FEWER if sums > size), MOST)
    work = rows * max(parameters, sums // 8) // WORK
    return _cut(total, most, rows // least, work).count


PRODUCT_WORK = 2**28
"""Rows times parameters times vectors of a chunk below which the overhead of its products counts."""
MATRICES = ((2**28, 2), (2**25, 4), (0, 8))
"""Most chunks of a sum that is a matrix [P, P] of more than so many bytes."""


def product_chunks(total: int, positions: int, parameters: int, vectors: int) -> Chunks:
    """How the examples are cut for products of H or of the GGN with vectors.

    Args:
        total: Examples.
        positions: Of the layer that has most.
        parameters: Of the model.
        vectors: How many are multiplied.
    """
    rows, size = total * positions, 8 * parameters * vectors
    most = next((count for limit, count in FEWER if size > limit), MOST)
    return _cut(total, most, rows // ROWS, rows * parameters * vectors // PRODUCT_WORK)


def matrix_chunks(total: int, positions: int, parameters: int, tangents: int) -> Chunks:
    """How the examples are cut for the dense Hessian.

    Args:
        total: Examples.
        positions: Of the layer that has most.
        parameters: Of the model.
        tangents: Of an example.
    """
    most = next(count for limit, count in MATRICES if 8 * parameters**2 > limit)
    return _cut(total, most, total * positions * parameters * tangents // PRODUCT_WORK)


def _cut(total: int, *most: int) -> Chunks:
    count = max(1, min(total, *most))
    return Chunks(total, 1 << (count.bit_length() - 1))


@dataclass(frozen=True, slots=True)
class Chunks:
    """`total` examples cut into `count` chunks as even as can be.

    Args:
        total: Examples; of several points those of all of them.
        count: Chunks.
    """

    total: int
    count: int = 1

    def bounds(self, k: int) -> tuple[int, int]:
        """The examples of chunk `k`, from and to."""
        return k * self.total // self.count, (k + 1) * self.total // self.count

    @property
    def longest(self) -> int:
        """Examples of the longest chunk: batches are at most as large."""
        return -(-self.total // self.count)

    @property
    def root(self) -> Node:
        """All chunks."""
        return Node(0, self.count)

    def batches(self, size: int) -> int:
        """Batches of at most `size` examples: none crosses the end of a chunk."""
        short, longer = divmod(self.total, self.count)
        return longer * -(-(short + 1) // size) + (self.count - longer) * -(-short // size)

    def even(self, size: int) -> int:
        """The smallest batches of which a chunk has no more than of batches of `size`."""
        return -(-self.longest // -(-self.longest // size))

    def partial(self, owned: range | None = None) -> int:
        """Sums in memory at a time while a process works on its chunks; on all of them by default."""
        own = range(self.count) if owned is None else owned
        return max((sum(1 for _ in self.nodes(own.start, k)) + 1 for k in own), default=0)

    def nodes(self, lo: int, hi: int) -> Iterator[Node]:
        """The fewest nodes of the tree that cover the chunks from `lo` to `hi`, in their order."""
        while lo < hi:
            node = Node(lo, lo + 1)
            while (above := node.parent(self.count)) and above.lo == lo and above.hi <= hi:
                node = above
            yield node
            lo = node.hi


@dataclass(frozen=True, slots=True, order=True)
class Node:
    """The chunks from `lo` to `hi`: a node of the tree, 2^k of them from a multiple of 2^k, fewer at the end."""

    lo: int
    hi: int

    @property
    def leaf(self) -> bool:
        """Whether it is one chunk."""
        return self.hi - self.lo == 1

    @property
    def children(self) -> tuple[Node, Node]:
        """The two halves; the left one has a power of two."""
        half = 1 << ((self.hi - self.lo - 1).bit_length() - 1)
        return Node(self.lo, self.lo + half), Node(self.lo + half, self.hi)

    def parent(self, count: int) -> Node | None:
        """The node above it in the tree over `count` chunks; None for the root."""
        node = Node(0, count)
        while not node.leaf and node != self:
            left, right = node.children
            below = left if self.hi <= left.hi else right
            if below == self:
                return node
            node = below
        return None
