"""Methods of the literature that do not ship, written in the language, against plain torch in float64."""

from __future__ import annotations

import math
from copy import deepcopy

import pytest
import torch

import curvlang as cv
from curvlang.language import loads
from curvlang.testing.score_comparison import gradients_one_by_one
from tests.attribution.formulas.formulas import assert_close
from tests.attribution.test_source import network

FISHER = "curvature mine = hessian |> drop_residual(fisher = empirical)"
BLOCKS = f"{FISHER} |> block_diagonal(by = layer)"
TASK = network(weight_decay=0.0)
U, V = (gradients_one_by_one(TASK, part) for part in ("query", "train"))
EYE = torch.eye(TASK.P, dtype=torch.float64)


def leaves():
    """Inputs with their constant and gradients at the outputs, of both layers."""
    x, y = TASK.train
    first, _, last = TASK.model
    hidden = torch.tanh(first(x)).detach()
    e = TASK.model(x).softmax(-1).detach() - torch.nn.functional.one_hot(y, 3)
    one = torch.ones(len(x), 1, dtype=torch.float64)
    inside = (e @ last.weight.detach()) * (1 - hidden * hidden)
    return [(torch.cat([x, one], 1), inside), (torch.cat([hidden, one], 1), e)]


def blocks(make):
    """(C + 0.1 I)⁻¹ of blocks over (o, i), in the order of the parameters."""
    found, offset = torch.zeros_like(EYE), 0
    for a, e in leaves():
        o, i = e.shape[1], a.shape[1]
        weight = torch.arange(o * (i - 1)).view(o, i - 1) + offset
        bias = torch.arange(o) + offset + o * (i - 1)
        places = torch.cat([weight, bias[:, None]], 1).reshape(-1)
        block = make(a, e) + 0.1 * torch.eye(o * i, dtype=torch.float64)
        found[places[:, None], places] = torch.linalg.inv(block)
        offset += o * i
    return U @ found @ V.T


def tensor_normal(a, e):
    A = (e.square().sum(1)[:, None] * a).T @ a / len(a)
    G = (a.square().sum(1)[:, None] * e).T @ e / len(a)
    return torch.kron(G, A) / A.trace()


def rank_one(a, e):
    return torch.kron(torch.outer(e.mean(0), e.mean(0)), torch.outer(a.mean(0), a.mean(0)))


def diagonal_and_low_rank(a, e):
    rows = torch.einsum("no,ni->noi", e, a).flatten(1)
    C = rows.T @ rows / len(rows)
    s, Q = torch.linalg.eigh(C)
    low = Q[:, -2:] @ torch.diag(s[-2:]) @ Q[:, -2:].T
    return low + torch.diag((C - low).diag())


STRUCTURES = {
    # Tensor normal training: Ren & Goldfarb 2021 (arXiv:2106.02925).
    tensor_normal: """transform t {
      needs a[n,t,i], e[n,t,o]
      A[i,i'] = mean[n] sum[o] (sum[t] e[n,t,o] * a[n,t,i]) * (sum[t] e[n,t,o] * a[n,t,i'])
      G[o,o'] = mean[n] sum[i] (sum[t] e[n,t,o] * a[n,t,i]) * (sum[t] e[n,t,o'] * a[n,t,i])
      yield C[o,i,o',i'] = G[o,o'] * A[i,i'] / trace(A)
    }""",
    # Eva: Zhang et al. 2023 (arXiv:2308.02123).
    rank_one: """transform t {
      needs a[n,t,i], e[n,t,o]
      b[i] = mean[n,t] a[n,t,i]
      c[o] = mean[n] sum[t] e[n,t,o]
      yield C[o,i,o',i'] = c[o] * c[o'] * b[i] * b[i']
    }""",
    # SLANG: Mishkin et al. 2018 (arXiv:1811.04504).
    diagonal_and_low_rank: """transform t(rank: int = 2) {
      needs C[o,i,o',i']
      space k = min(rank, size[o] * size[i])
      W[o,i,k], s[k] = eigh(C[o,i | o',i'])
      D[o,i] = (sum[o',i'] identity[o,o'] * identity[i,i'] * C[o,i,o',i']) - sum[k] W[o,i,k]^2 * s[k]
      yield C[o,i,o',i'] = identity[o,o'] * identity[i,i'] * D[o,i] + sum[k] W[o,i,k] * s[k] * W[o',i',k]
    }""",
}


