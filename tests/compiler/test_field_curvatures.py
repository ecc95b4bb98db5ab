"""Curvatures of the literature that do not ship, written in the language, against plain torch in float64.

Every one on networks with and without biases, positions, one example, a convolution.
"""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import nn
from torch.nn import functional

import curvlang as cv
from tests.oracles import dense
from tests.small import network
from tests.small import task as small

KRON, EYE = torch.kron, lambda n: torch.eye(n, dtype=torch.float64)


class Convolution(nn.Module):
    def __init__(self):
        super().__init__()
        self.c, self.f = nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.Linear(12, 3)

    def forward(self, x):
        return self.f(torch.tanh(self.c(x)).flatten(1))


def convolution():
    torch.manual_seed(0)
    model, X = Convolution().double().eval(), torch.randn(7, 2, 4, 4, dtype=torch.float64)
    y = torch.randint(0, 3, (7,))
    return cv.Task(model, "cross_entropy", (X, y), (X[:3], y[:3]))


TASKS = {
    "dense": ("cross_entropy", lambda: small(network([3, 4, 3]), "cross_entropy", n=11)),
    "positions": ("bce_with_logits", lambda: small(network([3, 2, 4, 2], activation="relu"), "bce_with_logits", n=6, positions=3)),
    "no bias": ("mse", lambda: small(network([3, 4, 2], bias=False), "mse", n=5)),
    "one example": ("cross_entropy", lambda: small(network([3, 4, 3]), "cross_entropy", n=1)),
    "convolution": ("cross_entropy", convolution),
}  # fmt: skip


def inputs(module, x):
    """What enters a layer, [T, I], with the constant of its bias."""
    if isinstance(module, nn.Conv2d):
        a = functional.unfold(x, module.kernel_size, 1, module.padding, module.stride)[0].T
    else:
        a = x.reshape(-1, x.shape[-1])
    one = torch.ones(len(a), 1, dtype=torch.float64)
    return a if module.bias is None else torch.cat([a, one], 1)


def at_outputs(module, g):
    return g[0].flatten(1).T if isinstance(module, nn.Conv2d) else g.reshape(-1, g.shape[-1])


