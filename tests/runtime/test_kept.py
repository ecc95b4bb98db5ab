"""Leaves between passes: kept where they fit, computed again where not, the same numbers both ways."""

from __future__ import annotations

import pytest
import torch

from curvlang.compiler.explain.explain import Explanation
from curvlang.compiler.explain.listing import binary
from curvlang.compiler.planning.plan import Limits
from curvlang.facade import chains_of, chosen
from curvlang.language import load
from curvlang.runtime.fit import fit_chains
from curvlang.runtime.prepare import prepare
from tests.small import network, task


def chain(name):
    return list(chains_of(chosen(load(name))))


def forwards(name, t, **options):
    """How often the model runs while a chain is fitted, beyond the one-example looks at it."""
    count = 0
    prepare(
        chain(name)[-1:], t
    )  # the model is tried, and its blocks are found, before anything is counted

    def seen(_, given):
        nonlocal count
        count += len(given[0]) > 1

    handle = t.model.register_forward_pre_hook(seen)
    fit_chains(chain(name)[-1:], t, limits=Limits(batch=4, dense=10**9, **options))
    handle.remove()
    return count


@pytest.mark.parametrize("name", ["ekfac", "ekfac_empirical", "nearest_kronecker"])
def test_kept_and_recomputed_give_the_same_bits(name):
    t = task(network([3, 4, 3]), "cross_entropy", n=9)
    (kept,) = fit_chains(chain(name), t, limits=Limits(batch=4))
    (again,) = fit_chains(chain(name), t, limits=Limits(batch=4, keep=0))
    for a, b in zip(kept, again, strict=True):
        assert torch.equal(a.operator.dense(), b.operator.dense())


def test_kept_leaves_cost_one_run_of_the_model():
    t = task(network([3, 4, 3]), "cross_entropy", n=10)
    batches, passes = 3, 21
    fewer = forwards("nearest_kronecker", t)
    more = forwards("nearest_kronecker", t, keep=0)
    assert more - fewer == batches * (passes - 1)


def test_sampled_columns_are_drawn_in_every_pass():
    t = task(network([3, 4, 3]), "cross_entropy", n=9)
    assert forwards("ekfac_mc", t) == forwards("ekfac_mc", t, keep=0)
    assert all(not p.kept for p in prepare(chain("ekfac_mc"), t).plans)


def test_the_plan_says_so():
    t = task(network([3, 4, 3]), "cross_entropy", n=9)
    kept = prepare(chain("ekfac"), t)
    need = max(p.kept or 0 for p in kept.plans)
    # a [9,1,4] and g [9,3,1,4], then a [9,1,5] and g [9,3,1,3]; in float64.
    assert need == 8 * 9 * (4 + 12 + 5 + 9)
    assert f"leaves kept between passes, {binary(need)}" in text(kept)
    assert "leaves recomputed in each pass" in text(
        prepare(chain("ekfac"), t, limits=Limits(keep=need - 1))
    )
    once = text(prepare(chain("kfac"), t))
    assert "leaves kept" not in once
    assert "leaves recomputed" not in once


def text(prepared):
    return str(Explanation(prepared.plans, prepared.chains))