@pytest.mark.parametrize("make", STRUCTURES)
def test_structures(make):
    op = cv.fit(loads(f"{STRUCTURES[make]}\n{BLOCKS} |> t"), TASK, progress=False)
    found = cv.influence(op, TASK, damping=0.1, progress=False)
    assert_close(found, blocks(make))


def fisher_kernel():
    K = torch.linalg.inv(V.T @ V / len(V) + 0.1 * EYE)
    own = [(x @ K * x).sum(1).sqrt() for x in (U, V)]
    return U @ K @ V.T / own[0][:, None] / own[1]


def centred_cosine():
    u, v = U - V.mean(0), V - V.mean(0)
    return u @ v.T / u.norm(dim=1)[:, None] / v.norm(dim=1)


SCORES = {
    fisher_kernel: """w[q,p] = solve(u)
      z[n,p] = solve(v)
      a[q] = sum[p] u[q,p] * w[q,p]
      b[n] = sum[p] v[n,p] * z[n,p]
      yield s[q,n] = (sum[p] u[q,p] * z[n,p]) / sqrt(a[q]) / sqrt(b[n])""",
    centred_cosine: """m[p] = mean[n] v[n,p]
      x[q,p] = u[q,p] - m[p]
      y[n,p] = v[n,p] - m[p]
      a[q] = sum[p] x[q,p]^2
      b[n] = sum[p] y[n,p]^2
      yield s[q,n] = (sum[p] x[q,p] * y[n,p]) / sqrt(a[q]) / sqrt(b[n])""",
}


@pytest.mark.parametrize("wanted", SCORES)
def test_scores(wanted):
    spec = loads(f"{FISHER}\nscore own {{ needs u[q,p], v[n,p]\n{SCORES[wanted]} }}")
    op = cv.fit(spec, TASK, progress=False)
    given = {"damping": 0.1} if "solve" in SCORES[wanted] else {}
    found = cv.influence(op, TASK, score=spec.scores["own"], progress=False, **given)
    assert_close(found, wanted())


def test_softmax_and_preconditioned_scores():
    text = """score soft { needs u[q,p], v[n,p]
      x[q,n] = exp(2 * sum[p] u[q,p] * v[n,p])
      z[q] = sum[n] x[q,n]
      yield s[q,n] = x[q,n] / z[q] }
    score adagrad { needs u[q,p], v[n,p]
      d[p] = mean[n] v[n,p]^2
      yield s[q,n] = sum[p] u[q,p] * v[n,p] / (sqrt(d[p]) + 1e-3) }"""
    spec, op = loads(text), cv.fit("identity", TASK, progress=False)
    found = {k: cv.influence(op, TASK, score=x, progress=False) for k, x in spec.scores.items()}
    assert_close(found["soft"], torch.softmax(2 * U @ V.T, 1))
    assert_close(found["adagrad"], U / (V.square().mean(0).sqrt() + 1e-3) @ V.T)


def test_the_last_layer_alone_is_a_task_with_fewer_parameters():
    last = TASK.restricted(["2.weight", "2.bias"])
    op = cv.fit("identity", last, progress=False)
    own = slice(TASK.P - last.P, None)
    found = cv.influence(op, last, damping=0.0, progress=False)
    assert_close(found, U[:, own] @ V[:, own].T)


def grown(seed):
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Linear(4, 3), torch.nn.Tanh(), torch.nn.Linear(3, 3)
    ).double()


MODELS, RATES = [grown(10 + k).eval() for k in range(3)], (0.3, 0.2, 0.1)


def adam_states():
    """Adam's state after a step of each model, and its second moments as a row."""
    states, second = [], []
    for model in MODELS:
        own = deepcopy(model)
        optimiser = torch.optim.Adam(own.parameters(), 0.01)
        torch.nn.functional.cross_entropy(own(TASK.train[0]), TASK.train[1]).backward()
        optimiser.step()
        second.append(
            torch.cat([optimiser.state[p]["exp_avg_sq"].reshape(-1) for p in own.parameters()])
        )
        states.append(optimiser.state_dict())
    return states, second


STATES, SECOND = adam_states()
POINTS = [
    tuple(gradients_one_by_one(TASK.with_model(m), part) for part in ("query", "train"))
    for m in MODELS
]
INVERSES = "inverse itself: s -> s\ninverse step(x): s -> 1 - x * s\ninverse faded(x): s -> exp(-x)"


