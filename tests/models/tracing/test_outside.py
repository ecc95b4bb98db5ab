"""Parameters outside any layer's weight matrix: exact gradients, refused by stages that need a layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import prune

import curvlang as cv
from curvlang.models.execution.substitution import substituted
from curvlang.models.tracing.blocks import blocks
from tests.models.support import EXACT, assert_refused

N = 7


class Model(nn.Module):
    """A forward pass by a function of the module and its input."""

    def __init__(self, function: Callable[[nn.Module, Tensor], Tensor], **parts: object) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


@dataclass(frozen=True, slots=True)
class Odd:
    """A model with its inputs and the parameters that no layer shows."""

    make: Callable[[], nn.Module]
    inputs: Callable[[], Tensor] = field(default=lambda: torch.randn(N, 3))
    outside: tuple[str, ...] = ()
    classes: int = 3


def lin(inputs: int = 3, outputs: int = 3) -> nn.Linear:
    return nn.Linear(inputs, outputs)


def par(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape))


def tokens() -> Tensor:
    return torch.randint(0, 4, (N, 2))


def series() -> Tensor:
    return torch.randn(N, 4, 3)


def pruned() -> nn.Module:
    model = nn.Sequential(lin(), nn.Tanh(), lin())
    prune.l1_unstructured(model[0], "weight", amount=0.5)
    return model


def doubled() -> nn.Module:
    model = nn.Sequential(lin(), nn.Tanh(), lin())
    model[0].register_forward_hook(lambda module, given, output: 2 * output)
    return model


def routed(m: nn.Module, x: Tensor) -> Tensor:
    """Every example to one of two experts, rows gathered and put back."""
    out = torch.zeros_like(x)
    for k, expert in enumerate(m.experts):
        rows = (x[:, 0] > 0).long() == k
        if rows.any():
            out = out.index_put((rows.nonzero().flatten(),), expert(x[rows]))
    return m.h(out)


def sorted_rows(m: nn.Module, x: Tensor) -> Tensor:
    """The rows go through a layer in another order than the examples have."""
    order = x[:, 0].argsort()
    return torch.tanh(m.l(x[order]))[order.argsort()] @ m.w


at = torch.arange(2)
ODD = {
    "weight used by a function": Odd(
        lambda: Model(lambda m, x: m.h(functional.linear(x, m.l.weight)), l=lin(), h=lin()),
        outside=("l.weight", "l.bias"),
    ),
    "weight also used outside": Odd(
        lambda: Model(lambda m, x: m.l(x).tanh() @ m.l.weight, l=lin()),
        outside=("l.weight", "l.bias"),
    ),
    "embedding as output matrix": Odd(
        lambda: Model(lambda m, x: m.e(x).mean(1) @ m.e.weight.T, e=nn.Embedding(4, 3)),
        tokens,
        ("e.weight",),
        4,
    ),
    "positions as rows": Odd(
        lambda: Model(lambda m, x: m.l(x.reshape(-1, 3)).reshape(N_of(x), -1), l=lin(3, 1)), series
    ),
    "positions before examples": Odd(
        lambda: Model(
            lambda m, x: m.h(
                m.l(x.transpose(0, 1).reshape(-1, 3)).reshape(4, -1, 3).tanh().mean(0)
            ),
            l=lin(),
            h=lin(),
        ),
        series,
        ("l.weight", "l.bias"),
    ),
    "sequences first": Odd(
        lambda: Model(
            lambda m, x: m.h(m.n(m.l(x.transpose(0, 1))).tanh()[-1]),
            l=lin(),
            n=nn.LayerNorm(3),
            h=lin(),
        ),
        series,
    ),
    "as many positions as examples, sequences first": Odd(
        lambda: Model(lambda m, x: m.h(m.l(x.transpose(0, 1)).tanh()[-1]), l=lin(), h=lin()),
        lambda: torch.randn(3, 3, 3),
    ),
    "as many positions as examples, both on the first axis": Odd(
        lambda: Model(
            lambda m, x: m.h(
                m.l(x.transpose(0, 1).reshape(-1, 3)).reshape(3, -1, 3).tanh().mean(0)
            ),
            l=lin(),
            h=lin(),
        ),
        lambda: torch.randn(N, 3, 3),
        ("l.weight", "l.bias"),
    ),
    "windows": Odd(
        lambda: Model(
            lambda m, x: m.h(m.n(m.l(x.reshape(-1, 2, 3))).reshape(-1, 4, 3).tanh().mean(1)),
            l=lin(),
            n=nn.LayerNorm(3),
            h=lin(),
        ),
        series,
    ),
    "positions of all examples, unsqueezed": Odd(
        lambda: Model(
            lambda m, x: m.h((m.e(x) + m.p(at).unsqueeze(0)).tanh().mean(1)),
            e=nn.Embedding(4, 3),
            p=nn.Embedding(2, 3),
            h=lin(),
        ),
        tokens,
        ("p.weight",),
    ),
    "positions of all examples, expanded": Odd(
        lambda: Model(
            lambda m, x: m.h((m.e(x) + m.p(at).expand(len(x), -1, -1)).tanh().mean(1)),
            e=nn.Embedding(4, 3),
            p=nn.Embedding(2, 3),
            h=lin(),
        ),
        tokens,
    ),
    "positions of all examples, broadcast": Odd(
        lambda: Model(
            lambda m, x: m.h((m.e(x) + m.p(at)).tanh().mean(1)),
            e=nn.Embedding(4, 3),
            p=nn.Embedding(2, 3),
            h=lin(),
        ),
        tokens,
    ),
    "relative positions": Odd(
        lambda: Model(
            lambda m, x: m.h(
                (m.p(at[:, None] - at + 1).permute(2, 0, 1)[0].softmax(-1) @ m.e(x)).mean(1)
            ),
            e=nn.Embedding(4, 3),
            p=nn.Embedding(3, 1),
            h=lin(),
        ),
        tokens,
        ("p.weight",),
    ),
    "experts": Odd(
        lambda: Model(routed, experts=nn.ModuleList([lin(), lin()]), h=lin()),
        outside=("experts.0.weight", "experts.0.bias", "experts.1.weight", "experts.1.bias"),
    ),
    "rows in another order": Odd(
        lambda: Model(sorted_rows, l=lin(), w=par(3, 3)), outside=("l.weight", "l.bias", "w")
    ),
    "a parameter without axes": Odd(
        lambda: Model(lambda m, x: m.t.exp() * m.l(x), t=nn.Parameter(torch.tensor(0.5)), l=lin()),
        outside=("t",),
    ),
    "an empty parameter": Odd(lambda: Model(lambda m, x: m.l(x) + m.e.sum(), e=par(0), l=lin())),
    "an idle head": Odd(
        lambda: Model(lambda m, x: m.l(x), l=lin(), idle=lin(), mask=par(3)),
        outside=("mask", "idle.weight", "idle.bias"),
    ),
    "a head whose output is dropped": Odd(
        lambda: Model(lambda m, x: (m.l(x), m.idle(x))[0], l=lin(), idle=lin())
    ),
    "weight normalisation": Odd(
        lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(lin()), nn.Tanh(), lin()),
        outside=(
            "0.bias",
            "0.parametrizations.weight.original0",
            "0.parametrizations.weight.original1",
        ),
    ),
    "pruning": Odd(pruned, outside=("0.weight_orig",)),
    "a hook that changes the output": Odd(doubled, outside=("0.weight", "0.bias")),
    "cross attention": Odd(
        lambda: Model(
            lambda m, x: m.a(x[:, :1], x.tanh(), x.tanh())[0][:, 0],
            a=nn.MultiheadAttention(3, 1, batch_first=True),
        ),
        series,
        ("a.in_proj_weight", "a.in_proj_bias"),
    ),
    "recurrence": Odd(
        lambda: Model(
            lambda m, x: m.h(m.r(x)[0][:, -1]), r=nn.GRU(3, 2, batch_first=True), h=lin(2)
        ),
        series,
        ("r.weight_ih_l0", "r.weight_hh_l0", "r.bias_ih_l0", "r.bias_hh_l0"),
    ),
    "a layer of several inputs": Odd(
        lambda: Model(lambda m, x: m.b(x, x.tanh()), b=nn.Bilinear(3, 3, 3)),
        outside=("b.weight", "b.bias"),
    ),
}


def N_of(x: Tensor) -> int:
    return len(x)


def task_of(odd: Odd, n: int = N) -> cv.Task:
    torch.manual_seed(3)
    model = odd.make().double().eval()
    X = odd.inputs()[:n]
    X = X.double() if X.is_floating_point() else X
    with torch.no_grad():
        classes = model(X).shape[-1]
    y = torch.randint(0, classes, (len(X),))
    return cv.Task(model, "cross_entropy", train=(X, y), query=(X[:2], y[:2]))


def references(task: cv.Task) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients [N, P], the GGN and the Hessian of the mean loss, by loops of `torch.autograd`."""
    own = [p for p in task.model.parameters() if p.requires_grad]
    X, y = task.train
    rows, H, G = [], 0.0, 0.0
    for n in range(len(X)):
        f = task.model(X[n : n + 1])
        g = _flat(
            torch.autograd.grad(
                functional.cross_entropy(f, y[n : n + 1]), own, create_graph=True, allow_unused=True
            ),
            own,
        )
        rows.append(g.detach())
        H = H + torch.stack([_flat(_grad(entry, own), own).detach() for entry in g]) / len(X)
        p = f.detach().softmax(-1)[0]
        J = torch.stack([_flat(_grad(entry, own), own).detach() for entry in f[0]])
        G = G + J.T @ (p.diag() - p.outer(p)) @ J / len(X)
    return torch.stack(rows), G, H


