"""Products of H and of the GGN, and the dense Hessian: shared by processes in step, with the bits of one."""

from __future__ import annotations

import pytest
import torch

import curvlang as cv
from curvlang.attribution.scorer import scored_by
from curvlang.attribution.streams.request import Request
from curvlang.attribution.streams.running_top import streamed_top
from curvlang.attribution.streams.score_stream import ScoreStream
from curvlang.compiler.planning import chunks
from curvlang.compiler.planning.chunks import matrix_chunks, product_chunks
from curvlang.compiler.planning.plan import Limits
from curvlang.language import default_inverse, with_damping
from curvlang.language.selection import chains_of, chosen
from curvlang.models.derivatives import products
from curvlang.operators.matrix_free import MatrixFree
from curvlang.runtime import static
from curvlang.runtime.fit import fit_chains
from curvlang.runtime.inverse import invert
from curvlang.runtime.processes.distributed import world
from curvlang.runtime.processes.in_step import in_step, out_of_step
from tests.oracles import dense
from tests.processes import Failed, together
from tests.runtime.passes.test_shared_fit import Tied
from tests.small import network, task

LIMIT = 180.0
"""Seconds for some fits on a busy machine."""
TASKS = {
    "uneven, positions": lambda: task(network([3, 4, 2]), "mse", n=13, positions=5),
    "one": lambda: task(network([3, 4, 2]), "cross_entropy", n=1),
    "tied, no bias": lambda: task(Tied(), "cross_entropy", n=29, d_in=4),
    "single": lambda: task(network([3, 4, 2]), "cross_entropy", n=37).to(dtype=torch.float32),
}
CHAINS = {
    "hessian": "hessian",
    "ggn": "hessian |> drop_residual",
    "blocks": "hessian |> drop_residual |> block_diagonal(by = layer)",
}


def cut_small():
    """Chunks of a few rows, however little work there is."""
    chunks.ROWS, chunks.PRODUCT_WORK = 10, 1


def by_products(text, t, dense=1):
    """The operator of a chain, known by its products."""
    chains = chains_of(chosen(cv.loads(f"curvature c = {text}")))
    ((stage,),) = fit_chains(chains, t, last=True, limits=Limits(dense=dense))
    return stage.operator


def inverted(operator):
    """Its damped inverse, by conjugate gradients."""
    return invert(operator, with_damping(default_inverse(), 20.0))


def scores(name):
    """Scores under every chain by conjugate gradients, and the largest of them."""
    t, found = TASKS[name](), {}
    for chain, text in CHAINS.items():
        inverse = inverted(by_products(text, t))
        found[chain] = scored_by(inverse, t, t.loss)
    stream = ScoreStream(inverse, t.queries(slice(2)), t.loss, Request(), turn=1, size=40)
    found["largest"] = streamed_top(stream, 2).table(largest=True)[0]
    return found


def entries(name):
    """The dense Hessian, and blocks of one that is too large."""
    t = TASKS[name]()
    found = {"dense": by_products("hessian", t, dense=10**8).dense()}
    known, static.DENSE_AT_MOST = static.DENSE_AT_MOST, 1
    blocks = "hessian |> block_diagonal(by = layer)"
    found["blocks"] = by_products(blocks, t, dense=10**8).dense()
    static.DENSE_AT_MOST = known
    return found


def all_of_it():
    cut_small()
    return {name: {**scores(name), **entries(name)} for name in TASKS}


@pytest.fixture(scope="module")
def alone():
    return together(all_of_it, 1, limit=LIMIT)[0]


@pytest.mark.parametrize("size", [2, 3])
def test_any_number_of_processes_gives_what_one_gives(size, alone):
    for found in together(all_of_it, size, limit=LIMIT):
        for name, wanted in alone.items():
            different = [k for k, x in wanted.items() if not torch.equal(found[name][k], x)]
            assert (name, different) == (name, [])


def test_chunks_give_the_dense_hessian(alone):
    t = TASKS["uneven, positions"]()
    wanted = dense.hessian(t.model, "mse", *t.train)
    assert float((alone["uneven, positions"]["dense"] - wanted).abs().max()) < 1e-12


def small():
    """A task, its Hessian by products, and a vector."""
    t = task(network([3, 4, 2]), "cross_entropy", n=64)
    return t, by_products("hessian", t), torch.ones(t.P, 1, dtype=torch.float64)


def multiplied():
    """How many examples this process has multiplied in one product; then by itself."""
    cut_small()
    batches, seen = products._batches, []

    def counted(X, y, within, size, device):
        seen.append(len(within))
        return batches(X, y, within, size, device)

    _, op, v = small()
    products._batches = counted
    with in_step():
        op.apply(v)
        shared = sum(seen)
        with out_of_step():
            op.apply(v)
    whole = sum(seen) - shared
    if world().first:
        op.apply(v)
    products._batches = batches
    return shared, whole, sum(seen) - shared - whole


def test_each_process_multiplies_its_share():
    assert together(multiplied, 2) == [(32, 64, 64), (32, 64, 0)]


def differing():
    cut_small()
    _, op, v = small()
    with in_step():
        op.apply(torch.nextafter(v, 2 * v) if world().rank == 1 else v)


def fewer():
    cut_small()
    _, op, v = small()
    with in_step():
        for _ in range(3 - world().rank):
            op.apply(v)


def broken():
    cut_small()
    t, op, _ = small()
    apply, calls = MatrixFree.apply, []

    def once(self, v):
        calls.append(1)
        if world().rank == 1 and len(calls) == 3:
            raise ValueError("no more")
        return apply(self, v)

    MatrixFree.apply = once
    try:
        scored_by(inverted(op), t, t.loss)
    finally:
        MatrixFree.apply = apply


@pytest.mark.parametrize(("work", "code"), [(differing, "E0833"), (fewer, "E0833")])
def test_processes_that_differ_are_refused(work, code):
    for failed in together(work, 3, failing=True):
        assert isinstance(failed, Failed)
        assert failed.codes == (code,)


def test_one_that_fails_ends_all():
    first, second, third = together(broken, 3, failing=True)
    assert "no more" in second.text
    for other in (first, third):
        assert other.codes == ("E0831",)
        assert "process 1" in other.text


@pytest.mark.parametrize(
    ("cut", "count"),
    [
        (product_chunks(1000, 1, 200_000, 1), 1),
        (product_chunks(4000, 1, 2_000_000, 1), 8),
        (product_chunks(64, 128, 2_000_000, 16), 16),
        (product_chunks(3, 1024, 10**8, 1), 2),
        (matrix_chunks(500, 1, 100, 10), 1),
        (matrix_chunks(5000, 1, 2000, 42), 1),
        (matrix_chunks(50_000, 1, 3000, 74), 4),
        (matrix_chunks(50_000, 1, 10_000, 74), 2),
    ],
)
def test_small_work_is_not_cut(cut, count):
    assert cut.count == count
