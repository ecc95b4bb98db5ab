"""Layers with one input: its Gram matrix, eigenvectors and rotation once for all of them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

import curvlang as cv
from curvlang.compiler.derive.program import Partition
from curvlang.compiler.planning.cost import function_cost, known_elements
from curvlang.compiler.planning.plan import Limits
from curvlang.facade import chains_of, chosen
from curvlang.language import load
from curvlang.runtime.fit import fit_chains
from curvlang.runtime.prepare import prepare

WIDTH, POSITIONS, N = 6, 3, 10


class Heads(nn.Module):
    """Three layers that read one tensor, or copies of it; `pick` says which from the batch."""

    def __init__(self, apart=None, wide=WIDTH):
        super().__init__()
        self.query = nn.Linear(WIDTH, WIDTH)
        self.key = nn.Linear(WIDTH, WIDTH)
        self.value = nn.Linear(WIDTH, wide)
        self.out = nn.Linear(wide, 2)
        self.apart = apart or (lambda h: False)

    def forward(self, h):
        given = (h.clone(), h.clone(), h.clone()) if self.apart(h) else (h, h, h)
        q, k, v = (f(x) for f, x in zip((self.query, self.key, self.value), given, strict=True))
        return self.out(torch.softmax(q @ k.mT, -1) @ v).sum(1)


def made(apart=None, wide=WIDTH, positions=POSITIONS):
    torch.manual_seed(0)
    model = Heads(apart, wide).double().eval()
    X = torch.randn(N, positions, WIDTH, dtype=torch.float64)
    y = torch.randint(0, 2, (N,))
    return cv.Task(model, "cross_entropy", (X, y), (X[:2], y[:2]))


def chain(name):
    return list(chains_of(chosen(load(name))))[-1:]


class Decompositions(TorchFunctionMode):
    """Counts them."""

    count = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.linalg.eigh
        return function(*args, **(kwargs or {}))


def run(name, task):
    """The operator's blocks, products counted by torch, decompositions."""
    with FlopCounterMode(display=False) as flops, Decompositions() as calls:
        (stages,) = fit_chains(chain(name), task, last=True, limits=Limits(batch=4))
    return stages[-1].operator, flops.get_total_flops(), calls.count


def planned(name, task):
    """Operations of products in all passes, and of all code between them."""
    (plan,) = prepare(chain(name), task, last=True, limits=Limits(batch=4)).plans
    passes = sum(x.flops for b in plan.blocks for f in b.passes for x in f.lines if x.side)
    between = sum(
        function_cost(f, known_elements(plan, b), 8).flops for b in plan.blocks for f in b.finish
    )
    return passes, between


@pytest.mark.parametrize("positions", [1, POSITIONS])
@pytest.mark.parametrize(("name", "fewer"), [("kfac", 0), ("ekfac", 2), ("ekfac_empirical", 2)])
def test_shared_and_separate_inputs_give_the_same_bits(name, fewer, positions):
    one, apart = made(positions=positions), made(lambda h: True, positions=positions)
    together, fewest, decomposed = run(name, one)
    separate, most, all_of_them = run(name, apart)
    assert torch.equal(together.dense(), separate.dense())
    # With one position queries and keys have no gradient, and two more matrices are equal.
    assert all_of_them - decomposed == fewer + (positions == 1 and fewer > 0)
    # What torch counts less is what the plan says, for three batches of at most four examples.
    saved = planned(name, apart)[0] - planned(name, one)[0]
    assert (most - fewest) * 4 == saved * N > 0


def test_decompositions_are_planned_once():
    saved = planned("ekfac", made(lambda h: True))[1] - planned("ekfac", made())[1]
    assert saved == 2 * 9 * (WIDTH + 1) ** 3


def test_who_shares_with_whom():
    def sharing(task):
        layers = prepare(chain("kfac"), task, last=True).blocks[Partition.LAYER]
        return {b.name: b.shares for b in layers}

    found = sharing(made())
    assert found == {"query": "", "key": "query", "value": "query", "out": ""}
    assert not any(sharing(made(lambda h: True)).values())
    # Another number of outputs may ask for other products: it keeps its own.
    assert sharing(made(wide=4)) == {"query": "", "key": "query", "value": "", "out": ""}


def test_a_model_that_reads_other_tensors_later_gets_its_own_numbers():
    """Shared for the few examples of the plan and in the first batch, not in the second one."""
    last = made().train[0][4]
    moody = made(lambda h: torch.equal(h[0], last))
    found, _, _ = run("ekfac", moody)
    expected, _, _ = run("ekfac", made())
    assert torch.equal(found.dense(), expected.dense())

    # The twin: what is read of one example is another tensor, and A is no longer the same.
    class Other(Heads):
        def forward(self, h):
            own = (h == last).flatten(1).all(1)
            x = torch.where(own[:, None, None], 2 * h, h) if own.any() else h
            q, k, v = self.query(h), self.key(x), self.value(h)
            return self.out(torch.softmax(q @ k.mT, -1) @ v).sum(1)

    torch.manual_seed(0)
    other = Other().double().eval()
    odd = cv.Task(other, "cross_entropy", moody.train, moody.query)
    A = {n: b.right for n, b in zip(*_blocks(run("kfac", odd)[0]), strict=True)}
    assert torch.equal(A["query"], A["value"])
    assert not torch.allclose(A["query"], A["key"])


def _blocks(op):
    return op.names, op.blocks


def test_kept_inputs_are_counted_and_held_once():
    one = prepare(chain("ekfac"), made(), last=True).plans[0].kept
    apart = prepare(chain("ekfac"), made(lambda h: True), last=True).plans[0].kept
    assert apart - one == 2 * 8 * N * POSITIONS * (WIDTH + 1)


def test_explain_says_so():
    text = str(cv.explain("ekfac", made()))
    assert "its input is that of query" in text
    assert "its input is that of" not in str(cv.explain("ekfac", made(lambda h: True)))
