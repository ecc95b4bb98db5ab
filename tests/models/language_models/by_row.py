"""EK-FAC from the labels of the data, and its scores, from the definitions: one row at a time, without padding.

Plain `torch.autograd` in float64, by the losses that the models of `transformers` have themselves; nothing here
comes from `curvlang`.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from tests.models.language_models.kinds import label_of


class ByRow:
    """The curvature of a checkpoint's model over rows.

    Args:
        kind: The model and its rows.
        rows: Which of them.
    """

    def __init__(self, kind, rows):
        self.kind, self.rows = kind, rows
        self.model = kind.model.double().eval()
        self.names = [name for name, _ in self.model.named_parameters()]

    def loss(self, row):
        """Of one row: the model's own, summed over what it predicts."""
        given = self.kind.own(row, label_of(row))
        given = {k: x.double() if x.is_floating_point() else x for k, x in given.items()}
        y = given["labels"]
        predicted = int((y != -100).sum()) if y.ndim == 2 and not y.is_floating_point() else 1
        return self.model(**given).loss * predicted

    def gradients(self, row):
        found = torch.autograd.grad(
            self.loss(row), list(self.model.parameters()), allow_unused=True
        )
        pairs = zip(self.model.parameters(), found, strict=True)
        return [torch.zeros_like(p) if g is None else g for p, g in pairs]

    def layers(self):
        """Modules with a matrix that is theirs alone."""
        kinds = (nn.Linear, nn.Conv2d)
        every = [
            (name, m)
            for name, m in self.model.named_modules()
            if isinstance(m, (*kinds, nn.Embedding)) or type(m).__name__ == "Conv1D"
        ]
        return {
            name: m
            for name, m in every
            if not isinstance(m, nn.Embedding) and sum(m.weight is o.weight for _, o in every) == 1
        }

    def watched(self, row):
        """Of every layer its inputs [T, i] with the constant 1 of a bias, and its outputs."""
        seen = {}

        def hook(name):
            return lambda m, given, out: seen.__setitem__(name, (inputs_of(m, given[0]), out))

        handles = [m.register_forward_hook(hook(name)) for name, m in self.layers().items()]
        loss = self.loss(row)
        for handle in handles:
            handle.remove()
        return seen, loss

    def columns(self):
        for row in self.rows:
            seen, loss = self.watched(row)
            found = torch.autograd.grad(loss, [out for _, out in seen.values()], allow_unused=True)
            yield {
                name: (a, torch.zeros_like(out) if g is None else g)
                for (name, (a, out)), g in zip(seen.items(), found, strict=True)
            }

    def ekfac(self):
        N = len(self.rows)
        A, G, T, S = {}, {}, {}, {}
        for pairs in self.columns():
            for name, (a, g) in pairs.items():
                g = outputs_of(g)
                A[name] = A.get(name, 0) + a.T @ a
                T[name] = T.get(name, 0) + len(a)
                G[name] = G.get(name, 0) + g.T @ g / N
        bases = {n: (torch.linalg.eigh(G[n])[1], torch.linalg.eigh(A[n] / T[n])[1]) for n in A}
        for pairs in self.columns():
            for name, (a, g) in pairs.items():
                U, V = bases[name]
                S[name] = S.get(name, 0) + (U.T @ outputs_of(g).T @ a @ V).square() / N
        return bases, S

    def scores(self, queries, damping):
        """[Q, N]."""
        train = [self.gradients(row) for row in self.rows]
        D = [sum(g[k].square() for g in train) / len(train) for k in range(len(self.names))]
        bases, S = self.ekfac()
        found = []
        for row in queries:
            u = dict(zip(self.names, self.gradients(row), strict=True))
            z = {n: u[n] / (d + damping) for n, d in zip(self.names, D, strict=True)}
            for name, module in self.layers().items():
                z |= solved(name, module, u, bases[name], S[name] + damping)
            found.append(
                [sum((z[n] * g).sum() for n, g in zip(self.names, v, strict=True)) for v in train]
            )
        return torch.stack([torch.stack(row) for row in found])


def inputs_of(module, x):
    """[T, i] of one example: patches of a convolution, rows of all else."""
    x = x.detach()
    if isinstance(module, nn.Conv2d):
        rows = functional.unfold(
            x, module.kernel_size, module.dilation, module.padding, module.stride
        )
        rows = rows[0].T
    else:
        rows = x.reshape(-1, x.shape[-1])
    return rows if module.bias is None else torch.cat([rows, torch.ones(len(rows), 1).double()], 1)


def outputs_of(g):
    """[T, o] of one example."""
    return g[0].flatten(1).T if g.ndim == 4 else g.reshape(-1, g.shape[-1])


def solved(name, module, u, bases, spectrum):
    """(U ⊗ V) diag(1 / s) (U ⊗ V)ᵀ times the layer's part of u."""
    U, V = bases
    W = u[f"{name}.weight"]
    M = W.T if type(module).__name__ == "Conv1D" else W.flatten(1)
    own = M.shape[1]
    if module.bias is not None:
        M = torch.cat([M, u[f"{name}.bias"][:, None]], 1)
    X = U @ ((U.T @ M @ V) / spectrum) @ V.T
    found = {
        f"{name}.weight": (
            X[:, :own].T if type(module).__name__ == "Conv1D" else X[:, :own]
        ).reshape(W.shape)
    }
    if module.bias is not None:
        found[f"{name}.bias"] = X[:, -1]
    return found