def matrix(curvature, model):
    return cv.fit(curvature, TASK.with_model(model), progress=False).dense()


def second_order_shapley():
    found = 0
    for model, rate, (u, v) in zip(MODELS, RATES, POINTS, strict=True):
        found = found + rate * u @ v.T - rate**2 / 2 * v @ matrix("hessian", model) @ v.mean(0)
    return found


def unrolled():
    found, w = 0, U
    for k in (2, 1, 0):
        if k < 2:
            w = w @ (EYE - RATES[k + 1] * matrix("ggn", MODELS[k + 1]))
        found = found + RATES[k] * w @ POINTS[k][1].T
    return found


def hydra():
    left = [math.exp(-0.5 * sum(RATES[k + 1 :])) for k in range(3)]
    return sum(f * r * U @ v.T for f, r, (_, v) in zip(left, RATES, POINTS, strict=True))


def adam_tracin():
    rows = zip(RATES, SECOND, POINTS, strict=True)
    return sum(r * u / (d.sqrt() + 1e-3) @ v.T for r, d, (u, v) in rows)


def weighed_cosines():
    rows = zip(RATES, POINTS, strict=True)
    unit = torch.nn.functional.normalize
    return sum(r**2 * unit(u) @ unit(v).T for r, (u, v) in rows) / sum(r**2 for r in RATES)


def gradient_norms():
    return sum(v.norm(dim=1) for _, v in POINTS) / 3


def disagreement():
    return torch.stack([u @ v.T for u, v in POINTS]).var(0, unbiased=False)


ALONG = {
    # In-Run Data Shapley, second order: Wang et al. 2024 (arXiv:2406.11011).
    second_order_shapley: ("hessian", """needs u[h,q,p], v[h,n,p], rate[h]
      z[h,n,p] = apply(itself(), v)
      m[h,p] = mean[n] v[h,n,p]
      b[h,n] = sum[p] z[h,n,p] * m[h,p]
      a[h,q,n] = sum[p] u[h,q,p] * v[h,n,p]
      yield s[q,n] = sum[h] (rate[h] * a[h,q,n] - rate[h]^2 / 2 * b[h,n])"""),
    # Data value embedding, the derivative through the steps: Wang et al. 2024 (arXiv:2412.09538).
    unrolled: ("ggn", """needs u[q,p], v[h,n,p], rate[h]
      w[h,q,p] = carry(step(rate[h]), u)
      yield s[q,n] = sum[h,p] rate[h] * w[h,q,p] * v[h,n,p]"""),
    # HyDRA, weight decay alone: Chen et al. 2021 (arXiv:2102.02515).
    hydra: ("identity", """needs u[q,p], v[h,n,p], rate[h]
      w[h,q,p] = carry(faded(0.5 * rate[h]), u)
      yield s[q,n] = sum[h,p] rate[h] * w[h,q,p] * v[h,n,p]"""),
    adam_tracin: ("identity", """needs u[h,q,p], v[h,n,p], rate[h], second[h,p]
      yield s[q,n] = sum[h,p] rate[h] * u[h,q,p] * v[h,n,p] / (sqrt(second[h,p]) + 1e-3)"""),
    weighed_cosines: ("identity", """needs u[h,q,p], v[h,n,p], rate[h]
      a[h,q] = sum[p] u[h,q,p]^2
      b[h,n] = sum[p] v[h,n,p]^2
      w = sum[h] rate[h]^2
      yield s[q,n] = sum[h] rate[h]^2 / w * (sum[p] u[h,q,p] * v[h,n,p]) / sqrt(a[h,q]) / sqrt(b[h,n])"""),
    # GraNd: Paul et al. 2021 (arXiv:2107.07075).
    gradient_norms: ("identity", "needs v[h,n,p] yield s[n] = mean[h] sqrt(sum[p] v[h,n,p]^2)"),
    disagreement: ("identity", """needs u[h,q,p], v[h,n,p]
      x[h,q,n] = sum[p] u[h,q,p] * v[h,n,p]
      m[q,n] = mean[h] x[h,q,n]
      yield s[q,n] = mean[h] (x[h,q,n] - m[q,n])^2"""),
}  # fmt: skip


