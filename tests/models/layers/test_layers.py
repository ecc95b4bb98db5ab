"""The law of every layer: gradients rebuilt from `a` and `g` are autograd's, whatever the shapes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from curvlang.models.layers import LAYERS
from curvlang.models.losses.losses import LOSSES
from curvlang.models.tracing.blocks import blocks
from curvlang.models.tracing.leaves import LeafRequest, columns, leaves
from curvlang.models.tracing.watching import watching
from tests.models.support import assert_refused, drawn, normal, per_example_gradients
from tests.oracles import dense

LAW = 1e-9
"""Float64 through a few layers: rounding stays near 1e-14."""
FEW = settings(max_examples=25)
MODES = ("zeros", "reflect", "replicate", "circular")


def assert_law(model: nn.Module, X: torch.Tensor, seed: int = 0) -> None:
    """Per-example gradients and exact columns equal those of plain backward passes."""
    generator = torch.Generator().manual_seed(seed)
    model = drawn(model.double().eval(), generator)
    with torch.no_grad():
        f = model(X)
    y = normal(tuple(f.shape), generator)
    found = blocks(model, X)
    places = torch.cat([block.index for block in found])
    assert torch.equal(places.sort().values, torch.arange(dense.flat(model).numel()))
    gradients = per_example_gradients(model, LOSSES["mse"], X, y, found)
    assert_near(gradients, dense.per_example_gradients(model, "mse", X, y))
    j = columns(found, leaves(model, LOSSES["mse"], X, y, found, LeafRequest({"a", "g"})))
    assert_near(torch.einsum("nrp,nrq->pq", j, j) / len(X), dense.ggn(model, "mse", X, y))


def assert_near(found: torch.Tensor, wanted: torch.Tensor) -> None:
    assert float((found - wanted).abs().max()) <= LAW * float(wanted.abs().max())


def images(channels: int, *places: int, examples: int = 3) -> torch.Tensor:
    return normal((examples, channels, *places), torch.Generator().manual_seed(7))


class Head(nn.Module):
    """Whatever a layer gives, mixed over places into a few outputs."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = torch.tanh(self.layer(x)).flatten(1)
        weights = torch.linspace(-1, 1, 2 * z.shape[1], dtype=z.dtype).reshape(2, -1)
        return z @ torch.sin(3 * weights).T


@FEW
@given(st.data())
def test_convolutions(data) -> None:
    axes = data.draw(st.integers(1, 3), "axes")
    groups = data.draw(st.integers(1, 3), "groups")
    numbers = lambda low, high: tuple(data.draw(st.integers(low, high)) for _ in range(axes))  # noqa: E731
    kernel, stride, dilation = numbers(1, 3), numbers(1, 3), numbers(1, 2)
    padding = data.draw(st.sampled_from(["same", "valid", "some"]))
    if padding == "same":
        stride = (1,) * axes
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1]
    layer = kind(
        2 * groups,
        groups * data.draw(st.integers(1, 2)),
        kernel,
        stride,
        numbers(0, 2) if padding == "some" else padding,
        dilation,
        groups,
        data.draw(st.booleans(), "bias"),
        data.draw(st.sampled_from(MODES)),
    )
    places = [gap * (k - 1) + 3 for k, gap in zip(kernel, dilation, strict=True)]
    assert_law(Head(layer), images(2 * groups, *places))
    found = blocks(Head(layer).double(), images(2 * groups, *places))
    assert [block.count for block in found] == [groups]
    assert len(found[0].names) == groups


@FEW
@given(st.data())
def test_transposed_convolutions(data) -> None:
    axes = data.draw(st.integers(1, 2), "axes")
    groups = data.draw(st.integers(1, 2), "groups")
    numbers = lambda low, high: tuple(data.draw(st.integers(low, high)) for _ in range(axes))  # noqa: E731
    kernel, stride, dilation = numbers(1, 3), numbers(1, 3), numbers(1, 2)
    spans = [gap * (k - 1) for k, gap in zip(kernel, dilation, strict=True)]
    padding = tuple(data.draw(st.integers(0, min(2, span + 1))) for span in spans)
    extra = tuple(
        data.draw(st.integers(0, max(s, gap) - 1)) for s, gap in zip(stride, dilation, strict=True)
    )
    kind = (nn.ConvTranspose1d, nn.ConvTranspose2d)[axes - 1]
    layer = kind(2 * groups, 2 * groups, kernel, stride, padding, extra, groups, True, dilation)
    assert_law(Head(layer), images(2 * groups, *[4] * axes))


@FEW
@given(st.data())
def test_embeddings(data) -> None:
    rows, T = data.draw(st.integers(2, 6)), data.draw(st.integers(1, 4))
    padding = data.draw(st.sampled_from([None, 0]))
    tokens = torch.randint(0, rows, (4, T), generator=torch.Generator().manual_seed(T))
    assert_law(Head(nn.Embedding(rows, 3, padding_idx=padding)), tokens)
    for mode in ("sum", "mean"):
        assert_law(Head(nn.EmbeddingBag(rows, 3, mode=mode, padding_idx=padding)), tokens)


@FEW
@given(st.data())
def test_normalisations(data) -> None:
    groups, width = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 3))
    C = groups * width
    places = tuple(data.draw(st.integers(1, 3)) for _ in range(data.draw(st.integers(0, 2))))
    bias = data.draw(st.booleans())
    X = images(C, 2, *places)
    for layer in (
        nn.GroupNorm(groups, C),
        nn.LayerNorm(X.shape[1:], bias=bias),
        nn.LayerNorm(X.shape[-1]),
        nn.RMSNorm(X.shape[-1]),
        nn.BatchNorm1d(C) if X.dim() == 3 else nn.BatchNorm2d(C) if X.dim() == 4 else None,
    ):
        if layer is not None:
            assert_law(Head(nn.Sequential(layer, nn.Tanh())), X)


