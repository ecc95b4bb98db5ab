"""Second derivatives of models that `torch.func` cannot run, or of which it gives wrong ones.

References are plain loops of `torch.autograd` over every example, in float64, on the model itself or, where
torch's own second derivative is wrong or missing, on its definition written out.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import func, nn
from torch.nn import functional
from torch.nn.utils import parametrizations, rnn, weight_norm
from torch.utils.checkpoint import checkpoint

import curvlang as cv
from curvlang.models.derivatives.column_product import LayersGGN
from curvlang.models.derivatives.product_methods import FORWARD, REVERSE, ggn_way, hessian_way
from curvlang.models.losses.losses import loss_named
from curvlang.models.tracing.blocks import blocks, trainable
from tests.models.derivatives.means import ggn_product, hessian_by_products, hessian_dense
from tests.models.support import assert_equal, assert_refused

N = 5


class Built(nn.Module):
    """A module of parts, and its forward pass as a function of both."""

    def __init__(self, forward, **parts):
        super().__init__()
        self.of = forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.of(self, x)


class Square(torch.autograd.Function):
    """x², with a backward that can be differentiated; the old form, without `setup_context`."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 2 * x * g


class NewSquare(Square):
    """The new form, without a rule for forward mode or `vmap`."""

    @staticmethod
    def forward(x):
        return x.square()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)


class OnceSquare(Square):
    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        return 2 * ctx.saved_tensors[0] * g


class DetachedSquare(Square):
    @staticmethod
    def backward(ctx, g):
        return 2 * ctx.saved_tensors[0].detach() * g


class StraightThrough(Square):
    @staticmethod
    def forward(ctx, x):
        return x.sign()

    @staticmethod
    def backward(ctx, g):
        return g


