"""Fits shared by processes give what one process gives, bit for bit, and all end where one fails."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import curvlang as cv
from curvlang.compiler.planning import chunks
from curvlang.language import loads
from curvlang.language.selection import chains_of, chosen
from curvlang.runtime.execute import Execution
from curvlang.runtime.fit import fit_losses
from curvlang.runtime.processes.distributed import world
from curvlang.runtime.stored import run_state
from tests.processes import Failed, together
from tests.small import network, task

SPECS = (
    "kfac_by_unit",
    "ekfac_mc",
    "etkfac",
    "eshampoo",
    "ggn",
    "per_output",
    "low_rank",
    "ekfac_projected",
)
OTHERS = """curvature mine = hessian |> drop_residual |> block_diagonal(by = layer)
    |> kronecker_factor(others = diagonal) |> eigen_correct"""
SIZES = (2, 3)
LIMIT = 180.0
"""Seconds for some fits on a busy machine."""


class Tied(nn.Module):
    """One layer called twice, another without bias, and a parameter outside any layer."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.twice = nn.Linear(4, 4)
        self.last = nn.Linear(4, 3, bias=False)
        self.scale = nn.Parameter(torch.ones(3))
        self.double()

    def forward(self, x):
        return self.scale * self.last(self.twice(torch.tanh(self.twice(x))))


def cut_small():
    """Chunks of a few rows, however little work there is."""
    chunks.ROWS, chunks.LONG_ROWS, chunks.WORK = 4, 4, 1


def padded():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Embedding(11, 5), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 11)
    ).double()
    X, y = torch.randint(0, 11, (2, 40, 9))
    mask = torch.arange(9) < torch.randint(1, 10, (40, 1))
    y[~mask] = -100
    return cv.Task(model, "cross_entropy", (X, y), (X[:2], y[:2]), mask=mask)


def single(model):
    """A model in single precision."""
    g = torch.Generator().manual_seed(0)
    X, y = torch.randn(37, 3, generator=g), torch.randint(0, 2, (37,), generator=g)
    return cv.Task(model.float(), "cross_entropy", (X, y), (X[:2], y[:2]))


TASKS = {
    "even": (lambda: task(network([3, 4, 2]), "cross_entropy", n=64), SPECS),
    "uneven": (lambda: task(network([3, 4, 2]), "cross_entropy", n=53), ("ekfac",)),
    "positions": (lambda: task(network([3, 4, 2]), "mse", n=13, positions=5), ("kfac",)),
    "one": (lambda: task(network([3, 4, 2]), "cross_entropy", n=1), ("ekfac",)),
    "few": (lambda: task(network([3, 4, 2]), "cross_entropy", n=9), ("ekfac",)),
    "tied": (lambda: task(Tied(), "cross_entropy", n=29, d_in=4), ("diagonal", OTHERS)),
    "padded": (padded, ("ekfac",)),
    "single": (lambda: single(network([3, 4, 2])), ("ekfac",)),
}


def fitted():
    """Every spec on every task, as a matrix."""
    cut_small()
    found = {}
    for name, (make, specs) in TASKS.items():
        t = make()
        for spec in specs:
            found[f"{spec} of {name}"] = cv.fit(
                loads(spec) if spec == OTHERS else spec, t, progress=False
            ).dense()
    points = [task(network([3, 4, 2], seed=k), "cross_entropy", n=21) for k in range(3)]
    ((stage,),) = fit_losses(chains_of(chosen(cv.load("ekfac"))), points, last=True)
    found["several points"] = stage.operator.dense()
    return found


@pytest.fixture(scope="module")
def alone():
    return together(fitted, 1, limit=LIMIT)[0]


@pytest.mark.parametrize("size", SIZES)
def test_any_number_of_processes_gives_what_one_gives(size, alone):
    for found in together(fitted, size, limit=LIMIT):
        assert found.keys() == alone.keys()
        different = [name for name in alone if not torch.equal(found[name], alone[name])]
        assert different == []


def fed_in_each(n):
    cut_small()
    feed, fed = Execution.feed, []

    def counted(self, number, leaves):
        fed.append(number)
        feed(self, number, leaves)

    Execution.feed = counted
    cv.fit("ekfac", task(network([3, 4, 2]), "cross_entropy", n=n), progress=False)
    Execution.feed = feed
    return fed