def test_statistics_of_running_means_are_used() -> None:
    layer = nn.BatchNorm2d(3)
    layer.running_mean.normal_(generator=torch.Generator().manual_seed(1))
    layer.running_var.uniform_(0.5, 2, generator=torch.Generator().manual_seed(1))
    assert_law(Head(layer), images(3, 2, 2))
    assert_refused(
        "E0410",
        lambda: blocks(
            Head(nn.BatchNorm2d(3, track_running_stats=False)).double().eval(), images(3, 2, 2)
        ),
        "batch",
    )


class Attentive(nn.Module):
    def __init__(self, *, batch_first: bool, bias: bool = True) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=batch_first, bias=bias)
        self.batch_first = batch_first

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = x if self.batch_first else x.transpose(0, 1)
        mask = torch.ones(z.shape[1 if self.batch_first else 0], dtype=torch.bool).diag()
        z = self.attention(z, z, z, need_weights=False, attn_mask=mask & ~mask)[0]
        return z if self.batch_first else z.transpose(0, 1)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_attention(batch_first, bias) -> None:
    X = images(5, 4)
    assert_law(Head(Attentive(batch_first=batch_first, bias=bias)), X)
    names = [b.name for b in blocks(Attentive(batch_first=batch_first).double(), X)]
    assert names == ["attention.in_proj", "attention.out_proj"]


def test_attention_between_different_inputs_has_its_projections_outside() -> None:
    class Cross(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, x):
            return self.attention(x, x.tanh(), x.tanh(), need_weights=False)[0]

    found = {b.name: b.reason for b in blocks(Cross().double(), images(5, 4))}
    assert list(found) == [
        "attention.in_proj_weight",
        "attention.in_proj_bias",
        "attention.out_proj",
    ]
    assert "one by one" in found["attention.in_proj_weight"]
    assert_law(Head(Cross()), images(5, 4))


def test_an_encoder_layer_with_its_fast_path() -> None:
    layer = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True)
    assert_law(Head(layer), images(5, 4))


class Language(nn.Module):
    """Tied embedding, places that are not examples, a bare vector, a layer called twice."""

    def __init__(self, *, leading: bool) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(7, 4), nn.Embedding(6, 4)
        self.shift = nn.Parameter(torch.zeros(4))
        self.mix, self.norm = nn.Linear(4, 4), nn.LayerNorm(4)
        self.out = nn.Linear(4, 7, bias=False)
        self.out.weight = self.token.weight
        self.leading = leading

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        places = torch.arange(x.shape[1])
        z = self.token(x) + self.place(places[None] if self.leading else places) + self.shift
        z = z + torch.tanh(self.mix(torch.tanh(self.mix(z))))
        return self.out(self.norm(z))


@pytest.mark.parametrize("leading", [True, False])
@pytest.mark.parametrize(("examples", "T"), [(3, 5), (5, 5), (2, 2), (1, 3)])
def test_shared_weights_of_a_language_model(leading, examples, T) -> None:
    tokens = torch.randint(0, 7, (examples, T), generator=torch.Generator().manual_seed(0))
    model = Language(leading=leading)
    assert_law(model, tokens)
    found = {block.name: block for block in blocks(model, tokens)}
    assert not found["token.weight"].factored
    assert found["place"].watched.constant
    assert found["mix"].positions == 2 * T


def test_parametrised_and_recurrent_modules() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.LSTM(4, 3, batch_first=True)

        def forward(self, x):
            return self.cell(x)[0]

    assert_law(Head(Recurrent()), images(2, 4))
    for wrap in (nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.orthogonal):
        assert_law(Head(wrap(nn.Linear(4, 4))), images(4))


def test_the_largest_of_a_bag_is_bare() -> None:
    model = Head(nn.EmbeddingBag(5, 3, mode="max"))
    tokens = torch.tensor([[0, 1], [2, 3], [4, 0]])
    (block,) = blocks(model.double(), tokens)
    assert "max" in block.reason
    assert_law(model, tokens)


def test_bags_by_offsets_are_outside() -> None:
    class Bags(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bag = nn.EmbeddingBag(5, 3)

        def forward(self, x):
            return self.bag(x.flatten(), torch.arange(len(x)) * x.shape[1])

    tokens = torch.tensor([[0, 1], [2, 3], [4, 0]])
    (block,) = blocks(Bags(), tokens)
    assert "offsets" in block.reason


def test_an_adapter_of_low_rank() -> None:
    class Adapted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base = nn.Linear(4, 4).requires_grad_(False)
            self.down, self.up = nn.Linear(4, 2, bias=False), nn.Linear(2, 4, bias=False)

        def forward(self, x):
            return self.base(x) + self.up(self.down(x))

    model = Head(Adapted())
    assert_law(model, images(4))
    assert [block.name for block in blocks(model, images(4))] == ["layer.down", "layer.up"]


def test_the_watch_leaves_nothing_behind() -> None:
    model, linear = Head(Attentive(batch_first=True)).double(), nn.functional.linear
    blocks(model, images(5, 4))
    assert nn.functional.linear is linear
    assert not any(module._forward_hooks for module in model.modules())
    with pytest.raises(RuntimeError), watching(model, {}, lambda *_: None):
        raise RuntimeError
    assert torch.backends.mha.get_fastpath_enabled()


def test_every_type_of_the_table_exists() -> None:
    for name in LAYERS:
        module, _, kind = name.rpartition(".")
        if module.startswith("torch"):
            assert isinstance(getattr(__import__(module, fromlist=[kind]), kind), type)
