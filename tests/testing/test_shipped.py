"""A small dose of what `curvlang test` checks of every spec that ships, and the table of laws."""

from __future__ import annotations

import pytest

import curvlang.testing as ct
from curvlang.language import load, shipped_files
from curvlang.testing.measure import Bench

BENCH = Bench()

# When, then, and the law of a shipped spec that says so; each with its negative twin.
TABLE = {
    "H and GGN equal dense autodiff": (
        "hessian equals autodiff(hessian) within 1e-10",
        "hessian differs_from autodiff(ggn) when layers > 1",
        "ggn equals autodiff(ggn) within 1e-10",
        "ggn differs_from autodiff(hessian) when layers > 1",
        "ggn: any_batches",
        "ggn: any_order",
    ),
    "one datum": (
        "kfac equals block_ggn when examples == 1 and positions == 1",
        "ekfac equals block_ggn when examples == 1 and positions == 1",
        "kfac equals block_ggn when examples == 1 and positions == 1 and columns are empirical",
        "kfac differs_from block_ggn when examples > 1",
        "ekfac differs_from block_ggn when examples > 1",
    ),
    "deep linear network, squared loss": (
        "kfac equals block_ggn when network is linear and loss is mse and positions == 1",
        "kfac differs_from block_ggn when network is linear and loss is mse and columns are empirical",
    ),
    "positions kept": (
        "kfac equals block_ggn when network is linear and loss is mse and positions are kept",
        "kfac_reduce differs_from block_ggn when network is linear and loss is mse and positions are kept",
    ),
    "positions summed or averaged": (
        "kfac_reduce equals block_ggn when network is linear and loss is mse and positions are averaged",
        "kfac_reduce equals block_ggn when network is linear and loss is mse and positions are summed",
        "kfac differs_from block_ggn when network is linear and loss is mse and positions are averaged",
    ),
    "always": (
        "ekfac closer_to block_ggn than kfac",
        "kfac not closer_to block_ggn than ekfac",
        "trace(ekfac) equals trace(block_ggn)",
        "trace(kfac) differs_from trace(block_ggn) when examples > 1",
        "etkfac equals eshampoo",
        "etkfac differs_from ekfac when examples > 1",
        "trace(tkfac) equals trace(block_ggn)",
    ),
    "Fisher": (
        "mc_fisher averages_to ggn",
        "empirical_fisher differs_from ggn when loss is cross_entropy",
    ),
    "piecewise linear": (
        "block_hessian equals block_ggn when network is piecewise_linear",
        "hessian equals ggn in each block when network is piecewise_linear",
        "ggn differs_from hessian when network is piecewise_linear and layers > 1",
        "block_hessian differs_from block_ggn when network is smooth",
    ),
    "every structure, every damping": ("kfac: solves", "ekfac: verbs_agree", "diagonal: solves"),
    "calling twice": ("hessian: repeatable", "ekfac: repeatable"),
}


def shipped_laws():
    return {law.text: law for name in shipped_files() for law in ct.laws_of(load(name))}


@pytest.mark.parametrize("row", TABLE)
def test_every_row_of_the_table_is_a_shipped_law(row):
    known = shipped_laws()
    for text in TABLE[row]:
        assert text in known, text


@pytest.mark.parametrize("name", [n for n in shipped_files() if load(n).curvatures])
def test_shipped_specs_obey_their_laws(name):
    for law in ct.laws_of(load(name)):
        examples = 20 if law.exists else 2 if law.universal else 3
        found = ct.check_law(law, examples=examples, bench=BENCH)
        assert found.holds, (law.text, found.worst, found.counterexample)


@pytest.mark.parametrize("name", [n for n in shipped_files() if load(n).curvatures])
def test_every_shipped_curvature_has_a_law_and_a_twin(name):
    assert any(law.exists for law in load(name).laws), name
