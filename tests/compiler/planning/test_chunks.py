"""Chunks cover the examples, their number depends on shapes alone, and the tree over them is one."""

from __future__ import annotations

import itertools

import pytest

from curvlang.compiler.planning.chunks import Chunks, Node, chunk_count


@pytest.mark.parametrize("total", [1, 2, 7, 64, 255, 1000])
@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_chunks_cover_the_examples(total, count):
    cut = Chunks(total, min(count, total))
    bounds = [cut.bounds(k) for k in range(cut.count)]
    assert [lo for lo, _ in bounds[1:]] == [hi for _, hi in bounds[:-1]]
    assert (bounds[0][0], bounds[-1][1]) == (0, total)
    assert max(hi - lo for lo, hi in bounds) == cut.longest
    for size in (1, 2, 3, 50):
        assert cut.batches(size) == sum(-(-(hi - lo) // size) for lo, hi in bounds)
        even = cut.even(size)
        assert even <= size
        assert -(-cut.longest // even) == -(-cut.longest // size)
        assert cut.even(even) == even


@pytest.mark.parametrize(
    ("total", "positions", "parameters", "sums", "largest", "count"),
    [
        (1437, 1, 3466, 10_000, 1000, 1),  # little work
        (1000, 1, 3_000_000, 5e7, 8e6, 2),  # 500 rows each
        (64, 128, 10**8, 3e9, 7e7, 4),  # large sums: few chunks
        (1437, 1, 3114, 8e7, 8e7, 2),  # a matrix that no cache holds: more rows
        (3, 1, 10**12, 100, 10, 1),
        (10**6, 1, 10**6, 100, 10, 64),
        (2, 1000, 10**9, 100, 10, 2),  # no more than examples
        (0, 1, 1000, 100, 10, 1),
    ],
)
def test_their_number_follows_from_shapes(total, positions, parameters, sums, largest, count):
    assert chunk_count(total, positions, parameters, int(sums), int(largest)) == count


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 13, 64])
def test_every_node_is_its_childrens_parent(count):
    chunks = Chunks(count, count)

    def walk(node, above):
        assert node.parent(count) == above
        if not node.leaf:
            left, right = node.children
            assert (left.lo, left.hi, right.hi) == (node.lo, right.lo, node.hi)
            assert (left.hi - left.lo).bit_count() == 1
            walk(left, node)
            walk(right, node)

    walk(chunks.root, None)
    for lo in range(count):
        for hi in range(lo + 1, count + 1):
            found = list(chunks.nodes(lo, hi))
            assert [k for x in found for k in range(x.lo, x.hi)] == list(range(lo, hi))
            assert all(a.parent(count) != b.parent(count) for a, b in itertools.pairwise(found))
    assert list(chunks.nodes(0, count)) == [Node(0, count)]


@pytest.mark.parametrize(("count", "partial"), [(1, 1), (2, 2), (3, 2), (4, 3), (8, 4), (64, 7)])
def test_sums_in_memory_are_counted(count, partial):
    assert Chunks(1000, count).partial() == partial


def test_a_part_of_the_chunks_may_need_more():
    assert Chunks(1000, 64).partial(range(0)) == 0
    assert Chunks(1000, 64).partial(range(64, 64)) == 0
    assert Chunks(1000, 8).partial(range(1, 8)) == 5  # 1, 2–3, 4–5, 6 and the one under way
