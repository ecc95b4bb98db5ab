"""Plans under a limit: batches become smaller, then blocks take turns, and only then examples come one by one."""

from __future__ import annotations

import pytest

import curvlang as cv
from curvlang.facade import chains_of, chosen
from curvlang.runtime.limits.footprint import largest
from curvlang.runtime.limits.memory import limited
from curvlang.runtime.prepare import FEW, prepare
from tests.runtime.stored.work import task


def sizes(spec, share) -> tuple[int, int]:
    """Examples of a batch, and groups of blocks, under a share of what the whole run takes."""
    given, chains = task(width=40, layers=4), chains_of(chosen(cv.load(spec)))
    needed = largest(prepare(chains, given, last=True).phases).bytes
    have = int(share * needed)
    with limited(have):
        found = prepare(chains, given, last=True)
    assert largest(found.phases).bytes <= have
    return min(p.batch for p in found.plans), len(found.turns)


@pytest.mark.parametrize(("spec", "share"), [("ekfac", 0.45), ("etkfac", 0.45)])
def test_blocks_take_turns_before_batches_have_few_examples(spec, share):
    batch, turns = sizes(spec, share)
    assert turns > 1
    assert batch >= FEW


@pytest.mark.parametrize("share", [1.0, 0.7, 0.5])
def test_batches_become_smaller_before_blocks_take_turns(share):
    batch, turns = sizes("ekfac", share)
    assert turns == 0
    assert batch >= FEW


def test_where_turns_of_some_examples_do_not_fit_batches_become_smaller_still():
    batch, turns = sizes("ekfac", 0.3)
    assert turns > 1
    assert batch < FEW
