"""How the training examples are cut for scores: chunks of one size, by their number and by shapes alone.

A chunk's scores do not depend on the processes, nor on which chunks were computed before. All have one
size, the last may be shorter, since the chunks of a zarr store are such.
"""

from __future__ import annotations

from dataclasses import dataclass

PAIRS = 768
"""Training examples from which on there are two chunks at least, so that two processes share them."""
FEWEST = 128
"""Chunks that there are at least before several batches make one."""
LARGEST = 2**22
"""Bytes up to which several batches make one chunk: a store of many small files is slow."""
_SIZE = 8


@dataclass(frozen=True, slots=True)
class ScoreCut:
    """`total` training examples in chunks of `size`.

    Args:
        total: Training examples.
        size: Of a chunk; the last may be shorter.
    """

    total: int
    size: int

    @property
    def count(self) -> int:
        """Chunks."""
        return -(-self.total // self.size)

    def chunk(self, k: int) -> range:
        """The training examples of chunk `k`."""
        return range(k * self.size, min((k + 1) * self.size, self.total))

    def span(self, chunks: range) -> slice:
        """The training examples of consecutive chunks."""
        end = min(chunks.stop * self.size, self.total)
        return slice(min(chunks.start * self.size, end), end)


def score_cut(total: int, most: int, queries: int) -> ScoreCut:
    """The chunks of scores.

    Their number is even, or a multiple of eight where there are many, so that processes have equal
    shares.

    Args:
        total: Training examples.
        most: Examples that go through the model at once.
        queries: Of a turn; for each of them a chunk has a row.
    """
    batches = -(-total // most)
    together = LARGEST // (_SIZE * max(1, queries) * most)
    count = -(-batches // max(1, min(batches // FEWEST, together)))
    if count == 1:
        count = 2 if total >= PAIRS else 1
    elif count <= 4:
        count += count % 2
    else:
        count = -(-count // 8) * 8
    return ScoreCut(total, -(-total // min(count, total)))
