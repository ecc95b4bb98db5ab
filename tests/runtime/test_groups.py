"""Groups of one layer are computed together: what comes out is what each of them gives by itself.

The reference is the same model with a convolution of its own for every group, whose blocks are single
ones. That these equal dense automatic differentiation is shown in `test_layers` and here for all groups.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import curvlang as cv
from curvlang.compiler.planning.plan import Limits
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.models.tracing.blocks import apart, blocks
from curvlang.models.tracing.leaves import LeafRequest, leaves
from curvlang.operators import MatrixFree, Stacked
from tests.models.support import drawn, normal
from tests.oracles import dense

ROUNDING = 1e-10
SPECS = (
    "kfac", "ekfac", "kfac_reduce", "ekfac_mc", "tkfac", "etkfac", "shampoo", "eshampoo", "foof",
    "nearest_kronecker", "per_output", "low_rank", "diagonal", "block_ggn", "block_hessian",
    "ekfac_projected",
)  # fmt: skip


class Split(nn.Module):
    """A grouped convolution as convolutions of one group each, side by side."""

    def __init__(self, grouped: nn.Module) -> None:
        super().__init__()
        G, kind = grouped.groups, type(grouped)
        self.transposed = isinstance(grouped, nn.ConvTranspose1d | nn.ConvTranspose2d)
        settings = {k: getattr(grouped, k) for k in ("stride", "padding", "dilation")}
        if self.transposed:
            settings["output_padding"] = grouped.output_padding
        else:
            settings["padding_mode"] = grouped.padding_mode
        for k in range(G):
            C, O = grouped.in_channels // G, grouped.out_channels // G
            has_bias = grouped.bias is not None
            own = kind(C, O, grouped.kernel_size, bias=has_bias, **settings).double()
            with torch.no_grad():
                own.weight.copy_(grouped.weight.chunk(G)[k])
                if has_bias:
                    own.bias.copy_(grouped.bias.chunk(G)[k])
            setattr(self, str(k), own)
        self.groups = G

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = x.chunk(self.groups, 1)
        return torch.cat([getattr(self, str(k))(part) for k, part in enumerate(parts)], 1)


class Net(nn.Module):
    """A grouped layer called once or twice between ordinary ones."""

    def __init__(self, grouped: nn.Module, channels: int, twice: bool = False) -> None:
        super().__init__()
        self.conv, self.twice = grouped, twice
        self.head = nn.Linear(channels, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = torch.tanh(self.conv(x))
        if self.twice:
            z = torch.tanh(self.conv(z))
        return self.head(z.flatten(2).mean(2))


GROUPED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], bool]] = {
    "depthwise": (lambda: nn.Conv2d(4, 4, 2, groups=4), (4, 3, 3), False),
    "depthwise without bias": (lambda: nn.Conv2d(4, 4, 2, groups=4, bias=False), (4, 3, 3), False),
    "depthwise, two outputs each": (lambda: nn.Conv2d(3, 6, 2, groups=3), (3, 3, 3), False),
    "groups of several channels": (lambda: nn.Conv2d(4, 6, 2, 2, groups=2), (4, 4, 4), False),
    "called twice": (
        lambda: nn.Conv2d(4, 4, 3, padding=1, groups=4, padding_mode="circular"), (4, 3, 3), True,
    ),
    "dilated, over time": (lambda: nn.Conv1d(3, 3, 2, dilation=2, groups=3), (3, 5), False),
    "one place": (lambda: nn.Conv2d(4, 4, 3, groups=4), (4, 3, 3), False),
    # No kernel place sees the same inputs as another: their factor has one basis.
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, (3, 2), 2, groups=2), (4, 2, 3), False),
    "in three dimensions": (lambda: nn.Conv3d(2, 4, 2, groups=2), (2, 2, 2, 3), False),
}  # fmt: skip


def pair(name: str, weight_decay: float = 0.0, loss: str = "cross_entropy"):
    """The task of a model with groups, and of the same model with a layer for each group."""
    make, shape, twice = GROUPED[name]
    generator = torch.Generator().manual_seed(3)
    grouped = drawn(make().double(), generator)
    X = normal((8, *shape), generator)
    model = Net(grouped, grouped.out_channels, twice).double().eval()
    model.head = drawn(model.head, generator)
    other = Net(Split(grouped), grouped.out_channels, twice).double().eval()
    other.head = model.head
    y = torch.randint(0, 3, (8,), generator=generator)
    assert torch.equal(model(X), other(X))
    return tuple(
        cv.Task(m, loss, (X, y), (X[:3], y[:3]), weight_decay=weight_decay) for m in (model, other)
    )


def assert_near(found: torch.Tensor, wanted: torch.Tensor) -> None:
    assert float((found - wanted).abs().max()) <= ROUNDING * max(1e-3, float(wanted.abs().max()))


def own_name(name: str) -> str:
    """`conv[2]` is `conv.2` in the other model."""
    return name.replace("[", ".").rstrip("]")


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("name", ["depthwise", "groups of several channels"])
def test_every_curvature_of_groups_is_that_of_single_layers(spec, name):
    assert_same(spec, name)


@pytest.mark.parametrize("spec", ["ekfac", "block_ggn"])
@pytest.mark.parametrize("name", GROUPED)
def test_every_kind_of_groups_is_single_layers(spec, name):
    assert_same(spec, name)


def assert_same(spec: str, name: str) -> None:
    ours, theirs = pair(name)
    one, other = cv.fit(spec, ours), cv.fit(spec, theirs)
    assert [own_name(x) for x in one.blocks] == list(other.blocks)
    for block, op in one.blocks.items():
        assert_near(op.dense(), other.blocks[own_name(block)].dense())
        assert op.describe() == other.blocks[own_name(block)].describe()
    damping = 0.1 * float(other.trace()) / ours.P
    scores = cv.influence(one, ours, damping=damping)
    assert_near(scores, cv.influence(other, theirs, damping=damping))
    by_layer = cv.influence(one, ours, damping=damping, per_layer=True)
    wanted = cv.influence(other, theirs, damping=damping, per_layer=True)
    assert set(map(own_name, by_layer)) == set(wanted)
    for block, part in by_layer.items():
        assert_near(part, wanted[own_name(block)])
    for part in ("train", "query"):
        mine = cv.self_influence(one, ours, damping=damping, part=part)
        assert_near(mine, cv.self_influence(other, theirs, damping=damping, part=part))


@pytest.mark.parametrize("name", GROUPED)
def test_groups_equal_dense_automatic_differentiation(name):
    ours, _ = pair(name)
    ggn = dense.ggn(ours.model, "cross_entropy", *ours.train)
    found = cv.fit("block_ggn", ours).operator
    for block, index in zip(found.blocks, found.index, strict=True):
        assert_near(block.dense(), ggn[index][:, index])
    assert_near(cv.fit("ggn", ours).dense(), ggn)
    hessian = dense.hessian(ours.model, "cross_entropy", *ours.train)
    found = cv.fit("block_hessian", ours).operator
    for block, index in zip(found.blocks, found.index, strict=True):
        assert_near(block.dense(), hessian[index][:, index])


@pytest.mark.parametrize(
    "text", ["diagonal", "ekfac", "kfac", "block_ggn", "0.5 * kfac + 0.5 * ekfac"]
)
@pytest.mark.parametrize("decay", [0.0, 0.03])
def test_sums_multiples_and_inverses_of_groups(text, decay):
    ours, theirs = pair("depthwise", decay)
    one, other = (cv.fit(cv.loads(f"curvature mine = {text}"), t) for t in (ours, theirs))
    assert any(isinstance(part, Stacked) for part in one.operator.parts)
    for inverse in (None, "pseudo(rtol = 1e-4)"):
        a, b = (cv.influence(op, t, inverse=inverse) for op, t in ((one, ours), (other, theirs)))
        assert_near(a, b)
    order = torch.cat([i for n in other.operator.names for i in places(one, n)])
    mine = one.inverse(0.1).dense()[order][:, order]
    assert_near(mine, reordered(other, other.inverse(0.1).dense()))
    assert_near(one.logdet(0.1), other.logdet(0.1))
    assert_near(one.eigenvalues().sort().values, other.eigenvalues().sort().values)


def places(op, name: str) -> list[torch.Tensor]:
    pairs = zip(op.operator.names, op.operator.index, strict=True)
    return [index for own, index in pairs if own_name(own) == name]


def reordered(op, matrix: torch.Tensor) -> torch.Tensor:
    order = torch.cat(op.operator.index)
    return matrix[order][:, order]


@pytest.mark.parametrize("spec", ["kfac", "block_ggn", "ekfac"])
@pytest.mark.parametrize("inverse", ["tikhonov_per_block", "factored"])
def test_inverses_that_differ_from_block_to_block(spec, inverse):
    ours, theirs = pair("depthwise, two outputs each")
    one, other = (cv.fit(spec, t) for t in (ours, theirs))
    if inverse == "factored" and spec != "kfac":
        for op, t in ((one, ours), (other, theirs)):
            with pytest.raises(SpecError, match="two Kronecker factors"):
                cv.influence(op, t, inverse=inverse)
        return
    assert_near(
        cv.influence(one, ours, inverse=inverse), cv.influence(other, theirs, inverse=inverse)
    )


def test_blocks_by_parameter_have_groups_too():
    ours, theirs = pair("depthwise")
    text = "curvature c = hessian |> drop_residual |> block_diagonal(by = parameter)"
    one, other = (cv.fit(cv.loads(text), t) for t in (ours, theirs))
    assert len(one.blocks) == len(other.blocks) == 4 + 4 + 2
    assert_near(cv.influence(one, ours, damping=0.1), cv.influence(other, theirs, damping=0.1))


def test_saved_groups_are_what_they_were(tmp_path):
    ours, _ = pair("depthwise")
    op = cv.fit("ekfac", ours)
    op.save(tmp_path / "op.safetensors")
    found = cv.load_operator(tmp_path / "op.safetensors")
    assert list(found.blocks) == list(op.blocks)
    assert torch.equal(found.dense(), op.dense())
    assert found.memory() == op.memory()
    assert torch.equal(cv.influence(found, ours, damping=0.1), cv.influence(op, ours, damping=0.1))


def test_blocks_that_are_too_large_to_form_are_products():
    from curvlang.language import loads
    from curvlang.runtime.fit import fit_chains

    ours, _ = pair("groups of several channels")
    chain = loads("curvature c = hessian |> drop_residual |> block_diagonal(by = layer)")
    (stages,) = fit_chains([chain.curvatures["c"]], ours, last=True, limits=Limits(dense=500))
    whole = stages[-1].operator
    ggn = dense.ggn(ours.model, "cross_entropy", *ours.train)
    assert sum(isinstance(block, MatrixFree) for block in whole.blocks) == 2
    for block, index in zip(whole.blocks, whole.index, strict=True):
        assert_near(block.dense(), ggn[index][:, index])


def test_a_group_can_be_read_by_itself():
    ours, _ = pair("depthwise, two outputs each")
    layers = blocks(ours.model, ours.few)
    X, y = ours.train
    together = leaves(ours.model, ours.loss, X, y, layers, LeafRequest({"a", "g", "e"}))
    single = [own for layer in layers for own in apart(layer)]
    alone = leaves(ours.model, ours.loss, X, y, single, LeafRequest({"a", "g", "e"}))
    assert list(alone) == ["conv[0]", "conv[1]", "conv[2]", "head"]
    for k in range(3):
        for leaf in ("a", "g", "e"):
            assert torch.equal(alone[f"conv[{k}]"][leaf], together["conv[0…2]"][leaf][k])


class Counted(TorchDispatchMode):
    """Counts the operations of torch."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


