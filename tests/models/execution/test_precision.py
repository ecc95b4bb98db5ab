"""The precision policy: its texts, what it refuses, and what a task makes of it."""

from __future__ import annotations

from itertools import product

import pytest
import torch

import curvlang as cv
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.models.execution.precision import KINDS, WIDE, Precision
from curvlang.models.execution.product_kernels import exact_in_onednn, float32_products
from tests.small import network, task

EVERY = [Precision(*parts) for parts in product(KINDS, WIDE, KINDS)]


def code_of(error):
    return [d.code for d in error.value.diagnostics]


@pytest.mark.parametrize("policy", EVERY, ids=str)
def test_its_text_says_all_of_it(policy):
    assert Precision.of(str(policy)) == policy
    assert Precision.of(policy) is policy


def test_one_name_is_of_passes_and_products():
    assert Precision.of("bfloat16") == Precision("bfloat16", "float64", "bfloat16")
    assert Precision.of(torch.bfloat16) == Precision.of("bfloat16")
    assert Precision.of("products=bfloat16").passes == "float64"
    assert Precision.of("passes=bfloat16, products=float32").scored == torch.float32
    assert str(Precision()) == "float64"
    assert Precision().exact
    assert not Precision(decompositions="float32").exact


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("float16", "E0875"),
        ("int8", "E0875"),
        ("", "E0875"),
        ("passes=float8", "E0875"),
        ("sums=float32", "E0875"),
        ("passes", "E0875"),
        ("passes=float32,passes=float64", "E0875"),
        ("bfloat16,products=float32", "E0875"),
        ("decompositions=bfloat16", "E0878"),
        ("decompositions=tf32", "E0878"),
        (torch.float16, "E0875"),
        (torch.int64, "E0875"),
        (3, "E0563"),
        (True, "E0563"),
    ],
)
def test_other_names_are_refused(text, code):
    with pytest.raises(SpecError) as error:
        Precision.of(text)
    assert code_of(error) == [code]


def test_tf32_needs_cuda():
    t = task(network([3, 4, 3]), "cross_entropy")
    for call in (
        lambda: t.to(precision="tf32"),
        lambda: cv.fit("kfac", t, precision="products=tf32"),
        lambda: cv.Setup(precision="tf32"),
        lambda: cv.precision_errors("kfac", t, "tf32"),
    ):
        with pytest.raises(SpecError) as error:
            call()
        assert code_of(error) == ["E0876"]


def test_two_ways_that_disagree_are_refused():
    t = task(network([3, 4, 3]), "cross_entropy")
    op = cv.fit("kfac", t)
    for call in (
        lambda: cv.fit("kfac", t, precision="bfloat16", dtype=torch.float32),
        lambda: cv.Setup(dtype=torch.float64, precision="float32"),
        lambda: t.to(dtype=torch.float32, precision="float64"),
        lambda: cv.influence(op, t, precision="products=float32", products=torch.bfloat16),
    ):
        with pytest.raises(SpecError) as error:
            call()
        assert code_of(error) == ["E0877"]
    assert cv.Setup(dtype=torch.float32, precision="float32").policy == Precision.of("float32")


def test_a_task_keeps_what_it_is_computed_in():
    t = task(network([3, 4, 3]), "cross_entropy")
    assert t.policy is None
    low = t.to(precision="passes=bfloat16,products=float32")
    assert low.dtype == torch.bfloat16
    assert low.queries(slice(2)).policy == low.policy
    assert low.restricted(low.parameters[:1]).policy == low.policy
    # In other parameters it means nothing.
    assert low.to(dtype=torch.float32).policy is None
    assert low.exact().policy is None
    assert low.to(precision="bfloat16").policy == Precision.of("bfloat16")


def test_products_of_float32_are_exact_whichever_library_takes_them():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(96, 96, generator=generator) for _ in range(2))
    before = torch.backends.mkldnn.matmul.fp32_precision
    with float32_products("float32", torch.device("cpu"), 2**30):
        found = a @ b
        switched = torch.backends.mkldnn.matmul.fp32_precision != before
    assert switched == exact_in_onednn()
    assert torch.backends.mkldnn.matmul.fp32_precision == before
    wanted = a.double() @ b.double()
    assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()


@pytest.mark.parametrize("kind", ["tf32", "float32", "bfloat16"])
def test_cuda_takes_tf32_where_it_is_asked_for_and_nowhere_else(kind):
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)
    before = [x.fp32_precision for x in backends]
    with float32_products(kind, torch.device("cuda")):
        inside = {x.fp32_precision for x in backends}
    assert inside == {"tf32" if kind == "tf32" else "ieee"}
    assert [x.fp32_precision for x in backends] == before