@pytest.mark.parametrize("wanted", ALONG, ids=lambda x: x.__name__)
def test_methods_along_checkpoints_of_ones_own(wanted):
    curvature, body = ALONG[wanted]
    spec = loads(f"{INVERSES}\ncurvature mine = {curvature}\nscore own {{ {body} }}")
    given = cv.Trajectory(files=[m.state_dict() for m in MODELS], rates=RATES, states=STATES)
    task = TASK.replaced(trajectory=given)
    op = cv.fit(spec, task, progress=False)
    found = cv.influence(op, task, score=spec.scores["own"], progress=False)
    assert_close(found, wanted())


def solved(x):
    return x @ torch.linalg.inv(matrix("ggn", TASK.model) + 0.1 * EYE)


def cooks_distance():
    h = (solved(V) * V).sum(1) / len(V)
    return h / (1 - h) ** 2


def of_groups():
    C = matrix("ggn", TASK.model)
    return solved(U) @ V.T - 0.5 * solved(U) @ C @ solved(V).T


def shared_ratio():
    own = [(solved(x) * x).sum(1) for x in (U, V)]
    return solved(U) @ V.T / (own[0][:, None] + own[1])


def by_places():
    return U[:, :15] @ V[:, :15].T + 3 * U[:, 15:] @ V[:, 15:].T


def gap():
    return V @ (U.mean(0) - V.mean(0))


AT_THE_END = {
    cooks_distance: """z[n,p] = solve(v)
      h[n] = (sum[p] v[n,p] * z[n,p]) / size[n]
      yield s[n] = h[n] / (1 - h[n])^2""",
    # The second order of a group: Basu et al. 2020 (arXiv:1911.00418).
    of_groups: """z[n,p] = solve(v)
      y[q,p] = solve(u)
      c[n,p] = apply(itself(), z)
      yield s[q,n] = (sum[p] y[q,p] * v[n,p]) - 0.5 * sum[p] y[q,p] * c[n,p]""",
    shared_ratio: """z[n,p] = solve(v)
      w[q,p] = solve(u)
      a[n] = sum[p] v[n,p] * z[n,p]
      b[q] = sum[p] u[q,p] * w[q,p]
      yield s[q,n] = (sum[p] u[q,p] * z[n,p]) / (a[n] + b[q])""",
    by_places: "yield s[q,n] = (sum[p] where(p < 15) * u[q,p] * v[n,p]) + 3 * sum[p] where(p >= 15) * u[q,p] * v[n,p]",
    # Gradient matching.
    gap: "a[p] = mean[q] u[q,p]\nb[p] = mean[n] v[n,p]\nyield s[n] = sum[p] (a[p] - b[p]) * v[n,p]",
}


@pytest.mark.parametrize("wanted", AT_THE_END, ids=lambda x: x.__name__)
def test_methods_at_the_end_of_training(wanted):
    body = f"score own {{ needs {'' if wanted is cooks_distance else 'u[q,p], '}v[n,p]\n{AT_THE_END[wanted]} }}"
    spec = loads(f"{INVERSES}\ncurvature mine = ggn\n{body}")
    op = cv.fit(spec, TASK, progress=False)
    given = {"damping": 0.1} if "solve" in body else {}
    found = cv.influence(op, TASK, score=spec.scores["own"], progress=False, **given)
    assert_close(found, wanted())


def by_blocks(make):
    """K of the empirical Fisher matrix of every layer."""
    found = torch.zeros_like(EYE)
    for block in (slice(0, 15), slice(15, TASK.P)):
        v = V[:, block]
        found[block, block] = make(v.T @ v / len(v), v)
    return U @ found @ V.T


def chebyshev(C, v):
    """The inverse's polynomial of degree 2 on 0.1 to 2: 1 - s K(s) is T₃ to scale."""
    middle, half = 1.05, 0.95
    s, Q = torch.linalg.eigh(C)
    t = lambda x: 4 * x**3 - 3 * x  # noqa: E731
    k = (1 - t((middle - s) / half) / t(middle / half)) / s
    return (Q * k) @ Q.T


def own_damping(C, v):
    lam = 0.5 * v.square().mean(1) + 1e-6
    each = [torch.linalg.inv(l * EYE[: len(x), : len(x)] + torch.outer(x, x)) for l, x in zip(lam, v, strict=True)]  # fmt: skip
    return sum(each) / len(v)


def unit_length(C, v):
    w = torch.nn.functional.normalize(v)
    return sum(
        torch.linalg.inv(0.1 * EYE[: len(C), : len(C)] + torch.outer(x, x)) for x in w
    ) / len(w)