def test_every_chunk_is_computed_once():
    assert together(fed_in_each, 2, 64) == [[1] * 8 + [2] * 8] * 2
    assert sorted(map(len, together(fed_in_each, 3, 64))) == [10, 10, 12]
    # One chunk: the others have nothing to add up.
    assert sorted(map(len, together(fed_in_each, 3, 3))) == [0, 0, 2]


def stored(folder, stop):
    """A fit with a store, interrupted in one process after some batches; those that each has added up."""
    cut_small()
    run_state.SHARE = 0
    feed, fed = Execution.feed, []

    def counted(self, number, leaves):
        feed(self, number, leaves)
        fed.append(number)
        if len(fed) == stop and world().rank == world().size - 1:
            raise RuntimeError("interrupted")

    Execution.feed = counted
    try:
        matrix = cv.fit(
            "ekfac_mc",
            task(network([3, 4, 2]), "cross_entropy", n=61),
            store=folder,
            progress=False,
        ).dense()
    except (RuntimeError, cv.MachineError):
        matrix = None
    return [matrix, len(fed)]


@pytest.mark.parametrize(("first", "stop", "second"), [(2, 7, 3), (1, 5, 2)])
def test_another_number_of_processes_goes_on(first, stop, second, tmp_path):
    before = together(stored, first, str(tmp_path / "s"), stop, limit=LIMIT)
    assert all(matrix is None for matrix, _ in before)
    after = together(stored, second, str(tmp_path / "s"), None, limit=LIMIT)
    (plain,) = together(stored, 1, str(tmp_path / "other"), None, limit=LIMIT)
    assert all(torch.equal(matrix, plain[0]) for matrix, _ in after)
    # Eight chunks, twice; at most what was in flight is computed again.
    computed = sum(count for _, count in (*before, *after))
    assert plain[1] <= computed <= plain[1] + first + second


def differing(what):
    here = world()
    t = task(network([3, 4, 2], seed=here.rank if what == "model" else 0), "cross_entropy", n=9)
    if what == "data" and here.rank:
        t = task(network([3, 4, 2]), "cross_entropy", n=9, seed=1)
    seed = here.rank if what == "seed" else 0
    return cv.fit("kfac" if what == "spec" and here.rank else "ekfac", t, seed=seed).size


@pytest.mark.parametrize("what", ["model", "data", "seed", "spec"])
def test_processes_that_differ_are_refused(what):
    found = together(differing, 2, what, failing=True)
    assert [x.codes for x in found] == [("E0833",)] * 2
    assert all(f"process 1 differs from process 0 in its {what}" in x.text for x in found)


def failing(place):
    """The last process meets an input that is not a number."""
    cut_small()
    t = task(network([3, 4, 2]), "cross_entropy", n=64)
    feed = Execution.feed

    def broken(self, number, leaves):
        if world().rank == 1 and number == place:
            raise ValueError("a fault of this process")
        feed(self, number, leaves)

    Execution.feed = broken
    return cv.fit("ekfac", t, progress=False).size


@pytest.mark.parametrize("place", [1, 2])
def test_one_that_raises_ends_all(place):
    found = together(failing, 3, place, failing=True)
    assert all(isinstance(x, Failed) for x in found)
    assert "ValueError: a fault of this process" in found[1].text
    assert found[0].codes == found[2].codes == ("E0831",)


def not_finite():
    cut_small()
    t = task(network([3, 4, 2]), "cross_entropy", n=64)
    with torch.no_grad():
        t.train[0][60] = 1e200
    return cv.fit("ekfac", t.replaced(model=Overflow(t.model)), progress=False).size


class Overflow(nn.Module):
    """Gradients of one example overflow."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x) * (x.abs().amax(1, keepdim=True) + 1)


def test_a_diagnostic_is_the_same_in_all_processes():
    alone, *others = (together(not_finite, n, failing=True) for n in (1, 2, 3))
    assert alone[0].codes
    for found in others:
        assert [x.codes for x in found] == [alone[0].codes] * len(found)
        assert all(x.text == alone[0].text for x in found)