class Reversed(Square):
    """Gradients are turned round on their way back."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, g):
        return -g


def linear(outputs=3):
    return nn.Linear(3, outputs)


def two(middle):
    """Something between two layers."""
    return Built(lambda m, x: m.b(middle(m.a(x))), a=linear(), b=linear())


def hooked():
    model = nn.Sequential(linear(), nn.Tanh(), linear())
    model[0].register_full_backward_hook(lambda module, given, out: None)
    model[2].register_full_backward_pre_hook(lambda module, out: None)
    return model


def tensor_hook():
    def middle(z):
        if z.requires_grad:
            z.register_hook(lambda g: None)
        return torch.tanh(z)

    return two(middle)


def checkpointed(reentrant):
    return two(lambda z: checkpoint(lambda t: torch.tanh(t).square(), z, use_reentrant=reentrant))


def no_grad(function, z):
    with torch.no_grad():
        return function(z)


def packed(kind):
    def forward(m, x):
        lengths = torch.ones(len(x), dtype=torch.int64)
        sequence = rnn.pack_padded_sequence(x[:, None], lengths, batch_first=True)
        return m.head(rnn.pad_packed_sequence(m.cells(sequence)[0], batch_first=True)[0][:, 0])

    return Built(forward, cells=kind(3, 3, batch_first=True), head=linear())


def locked():
    model = two(torch.tanh)
    model.lock = threading.Lock()
    return model


def in_place():
    return two(lambda z: z.clone().mul_(z).add_(1).log_())


def branch():
    return two(lambda z: torch.tanh(z) if float(z.detach().sum()) < 1e9 else z)


def graph_module():
    return torch.fx.symbolic_trace(nn.Sequential(linear(), nn.Tanh(), linear()))


def on_a_kink():
    """Shifts that are zero behind weights that are: the unit is at zero for every example."""
    model = nn.Sequential(linear(), nn.ReLU(), linear())
    nn.init.zeros_(model[0].weight[0])
    nn.init.zeros_(model[0].bias)
    return model


def old_weight_norm():
    with pytest.warns(FutureWarning):
        return nn.Sequential(weight_norm(linear()), nn.Tanh(), linear())


def normed(layer, g, v, x):
    w = v * (g / v.norm(dim=1, keepdim=True))
    return functional.linear(x, w, layer.bias)


@dataclass
class Case:
    """A model, and the same function written so that plain autograd differentiates it twice."""

    name: str
    make: Callable[[], nn.Module]
    way: str = REVERSE
    plain: Callable[[nn.Module, torch.Tensor], torch.Tensor] | None = None
    tokens: bool = False


def tanh_plain(m, x):
    return m.b(torch.tanh(m.a(x)))


CASES = [
    Case("backward hooks", hooked),
    Case("tensor hooks", tensor_hook, FORWARD),
    Case("checkpoint", lambda: checkpointed(False), plain=lambda m, x: m.b(m.a(x).tanh().square())),
    Case("reentrant", lambda: checkpointed(True), plain=lambda m, x: m.b(m.a(x).tanh().square())),
    Case("own function", lambda: two(Square.apply)),
    Case("own function, new form", lambda: two(NewSquare.apply)),
    Case("packed LSTM", lambda: packed(nn.LSTM)),
    Case("packed GRU", lambda: packed(nn.GRU)),
    Case("branch on values", branch, FORWARD),
    Case(
        "straight through by detach",
        lambda: two(lambda z: z + (z.sign() - z).detach()),
        FORWARD,
    ),
    # Tangents go through `no_grad` and `.data`, gradients do not: forward over reverse is wrong there.
    Case("without gradient", lambda: two(lambda z: z * no_grad(torch.exp, z))),
    Case(
        "number",
        lambda: Built(
            lambda m, x: m.a(x).square() * m.t.item() + m.t,
            a=linear(),
            t=nn.Parameter(torch.tensor(0.3)),
        ),
        FORWARD,
    ),
    Case("data", lambda: two(lambda z: torch.tanh(z) / z.data.norm(dim=1, keepdim=True))),
    Case("data parallel", lambda: nn.DataParallel(two(torch.tanh)), FORWARD),
    Case("lock", locked, FORWARD),
    Case("graph module", graph_module, FORWARD),
    Case("in place", in_place, FORWARD),
    Case(
        "scalar parameter",
        lambda: Built(
            lambda m, x: m.t.exp() * m.a(x), a=linear(), t=nn.Parameter(torch.tensor(0.3))
        ),
        FORWARD,
    ),
    Case(
        "old weight norm",
        old_weight_norm,
        FORWARD,
        lambda m, x: m[2](torch.tanh(normed(m[0], m[0].weight_g, m[0].weight_v, x))),
    ),
    Case(
        "weight norm",
        lambda: nn.Sequential(parametrizations.weight_norm(linear()), nn.Tanh(), linear()),
        FORWARD,
        lambda m, x: m[2](
            torch.tanh(
                normed(
                    m[0],
                    m[0].parametrizations.weight.original0,
                    m[0].parametrizations.weight.original1,
                    x,
                )
            )
        ),
    ),
    Case(
        "cdist",
        lambda: Built(
            lambda m, x: m.a(torch.cdist(x, m.c)), a=linear(), c=nn.Parameter(torch.randn(3, 3))
        ),
        FORWARD,
        lambda m, x: m.a((x.unsqueeze(1) - m.c).square().sum(-1).sqrt()),
    ),
    Case(
        "hard sigmoid",
        lambda: two(functional.hardsigmoid),
        FORWARD,
        lambda m, x: m.b((m.a(x) / 6 + 0.5).clamp(0, 1)),
    ),
    Case(
        "bag of embeddings",
        lambda: Built(lambda m, x: m.a(torch.tanh(m.e(x))), a=linear(), e=nn.EmbeddingBag(4, 3)),
        FORWARD,
        lambda m, x: m.a(torch.tanh(m.e.weight[x].mean(1))),
        tokens=True,
    ),
    Case(
        "complex views",
        lambda: Built(
            lambda m, x: m.a(torch.fft.irfft(torch.fft.rfft(x) * torch.view_as_complex(m.w), 3)),
            a=linear(),
            t=nn.Parameter(torch.tensor(0.3)),
            w=nn.Parameter(torch.randn(2, 2)),
        ),
        FORWARD,
        lambda m, x: (
            m.a(torch.fft.irfft(torch.fft.rfft(x) * torch.complex(m.w[:, 0], m.w[:, 1]), 3))
            + 0 * m.t
        ),
    ),
    Case("on a kink", lambda: on_a_kink(), FORWARD),
    Case(
        "norm of a table of zeros",
        lambda: Built(
            lambda m, x: m.a(x + functional.layer_norm(m.t.expand(len(x), -1), (3,), eps=1e-12)),
            a=linear(),
            t=nn.Parameter(torch.zeros(3)),
        ),
        FORWARD,
    ),
    Case(
        "sparse gradients",
        lambda: Built(
            lambda m, x: m.a(torch.tanh(m.e(x).sum(1))),
            a=linear(),
            e=nn.Embedding(4, 3, sparse=True),
        ),
        FORWARD,
        lambda m, x: m.a(torch.tanh(m.e.weight[x].sum(1))),
        tokens=True,
    ),
]
cases = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def made(case):
    torch.manual_seed(0)
    model = case.make().double().eval()
    X = torch.randint(0, 4, (N, 2)) if case.tokens else torch.randn(N, 3).double()
    return model, X, torch.tensor([0, 1, 2, 0, 1])


def hessian(model, call, criterion, X, y):
    """(1/N) Σ_n ∇²ℓ_n, an entry's row after the other."""
    own = list(trainable(model).values())
    total = 0
    for n in range(len(X)):
        value = criterion(call(X[n : n + 1]), y[n : n + 1])
        slopes = torch.autograd.grad(value, own, create_graph=True)
        rows = []
        for slope in torch.cat([s.reshape(-1) for s in slopes]):
            given = torch.autograd.grad(slope, own, retain_graph=True, allow_unused=True)
            filled = [
                torch.zeros_like(p) if g is None else g for p, g in zip(own, given, strict=True)
            ]
            rows.append(torch.cat([g.reshape(-1) for g in filled]))
        total = total + torch.stack(rows)
    return total / len(X)