def around_the_diagonal(C, v):
    d = (0.1 + v.square().mean(0).sqrt()).rsqrt()
    W = (v.T / (1 + (v * d).square().sum(1))) @ v / len(v)
    return torch.diag(d**2) - (d**2)[:, None] * W * d**2


def schulz(C, v):
    A, Y = (
        C + 0.1 * EYE[: len(C), : len(C)],
        EYE[: len(C), : len(C)] - (C + 0.1 * EYE[: len(C), : len(C)]) / 4,
    )
    return 2 * Y - Y @ A @ Y


KINDS = {
    chebyshev: """(low = 0.1, high = 2) { needs C[p,p']
      d = (high - low) / 2
      z = (low + high) / 2 / d
      w = 4 * z^3 - 3 * z
      yield K[p,p'] = ((12 * z^2 - 3) / d * identity[p,p'] - 12 * z / d^2 * C[p,p'] + 4 / d^3 * sum[p''] C[p,p''] * C[p'',p']) / w }""",
    own_damping: """(share = 0.5) { needs v[n,p]
      a[n] = share * (sum[p] v[n,p]^2) / size[p] + 1e-6
      yield K[p,p'] = (mean[n] 1 / a[n]) * identity[p,p'] - mean[n] v[n,p] * v[n,p'] / (a[n] * (a[n] + sum[p''] v[n,p'']^2)) }""",
    unit_length: """(damping = 0.1) { needs v[n,p]
      b[n] = sum[p] v[n,p]^2
      yield K[p,p'] = identity[p,p'] / damping - mean[n] v[n,p] * v[n,p'] / b[n] / damping / (damping + 1) }""",
    around_the_diagonal: """(damping = 0.1) { needs v[n,p]
      d[p] = 1 / sqrt(damping + sqrt(mean[n] v[n,p]^2))
      s[n] = sum[p] (v[n,p] * d[p])^2
      W[p,p'] = mean[n] v[n,p] * v[n,p'] / (1 + s[n])
      yield K[p,p'] = d[p] * (identity[p,p'] * d[p'] - d[p] * W[p,p'] * d[p'] * d[p']) }""",
    # HyperINF: Zhou et al. 2024 (arXiv:2410.05090).
    schulz: """(damping = 0.1) { needs C[p,p']
      A[p,p'] = C[p,p'] + damping * identity[p,p']
      Y[p,p'] = identity[p,p'] - A[p,p'] / 4
      yield K[p,p'] = 2 * Y[p,p'] - sum[p'',p'''] Y[p,p''] * A[p'',p'''] * Y[p''',p'] }""",
}


@pytest.mark.parametrize("make", KINDS, ids=lambda x: x.__name__)
def test_inverses_by_their_entries(make):
    spec = loads(f"inverse own{KINDS[make]}\n{BLOCKS}")
    op = cv.fit(spec, TASK, progress=False)
    assert_close(cv.influence(op, TASK, inverse="own", progress=False), by_blocks(make))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (
            "needs u[h,q,p], v[h,n,p], rate[h]\nw[h,q,p] = carry(step(rate[h]), u)\nyield s[q,n] = sum[h,p] w[h,q,p] * v[h,n,p]",
            "`w[h,q,p] = carry(f(…), u)` of `u[q,p]`",
        ),
        (
            "needs u[q,p], v[n,p]\nK[n,n'] = sum[p] v[n,p] * v[n',p]\nI[n,n'] = inv(K)\nyield s[q,n] = sum[n',p] u[q,p] * v[n',p] * I[n',n]",
            "`empirical_fisher`",
        ),
    ],
)
def test_refusals_say_what_to_write(body, words):
    with pytest.raises(cv.SpecError) as caught:
        loads(f"{INVERSES}\nscore own {{ {body} }}")
    assert words in str(caught.value)


def test_an_index_that_is_not_summed_is_shown_where_it_is_free():
    body = "needs u[h,q,p], v[h,n,p], rate[h]\na[h,q,n] = sum[p] u[h,q,p] * v[h,n,p]\nyield s[q,n] = sum[h] rate[h] * a[h,q,n] - rate[h]^2"
    with pytest.raises(cv.SpecError) as caught:
        loads(f"score own {{ {body} }}")
    (found,) = caught.value.diagnostics
    span = found.labels[0].span
    assert span.text == "rate[h]"
    assert span.source.text[: span.start].endswith("- ")
