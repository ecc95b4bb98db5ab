"""Numbers drawn by counter: those of the published algorithm, uniform, and of the example alone."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import curvlang as cv
from curvlang.compiler.planning.plan import Limits
from curvlang.facade import chains_of, chosen
from curvlang.models.losses.draws import Draws, philox
from curvlang.runtime.fit import fit_chains
from tests.small import network, task

CPU = torch.device("cpu")
LIMIT = 5.0
"""Standard errors: one of a few thousand statistics lies beyond by chance in 1 of 1000 runs."""
PUBLISHED = (
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
)  # fmt: skip
"""Counter, key and result of Philox4x32-10 in the test vectors of Random123 (`kat_vectors`)."""


def words(text):
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "result"), PUBLISHED)
def test_the_published_vectors(counter, key, result):
    found = philox([torch.tensor([w]) for w in words(counter)], tuple(words(key)))
    assert [int(x) for x in found] == words(result)


def in_whole_numbers(counter, key):
    """The algorithm as its paper writes it, in Python's unbounded integers."""
    a, b, c, d = counter
    k, m = key
    for _ in range(10):
        left, right = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b = (right >> 32) ^ b ^ k, right & 0xFFFFFFFF
        c, d = (left >> 32) ^ d ^ m, left & 0xFFFFFFFF
        k, m = (k + 0x9E3779B9) & 0xFFFFFFFF, (m + 0xBB67AE85) & 0xFFFFFFFF
    return [a, b, c, d]


@pytest.mark.parametrize("seed", [0, 1, 2**32 + 5, 2**64 - 1, -1])
def test_every_number_is_that_of_its_counter(seed):
    draws = Draws(seed, number=3, start=2**31 + 7)
    found = draws.uniform(2, 3, 2, CPU)
    key = (seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF)
    for n, t, r in itertools.product(range(2), range(3), range(2)):
        x, y, _, _ = in_whole_numbers([2**31 + 7 + n, t, r, 3], key)
        assert float(found[n, t, r]) == ((x >> 6) * 2**26 + (y >> 6) + 0.5) / 2**52


def test_numbers_are_of_the_example_place_and_sample_alone():
    whole = Draws(7, 2, 10).uniform(6, 4, 3, CPU)
    parts = [Draws(7, 2, 10 + a).uniform(b - a, 4, 3, CPU) for a, b in ((5, 6), (0, 2), (2, 5))]
    assert torch.equal(torch.cat([parts[1], parts[2], parts[0]]), whole)
    assert torch.equal(Draws(7, 2, 10).uniform(6, 9, 5, CPU)[:, :4, :3], whole)
    for other in (Draws(8, 2, 10), Draws(7, 1, 10), Draws(7 + 2**32, 2, 10)):
        assert not bool((other.uniform(6, 4, 3, CPU) == whole).any())


def assert_uniform(u):
    """Moments, and as many in each of 100 cells as there should be."""
    count = u.numel()
    assert abs(float(u.mean()) - 0.5) < LIMIT * (1 / 12 / count) ** 0.5
    assert abs(float(u.var()) - 1 / 12) < LIMIT * (1 / 180 / count) ** 0.5
    cells = torch.histc(u, 100, 0, 1)
    chi = float(((cells - count / 100) ** 2 / (count / 100)).sum())
    assert abs(chi - 99) < LIMIT * (2 * 99) ** 0.5


@pytest.mark.parametrize("shape", [(100_000, 1, 1), (1, 100_000, 1), (1, 1, 100_000), (50, 40, 50)])
def test_numbers_are_uniform_and_neighbours_independent(shape):
    u = Draws(3).uniform(*shape, CPU)
    assert float(u.min()) > 0
    assert float(u.max()) < 1
    assert_uniform(u)
    for axis in range(3):
        if shape[axis] > 1:
            x, y = (u.narrow(axis, k, shape[axis] - 1).reshape(-1) for k in (0, 1))
            assert abs(float(torch.corrcoef(torch.stack([x, y]))[0, 1])) * len(x) ** 0.5 < LIMIT
            assert_uniform((x + y) % 1)
            assert_uniform((x - y) % 1)


def test_seeds_and_passes_are_independent():
    streams = [
        Draws(s, p).uniform(20_000, 1, 1, CPU).reshape(-1) for s in (0, 1, 2**32) for p in (1, 2)
    ]
    found = torch.corrcoef(torch.stack(streams)) - torch.eye(len(streams), dtype=torch.float64)
    assert float(found.abs().max()) * 20_000**0.5 < LIMIT


def test_the_test_of_uniformity_can_fail():
    u = Draws(3).uniform(100_000, 1, 1, CPU)
    for wrong in (u * 0.99, u.square(), (u * 50).floor() / 50):
        with pytest.raises(AssertionError):
            assert_uniform(wrong)


def test_every_operation_exists_on_a_gpu():
    with FakeTensorMode():
        found = Draws(1).uniform(2, 3, 4, torch.device("cuda:0"))
    assert (found.shape, found.device.type, found.dtype) == ((2, 3, 4), "cuda", torch.float64)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_draws_the_same():
    draws = Draws(5, 1, 100)
    there = draws.uniform(50, 7, 3, torch.device("cuda"))
    assert torch.equal(there.cpu(), draws.uniform(50, 7, 3, CPU))


@pytest.mark.parametrize("spec", ["mc_fisher", "ekfac_mc"])
def test_a_sampled_curvature_does_not_depend_on_the_batches(spec):
    some = task(network([3, 4, 3]), "cross_entropy", n=40)

    def fitted(batch, seed):
        chains = chains_of(chosen(cv.load(spec)))
        return fit_chains(chains, some, seed=seed, limits=Limits(batch=batch))[0][
            -1
        ].operator.dense()

    whole = fitted(40, 3)
    scale = float(whole.abs().max())
    for batch in (1, 7, 39):
        assert torch.allclose(fitted(batch, 3), whole, rtol=0, atol=1e-12 * scale)
    assert not torch.allclose(fitted(40, 4), whole, rtol=0, atol=1e-3 * scale)