def wide(channels: int) -> cv.Task:
    generator = torch.Generator().manual_seed(0)
    model = Net(nn.Conv2d(channels, channels, 2, groups=channels), channels).double().eval()
    X = normal((5, channels, 3, 3), generator)
    y = torch.randint(0, 3, (5,), generator=generator)
    return cv.Task(model, "cross_entropy", (X, y), (X[:2], y[:2]))


@pytest.mark.parametrize("spec", ["ekfac", "diagonal", "block_ggn", "identity"])
def test_as_many_operations_however_many_groups(spec):
    counts = []
    for channels in (8, 40):
        task = wide(channels)
        with Counted() as counted:
            op = cv.fit(spec, task)
            cv.influence(op, task, damping=0.1)
            cv.self_influence(op, task, damping=0.1)
            op @ torch.ones(task.P, dtype=torch.float64)
            op.trace(), op.diagonal(), op.frobenius(), op.eigenvalues(), op.logdet(1.0)
        counts.append(counted.count)
    # Views of single groups are not operations of their own; what is left are sizes of chunks.
    assert counts[1] <= counts[0] + 40


def test_an_explanation_shows_groups_once():
    found = cv.explain("ekfac", wide(40))
    text = str(found)
    assert text.count("block conv") == 1
    assert "block conv[0…39]: t = 4" in text
    assert "40 blocks of one shape" in text
    few = cv.explain("ekfac", wide(20))
    assert found.cost.flops > few.cost.flops
    head = prod((3, 41, 3, 41))
    assert found.peak > few.peak > 8 * head