@cache
def leaves(name):
    """The task, and of every layer a [N,T,I], columns g [N,R,T,O], e [N,T,O] by autograd."""
    loss, make = TASKS[name]
    task = make()
    layers = {k: m for k, m in task.model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    found = {k: ([], [], []) for k in layers}
    for x, y in zip(*task.train, strict=True):
        seen: dict[str, tuple] = {}

        def seen_by(k, seen=seen):
            return lambda _, given, z: seen.update({k: (given[0].detach(), z)})

        hooks = [m.register_forward_hook(seen_by(k)) for k, m in layers.items()]
        f = task.model(x[None])[0]
        for hook in hooks:
            hook.remove()
        s, Q = torch.linalg.eigh(dense.loss_hessian(loss, f.detach()[None], y[None])[0])
        outputs = [seen[k][1] for k in layers]
        columns = [
            torch.autograd.grad((f.reshape(-1) * c).sum(), outputs, retain_graph=True)
            for c in (Q * s.clamp(min=0).sqrt()).T
        ]
        own = torch.autograd.grad(dense.LOSSES[loss](f, y), outputs)
        for j, (k, m) in enumerate(layers.items()):
            found[k][0].append(inputs(m, seen[k][0]))
            found[k][1].append(torch.stack([at_outputs(m, c[j]) for c in columns]))
            found[k][2].append(at_outputs(m, own[j]))
    return task, {k: tuple(map(torch.stack, x)) for k, x in found.items()}


def places(model, layer):
    """Where the entries [O, I] of a layer are among the parameters."""
    start, where = 0, {}
    for name, p in model.named_parameters():
        where[name] = torch.arange(start, start + p.numel()).reshape(len(p), -1)
        start += p.numel()
    parts = [where[f"{layer}.{x}"] for x in ("weight", "bias") if f"{layer}.{x}" in where]
    return torch.cat(parts, 1).reshape(-1)


def assembled(name, block):
    task, found = leaves(name)
    C = torch.zeros(task.P, task.P, dtype=torch.float64)
    for layer, own in found.items():
        at = places(task.model, layer)
        C[at[:, None], at] = block(*own)
    return C


def rows(a, e):
    return torch.einsum("nto,nti->noi", e, a)


def factors(a, g):
    """K-FAC's."""
    G = torch.einsum("nrto,nrtp->op", g, g) / len(g)
    return G, torch.einsum("nti,ntj->ij", a, a) / a.shape[0] / a.shape[1]


def root(M, p):
    s, Q = torch.linalg.eigh(M)
    return (Q * s.clamp(min=0).pow(p)) @ Q.T


def moments(M):
    return torch.einsum("noi,npi->op", M, M) / len(M), torch.einsum("noi,noj->ij", M, M) / len(M)


def kl_shampoo(a, g, e):
    M = rows(a, e)
    (N, O, I), A = M.shape, EYE(M.shape[2])
    for _ in range(3):
        G = torch.einsum("noi,ij,npj->op", M, A.inverse(), M) / N / I + 0.01 * EYE(O)
        A = torch.einsum("noi,op,npj->ij", M, G.inverse(), M) / N / O + 0.01 * EYE(I)
    return KRON(G, A)


def shampoo_of_the_mean(a, g, e):
    M = rows(a, e).mean(0)
    left, right = M @ M.T + 0.001 * EYE(len(M)), M.T @ M + 0.001 * EYE(M.shape[1])
    return KRON(root(left, 0.25), root(right, 0.25))


def one_sided(a, g, e):
    M = rows(a, e).mean(0)
    return KRON(root(M @ M.T + 0.01 * EYE(len(M)), 0.5), EYE(M.shape[1]))


def caspr(a, g, e):
    L, R = moments(rows(a, e))
    L, R = root(L + 0.01 * EYE(len(L)), -0.25), root(R + 0.01 * EYE(len(R)), -0.25)
    H = (KRON(L, EYE(len(R))) + KRON(EYE(len(L)), R)) / 2
    return (H @ H).inverse()


def adafactor(a, g, e):
    S = rows(a, e).square().mean(0)
    return ((S.sum(1)[:, None] * S.sum(0) / S.sum()).sqrt() + 1e-6).reshape(-1).diag()


def mini_block(a, g, e):
    M = rows(a, e)
    return KRON(EYE(M.shape[1]), moments(M)[1] / M.shape[1])


def mini_block_of_kernels(a, g, e):
    M = rows(a, e)
    B, k = torch.einsum("noi,noj->oij", M, M) / len(M), torch.arange(M.shape[2])
    inside = k < 3 * (M.shape[2] // 3)
    kept = ((k // 3)[:, None] == k // 3) & inside[:, None] & inside
    return torch.block_diag(*(B * kept)) + 0.01 * EYE(M[0].numel())


def deflation(a, g, e):
    M = torch.einsum("nrto,nti->nroi", g, a)
    B, (G, _) = torch.einsum("nroi,nrpj->oipj", M, M) / len(M), factors(a, g)

    def alternating(B, G):
        for _ in range(2):
            X = torch.einsum("oipj,op->ij", B, G / G.norm())
            X = X / max(X.norm(), 1e-30)
            G = torch.einsum("oipj,ij->op", B, X)
        return G, X

    G, X = alternating(B, G)
    F, Z = alternating(B - torch.einsum("op,ij->oipj", G, X), EYE(len(G)))
    return KRON(G, X) + KRON(F, Z)


def damping_in_factors(a, g, e):
    G, A = factors(a, g)
    pi = (A.trace() / len(A) / (G.trace() / len(G))).sqrt()
    return KRON(G + 0.1 / pi * EYE(len(G)), A + 0.1 * pi * EYE(len(A)))


def soap(a, g, e):
    M = rows(a, e)
    U, V = (torch.linalg.eigh(x)[1] for x in moments(M))
    basis = KRON(U, V)
    return (basis * (U.T @ M @ V).square().mean(0).sqrt().reshape(-1)) @ basis.T


def centred(a, g, e):
    M = rows(a, e).flatten(1)
    return (M - M.mean(0)).T @ (M - M.mean(0)) / len(M)


def by_token(a, g, e):
    M = torch.einsum("nto,nti->ntoi", e, a).flatten(2)
    return torch.einsum("ntx,nty->xy", M, M) / len(M)


def mean_activation(a, g, e):
    b = a.mean((0, 1))
    return KRON(EYE(g.shape[3]), torch.outer(b, b) + 0.1 * EYE(len(b)))


def nystrom_of_inputs(a, g, e):
    A = factors(a, g)[1] + 0.01 * EYE(a.shape[2])
    return KRON(EYE(g.shape[3]), A[:, :2] @ A[:2, :2].inverse() @ A[:2])


def banded_inputs(a, g, e):
    G, A = factors(a, g)
    k = torch.arange(len(A))
    return KRON(G, A * ((k[:, None] - k).abs() <= 1)) + 2 * EYE(len(A) * len(G))


def pairs_of_positions(a, g, e):
    A = torch.einsum("nti,nsj->tsij", a, a) / len(a)
    A = A * torch.ones(A.shape[:2], dtype=torch.float64).tril()[..., None, None]
    B = torch.einsum("tsij,tsop->oipj", A, torch.einsum("nrto,nrsp->tsop", g, g) / len(g))
    B = B.reshape(B.shape[0] * B.shape[1], -1)
    return (B + B.T) / 2


E = "needs a[n,t,i], e[n,t,o]\n"
AG = "needs a[n,t,i], g[n,r,t,o]\n"
KFAC = """A[i,i'] = mean[n,t] a[n,t,i] * a[n,t,i']
  G[o,o'] = mean[n] sum[r,t] g[n,r,t,o] * g[n,r,t,o']
"""
ROWS = "M[n,o,i] = sum[t] e[n,t,o] * a[n,t,i]\n"
MEAN = "M[o,i] = mean[n] sum[t] e[n,t,o] * a[n,t,i]\n"
YIELD = "yield C[o,i,o',i'] = "
ROUND = """repeat 2 {
    Y[o,o'] = G[o,o'] / norm(G)
    A[i,i'] = mean[n] sum[r,o,o'] (sum[t] g[n,r,t,o] * a[n,t,i]) * Y[o,o'] * (sum[t] g[n,r,t,o'] * a[n,t,i'])
    X[i,i'] = A[i,i'] / norm(A)
    G[o,o'] = mean[n] sum[r,i,i'] (sum[t] g[n,r,t,o] * a[n,t,i]) * X[i,i'] * (sum[t] g[n,r,t,o'] * a[n,t,i'])
  }
"""
BODIES = {
    # Lin et al. 2025 (arXiv:2509.03378).
    kl_shampoo: E + ROWS + """A[i,i'] = identity[i,i']
      repeat 3 {
        X[i,i'] = inv(A)
        G[o,o'] = (mean[n] sum[i,i'] M[n,o,i] * X[i,i'] * M[n,o',i']) / size[i] + 0.01 * identity[o,o']
        Y[o,o'] = inv(G)
        A[i,i'] = (mean[n] sum[o,o'] M[n,o,i] * Y[o,o'] * M[n,o',i']) / size[o] + 0.01 * identity[i,i']
      }
      yield C[o,i,o',i'] = G[o,o'] * A[i,i']""",
    # Gupta et al. 2018 (arXiv:1802.09568), of one batch.
    shampoo_of_the_mean: E + MEAN + """L[o,o'] = (sum[i] M[o,i] * M[o',i]) + 0.001 * identity[o,o']
      R[i,i'] = (sum[o] M[o,i] * M[o,i']) + 0.001 * identity[i,i']
      X[o,o'] = power(L, 1/4)
      Y[i,i'] = power(R, 1/4)
      yield C[o,i,o',i'] = X[o,o'] * Y[i,i']""",
    # ASGO: An et al. 2025 (arXiv:2503.20762).
    one_sided: E + MEAN + """L[o,o'] = (sum[i] M[o,i] * M[o',i]) + 0.01 * identity[o,o']
      X[o,o'] = power(L, 0.5)
      yield C[o,i,o',i'] = X[o,o'] * identity[i,i']""",
    # Duvvuri et al. 2024: both sides' preconditioners combined.
    caspr: E + ROWS + """L[o,o'] = (mean[n] sum[i] M[n,o,i] * M[n,o',i]) + 0.01 * identity[o,o']
      R[i,i'] = (mean[n] sum[o] M[n,o,i] * M[n,o,i']) + 0.01 * identity[i,i']
      X[o,o'] = power(L, -0.25)
      Y[i,i'] = power(R, -0.25)
      H[o,i,o',i'] = (X[o,o'] * identity[i,i'] + identity[o,o'] * Y[i,i']) / 2
      K[o,i,o',i'] = inv(H[o,i | o',i'])
      yield C[o,i,o',i'] = sum[o'',i''] K[o,i,o'',i''] * K[o'',i'',o',i']""",
    # Shazeer & Stern 2018 (arXiv:1804.04235).
    adafactor: E + """S[o,i] = mean[n] (sum[t] e[n,t,o] * a[n,t,i])^2
      r[o] = sum[i] S[o,i]
      c[i] = sum[o] S[o,i]
      w = sum[o] r[o]
      yield C[o,i,o',i'] = identity[o,o'] * identity[i,i'] * (sqrt(r[o] * c[i] / max(w, 1e-30)) + 1e-6)""",
    # Bahamou et al. 2022 (arXiv:2202.04124), of a fully connected layer and of kernels of three.
    mini_block: E + """B[i,i'] = mean[n,o] (sum[t] e[n,t,o] * a[n,t,i]) * (sum[t] e[n,t,o] * a[n,t,i'])
      yield C[o,i,o',i'] = identity[o,o'] * B[i,i']""",
    mini_block_of_kernels: E + """space k = max(1, size[i] / 3)
      E[k,i] = where(3 * k <= i) * where(i < 3 * k + 3)
      M[i,i'] = sum[k] E[k,i] * E[k,i']
      B[o,i,i'] = mean[n] (sum[t] e[n,t,o] * a[n,t,i]) * (sum[t] e[n,t,o] * a[n,t,i'])
      yield C[o,i,o',i'] = identity[o,o'] * B[o,i,i'] * M[i,i'] + 0.01 * identity[o,o'] * identity[i,i']""",
    # Koroko et al. 2022 (arXiv:2201.10285), two products; the residual of an exact one is rounding.
    deflation: AG + KFAC + ROUND + """F[o,o'] = identity[o,o']
      repeat 2 {
        U[o,o'] = F[o,o'] / norm(F)
        B[i,i'] = mean[n] sum[r,o,o'] (sum[t] g[n,r,t,o] * a[n,t,i]) * U[o,o'] * (sum[t] g[n,r,t,o'] * a[n,t,i'])
        D[i,i'] = B[i,i'] - X[i,i'] * sum[o,o'] G[o,o'] * U[o,o']
        Z[i,i'] = D[i,i'] / max(norm(D), 1e-30)
        H[o,o'] = mean[n] sum[r,i,i'] (sum[t] g[n,r,t,o] * a[n,t,i]) * Z[i,i'] * (sum[t] g[n,r,t,o'] * a[n,t,i'])
        F[o,o'] = H[o,o'] - G[o,o'] * sum[i,i'] X[i,i'] * Z[i,i']
      }
      yield C[o,i,o',i'] = G[o,o'] * X[i,i'] + F[o,o'] * Z[i,i']""",
    # Martens & Grosse 2015 (arXiv:1503.05671), section 6.3, within the curvature.
    damping_in_factors: AG + KFAC + """pi = sqrt((trace(A) / size[i]) / max(trace(G) / size[o], 1e-30))
      yield C[o,i,o',i'] = (G[o,o'] + 0.1 / pi * identity[o,o']) * (A[i,i'] + 0.1 * pi * identity[i,i'])""",
    # Vyas et al. 2024 (arXiv:2409.11321).
    soap: E + ROWS + """L[o,o'] = mean[n] sum[i] M[n,o,i] * M[n,o',i]
      R[i,i'] = mean[n] sum[o] M[n,o,i] * M[n,o,i']
      U[o,m], _[m] = eigh(L)
      V[i,k], _[k] = eigh(R)
      S[m,k] = mean[n] (sum[o,i] U[o,m] * M[n,o,i] * V[i,k])^2
      yield C[o,i,o',i'] = sum[m,k] U[o,m] * V[i,k] * sqrt(S[m,k]) * U[o',m] * V[i',k]""",
    centred: E + MEAN + YIELD + "(mean[n] (sum[t] e[n,t,o] * a[n,t,i]) * (sum[t] e[n,t,o'] * a[n,t,i'])) - M[o,i] * M[o',i']",
    by_token: E + YIELD + "mean[n] sum[t] e[n,t,o] * a[n,t,i] * e[n,t,o'] * a[n,t,i']",
    # MAC: Kim et al. 2025 (arXiv:2506.08464).
    mean_activation: "needs a[n,t,i]\nb[i] = mean[n,t] a[n,t,i]\n" + YIELD + "identity[o,o'] * (b[i] * b[i'] + 0.1 * identity[i,i'])",
    # NysAct (arXiv:2506.08360), by the first columns.
    nystrom_of_inputs: """needs a[n,t,i]
      space k = min(2, size[i])
      A[i,i'] = (mean[n,t] a[n,t,i] * a[n,t,i']) + 0.01 * identity[i,i']
      B[i,k] = sum[i'] A[i,i'] * where(i' == k)
      K[k,k'] = sum[i] B[i,k'] * where(i == k)
      X[k,k'] = power(K, -0.5)
      W[i,k] = sum[k'] B[i,k'] * X[k',k]
      yield C[o,i,o',i'] = identity[o,o'] * sum[k] W[i,k] * W[i',k]""",
    banded_inputs: AG + KFAC + YIELD + "G[o,o'] * where(|i - i'| <= 1) * A[i,i'] + 2 * identity[o,o'] * identity[i,i']",
    pairs_of_positions: AG + """A[t,t',i,i'] = mean[n] a[n,t,i] * a[n,t',i'] * where(t' <= t)
      G[t,t',o,o'] = mean[n] sum[r] g[n,r,t,o] * g[n,r,t',o']
      B[o,i,o',i'] = sum[t,t'] A[t,t',i,i'] * G[t,t',o,o']
      yield C[o,i,o',i'] = (B[o,i,o',i'] + B[o',i',o,i]) / 2""",
}  # fmt: skip
BLOCKS = "curvature mine = hessian |> drop_residual |> block_diagonal(by = layer) |> m"


def assert_is(found, wanted, bound=1e-9):
    assert (found - wanted).abs().max() <= bound * wanted.abs().max()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("block", BODIES, ids=lambda x: x.__name__)
def test_methods_of_a_layer(block, name):
    task, _ = leaves(name)
    spec = cv.loads(f"transform m {{\n{BODIES[block]}\n}}\n{BLOCKS}")
    op, wanted = cv.fit(spec, task, progress=False), assembled(name, block)
    assert_is(op.dense(), wanted)
    u, v = (dense.per_example_gradients(task.model, TASKS[name][0], *task.part(x)) for x in ("query", "train"))  # fmt: skip
    found = cv.influence(op, task, damping=0.1, progress=False)
    assert_is(found, u @ torch.linalg.inv(wanted + 0.1 * EYE(task.P)) @ v.T)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["dense", "positions"])
def test_methods_of_the_whole_model(name):
    """The Nyström matrix of columns (arXiv:2302.09726), beside blocks, and the diagonal of the Hessian by its size."""
    task, _ = leaves(name)
    C, H = (f(task.model, TASKS[name][0], *task.train) for f in (dense.ggn, dense.hessian))
    text = """transform columns {
      needs C[p,p']
      space k = 3
      Y[p,k] = sum[p'] C[p,p'] * where(p' == 4 * k)
      K[k,k'] = (sum[p] Y[p,k'] * where(p == 4 * k)) + 0.01 * identity[k,k']
      X[k,k'] = power(K, -1/2)
      W[p,k] = sum[k'] Y[p,k'] * X[k',k]
      yield C[p,p'] = sum[k] W[p,k] * W[p',k]
    }
    transform sizes {
      needs C[p,p']
      d[p] = C[p,p]
      yield C[p,p'] = identity[p,p'] * abs(d[p])
    }
    curvature low = ggn |> columns
    curvature beside = 0.5 * kfac + 0.25 * low + 0.1 * identity
    curvature size_of_hessian = hessian |> sizes"""
    k = torch.tensor([0, 4, 8])
    low = C[:, k] @ (C[k][:, k] + 0.01 * EYE(3)).inverse() @ C[k]
    kfac = assembled(name, lambda a, g, e: KRON(*factors(a, g)))
    both = 0.5 * kfac + 0.25 * low + 0.1 * EYE(task.P)
    for curvature, wanted in (("low", low), ("beside", both), ("size_of_hessian", H.diag().abs().diag())):  # fmt: skip
        op = cv.fit(cv.loads(text), task, curvature=curvature, progress=False)
        assert_is(op.dense(), wanted)


class GroupedQueries(nn.Module):
    """Four heads of queries of length 2, two of keys and values."""

    def __init__(self):
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = nn.Linear(5, 8), nn.Linear(5, 4), nn.Linear(5, 4)
        self.o_proj, self.last = nn.Linear(8, 5), nn.Linear(5, 3)

    def forward(self, x):
        q, k, v = (
            m(x).unflatten(-1, (-1, 2)).transpose(1, 2)
            for m in (self.q_proj, self.k_proj, self.v_proj)
        )
        k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
        z = (torch.softmax(q @ k.mT, -1) @ v).transpose(1, 2).flatten(2)
        return self.last(torch.tanh(self.o_proj(z)) + x)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("by", ["head(4)", '[["q_proj.*", "k_proj.*"]]', "neuron", "parameter"])
@pytest.mark.parametrize("n", [5, 1])
def test_partitions_of_attention_with_fewer_keys_than_queries(by, n):
    torch.manual_seed(0)
    model = GroupedQueries().double().eval()
    task = small(model, "cross_entropy", n=n, positions=3, d_in=5)
    start, at = 0, {}
    for name, p in model.named_parameters():
        at[name] = torch.arange(start, start + p.numel()).reshape(len(p), -1)
        start += p.numel()
    wide = {k: torch.cat([at[f"{k}.weight"], at[f"{k}.bias"]], 1) for k in dict(model.named_children())}  # fmt: skip
    whole = {k: [x.reshape(-1)] for k, x in wide.items()}
    if by == "neuron":
        blocks = [row for x in wide.values() for row in x]
    elif by == "parameter":
        blocks = [x.reshape(-1) for x in at.values()]
    elif by == "head(4)":
        cut = {"q_proj": 4, "k_proj": 2, "v_proj": 2}
        blocks = [x.reshape(-1) for k, heads in cut.items() for x in wide[k].chunk(heads)]
        blocks += [x.reshape(-1) for x in at["o_proj.weight"].chunk(4, 1)]
        blocks += [at["o_proj.bias"].reshape(-1), *whole["last"]]
    else:
        blocks = [torch.cat(whole["q_proj"] + whole["k_proj"])]
        blocks += [x for k in ("v_proj", "o_proj", "last") for x in whole[k]]
    C, wanted = dense.ggn(model, "cross_entropy", *task.train), torch.zeros(start, start).double()
    for b in blocks:
        wanted[b[:, None], b] = C[b[:, None], b]
    spec = cv.loads(f"curvature mine = ggn |> block_diagonal(by = {by})")
    assert_is(cv.fit(spec, task, progress=False).dense(), wanted)
