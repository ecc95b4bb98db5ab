"""Every shipped spec on the simulated card: the host's numbers, no mixed devices, no wait inside a loop over batches.

A new spec, or a new task, is in these tests as soon as it ships. All specs on all tasks are run by
`python -m tests.devices`, which keeps what it finds; the table of docs/devices.md shows it.
"""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch

import curvlang as cv
from curvlang.models.sources import transfers
from curvlang.models.task import Task
from tests.devices import page
from tests.devices.runs import (
    BATCH,
    EQUAL,
    OF_MODELS,
    OF_SOLVERS,
    STAGES,
    Run,
    made,
    outcomes,
    small_batches,
    specs,
    tasks,
    tiny,
)
from tests.devices.simulated_card import MixedDevicesError, on_host, simulated_card
from tests.small import network

FEW = ("fit", "inverse", "scores")
WHOLE = ("ekfac", "ggn")
"""Specs that the tests run through all stages."""


def assert_pure(found):
    for stage, one in found.items():
        assert one.stalls == [], stage
        assert one.apart <= EQUAL, stage


@pytest.mark.parametrize("spec", specs())
def test_every_spec(spec):
    assert_pure(outcomes(spec, tiny(), tuple(STAGES) if spec in WHOLE else FEW))


@pytest.mark.parametrize("name", tasks())
def test_every_task(name, tmp_path):
    found = outcomes("diagonal_lm", made(name, tmp_path), ("fit", "scores"))
    assert_pure(found)
    assert {one.code for one in found.values()} == {""}


def test_what_may_wait_does(tmp_path):
    found = outcomes("diagonal_lm", made("pretrained", tmp_path), ("fit",))
    assert {where for where, _ in found["fit"].waits} == set(OF_MODELS)


def test_what_may_wait_of_solvers_does():
    waits = set()
    for spec in ("arnoldi", "astra"):
        found = outcomes(spec, tiny(), ("self-influence",))
        waits |= {where for where, _ in found["self-influence"].waits}
    assert waits == set(OF_SOLVERS)


@pytest.mark.parametrize("look", [lambda x: bool((x > 0).all()), lambda x: x.cpu()])
def test_a_wait_in_the_passes_is_found(look):
    leaves = "curvlang.runtime.passes.batch_leaves.exact_leaves"
    from curvlang.models.tracing.half_precision import exact_leaves

    def looking(model, loss, X, *given):
        look(X)
        return exact_leaves(model, loss, X, *given)

    with patch(leaves, looking):
        found = outcomes("kfac", tiny(), ("fit",))
    assert sum(found["fit"].waits.values()) == -(-tiny().N // BATCH)


def test_rows_of_the_host_in_a_batch_of_the_card_are_found():
    with patch.object(transfers, "moved", lambda x, device: x), simulated_card():
        card = tiny().to(device="cuda")
        with (
            patch("curvlang.models.task.moved", lambda x, device: x.cpu()),
            pytest.raises(MixedDevicesError),
        ):
            Run("kfac", card).stage("fit")


def infinite():
    """A task of which one example's output and loss are infinite, and its gradient is not."""

    class Masked(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(3, 3).double()

        def forward(self, x):
            out = (x[:, 0] > 2)[:, None] & (torch.arange(3, device=x.device) == 1)
            return self.layer(x).masked_fill(out, -torch.inf)

    torch.manual_seed(0)
    X = torch.randn(6, 3, dtype=torch.float64).clamp(-1, 1)
    y = torch.zeros(6, dtype=torch.int64)
    return Masked().eval(), X, y


@pytest.mark.parametrize("label", [0, 1])
def test_an_infinite_loss_is_refused_by_its_example(label):
    model, X, y = infinite()
    X[4, 0], y[4] = 3.0, label
    task = cv.Task(model, loss="cross_entropy", train=(X, y), query=(X[:2], y[:2]))
    codes = []
    for card in (False, True):
        with simulated_card(), small_batches():
            run = Run("ggn", task.to(device="cuda") if card else task)
            try:
                codes.append(on_host(run.stage("scores")))
            except cv.SpecError as error:
                codes.append(str(error))
    here, there = codes
    if label:
        assert here == there == "E0420"
    else:
        torch.testing.assert_close(there, here)


def test_the_host_is_not_asked_to_wait():
    assert not transfers.waits(torch.device("cpu"))
    assert transfers.waits(torch.device("cuda"))
    assert transfers.waits(torch.device("mps"))
    x = torch.ones(3)
    assert transfers.moved(x, torch.device("cpu")) is x


def test_retraining_on_the_card_is_that_of_the_host():
    task = cv.task("digits(hidden = [3], epochs = 2)", dtype=torch.float64)
    some = task.examples(slice(0, 40)).queries(slice(0, 2))
    found = outcomes("diagonal", some, ("evaluation",))
    assert_pure(found)
    assert found["evaluation"].code == ""


def test_the_rows_of_a_batch_are_known_on_both_devices():
    with simulated_card():
        X = torch.randn(5, 4, 3, dtype=torch.float64)
        mask = torch.arange(4) < torch.tensor([4, 2, 3, 1, 2])[:, None]
        y = torch.randint(2, (5, 4)).masked_fill(~mask, -100)
        task = Task(
            network([3, 4, 2]), "cross_entropy", train=(X, y), query=(X[:2], y[:2]), mask=mask
        ).to(device="cuda")
        for batch in map(task.read, task.cuts(lambda _: BATCH)):
            assert batch.X.device.type == "cuda"
            if not isinstance(batch.rows, slice):
                assert batch.rows.device.type == "cpu"
                assert on_host(batch.places).tolist() == batch.rows.tolist()


def test_the_page_has_the_table_of_what_has_run():
    wanted = {(spec, name) for spec in specs() for name in tasks()}
    assert set(page.known()) <= wanted
    assert page.PAGE.read_text() == page.with_table(page.PAGE.read_text())