class Tagging(nn.Module):
    """Every channel of a sequence by itself, up to every position, then its logits."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv, self.head = conv, nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = nn.functional.pad(x.transpose(1, 2), (2, 0))
        return self.head(torch.tanh(self.conv(seen)).transpose(1, 2))


@pytest.mark.parametrize("spec", ["kfac", "kfac_reduce", "ekfac", "tkfac", "diagonal"])
def test_padding_counts_in_no_group(spec):
    generator = torch.Generator().manual_seed(6)
    conv = drawn(nn.Conv1d(4, 4, 3, groups=4).double(), generator)
    models = [Tagging(conv).double().eval(), Tagging(Split(conv)).double().eval()]
    models[1].head = drawn(models[0].head, generator)
    X, y = normal((5, 6, 4), generator), torch.randint(0, 3, (5, 6), generator=generator)
    mask = torch.arange(6) < torch.tensor([2, 6, 4, 1, 5])[:, None]
    y = torch.where(mask, y, -100)
    tasks = [cv.Task(m, "cross_entropy", (X, y), (X[:2], y[:2]), mask=mask) for m in models]
    one, other = (cv.fit(spec, t) for t in tasks)
    unmasked = cv.fit(spec, cv.Task(models[0], "cross_entropy", (X, y), (X[:2], y[:2])))
    for block, op in one.blocks.items():
        assert_near(op.dense(), other.blocks[own_name(block)].dense())
    if spec.startswith("kfac"):
        assert float(one.distance(unmasked)) > 0.01 * float(one.frobenius())


@pytest.mark.parametrize(("dtype", "digits"), [(torch.bfloat16, 2e-2), (torch.float16, 2e-3)])
@pytest.mark.parametrize("spec", ["ekfac", "kfac", "diagonal", "block_ggn", "identity"])
def test_groups_in_half_precision(spec, dtype, digits):
    ours, _ = pair("depthwise")
    half = ours.to(dtype=dtype)
    wanted = cv.influence(cv.fit(spec, ours), ours, damping=0.1)
    found = cv.influence(cv.fit(spec, half), half, damping=0.1).double()
    assert float((found - wanted).norm()) <= digits * float(wanted.norm())
