"""EK-FAC of a language model and its scores from their definitions: one unpadded row at a time, float64 autograd.

Nothing here comes from `curvlang` but the uniform numbers that labels are drawn by.
"""

from __future__ import annotations

import torch

from curvlang.models.losses.draws import Draws


def rows_of(tokenizer, texts):
    return [torch.tensor(tokenizer(text)["input_ids"]) for text in texts]


def gradient(model, row):
    """Of the summed loss of a row, by the model's own loss, over all parameters in order."""
    loss = model(input_ids=row[None], labels=row[None]).loss * (len(row) - 1)
    found = torch.autograd.grad(loss, list(model.parameters()))
    return torch.cat([g.reshape(-1) for g in found])


class ByHand:
    """The blocks of a model over some rows.

    Args:
        model: In float64.
        rows: Tokens.
        labels: `drawn` from the model with the seed 0, or `own`.
    """

    def __init__(self, model, rows, labels="drawn"):
        self.model, self.rows, self.labels = model, rows, labels
        self.drawn = 0

    def columns(self, number):
        """For every row the inputs and output gradients of every layer, and the gradients of parameters."""
        layers = self.layers()
        for n, row in enumerate(self.rows):
            seen, f = self.watched(row, layers)
            z = row[1:] if self.labels == "own" else self.sampled(f, n, number, len(row))
            loss = torch.nn.functional.cross_entropy(f, z, reduction="sum")
            outputs = [out for _, out in seen.values()]
            parameters = list(self.model.parameters())
            found = torch.autograd.grad(loss, [*outputs, *parameters])
            pairs = {
                name: (self.inputs(layers[name], given[0]), g[0])
                for (name, (given, _)), g in zip(seen.items(), found, strict=False)
            }
            names = [name for name, _ in self.model.named_parameters()]
            yield pairs, dict(zip(names, found[len(outputs) :], strict=True)), row

    def watched(self, row, layers):
        """The inputs and outputs of layers on one row, and what is predicted at its positions."""
        seen = {}

        def hook(name):
            return lambda _, given, out: seen.__setitem__(name, (given[0], out))

        handles = [layer.register_forward_hook(hook(name)) for name, layer in layers.items()]
        f = self.model(input_ids=row[None]).logits[0, :-1]
        for handle in handles:
            handle.remove()
        return seen, f

    def sampled(self, f, n, number, length):
        """Labels by the inverse of the distribution function."""
        u = Draws(0, number, n).uniform(1, length, 1, f.device)[0, :-1]
        steps = torch.softmax(f.detach(), -1).cumsum(-1)
        return torch.searchsorted(steps, u * steps[:, -1:], right=True)[:, 0]

    def layers(self):
        """Matrices of their own: not what is tied."""
        kinds = ("Conv1D", "Linear", "Embedding")
        owners = [(name, m) for name, m in self.model.named_modules() if type(m).__name__ in kinds]
        count = [sum(m.weight is other.weight for _, other in owners) for _, m in owners]
        return {name: m for (name, m), k in zip(owners, count, strict=True) if k == 1}

    def inputs(self, layer, given):
        if type(layer).__name__ == "Embedding":
            return torch.nn.functional.one_hot(given, layer.num_embeddings).double()
        bias = getattr(layer, "bias", None)
        ones = [] if bias is None else [torch.ones(len(given), 1).double()]
        return torch.cat([given.detach(), *ones], 1)

    def ekfac(self, diagonal=()):
        """For every layer the eigenvectors and the spectrum, and the diagonals of the other parameters."""
        N, tokens = len(self.rows), sum(map(len, self.rows))
        A, G, D = {}, {}, {}
        for pairs, gradients, _ in self.columns(1):
            for name, (a, g) in pairs.items():
                A[name] = A.get(name, 0) + a.T @ a / tokens
                G[name] = G.get(name, 0) + g.T @ g / N
            for name, g in gradients.items():
                D[name] = D.get(name, 0) + g.square() / N
        bases = {
            name: (torch.linalg.eigh(G[name])[1], torch.linalg.eigh(A[name])[1])
            for name in A
            if name not in diagonal
        }
        S = {}
        for pairs, _, _ in self.columns(2):
            for name, (U, V) in bases.items():
                a, g = pairs[name]
                S[name] = S.get(name, 0) + (U.T @ g.T @ a @ V).square() / N
        return bases, S, D

    def inverse_times(self, vector, damping, diagonal=()):
        """(C + λI)⁻¹ v."""
        bases, S, D = self.ekfac(diagonal)
        out = vector.clone()
        parts, start = {}, 0
        for name, p in self.model.named_parameters():
            parts[name] = slice(start, start + p.numel())
            start += p.numel()
        done = set()
        for layer, (U, V) in bases.items():
            module = self.model.get_submodule(layer)
            weight, bias = f"{layer}.weight", f"{layer}.bias"
            turned = type(module).__name__ != "Linear"
            W = vector[parts[weight]].reshape(module.weight.shape)
            M = W.T if turned else W
            if bias in parts:
                M = torch.cat([M, vector[parts[bias]][:, None]], 1)
            X = U @ ((U.T @ M @ V) / (S[layer] + damping)) @ V.T
            own = X[:, : W.T.shape[1] if turned else W.shape[1]]
            out[parts[weight]] = (own.T if turned else own).reshape(-1)
            done.add(weight)
            if bias in parts:
                out[parts[bias]] = X[:, -1]
                done.add(bias)
        for name, place in parts.items():
            if name not in done:
                out[place] = vector[place] / (D[name].reshape(-1) + damping)
        return out

    def scores(self, queries, damping, diagonal=()):
        """[Q, N]."""
        train = torch.stack([gradient(self.model, row) for row in self.rows])
        found = [
            self.inverse_times(gradient(self.model, row), damping, diagonal) for row in queries
        ]
        return torch.stack(found) @ train.T
