"""A mask is laid on the positions that are its own, and means do not depend on the batch."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

import curvlang as cv
from curvlang.compiler.planning.plan import Limits
from curvlang.facade import chains_of, chosen
from curvlang.models.tracing.blocks import blocks
from curvlang.runtime.fit import fit_chains
from curvlang.runtime.positions.alignment import alignments

N, T, D = 9, 4, 4
LENGTHS = torch.tensor([1, 4, 3, 2, 4, 1, 1, 2, 3])
MASK = torch.arange(T) < LENGTHS[:, None]
FOOF = "curvature m = block_ggn |> foof(others = ignore)"
CLOSE = 1e-12
PADDED = 9.0
"""The first feature of what is padded, by which a model knows it."""


class Given(nn.Module):
    def __init__(self, function, **modules):
        super().__init__()
        self.function = function
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x):
        return self.function(self, x)


def counted(x):
    return (x[:, :, 0] != PADDED).to(x)


def task(function, mask=MASK, **modules):
    torch.manual_seed(0)
    X, y = torch.randn(N, T, D).double(), torch.randint(0, 3, (N,))
    X[..., 0] = torch.where(MASK, X[..., 0], PADDED)
    model = Given(function, **modules).double().eval()
    return cv.Task(model, "cross_entropy", (X, y), (X[:2], y[:2]), mask=mask)


def inputs_of(model, run, layers):
    """What every layer is given, call by call, while the model runs."""
    seen = {name: [] for name in layers}
    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda module, given, output, name=name: seen[name].append(given[0].detach())
        )
        for name in layers
    ]
    run()
    for handle in handles:
        handle.remove()
    return seen


def factor(module, calls, masks):
    """A by a loop over the positions that count."""
    rows = []
    for x, mask in zip(calls, masks, strict=True):
        if isinstance(module, nn.Embedding):
            a = functional.one_hot(x, module.num_embeddings).double().expand(N, T, -1)
        else:
            a = x if module.bias is None else torch.cat([x, torch.ones_like(x[..., :1])], -1)
        rows += [a[n][mask[n]].reshape(-1, a.shape[-1]) for n in range(len(a))]
    rows = torch.cat(rows)
    return sum(torch.outer(row, row) for row in rows) / len(rows)


def assert_factor(op, name, wanted):
    """The first block of the Kronecker product with the identity is A."""
    size = len(wanted)
    block = op.blocks[name] if name else op
    found = block.dense()[:size, :size]
    assert float((found - wanted).norm()) <= CLOSE * float(wanted.norm())


def head_positions(m, x):
    """[B, T, heads, d] with as many heads as positions."""
    return (m.l(x.reshape(len(x), T, D, 1)).sum(2) * counted(x)[..., None]).sum(1)


def positions_behind_heads(m, x):
    """[B, heads, T, d]."""
    s = m.l(x.reshape(len(x), T, D, 1).transpose(1, 2)).sum(1)
    return (s * counted(x)[..., None]).sum(1)


def unmasked(m, x):
    """Nothing of the model knows of the padding."""
    return m.l(x.reshape(len(x), T, D, 1)).sum((1, 2))


@pytest.mark.parametrize(
    ("function", "axis"), [(head_positions, 1), (positions_behind_heads, 2), (unmasked, 1)]
)
def test_heads_beside_positions(function, axis):
    t = task(function, l=nn.Linear(1, 3))
    seen = inputs_of(t.model, lambda: t.model(t.train[0]), ["l"])["l"]
    whole = MASK.unsqueeze(3 - axis).expand(N, T, D) if axis == 1 else MASK[:, None].expand(N, D, T)
    assert_factor(cv.fit(cv.loads(FOOF), t), "l", factor(t.model.l, seen, [whole]))


def attention(m, x):
    """Two layers in which padding is seen by itself alone."""
    seen = counted(x)
    for q, k, v in ((m.q, m.k, m.v), (m.q2, m.k2, m.v2)):
        w = (q(x) @ k(x).mT).masked_fill(seen[:, None] == 0, -math.inf).softmax(-1)
        x = x + torch.tanh(w @ v(x))
    return m.l((x * seen[..., None]).sum(1))


def test_deep_layers():
    names = ["q", "k", "v", "q2", "k2", "v2"]
    t = task(attention, **{x: nn.Linear(D, D) for x in names}, l=nn.Linear(D, 3))
    seen = inputs_of(t.model, lambda: t.model(t.train[0]), names)
    op = cv.fit(cv.loads(FOOF), t)
    for name in names:
        assert_factor(op, name, factor(t.model.get_submodule(name), seen[name], [MASK]))


def twice(m, x):
    """A layer on the positions, and on half as many sums of them."""
    z = torch.tanh(m.l(x)) * counted(x)[..., None]
    return m.l(z.reshape(len(x), 2, 2, D).sum(2)).sum(1)


@pytest.mark.parametrize("batch", [2, 5, None])
def test_calls_of_different_lengths(batch):
    t = task(twice, l=nn.Linear(D, D))
    seen = inputs_of(t.model, lambda: t.model(t.train[0]), ["l"])["l"]
    chains = list(chains_of(chosen(cv.loads(FOOF))))
    ((stage,),) = fit_chains(chains, t, last=True, limits=Limits(batch=batch))
    halves = torch.ones(N, 2, dtype=torch.bool)
    assert_factor(stage.operator.blocks[0], "", factor(t.model.l, seen, [MASK, halves]))


class Translation(nn.Module):
    """An encoder and a decoder of one length; embeddings shared, places of their own."""

    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(7, D)
        self.encoder_places, self.decoder_places = nn.Embedding(T, D), nn.Embedding(T, D)
        self.encoder, self.keys = nn.Linear(D, D), nn.Linear(D, D)
        self.asks, self.decoder, self.head = nn.Linear(D, D), nn.Linear(D, D), nn.Linear(D, 7)

    def forward(self, input_ids, attention_mask, decoder_input_ids, decoder_attention_mask=None):
        places = torch.arange(T).expand(len(input_ids), T)
        z = torch.tanh(self.encoder(self.tokens(input_ids) + self.encoder_places(places)))
        u = self.tokens(decoder_input_ids) + self.decoder_places(places)
        w = (self.asks(u) @ self.keys(z).mT).masked_fill(attention_mask[:, None] == 0, -math.inf)
        return self.head(torch.tanh(self.decoder(u + w.softmax(-1) @ z)))


@pytest.mark.parametrize("both", [False, True])
def test_encoder_and_decoder_have_masks_of_their_own(both):
    torch.manual_seed(0)
    fields = {name: torch.randint(0, 7, (N, T)) for name in ("input_ids", "decoder_input_ids")}
    labels, other = torch.randint(0, 7, (N, T)), MASK.flip(0)
    rows = {**fields, "attention_mask": MASK.long(), "labels": labels}
    if both:
        rows |= {"decoder_attention_mask": other.long(), "labels": labels.where(other, -100)}
    model = Translation().double().eval()
    query = {name: x[:2] for name, x in rows.items()}
    t = cv.Task(model, train=rows, query=query, shift_labels=False)
    op = cv.fit(cv.loads(FOOF), t)
    left, right = MASK, other if both else torch.ones_like(MASK)
    sides = {
        "tokens": (left, right),
        **dict.fromkeys(("encoder", "keys", "encoder_places"), (left,)),
        **dict.fromkeys(("asks", "decoder", "head", "decoder_places"), (right,)),
    }
    given = {name: x for name, x in rows.items() if name != "labels"}
    seen = inputs_of(model, lambda: model(**given), sides)
    for name, masks in sides.items():
        assert_factor(op, name, factor(model.get_submodule(name), seen[name], masks))


def test_labels_that_the_decoders_mask_leaves_out_are_refused():
    ids = torch.randint(0, 7, (N, T))
    rows = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "decoder_input_ids": ids}
    rows |= {"decoder_attention_mask": MASK.long(), "labels": ids}
    with pytest.raises(cv.SpecError, match=r"E0558.*`decoder_attention_mask` leaves out"):
        cv.Task(Translation(), train=rows, query=rows, shift_labels=False)


class Causal(nn.Module):
    """A causal language model; `places` is the same for all examples."""

    def __init__(self):
        super().__init__()
        self.tokens, self.places = nn.Embedding(7, D), nn.Embedding(T, D)
        self.mix, self.head = nn.Linear(D, D), nn.Linear(D, 7)

    def forward(self, input_ids, attention_mask):
        z = self.tokens(input_ids) + self.places(torch.arange(T)[None])
        seen = attention_mask[:, None].bool() & torch.ones(T, T, dtype=torch.bool).tril()
        w = torch.where(seen, z @ z.mT, -1e9).softmax(-1)
        return self.head(torch.tanh(self.mix(z + w @ z)))


@pytest.mark.parametrize("left", [False, True])
def test_padding_on_either_side(left):
    torch.manual_seed(0)
    mask = MASK.flip(1) if left else MASK
    ids = torch.randint(0, 7, (N, T))
    rows = {"input_ids": ids, "attention_mask": mask.long(), "labels": ids.where(mask, -100)}
    model = Causal().double().eval()
    query = {name: x[:2] for name, x in rows.items()}
    op = cv.fit(cv.loads(FOOF), cv.Task(model, train=rows, query=query, shift_labels=True))
    names = ["tokens", "places", "mix", "head"]
    seen = inputs_of(model, lambda: model(ids, mask), names)
    for name in names:
        assert_factor(op, name, factor(model.get_submodule(name), seen[name], [mask]))


def latents(m, x):
    """As many latent places as tokens, which have nothing to do with them."""
    q = m.latent.expand(len(x), -1, -1)
    w = (m.q(q) @ m.k(x).mT).masked_fill(counted(x)[:, None] == 0, -math.inf).softmax(-1)
    return m.l(torch.tanh(w @ x) + q).sum(1)


def test_positions_that_only_count_alike():
    layers = {name: nn.Linear(D, D) for name in "qk"}
    t = task(latents, latent=nn.Parameter(torch.randn(T, D)), **layers, l=nn.Linear(D, 3))
    with pytest.raises(cv.SpecError, match=r"E0424.*cannot be told") as caught:
        alignments(t, blocks(t.model, t.few))
    assert "as `diagonal` is" in str(caught.value)
    assert cv.fit("diagonal", t).parameters == t.parameters


def test_a_mask_that_leaves_nothing_out_changes_nothing():
    layers = {x: nn.Linear(D, D if x != "l" else 3) for x in "qkl"}
    latent = nn.Parameter(torch.randn(T, D))
    first, second = (
        cv.fit(cv.loads(FOOF), task(latents, mask, latent=latent, **layers))
        for mask in (torch.ones_like(MASK), None)
    )
    for name, block in first.blocks.items():
        assert float((block.dense() - second.blocks[name].dense()).norm()) < CLOSE


def trimmed(m, x):
    """Positions up to the longest of the batch."""
    width = int((x[..., 0] != 0).sum(1).max())
    return torch.tanh(m.l(x[:, :width, :1])).sum(1)


SPECS = {
    FOOF: False,
    "kfac": False,
    "curvature m = block_ggn |> kronecker_factor(sharing = reduce)": False,
    "identity": True,
    "ggn": True,
    "block_ggn": True,
    "curvature m = block_ggn |> diagonal": True,
}


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("short", [slice(3), slice(3, None), slice(1, None)])
def test_positions_of_the_longest_in_the_batch(spec, short):
    """Curvatures of gradients are right; those of layers would depend on the batch, and are refused."""
    torch.manual_seed(0)
    X, y = torch.randn(N, T, D).double(), torch.randint(0, 3, (N,))
    X[short, 1:] = 0
    model = Given(trimmed, l=nn.Linear(1, 3, bias=False)).double().eval()
    t = cv.Task(model, "cross_entropy", (X, y), (X[:2], y[:2]))
    curvature = cv.loads(spec) if " " in spec else spec
    if not SPECS[spec]:
        with pytest.raises(cv.SpecError, match="depends on the batch"):
            cv.fit(curvature, t)
        return
    scores = cv.influence(cv.fit(curvature, t), t, damping=0.5)
    whole = Given(lambda m, x: torch.tanh(m.l(x[..., :1])).sum(1), l=model.l).eval()
    other = cv.Task(whole, "cross_entropy", (X, y), (X[:2], y[:2]))
    wanted = cv.influence(cv.fit(curvature, other), other, damping=0.5)
    assert float((scores - wanted).norm()) <= CLOSE * float(wanted.norm())