def _grad(value: Tensor, own: list[nn.Parameter]) -> tuple[Tensor | None, ...]:
    if not value.requires_grad:
        return (None,) * len(own)
    return torch.autograd.grad(value, own, retain_graph=True, allow_unused=True)


def _flat(parts: tuple[Tensor | None, ...], own: list[nn.Parameter]) -> Tensor:
    return torch.cat(
        [
            torch.zeros(p.numel(), dtype=p.dtype) if x is None else x.reshape(-1)
            for x, p in zip(parts, own, strict=True)
        ]
    )


def assert_near(found: Tensor, expected: Tensor) -> None:
    assert float(torch.dist(found, expected)) <= EXACT * max(1.0, float(expected.norm()))


@pytest.mark.parametrize("name", ODD)
def test_curvatures_of_gradients_are_exact(name):
    """`identity`, `ggn`, `block_ggn` and the scores, whatever becomes of the parameters."""
    task = task_of(ODD[name])
    outside = {b.name for b in task.blocks() if b.kind is None}
    assert outside == set(ODD[name].outside)
    gradients, G, _ = references(task)
    scores = cv.influence(cv.fit("identity", task), task, damping=0.0)
    assert_near(scores, gradients[:2] @ gradients.T)
    assert_near(cv.fit("ggn", task).operator.dense(), G)
    block = cv.fit("block_ggn", task).operator
    assert_near(block.dense(), sum(_masked(G, index) for index in block.index))
    expected = torch.linalg.solve(
        block.dense() + 0.1 * torch.eye(len(G), dtype=G.dtype), gradients.T
    )
    assert_near(cv.influence(block, task, damping=0.1), gradients[:2] @ expected)


