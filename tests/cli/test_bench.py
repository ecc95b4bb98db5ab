"""`curvlang bench`: every stage with a prediction beside what was measured. No time is asserted."""

from __future__ import annotations

import json

import pytest
import torch
from curvlang.cli.main import run

import curvlang as cv
from curvlang.compiler.planning.cost import total
from curvlang.compiler.planning.plan import Limits
from curvlang.costs.predicted import predicted_fit
from curvlang.costs.rates import measured_rates
from curvlang.facade import chains_of, chosen
from curvlang.language import load
from curvlang.runtime.fit import fit_chains
from curvlang.runtime.prepare import prepare
from tests.small import network, task

TASK = ["--task", "digits(hidden = [4], epochs = 1)"]
FITTED = ["plan", "pass 1", "after pass 1", "pass 2", "after pass 2", "results"]


def test_stages_stand_in_order_with_costs_and_memory(capsys):
    assert run(["bench", "ekfac", *TASK, "--dtype", "float32", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    stages = {row["stage"]: row for row in found["stages"]}
    assert list(stages) == [*FITTED, "inverse", "scores"]
    for name in ("pass 1", "after pass 1", "pass 2", "scores"):
        assert stages[name]["flops"] > 0
        assert stages[name]["seconds"] > 0
    assert stages["pass 1"]["memory"] > 0
    assert all(row["measured"] > 0 for row in stages.values())
    assert found["machine"]["bytes_per_second"] > 0


def test_the_table_names_the_machine_and_the_sum(capsys):
    assert run(["bench", "ggn", *TASK]) == 0
    shown = capsys.readouterr().out
    assert "GFLOP/s in float32" in shown
    assert "pass 1" in shown
    assert "the stages that have a prediction, together" in shown
    # A matrix without structure is factored for its inverse.
    (inverse,) = (line for line in shown.splitlines() if line.startswith("inverse"))
    assert "FLOP" not in inverse
    assert float(inverse.split()[1]) > 0


def test_the_inverse_may_be_another_one(capsys):
    """The default one adds λ and has a Cholesky factor, n³/3; this one needs eigenvalues, 9 n³."""
    costs = []
    for more in ([], ["--inverse", "pseudo(rtol = 1e-4)"]):
        assert run(["bench", "ggn", *TASK, *more, "--json"]) == 0
        rows = {r["stage"]: r for r in json.loads(capsys.readouterr().out)["stages"]}
        costs.append(rows["inverse"]["flops"])
    assert costs[1] == pytest.approx(27 * costs[0], rel=1e-6)
    assert run(["bench", "ggn", *TASK, "--inverse", "none_such(1)"]) == 2
    assert "none_such" in capsys.readouterr().err


def test_a_matrix_known_by_products_reads_no_data_in_its_fit():
    """Nothing is foretold of what conjugate gradients will ask for."""
    given = task(network([3, 4, 3], "tanh"), "cross_entropy", n=6)
    prepared = prepare(
        list(chains_of(chosen(load("ggn")))), given, last=True, limits=Limits(dense=10)
    )
    (first, *_) = predicted_fit(prepared, given, measured_rates(torch.device("cpu")))
    assert first.name == "pass 1"
    assert first.cost.flops == first.cost.bytes == 0
    assert not first.seconds


class Stages:
    def __init__(self, ended):
        self.ended = ended

    def __call__(self, what, done, total):
        pass


@pytest.mark.parametrize("spec", ["kfac", "ekfac", "ekfac_mc", "ggn", "hessian", "tkfac"])
def test_what_is_predicted_is_what_a_fit_tells(spec):
    given = task(network([3, 4, 3], "tanh"), "cross_entropy", n=6)
    chains = list(chains_of(chosen(load(spec))))
    told = []
    fit_chains(chains, given, last=True, progress=Stages(told.append))
    predictions = predicted_fit(prepare(chains, given, last=True), given, None)
    assert told == ["plan", *(p.name for p in predictions)]
    assert all(p.seconds is None for p in predictions)


@pytest.mark.parametrize("spec", ["kfac", "ekfac", "ekfac_mc", "ggn"])
def test_its_operations_are_those_of_explain(spec):
    given = task(network([3, 4, 3], "tanh"), "cross_entropy", n=6)
    chains = list(chains_of(chosen(load(spec))))
    explained = cv.explain(spec, given)
    if spec == "ggn":
        # `explain` shows every prefix, the Hessian too; a fit takes the last stage alone.
        with_prefixes = prepare(chains, given)
        assert (
            explained.flops
            == total(p.cost for p in predicted_fit(with_prefixes, given, None)).flops
        )
        return
    found = total(p.cost for p in predicted_fit(prepare(chains, given), given, None))
    assert found.flops == explained.flops