def ggn(model, call, X):
    """(1/N) Σ_n Jᵀ (diag(p) − p pᵀ) J."""
    own = list(trainable(model).values())
    total = 0
    for n in range(len(X)):
        f = call(X[n : n + 1])[0]
        J = []
        for output in f:
            given = torch.autograd.grad(output, own, retain_graph=True, allow_unused=True)
            filled = [
                torch.zeros_like(p) if g is None else g for p, g in zip(own, given, strict=True)
            ]
            J.append(torch.cat([g.to_dense().reshape(-1) for g in filled]))
        J = torch.stack(J)
        p = torch.softmax(f.detach(), 0)
        total = total + J.T @ (torch.diag(p) - torch.outer(p, p)) @ J
    return total / len(X)


def call_of(case, model):
    inner = model.module if isinstance(model, nn.DataParallel) else model
    return inner if case.plain is None else lambda x: case.plain(inner, x)


@cases
def test_hessians_are_those_of_plain_double_backward(case):
    model, X, y = made(case)
    call = call_of(case, model)
    expected = hessian(model, call, functional.cross_entropy, X, y)
    loss = loss_named("cross_entropy")
    assert hessian_way(model, loss, X, y) == case.way
    assert_equal(hessian_by_products(model, loss, X, y), expected)
    task = cv.Task(model, "cross_entropy", train=(X, y), query=(X[:2], y[:2]))
    assert_equal(cv.fit("hessian", task).dense(), expected)


@cases
def test_products_of_the_ggn_are_those_of_plain_backward(case):
    model, X, y = made(case)
    expected = ggn(model, call_of(case, model), X)
    loss = loss_named("cross_entropy")
    assert ggn_way(model, loss, X, y) is not None
    eye = torch.eye(len(expected), dtype=torch.float64)
    assert_equal(ggn_product(model, loss, X, y)(eye), expected)
    assert_equal(ggn_product(model, loss, X, y, way=REVERSE)(eye), expected)