def _masked(G: Tensor, index: Tensor) -> Tensor:
    found = torch.zeros_like(G)
    found[index.unsqueeze(1), index] = G[index][:, index]
    return found


@pytest.mark.parametrize("name", [x for x in ODD if ODD[x].outside])
def test_stages_that_need_a_layer_refuse_them_by_name(name):
    task = task_of(ODD[name])
    first = ODD[name].outside[0]
    assert_refused("E0401", lambda: cv.fit("kfac", task), f"`{first}`", "others = diagonal")
    spec = cv.loads("curvature m = block_ggn |> kronecker_factor(others = diagonal)")
    _, G, _ = references(task)
    fitted = cv.fit(spec, task).operator
    for block, operator in zip(task.blocks(), fitted.blocks, strict=True):
        if block.kind is None:
            assert_near(operator.dense(), G[block.index][:, block.index].diagonal().diag())


def test_folded_rows_are_a_layer_with_positions():
    """[B·T, d] with the positions of an example one after the other is what [B, T, d] is."""
    folded = task_of(ODD["positions as rows"])
    X, y = folded.train
    plain = Model(lambda m, x: m.l(x).flatten(1), l=folded.model.l)
    same = cv.Task(plain, "cross_entropy", train=(X, y), query=(X[:2], y[:2]))
    for spec in ("kfac", "ekfac"):
        assert_near(cv.fit(spec, folded).operator.dense(), cv.fit(spec, same).operator.dense())


def test_sequences_first_are_what_examples_first_are():
    """[T, B, d] is [B, T, d], in an encoder of torch too, whose default it is."""
    torch.manual_seed(0)
    encoder = nn.TransformerEncoderLayer(4, 2, 5, dropout=0.0).double().eval()
    head = lin(4, 3).double()
    X, y = torch.randn(N, 4, 4).double(), torch.randint(0, 3, (N,))

    def task(first: bool) -> cv.Task:
        encoder.self_attn.batch_first = not first
        model = Model(
            lambda m, x: m.h(m.e(x.transpose(0, 1)).mean(0) if first else m.e(x).mean(1)),
            e=encoder,
            h=head,
        )
        return cv.Task(model.eval(), "cross_entropy", train=(X, y), query=(X[:2], y[:2]))

    spec = cv.loads("curvature m = block_ggn |> kronecker_factor(others = diagonal)")
    found = cv.fit(spec, task(first=True)).operator.dense()
    assert all(block.kind is not None for block in task(first=True).blocks())
    assert_near(found, cv.fit(spec, task(first=False)).operator.dense())


