"""What a refusal says to write is true: followed, it runs; where it would not help, it is not said."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import curvlang as cv
from curvlang.runtime.limits import memory
from tests.models.support import assert_refused
from tests.small import network, task


def refused(act) -> str:
    with pytest.raises((cv.MachineError, cv.SpecError)) as caught:
        act()
    return str(caught.value)


def wide(dtype=torch.float64):
    t = task(network([30, 20, 3]), "cross_entropy", d_in=30)
    return t.to(dtype=dtype)


def test_a_sketch_of_hessian_blocks_names_gauss_newton_blocks():
    spec = "curvature x = {} |> low_rank(rank = 2)"
    shown = refused(lambda: cv.fit(cv.loads(spec.format("block_hessian")), wide(), memory="1 MB"))
    assert "E0801" in shown
    assert "put `drop_residual` behind `hessian`" in shown
    op = cv.fit(cv.loads(spec.format("block_ggn")), wide(), memory="1 MB")
    assert {block.structure for block in op.blocks.values()} == {"LowRank"}
    shown = refused(lambda: cv.fit("block_hessian", wide(), memory="1 MB"))
    assert "drop_residual" not in shown


def test_single_precision_is_named_where_it_helps():
    """Every amount from what is refused to what runs: told to use float32, it runs in float32."""
    helped = []
    for name in ("kfac", "ekfac", "diagonal", "block_ggn"):
        for limit in (int(1000 * 1.25**k) for k in range(40)):
            try:
                cv.fit(name, wide(), memory=limit)
                break
            except cv.MachineError as error:
                told = "float32" in str(error)
            assert "float32" not in refused_in_single(name, limit)
            if told:
                cv.fit(name, wide(), dtype=torch.float32, memory=limit)
                helped.append(name)
    assert helped


def refused_in_single(name, limit) -> str:
    """What is said where the run is in float32 already; nothing where it fits."""
    try:
        cv.fit(name, wide(torch.float32), memory=limit)
    except cv.MachineError as error:
        return str(error)
    return ""


def test_nothing_else_is_refused_with_float32():
    with pytest.raises(cv.MachineError) as caught, memory.limited(1000):
        memory.require(10**9, torch.device("cpu"), "this")
    assert "float32" not in str(caught.value)


class Cut(nn.Module):
    """Two layers; the path to the first is cut, or that to both."""

    def __init__(self, whole):
        super().__init__()
        self.first, self.last = nn.Linear(3, 3), nn.Linear(3, 3)
        self.whole = whole

    def forward(self, x):
        f = self.last(self.first(x).detach())
        return f.detach() if self.whole else f


def test_freezing_is_named_where_something_is_left():
    model = Cut(whole=False).double().eval()
    shown = refused(lambda: cv.fit("kfac", task(model, "cross_entropy")))
    assert "or freeze" in shown
    model.first.requires_grad_(False)
    assert cv.fit("kfac", task(model, "cross_entropy")).parameters == ("last.weight", "last.bias")
    shown = refused(lambda: cv.fit("kfac", task(Cut(whole=True).double().eval(), "cross_entropy")))
    assert "E0417" in shown
    assert "freeze" not in shown


class Fields(nn.Module):
    def __init__(self):
        super().__init__()
        self.e, self.h = nn.Embedding(5, 3), nn.Linear(3, 5)

    def forward(self, tokens, image):
        return self.h(self.e(tokens).mean(1) + image.mean((1, 2)))


def rows(count, tokens=4, side=2):
    return {
        "tokens": torch.ones(count, tokens, dtype=torch.long),
        "image": torch.randn(count, side, side, 3),
        "labels": torch.ones(count, dtype=torch.long),
    }


def test_padding_is_named_for_sequences_alone():
    made = lambda query: cv.Task(Fields().eval(), "cross_entropy", rows(6), query)  # noqa: E731
    assert_refused("E0557", lambda: made(rows(2, tokens=3)), "pad both")
    shown = refused(lambda: made(rows(2, side=3)))
    assert "E0557" in shown
    assert "one shape" in shown
    assert "pad" not in shown


def test_a_matrix_that_is_not_symmetric_and_its_symmetric_part():
    text = """transform mine {{
      needs a[n,t,i]
      M[i,i'] = mean[n,t] a[n,t,i]^2 * a[n,t,i']
      A[i,i'] = {}
      V[i,k], s[k] = eigh(A)
      yield C[o,i,o',i'] = sum[k] identity[o,o'] * V[i,k] * s[k] * V[i',k]
    }}
    curvature x = block_ggn |> mine"""
    t = task(network([3, 4, 3]), "cross_entropy")
    shown = refused(lambda: cv.fit(cv.loads(text.format("M[i,i']")), t))
    written = "(M[i,i'] + M[i',i]) / 2"
    assert f"`{written}`" in shown
    cv.fit(cv.loads(text.format(written)), t)


SQUARES = "B[o,i] = mean[n] sum[r] (sum[t] g[n,r,t,o] * a[n,t,i])^2\n"
DIAGONAL = "yield C[o,i,o',i'] = identity[o,o'] * identity[i,i'] * abs(D[o,i])"
LARGE = {
    "where(o + i <= o' + i')": "D[o,i] = sum[o',i'] where(o + i <= o' + i') * B[o',i']\n",
    "random_sign[o,i,o',i'](0)": "D[o,i] = sum[o',i'] random_sign[o,i,o',i'](0) * B[o',i']\n",
    "F[o,i,o',i']": "F[o,i,o',i'] = B[o,i] * B[o',i'] + B[o,i]^2\nE[o,i] = sum[o',i'] F[o,i,o',i']^2\nD[o,i] = E[o,i] + trace(F[o,i | o',i'])\n",
}


@pytest.mark.parametrize("text", LARGE)
def test_what_takes_most_is_named_as_the_spec_writes_it(text):
    given = task(network([300, 40, 3]), "cross_entropy", d_in=300)
    body = f"needs a[n,t,i], g[n,r,t,o]\n{SQUARES}{LARGE[text]}{DIAGONAL}"
    spec = cv.loads(f"transform m {{ {body} }}\ncurvature c = block_ggn |> m")
    with pytest.raises(cv.MachineError) as caught:
        cv.fit(spec, given, memory="64 MiB", progress=False)
    (found,) = caught.value.diagnostics
    assert f"GiB for `{text}` of block `0`" in found.labels[0].message
    assert found.labels[0].span.text.startswith(text)


@pytest.mark.parametrize(
    ("statements", "headline"),
    [
        ("space k = 9\nV[i,k], _[k] = eigh(A)\nyield C[o,i,o',i'] = identity[o,o'] * sum[k] V[i,k] * V[i',k]", "`k` is declared 9 long"),
        ("space k = 0 * size[i]\nV[i,k], _[k] = eigh(A)\nyield C[o,i,o',i'] = identity[o,o'] * sum[k] V[i,k] * V[i',k]", "the space `k` is 0 long"),
    ],
)  # fmt: skip
def test_a_space_of_a_later_stage_has_the_letter_that_the_spec_gives_it(statements, headline):
    first = "needs a[n,t,i]\nspace k = 2\nA[i,i'] = mean[n,t] a[n,t,i] * a[n,t,i']\nW[i,k] = random_normal[i,k](0)\nB[i,i'] = sum[k] W[i,k] * W[i',k]\nyield C[o,i,o',i'] = identity[o,o'] * (A[i,i'] + B[i,i'])"
    text = f"transform a {{ {first} }}\ntransform b {{ needs A[i,i'], B[i,i']\n{statements} }}\ncurvature c = block_ggn |> a |> b"
    with pytest.raises(cv.SpecError) as caught:
        cv.fit(cv.loads(text), task(network([3, 4]), "mse"), progress=False)
    assert caught.value.diagnostics[0].headline.startswith(headline)
