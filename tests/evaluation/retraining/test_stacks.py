"""Stacks of models: all of them once, and the same ones after any interruption and beside any other run."""

from __future__ import annotations

import pytest
import torch

import curvlang as cv
from curvlang.evaluation.ground_truth import ground_truth
from curvlang.evaluation.retraining.stacks import ModelStack, outcome_of, stacks
from curvlang.storage.cache import Cache

TASK = "diabetes(hidden = [3], epochs = 1)"
"""Of odd sizes: a model's place in its stack shows in its last digits."""


@pytest.mark.parametrize("subsets", [1, 3, 5, 10, 24, 25, 26, 30, 100])
@pytest.mark.parametrize("repetitions", [1, 2, 7])
@pytest.mark.parametrize("most", [5, 25])
def test_stacks_hold_every_model_once(subsets, repetitions, most):
    found = stacks(subsets, repetitions, most)
    rows = [row for stack in found for row in stack.rows]
    assert sorted(rows) == [(r, k) for r in range(repetitions) for k in range(subsets)]
    assert all(stack.models <= most for stack in found)
    assert all(ModelStack.named(stack.name) == stack for stack in found)
    assert len({stack.name for stack in found}) == len(found)


def test_few_subsets_are_trained_in_several_repetitions_at_once():
    assert stacks(10, 5, 25) == [
        ModelStack(0, 10, 0, 2),
        ModelStack(0, 10, 2, 2),
        ModelStack(0, 10, 4, 1),
    ]


def test_losses_have_their_place_in_the_outcome():
    found = {s: torch.tensor([[100.0 * r + k] for r, k in s.rows]) for s in stacks(33, 4, 25)}
    outcome = outcome_of(found, 33, 4)
    assert torch.equal(outcome[:, :, 0], 100.0 * torch.arange(4) + torch.arange(33)[:, None])


def earlier(repetition, unit, count):
    rows = [[repetition, 5.0 * unit + k] for k in range(count)]
    return {f"r{repetition}-u{unit}-{count}": torch.tensor(rows)}


def test_files_of_earlier_versions_are_read_where_they_hold_a_whole_stack():
    stack = ModelStack(5, 8, 1, 2)
    wanted = torch.tensor([[r, k] for r in (1.0, 2.0) for k in range(5, 13)])
    kept = earlier(1, 1, 5) | earlier(1, 2, 3) | earlier(2, 1, 5) | earlier(2, 2, 5)
    assert torch.equal(stack.read(kept.get), wanted)
    for name in kept:
        assert stack.read({n: x for n, x in kept.items() if n != name}.get) is None
    assert torch.equal(stack.read(({stack.name: wanted + 1} | kept).get), wanted + 1)
    assert ModelStack(5, 9, 1, 1).read((earlier(1, 1, 5) | earlier(1, 2, 3)).get) is None


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


def test_what_other_runs_have_kept_changes_no_bit(tmp_path):
    """Of a smaller and a larger run whole stacks serve; a part of a stack is trained with the rest of it."""
    task = cv.task(TASK)

    def run(folder, subsets, retrains):
        protocol = cv.LDS(subsets=subsets, retrains=retrains)
        return ground_truth(task, protocol, 0, cache=Cache(tmp_path / folder))

    small = run("rising", 30, 2)
    large = run("rising", 60, 3)
    assert (large.reused, large.trained) == (50, 130)
    assert torch.equal(run("large", 60, 3).outcome, large.outcome)
    again = run("large", 30, 2)
    assert (again.reused, again.trained) == (50, 10)
    assert torch.equal(again.outcome, small.outcome)
