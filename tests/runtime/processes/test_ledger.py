"""Sums of chunks are folded by the tree, in one order whatever was known before."""

from __future__ import annotations

import itertools

import pytest
import torch

from curvlang.compiler.planning.chunks import Chunks, Node
from curvlang.runtime.processes.ledger import Folding, joined
from curvlang.runtime.processes.sharing import parts


def chunk_sums(count):
    g = torch.Generator().manual_seed(0)
    return [{"0/x/s": torch.randn(5, generator=g, dtype=torch.float64)} for _ in range(count)]


def by_hand(node, sums):
    if node.leaf:
        return sums[node.lo]["0/x/s"].clone()
    left, right = node.children
    return by_hand(left, sums) + by_hand(right, sums)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 6, 7, 8, 13])
def test_the_fold_is_the_tree_and_no_more_is_alive_than_predicted(count):
    sums, root = chunk_sums(count), Node(0, count)
    wanted, most = by_hand(root, sums), 0
    folding = Folding(count)
    for k, own in enumerate(sums):
        most = max(most, len(folding.folded) + 1)
        folding.add(Node(k, k + 1), {n: x.clone() for n, x in own.items()})
    assert list(folding.folded) == [root]
    assert torch.equal(folding.folded[root]["0/x/s"], wanted)
    assert most == Chunks(count, count).partial()


def test_any_subtrees_that_are_known_give_the_same_bits():
    count, sums = 6, chunk_sums(6)
    root = Node(0, count)
    wanted = by_hand(root, sums)
    nodes = [Node(lo, hi) for lo in range(6) for hi in range(lo + 1, 7)]
    tree = [n for n in nodes if n == root or n.parent(count)]
    for known in itertools.combinations(tree, 3):
        folding, computed = Folding(count), []
        for node in parts(root, dict.fromkeys(known)):
            if node not in known:
                computed.append(node)
            folding.add(node, {"0/x/s": by_hand(node, sums)})
        assert torch.equal(folding.folded[root]["0/x/s"], wanted)
        covered = {k for n in known for k in range(n.lo, n.hi)}
        assert {n.lo for n in computed} == set(range(count)) - covered


def test_joining_adds_into_the_left():
    left, right = {"a": torch.ones(2)}, {"a": torch.ones(2), "b": torch.ones(1)}
    a = left["a"]
    assert joined(left, right)["a"] is a
    assert a.tolist() == [2, 2]
    assert (left["b"].tolist(), right) == ([1], {})
