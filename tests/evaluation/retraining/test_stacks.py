"""Stacks of models: all of them once, whatever is there, and the same ones after any interruption."""

from __future__ import annotations

import pytest
import torch

import curvlang as cv
from curvlang.evaluation.ground_truth import ground_truth
from curvlang.evaluation.retraining.stacks import (
    UNIT,
    ModelStack,
    kept_units,
    missing_stacks,
    stacks,
    subsets_of,
)
from curvlang.storage.cache import Cache

TASK = "diabetes(hidden = [3], epochs = 1)"
"""Of odd sizes: a model's place in its stack shows in its last digits."""


def units(subsets, repetitions):
    return {(r, u) for r in range(repetitions) for u in range(-(-subsets // UNIT))}


@pytest.mark.parametrize("subsets", [1, 3, 5, 10, 24, 25, 26, 30, 100])
@pytest.mark.parametrize("repetitions", [1, 2, 7])
@pytest.mark.parametrize("most", [5, 25])
def test_stacks_hold_every_model_once(subsets, repetitions, most):
    found = stacks(subsets, repetitions, most)
    rows = [row for stack in found for row in stack.rows]
    assert sorted(rows) == [(r, k) for r in range(repetitions) for k in range(subsets)]
    assert all(stack.models <= most for stack in found)
    assert all(ModelStack.named(stack.name) == stack for stack in found)
    assert {u for stack in found for u in stack.units} == units(subsets, repetitions)


def test_few_subsets_are_trained_in_several_repetitions_at_once():
    assert stacks(10, 5, 25) == [
        ModelStack(0, 2, 0, 10),
        ModelStack(2, 2, 0, 10),
        ModelStack(4, 1, 0, 10),
    ]


@pytest.mark.parametrize("there", [set(), {(0, 0)}, {(0, 1), (1, 3)}, {(1, 0), (1, 1), (1, 4)}])
@pytest.mark.parametrize("subsets", [23, 25])
@pytest.mark.parametrize("most", [5, 10, 25, 60])
def test_what_is_missing_is_trained_and_nothing_else(there, subsets, most):
    found = missing_stacks(stacks(subsets, 2, most), there)
    trained = [unit for stack in found for unit in stack.units]
    assert sorted(trained) == sorted(units(subsets, 2) - there)
    models = sum(stack.models for stack in found)
    assert models == sum(len(subsets_of(u, subsets)) for _, u in units(subsets, 2) - there)


def test_files_of_other_runs_are_read_where_they_hold_whole_units():
    losses = torch.arange(2 * 8 * 3).reshape(2, 8, 3).double()
    stack = ModelStack(1, 2, 1, 8)
    found = kept_units([stack.name, "baseline"], {stack.name: losses}.get, 30, 2)
    assert set(found) == {(1, 1)}
    assert torch.equal(found[1, 1], losses[0, :5])
    found = kept_units([stack.name], {stack.name: losses}.get, 13, 3)
    assert set(found) == {(1, 1), (1, 2), (2, 1), (2, 2)}
    assert torch.equal(found[2, 2], losses[1, 5:])
    found = kept_units([stack.name], {stack.name: losses}.get, 7, 3)
    assert torch.equal(found[2, 1], losses[1, :2])


def test_damaged_files_leave_their_units_to_others():
    losses = torch.ones(5, 3)
    held = {"r0-u0-5": losses}.get
    assert set(kept_units(["r0-u0-25", "r0-u0-5"], held, 25, 1)) == {(0, 0)}


def test_a_run_that_is_killed_anywhere_ends_with_the_same_bits(tmp_path):
    """At every file of the first run, as a kill leaves it."""
    task, protocol = cv.task(TASK), cv.LDS(subsets=34, retrains=3)
    whole = ground_truth(task, protocol, 0, cache=Cache(tmp_path))
    files = sorted(tmp_path.rglob("*.bin"))
    assert len(files) == len(stacks(34, 3, 25))
    for file in files:
        file.unlink()
        again = ground_truth(task, protocol, 0, cache=Cache(tmp_path))
        assert again.reused > 0
        assert torch.equal(again.outcome, whole.outcome)


def test_more_subsets_and_repetitions_train_what_is_new(tmp_path):
    task = cv.task(TASK)
    cache = Cache(tmp_path)
    small = ground_truth(task, cv.LDS(subsets=30, retrains=2), 0, cache=cache)
    large = ground_truth(task, cv.LDS(subsets=60, retrains=3), 0, cache=cache)
    assert (large.reused, large.trained) == (60, 120)
    assert torch.equal(large.outcome[:30, :2], small.outcome)
    part = ground_truth(task, cv.LDS(subsets=33, retrains=3), 0, cache=cache)
    assert part.trained == 0
    assert torch.equal(part.outcome, large.outcome[:33])
