"""Passes that repeat others are told once, and what is told of them is true."""

from __future__ import annotations

import pytest

import curvlang as cv
from curvlang.compiler.explain.repeated_passes import repeated
from tests.small import network, task


def plan_of(name):
    given = task(network([3, 4, 2]), "cross_entropy", n=6, positions=2)
    explained = cv.explain(name, given)
    return explained, max(explained.plans, key=lambda p: p.passes)


def renamed(source, names, number, first):
    import re

    swap = {old: new for new, old in names} | {
        f"pass_{first}": f"pass_{number}",
        f"after_{first}": f"after_{number}",
    }
    return re.sub(r"[^\W\d]\w*", lambda w: swap.get(w.group(0), w.group(0)), source)


def test_the_names_that_are_told_make_the_code_of_the_pass():
    _, plan = plan_of("nearest_kronecker")
    for block in plan.blocks:
        again = repeated(block)
        assert set(again) == set(range(4, 21))
        for number, (first, names) in again.items():
            assert first == (2 if number % 2 == 0 else 3)
            code = renamed(block.passes[first - 1].source, names, number, first)
            assert code == block.passes[number - 1].source


@pytest.mark.parametrize("name", ["ekfac", "kfac"])
def test_different_passes_are_told_in_full(name):
    _, plan = plan_of(name)
    assert all(repeated(block) == {} for block in plan.blocks)


def test_every_pass_is_shown():
    explained, _ = plan_of("nearest_kronecker")
    text = str(explained)
    for number in range(1, 22):
        assert f"    pass {number}" in text
    assert "pass 6: the same code as pass 2, with Y_3 for Y, A_4 for A_2, X_3 for X" in text
