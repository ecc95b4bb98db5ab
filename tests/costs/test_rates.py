"""The interpolation of measured rates, and what a watch says. No time is asserted."""

from __future__ import annotations

import pytest
import torch

from curvlang.costs.rates import Rates, Watch, interpolated, measured_rates

POINTS = [(10.0, 1.0), (1000.0, 2.0), (100_000.0, 200.0)]
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("work", "seconds"),
    [(1.0, 1.0), (10.0, 1.0), (100.0, 2**0.5), (10_000.0, 20.0), (1_000_000.0, 2000.0)],
)
def test_times_are_interpolated_and_rates_stay_at_the_ends(work, seconds):
    assert interpolated(POINTS, work) == pytest.approx(seconds)


def test_rates_are_measured_for_every_size_and_grow_with_nothing_but_work():
    rates = measured_rates(CPU)
    for table in (*rates.products.values(), rates.decompositions, rates.copies, rates.made):
        works = [work for work, _ in table]
        assert works == sorted(works)
        assert all(seconds > 0 for _, seconds in table)
    assert rates.peak_flops(torch.float32) > 0
    assert rates.peak_bytes > 0


def test_a_watch_adds_up_stretches_of_one_name_and_sees_what_is_held():
    watch = Watch(CPU)
    held = torch.ones(2**24)
    watch("one")
    del held
    watch("two")
    watch("one")
    assert list(watch.seconds) == ["one", "two"]
    assert watch.total == pytest.approx(sum(watch.seconds.values()))
    assert watch.peaks["one"] >= 2**25
    assert 0 <= watch.disturbed <= 1


def test_a_tensor_that_is_made_costs_what_its_size_does():
    rates = Rates({}, {}, POINTS, POINTS, [(10.0, 3.0), (1000.0, 30.0)], 1e-6)
    assert rates.make(1.0) == 3.0
    assert rates.make(100.0) == pytest.approx(90**0.5)
    assert rates.make(2000.0) == 60.0
    assert rates.copy(10_000.0) == pytest.approx(20.0)


def test_thin_products_are_slower_than_square_ones():
    """At 10 operations a second with a side of one, at 100 with a side of 16, 1000 where square."""
    squares = {torch.float32: [(1000.0, 1.0), (10_000.0, 10.0)]}
    rates = Rates(
        squares, {torch.float32: [(1.0, 10.0), (16.0, 100.0)]}, POINTS, POINTS, POINTS, 0.0
    )
    assert rates.product(1000.0, torch.float32) == 1.0
    assert rates.product(1000.0, torch.float32, 1) == 100.0
    assert rates.product(1000.0, torch.float32, 4) == pytest.approx(1000 / 10**1.5)
    assert rates.product(1000.0, torch.float32, 16) == pytest.approx(10.0)
    assert rates.product(1000.0, torch.float32, 17) == 1.0