def skipped() -> Model:
    """A layer that the examples go through whose first number is positive."""
    torch.manual_seed(0)
    model = Model(
        lambda m, x: m.h(x.index_put(((x[:, 0] > 0).nonzero().flatten(),), m.l(x[x[:, 0] > 0]))),
        l=lin(),
        h=lin(),
    )
    return model.double().eval()


def test_a_batch_that_uses_a_layer_otherwise_puts_it_outside():
    """The examples that are tried go through the expert in their order; later ones do not."""
    model = skipped()
    X = torch.randn(40, 3).double()
    y = torch.randint(0, 3, (40,))
    X[:, 0] = 1
    X[[5, 17, 30], 0] = -1
    task = cv.Task(model, "cross_entropy", train=(X, y), query=(X[:2], y[:2]))
    assert all(block.kind is not None for block in task.blocks())
    assert_refused("E0401", lambda: cv.fit("kfac", task), "`l.weight`", "first axis")
    _, G, _ = references(task)
    fresh = task.replaced(model=model)
    assert_near(
        cv.fit("block_ggn", fresh).operator.dense(),
        sum(_masked(G, b.index) for b in fresh.blocks()),
    )


def test_rows_in_another_order_are_found_in_later_batches():
    torch.manual_seed(0)
    model = Model(sorted_rows, l=lin(), w=par(3, 3)).double().eval()
    X = torch.randn(60, 3).double()
    y = torch.randint(0, 3, (60,))
    places = torch.linspace(0, 59, 3).round().long()
    X[places, 0] = torch.tensor([-5.0, 0.0, 5.0]).double()
    task = cv.Task(model, "cross_entropy", train=(X, y), query=(X[:2], y[:2]))
    assert [b.name for b in task.blocks() if b.kind is None] == ["w"]
    spec = cv.loads("curvature m = block_ggn |> kronecker_factor(others = diagonal)")
    assert list(cv.fit(spec, task).blocks) == ["w", "l.weight", "l.bias"]


def test_the_hessian_needs_no_layers_where_rows_are_picked():
    torch.manual_seed(0)
    model = Model(lambda m, x: m.l(x[x[:, 0].argsort()])[x[:, 0].argsort().argsort()], l=lin())
    model = model.double().eval()
    X, y = torch.randn(20, 3).double(), torch.randint(0, 3, (20,))
    X[torch.linspace(0, 19, 3).round().long(), 0] = torch.tensor([-5.0, 0.0, 5.0]).double()
    task = cv.Task(model, "cross_entropy", train=(X, y), query=(X[:2], y[:2]))
    assert all(block.kind is not None for block in task.blocks())
    assert_near(cv.fit("hessian", task).operator.dense(), references(task)[2])


def test_gradients_of_all_examples_at_once_where_torch_allows():
    at_once = {name: task_of(odd).facts.at_once for name, odd in ODD.items() if odd.outside}
    assert at_once["weight used by a function"]
    assert at_once["weight normalisation"]
    assert not at_once["experts"]


def test_an_input_that_autograd_cannot_follow_is_told_from_one_without_effect():
    """A cut path is refused: the output depends on the parameter, and its gradient says it does not."""
    model = Model(lambda m, x: m.h(m.l(x).detach()), l=lin(), h=lin())
    X = torch.randn(5, 3)
    assert_refused("E0417", lambda: blocks(model, X), "`l.weight`, `l.bias`")


def test_substituted_parameters_are_put_back():
    layer = lin()
    model = nn.Sequential(layer, nn.Tanh(), layer)
    own = dict(model.named_parameters())
    X = torch.randn(4, 3)
    plain = model(X)

    def interrupted() -> None:
        with substituted(model, {"0.weight": torch.zeros(3, 3)}):
            assert torch.equal(model(X), layer.bias.expand(4, 3))
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        interrupted()
    assert all(p is own[name] for name, p in model.named_parameters())
    assert torch.equal(model(X), plain)


def test_queries_that_use_a_layer_otherwise_are_scored_right():
    """An operator that was fitted with the layer is multiplied with exact gradients of all parameters."""
    model = skipped()
    X, Xq = torch.rand(9, 3).double() + 0.1, torch.randn(6, 3).double()
    Xq[:, 0] = torch.tensor([1, 1, -1, 1, -1, 1]).double()
    y = torch.randint(0, 3, (9,))
    task = cv.Task(model, "cross_entropy", train=(X, y), query=(Xq, y[:6]))
    op = cv.fit("ekfac", task)
    train, query = references(task)[0], references(task.replaced(train=task.query))[0]
    inverse = op.inverse(damping=0.1).dense()
    assert_near(cv.influence(op, task, damping=0.1), query @ inverse @ train.T)
    assert_near(
        cv.self_influence(op, task, damping=0.1, part="query"),
        torch.einsum("qp,pr,qr->q", query, inverse, query),
    )