LOSSES = {
    "huber": nn.HuberLoss(delta=0.3),
    "smooth l1": nn.SmoothL1Loss(beta=0.3),
    "squared hinge": nn.MultiMarginLoss(p=2),
    "own": lambda f, y: (torch.cdist(f[None], torch.zeros(1, 3).to(f)) ** 3).sum(),
}
WRITTEN = {
    "squared hinge": lambda f, y: (
        sum((1 - f[0, y] + f[0, c]).clamp_min(0) ** 2 for c in range(3) if c != int(y)) / 3
    ).sum(),
    "own": lambda f, y: f.square().sum() ** 1.5,
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_without_a_forward_mode(name):
    torch.manual_seed(0)
    model = two(torch.tanh).double().eval()
    X = torch.randn(N, 3).double()
    y = torch.arange(N) % 3 if name == "squared hinge" else torch.randn(N, 3).double()
    task = cv.Task(model, LOSSES[name], train=(X, y), query=(X[:2], y[:2]))
    expected = hessian(model, model, WRITTEN.get(name, LOSSES[name]), X, y)
    assert_equal(cv.fit("hessian", task).dense(), expected)
    G = cv.fit("ggn", task).dense() if name != "own" else None
    if G is not None:
        eye = torch.eye(len(G), dtype=torch.float64)
        assert_equal(ggn_product(model, task.loss, X, y)(eye), G)


def test_scripted_models_have_products():
    torch.manual_seed(0)
    plain = nn.Sequential(linear(), nn.Tanh(), linear()).double().eval()
    X, y, loss = torch.randn(N, 3).double(), torch.arange(N) % 3, loss_named("cross_entropy")
    expected = hessian(plain, plain, functional.cross_entropy, X, y)
    model = torch.jit.script(plain)
    assert_equal(hessian_by_products(model, loss, X, y), expected)
    eye = torch.eye(len(expected), dtype=torch.float64)
    assert_equal(ggn_product(model, loss, X, y)(eye), ggn(plain, plain, X))
    task, other = (cv.Task(m, loss, train=(X, y), query=(X[:2], y[:2])) for m in (model, plain))
    for spec in ("identity", "ggn", "hessian", "diagonal"):
        found, wanted = (cv.influence(cv.fit(spec, t), t, damping=0.5) for t in (task, other))
        assert_equal(found, wanted)
    assert cv.coverage(model, task).others == task.parameters
    assert_refused("E0401", lambda: cv.fit("kfac", task), "others")


@pytest.mark.parametrize("function", [OnceSquare, DetachedSquare, StraightThrough, Reversed])
def test_functions_without_second_derivatives_are_refused_by_name(function):
    torch.manual_seed(0)
    model = two(function.apply).double().eval()
    X, y, loss = torch.randn(N, 3).double(), torch.arange(N) % 3, loss_named("cross_entropy")
    assert_refused("E0821", lambda: hessian_dense(model, loss, X, y), "backward")
    with pytest.raises(cv.SpecError) as caught:
        cv.fit("hessian", cv.Task(model, loss, train=(X, y), query=(X, y)))
    assert any(f"`{function.__name__}`" in note for note in caught.value.diagnostics[0].notes)
    # Curvatures of first derivatives have no need of them.
    expected = ggn(model, model, X)
    task = cv.Task(model, loss, train=(X, y), query=(X, y))
    assert_equal(cv.fit("ggn", task).dense(), expected)
    eye = torch.eye(len(expected), dtype=torch.float64)
    layers = blocks(model, X)
    found = LayersGGN(model, loss, X, y, layers).whole
    for columns in (1, len(eye)):
        parts = [found(part.T) for part in eye.split(columns)]
        assert_equal(torch.cat(parts, 1), expected)


def test_operations_without_second_derivatives_are_refused():
    torch.manual_seed(0)
    model = nn.Sequential(nn.EmbeddingBag(4, 3, mode="max"), linear()).double().eval()
    X, y, loss = torch.randint(0, 4, (N, 2)), torch.arange(N) % 3, loss_named("cross_entropy")
    assert_refused(
        "E0820", lambda: hessian_way(model, loss, X, y), "_embedding_bag_backward", "`ggn`"
    )
    assert ggn_way(model, loss, X, y) is None
    assert_refused("E0820", lambda: ggn_product(model, loss, X, y), "tangents")


def test_a_hook_that_changes_gradients_is_seen():
    torch.manual_seed(0)
    model = nn.Sequential(linear(), nn.Tanh(), linear()).double().eval()
    model[1].register_full_backward_hook(lambda module, given, out: (2 * given[0],))
    X, y = torch.randn(N, 3).double(), torch.arange(N) % 3
    loss = loss_named("cross_entropy")
    assert_refused("E0821", lambda: hessian_way(model, loss, X, y), "gradient")


def test_kinks_and_single_precision_are_no_refusal():
    """Difference quotients across kinks differ; another direction and a smaller step do not."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(3, 400), nn.ReLU(), nn.Linear(400, 400), nn.ReLU(), nn.Linear(400, 3)
    )
    X, y, loss = torch.randn(N, 3), torch.arange(N) % 3, loss_named("cross_entropy")
    assert hessian_way(model.eval(), loss, X, y) == FORWARD
    assert ggn_way(model, loss, X, y) == FORWARD
    assert hessian_way(model.double(), loss, X.double(), y) == FORWARD


def test_an_explanation_says_which_way():
    for case, words in ((CASES[0], "second backward pass"), (CASES[10], "tangents")):
        model, X, y = made(case)
        task = cv.Task(model, "cross_entropy", train=(X, y), query=(X[:2], y[:2]))
        assert words in str(cv.explain("hessian", task))


@pytest.mark.parametrize("name", ["weight norm", "norm of gradients", "attention"])
def test_explanations_count_models_that_call_backward_or_fused_kernels(name):
    """Counting sets no hooks on modules, and reads kernels that have tangents."""
    torch.manual_seed(0)
    model = {
        "weight norm": lambda: nn.Sequential(parametrizations.weight_norm(linear()), linear()),
        "norm of gradients": lambda: Built(
            lambda m, x: func.vmap(func.grad(lambda z: m.a(z).tanh().sum()))(x), a=linear()
        ),
        "attention": lambda: Built(
            lambda m, x: (
                functional.scaled_dot_product_attention(
                    m.a(x)[:, None, None], m.b(x)[:, None, None], x[:, None, None]
                )[:, 0, 0]
                + m.a(x)
            ),
            a=linear(),
            b=linear(),
        ),
    }[name]()
    X, y = torch.randn(N, 3).double(), torch.arange(N) % 3
    task = cv.Task(model.double().eval(), "cross_entropy", train=(X, y), query=(X[:2], y[:2]))
    assert "the Hessian, by" in str(cv.explain("ggn", task))


def test_a_chain_that_needs_no_hessian_is_explained_without_one():
    model, X, y = made(Case("rounded", lambda: two(rounded)))
    task = cv.Task(model, "cross_entropy", train=(X, y), query=(X[:2], y[:2]))
    assert "the Hessian, by" not in str(cv.explain("ggn", task))
    for refused in (lambda: cv.explain("hessian", task), lambda: cv.fit("hessian", task)):
        assert_refused("E0821", refused)


def rounded(z):
    """Its gradient takes the rounding for the identity."""
    return torch.fake_quantize_per_tensor_affine(z, 0.1, 0, -128, 127)


def test_explanations_of_losses_with_constant_second_derivatives():
    """Torch marks parts of their tangents as zero without holding zeros."""
    X = torch.randn(N, 3).double()
    for loss in (nn.MSELoss(), nn.MSELoss(reduction="sum")):
        task = cv.Task(linear().double().eval(), loss, train=(X, X), query=(X[:2], X[:2]))
        assert "the Hessian, by" in str(cv.explain("hessian", task))
