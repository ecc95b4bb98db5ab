"""What several processes will take: bytes against what a fit holds, seconds against the formula."""

from __future__ import annotations

import json
from itertools import product

import numpy as np
import pytest
import torch
from curvlang.cli.main import run

import curvlang as cv
from curvlang.compiler.planning import chunks
from curvlang.costs.links import Connection, connection
from curvlang.costs.rates import Rates
from curvlang.costs.scaling import Cluster, makespan, predicted_scaling
from curvlang.language.selection import chains_of, chosen
from curvlang.reporting.scaling import HESSIAN, ScalingReport
from curvlang.runtime.limits.disk import disk_use
from curvlang.runtime.prepare import prepare
from tests.small import network
from tests.small import task as small

POINTS = [(1.0, 1e-6), (1e12, 10.0)]
RATES = Rates(
    dict.fromkeys((torch.float32, torch.float64), POINTS),
    {d: [(1.0, 1e9), (64.0, 1e10)] for d in (torch.float32, torch.float64)},
    POINTS, POINTS, POINTS, 1e-6,
)  # fmt: skip
LINK = Connection(1e-3, 1e9)


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("100GB/s", 100e9),
        ("10Gb/s", 1.25e9),
        ("10 Gbit/s", 1.25e9),
        ("10Gbps", 1.25e9),
        ("1.5 GiB/s", 1.5 * 2**30),
        ("900MB/s", 900e6),
        (".5TB/s", 0.5e12),
        ("8b/s", 1.0),
    ],
)
def test_bytes_have_a_large_b_and_bits_a_small_one(text, rate):
    assert connection(text).rate == pytest.approx(rate)


@pytest.mark.parametrize(
    "text",
    ["fast", "", "0", "0GB/s", "-1GB/s", "100", "100GB", "nan GB/s", "1e400GB/s", "iB/s", "5iB/s"],
)
def test_what_is_not_a_rate_is_refused(text):
    with pytest.raises(cv.SpecError, match="E0860"):
        connection(text)


@pytest.mark.parametrize("world", [0, -1, 1.5, "2", True, float("nan")])
def test_what_is_not_a_number_of_processes_is_refused(world):
    with pytest.raises(cv.SpecError, match="E0861"):
        cv.explain("kfac", small(network([3, 4, 3]), "cross_entropy"), world=world)


def test_owners_are_at_most_a_third_behind_the_best_there_is():
    generator = torch.Generator().manual_seed(0)
    for size in (1, 2, 3):
        seconds = torch.rand(6, generator=generator).tolist()
        blocks = [(str(k), s) for k, s in enumerate(seconds)]
        best = min(
            max(sum(s for s, r in zip(seconds, ranks, strict=True) if r == k) for k in range(size))
            for ranks in product(range(size), repeat=len(seconds))
        )
        found, owner = makespan(blocks, size)
        assert best <= found + 1e-12
        assert found <= best * (4 / 3)
        assert owner in dict(blocks)


def prediction(name, own, size, link=LINK):
    prepared = prepare(list(chains_of(chosen(cv.load(name), None))), own, last=True)
    return predicted_scaling(prepared, own, Cluster(size, link, RATES))


@pytest.mark.parametrize("name", ["kfac", "ekfac", "ggn"])
def test_bytes_in_a_store_are_those_of_the_operator_and_the_scores(name):
    own = small(network([3, 4, 3]), "cross_entropy", n=40)
    stages = {s.name: s for s in prediction(name, own, 2).stages}
    stored = disk_use(prepare(list(chains_of(chosen(cv.load(name), None))), own, last=True))
    assert stages["results"].written == stored.results > cv.fit(name, own).memory()
    assert stages["scores"].written == 8 * own.N * own.Q


def test_one_process_sends_nothing_and_more_follow_the_formula(monkeypatch):
    monkeypatch.setattr(chunks, "ROWS", 5)
    monkeypatch.setattr(chunks, "WORK", 1)
    own = small(network([3, 4, 3]), "cross_entropy", n=41)
    one = prediction("ekfac", own, 1)
    assert one.seconds == pytest.approx(one.alone)
    assert all(s.sending == s.sent == 0 for s in one.stages)
    for size, depth in ((2, 1), (4, 2), (5, 3)):
        found = prediction("ekfac", own, size)
        first = found.stages[1]
        # a and G of both layers: bias columns included.
        sums = 8 * (4**2 + 4**2 + 5**2 + 3**2)
        assert first.sending == pytest.approx(depth * (1e-3 + sums / 1e9))
        assert first.computing == pytest.approx(first.alone * -(-8 // size) / 8)
        assert found.seconds == pytest.approx(
            sum(s.computing + s.sending for s in found.stages), rel=1e-12
        )


def test_one_chunk_is_not_shared():
    first = prediction("ekfac", small(network([3, 4, 3]), "cross_entropy", n=41), 4).stages[1]
    assert first.computing == first.alone


def test_what_is_not_shared_is_said():
    own = small(network([3, 4, 3]), "cross_entropy", n=41)
    said = {
        spec: ScalingReport(prediction(spec, own, 2)).note for spec in ("kfac", "block_hessian")
    }
    assert said == {"kfac": "", "block_hessian": HESSIAN}
    assert ScalingReport(prediction("block_hessian", own, 1)).note == ""


def test_the_bottleneck_is_what_takes_longest():
    own = small(network([3, 4, 3]), "cross_entropy", n=40)
    kind, _ = prediction("ekfac", own, 4, Connection(10.0, 1e9)).bottleneck
    assert kind == "sending"
    kind, _ = prediction("ekfac", own, 4, Connection(0.0, 1e18)).bottleneck
    assert kind == "computing"


def test_the_command_prints_it_and_gives_it_as_json(capsys):
    asked = ["explain", "kfac", "--task", "digits(hidden = [2])", "--world", "4"]
    assert run([*asked, "--no-code"]) == 0
    text = capsys.readouterr().out
    assert "Prediction for 4 processes" in text
    assert "12.5 GB/s (assumed: state yours with `--link`)" in text
    assert run([*asked, "--link", "10Gb/s", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["prediction"]
    assert found["processes"] == 4
    assert found["link"]["rate"] == 1.25e9
    assert np.isclose(
        found["seconds"], sum(s["seconds"] for s in found["stages"] if s["seconds"] is not None)
    )
    assert run([*asked[:4], "--link", "10Gb/s"]) == 2
    assert "add `--world 8`" in capsys.readouterr().err
