"""Small models of token sequences, rows of different lengths for them, and loops over rows alone."""

from __future__ import annotations

import math

import torch
from torch import nn

import curvlang as cv

TOKENS, WIDTH, CLASSES = 7, 9, 3


class Reader(nn.Module):
    """Tokens, places, an attention and a layer; outputs at every position, or of their mean.

    Args:
        causal: Whether positions read earlier ones alone.
        pooled: Whether the outputs are one for the row.
        places: Whether a learned vector is added by position, `own` where positions are given.
    """

    def __init__(self, causal=True, pooled=False, places="row"):
        super().__init__()
        self.causal, self.pooled, self.places = causal, pooled, places
        self.tokens = nn.Embedding(TOKENS, 4)
        self.positions = nn.Embedding(WIDTH, 4)
        self.q, self.k, self.v = (nn.Linear(4, 4) for _ in range(3))
        self.mix, self.last = nn.Linear(4, 5), nn.Linear(5, CLASSES if pooled else TOKENS)

    def forward(self, input_ids, attention_mask=None, position_ids=None):
        T = input_ids.shape[1]
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        if position_ids is None:
            position_ids = torch.arange(T, device=input_ids.device).expand_as(input_ids)
        x = self.tokens(input_ids)
        if self.places:
            x = x + self.positions(position_ids)
        w = self.q(x) @ self.k(x).mT / 2
        seen = attention_mask[:, None].bool()
        if self.causal:
            seen = seen & torch.ones(T, T, dtype=torch.bool, device=x.device).tril()
        # A position without anything to read reads itself.
        seen = seen | torch.eye(T, dtype=torch.bool, device=x.device)
        z = x + w.masked_fill(~seen, -math.inf).softmax(-1) @ self.v(x)
        z = torch.tanh(self.mix(z))
        if self.pooled:
            m = attention_mask[:, :, None].to(z.dtype)
            z = (z * m).sum(1) / m.sum(1)
        return self.last(z)


class Pooling(nn.Module):
    """A convolution over tokens and the mean over all places, padding among them."""

    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(TOKENS, 4)
        self.conv, self.last = nn.Conv1d(4, 5, 3, padding=1), nn.Linear(5, CLASSES)

    def forward(self, input_ids, attention_mask=None):
        return self.last(torch.tanh(self.conv(self.tokens(input_ids).mT)).mean(2))


def made(kind=Reader, seed=0, **options):
    torch.manual_seed(seed)
    return kind(**options).double().eval()


def rows(n, seed=0, low=1, high=WIDTH):
    """Tokens of n rows, the longest first."""
    g = torch.Generator().manual_seed(seed)
    lengths = torch.randint(low, high + 1, (n,), generator=g)
    lengths[0], lengths[1] = high, low
    return [torch.randint(1, TOKENS, (int(k),), generator=g) for k in lengths]


def classes(n, seed=0):
    return torch.randint(0, CLASSES, (n,), generator=torch.Generator().manual_seed(seed + 50))


def padded(given, width=WIDTH, left=False, places=False, noise=0):
    """Rows as one dict of tensors with their mask; the padding holds a token."""
    fields = {"input_ids": [], "attention_mask": []}
    for row in given:
        fill = torch.full((width - len(row),), noise)
        sides = [(fill, row), (torch.zeros_like(fill), torch.ones_like(row))]
        for name, (pad, own) in zip(fields, sides, strict=True):
            fields[name].append(torch.cat([pad, own] if left else [own, pad]))
    found = {name: torch.stack(x) for name, x in fields.items()}
    if places:
        found["position_ids"] = (found["attention_mask"].cumsum(1) - 1).clamp_min(0)
    return found


def with_labels(fields):
    """The next token as the target of every position."""
    own = fields["attention_mask"] == 1
    return {**fields, "labels": torch.where(own, fields["input_ids"], -100)}


def next_tokens(row):
    """What the positions of one row alone are to predict."""
    return torch.cat([row[1:], row.new_full((1,), -100)])


def alone(model, loss, row, y):
    """Gradient of the loss of one unpadded row, and JᵀΛJ, by plain loops of autograd."""
    own = dict(model.named_parameters())
    names, shapes = list(own), [p.shape for p in own.values()]
    theta = torch.cat([p.detach().reshape(-1) for p in own.values()])

    def outputs(vector):
        pieces = vector.split([s.numel() for s in shapes])
        given = {k: p.reshape(s) for k, p, s in zip(names, pieces, shapes, strict=True)}
        return torch.func.functional_call(model, given, (row[None],)).reshape(-1)

    f = outputs(theta)
    J = torch.autograd.functional.jacobian(outputs, theta)
    shape = (1, *model(row[None]).shape[1:])
    value = lambda v: loss.per_example(v.reshape(shape), y[None]).sum()  # noqa: E731
    slope = torch.autograd.functional.jacobian(value, f)
    curve = torch.autograd.functional.hessian(value, f)
    return J.T @ slope, J.T @ curve @ J


def gradients(model, loss, given, targets):
    """[N, P] and the mean of JᵀΛJ, over rows alone."""
    found = [alone(model, loss, row, y) for row, y in zip(given, targets, strict=True)]
    return torch.stack([g for g, _ in found]), sum(h for _, h in found) / len(found)


def task_of(model, loss, given, asked, pooled=False, **how):
    """A task of padded rows."""
    sides = []
    for k, part in enumerate((given, asked)):
        fields = padded(part, **how)
        labelled = {**fields, "labels": classes(len(part), k)} if pooled else with_labels(fields)
        sides.append(labelled)
    shift = {} if pooled else {"shift_labels": True}
    return cv.Task(model, loss, *sides, **shift)
