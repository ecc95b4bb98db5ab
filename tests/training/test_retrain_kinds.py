"""Retraining of what people build: hooks, masks, reparametrised, tied and frozen parameters, own
`forward`s; each against a plain loop around `torch.optim`."""

from __future__ import annotations

import threading
import types
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations, prune

import curvlang as cv
from curvlang.models.losses.losses import loss_named
from curvlang.training.engines import engine
from curvlang.training.one_by_one import ModulesInTurn, OneByOne
from curvlang.training.retrain import retrain
from curvlang.training.stacked_any import StackedModules
from curvlang.training.stacked_mlp import StackedMLP
from curvlang.training.training import Training
from tests.training.test_retrain import reference_loop

EXACT = 1e-8  # float64, the same sums in another order, over eight steps


def plain():
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


def pruned():
    model = plain()
    prune.random_unstructured(model[0], "weight", amount=7)
    prune.l1_unstructured(model[2], "bias", amount=1)
    return model


def pruned_twice():
    model = plain()
    prune.random_unstructured(model[0], "weight", amount=4)
    prune.ln_structured(model[0], "weight", amount=1, n=2, dim=0)
    return model


def weight_norm_by_hook():
    model = plain()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        nn.utils.weight_norm(model[0])
    return model


def spectral_norm_by_hook():
    model = plain()
    nn.utils.spectral_norm(model[0])
    model(torch.randn(2, 4))
    return model


def weight_norm():
    model = plain()
    parametrizations.weight_norm(model[0])
    return model


def spectral_norm():
    model = plain()
    parametrizations.spectral_norm(model[2])
    return model


def orthogonal():
    model = plain()
    parametrizations.orthogonal(model[0])
    return model


class Positive(nn.Module):
    def forward(self, w):
        return functional.softplus(w)


def positive():
    model = plain()
    nn.utils.parametrize.register_parametrization(model[2], "weight", Positive())
    return model


def root_parametrised():
    return parametrizations.weight_norm(nn.Linear(4, 3))


def forward_on_a_layer():
    model = plain()
    layer = model[0]
    layer.forward = lambda x: 0.5 * functional.linear(x, layer.weight, layer.bias)
    return model


def forward_on_the_model():
    model = plain()
    own = model.forward
    model.forward = lambda x: 2 * own(x)
    return model


def forward_by_method():
    model = plain()
    model.forward = types.MethodType(lambda self, x: self[2](self[0](x).relu()), model)
    return model


class Scaled(nn.Linear):
    def forward(self, x):
        return super().forward(x) / 3


def subclass_of_linear():
    return nn.Sequential(Scaled(4, 5), nn.Tanh(), nn.Linear(5, 3))


class Residual(nn.Sequential):
    def forward(self, x):
        return super().forward(x) + x[:, :3]


def subclass_of_sequential():
    return Residual(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


class Quiet(nn.Tanh):
    def forward(self, x):
        return super().forward(x) * 0.3


def subclass_of_an_activation():
    return nn.Sequential(nn.Linear(4, 5), Quiet(), nn.Linear(5, 3))


def forward_hook():
    model = plain()
    model[0].register_forward_hook(lambda module, args, output: output * 0.5)
    return model


def forward_pre_hook():
    model = plain()
    model.register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    return model


def hook_around_the_model():
    model = plain()
    model.gain = nn.Parameter(torch.tensor(0.7))
    model[2].register_forward_hook(lambda module, args, output: output * model.gain)
    return model


def backward_hook():
    model = plain()
    model[0].register_full_backward_hook(lambda module, inner, outer: (inner[0],))
    return model


def gradient_hook():
    """Only half of the first layer is trained: a mask on the gradient."""
    model = plain()
    mask = (torch.arange(5) % 2)[:, None].double()
    model[0].weight.register_hook(lambda g: g * mask)
    return model


def one_layer_twice():
    shared = nn.Linear(4, 4)
    return nn.Sequential(shared, nn.Tanh(), shared, nn.Tanh(), nn.Linear(4, 3))


def tied_weights():
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))
    model[2].weight = model[0].weight
    return model


def weights_on_the_same_numbers():
    model = one_layer_twice().double()
    model[2] = nn.Linear(4, 4).double()
    model[2].weight.data = model[0].weight.data
    return model


def frozen():
    model = plain()
    model[0].requires_grad_(False)
    return model


def half_frozen():
    model = plain()
    model[0].bias.requires_grad_(False)
    return model


def extra_parameter():
    model = plain()
    model.unused = nn.Parameter(torch.ones(3))
    return model


def batch_norm():
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3))
    model[1].running_mean.normal_()
    model[1].running_var.uniform_(0.5, 2)
    return model


def layer_norm_and_dropout():
    return nn.Sequential(
        nn.Linear(4, 5), nn.LayerNorm(5), nn.GELU(), nn.Dropout(0.5), nn.Linear(5, 3)
    )


class Held(nn.Module):
    """Its first layer is called through a list, an object and a bound method; it holds a lock."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 5), nn.Linear(5, 3)
        self.parts, self.lock = [self.first], threading.Lock()
        self.act = self.activate
        self.cached = None

    def activate(self, x):
        return torch.tanh(x * self.first.weight.mean())

    def forward(self, x):
        with self.lock:
            self.cached = self.parts[0](x)
        return self.last(self.act(self.cached))


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain, self.layer = nn.Parameter(torch.tensor(1.0)), nn.Linear(4, 3)

    def forward(self, x):
        return self.gain * self.layer(x)


class Experts(nn.Module):
    """A minibatch may leave an expert out: `torch.optim` then leaves its parameters as they are."""

    def __init__(self):
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(4, 3) for _ in range(3))

    def forward(self, x):
        chosen = (x[:, 0] > 0.5).long() + (x[:, 0] > 1.2).long()
        found = x.new_zeros(len(x), 3)
        for k, expert in enumerate(self.experts):
            rows = chosen == k
            if rows.any():
                found = found.index_put((rows.nonzero()[:, 0],), expert(x[rows]))
        return found


class Branch(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        return self.layer(x) if float(x.detach().abs().max()) < 2 else self.layer(2 * x)


KINDS = [
    plain, pruned, pruned_twice, weight_norm_by_hook, spectral_norm_by_hook, weight_norm, spectral_norm,
    orthogonal, positive, root_parametrised, forward_on_a_layer, forward_on_the_model, forward_by_method,
    subclass_of_linear, subclass_of_sequential, subclass_of_an_activation, forward_hook, forward_pre_hook,
    hook_around_the_model, backward_hook, gradient_hook, one_layer_twice, tied_weights,
    weights_on_the_same_numbers, frozen, half_frozen, extra_parameter, batch_norm, layer_norm_and_dropout,
    Held, Scale, Experts, Branch,
]  # fmt: skip

RECIPES = {
    "sgd": cv.Recipe(lr=0.3, momentum=0.6, batch=4, epochs=2, weight_decay=0.01, clip=0.5),
    "adam": cv.Recipe(optimiser="adam", lr=0.02, batch=4, epochs=2, weight_decay=0.01),
}


def seeded(make):
    """A build whose every model is drawn from its seed, masks and buffers too."""

    def build(seed):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = make().double().eval()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(0.05 * torch.randn_like(parameter))
        return model

    return build


def data(n=16, q=4):
    g = torch.Generator().manual_seed(0)
    X = torch.randn(n, 4, generator=g, dtype=torch.float64)
    y = torch.randint(0, 3, (n,), generator=g)
    return (X, y), (X[:q], y[:q])


def trained(build, recipe, members=None):
    train, query = data()
    members = torch.ones(2, 16, dtype=torch.bool) if members is None else members
    return retrain(
        Training(build, "cross_entropy", train, query, members, recipe, [1, 2], [3, 4]),
        keep_parameters=True,
    )


@pytest.mark.filterwarnings("ignore::curvlang.training.one_by_one.OneByOne")
@pytest.mark.parametrize(
    ("make", "optimiser"),
    [(make, "sgd") for make in KINDS]
    + [(make, "adam") for make in (plain, pruned, extra_parameter, Scale, Experts)],
    ids=lambda x: x if isinstance(x, str) else x.__name__,
)
def test_equals_the_plain_loop(make, optimiser):
    build, recipe = seeded(make), RECIPES[optimiser]
    train, query = data()
    found = trained(build, recipe)
    for k in range(2):
        curve, model = reference_loop(
            build, "cross_entropy", train, torch.ones(16, dtype=torch.bool), recipe, k + 1, k + 3
        )
        with torch.no_grad():
            wanted = loss_named("cross_entropy").per_example(model(query[0]), query[1])
        assert float((found.curve[k] - curve).abs().max()) <= EXACT
        assert float((found.query_loss[k] - wanted).abs().max()) <= EXACT
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                assert float((found.parameters[name][k] - parameter.detach()).abs().max()) <= EXACT


def engine_for(models, loss, train):
    return engine(models, Training(plain, loss, train, train, None, RECIPES["sgd"], [], []))


@pytest.mark.parametrize(
    ("make", "wanted"),
    [
        (plain, StackedMLP),
        (pruned, StackedModules),
        (weight_norm, StackedModules),
        (forward_hook, StackedModules),
        (forward_on_the_model, StackedModules),
        (one_layer_twice, StackedModules),
        (gradient_hook, ModulesInTurn),
        (weights_on_the_same_numbers, ModulesInTurn),
        (Experts, ModulesInTurn),
    ],
)
@pytest.mark.filterwarnings("ignore::curvlang.training.one_by_one.OneByOne")
def test_the_fast_engine_takes_what_it_knows_and_nothing_else(make, wanted):
    models = [seeded(make)(seed) for seed in (1, 2)]
    found = engine_for(models, "cross_entropy", data()[0])
    assert type(found) is wanted


def test_a_wrong_fast_engine_is_found_out(monkeypatch):
    """The numbers decide, not the list of types: here the fast engine forgets the biases."""
    right = StackedMLP._forward

    def wrong(self, h):
        self.biases = [None if b is None else torch.zeros_like(b) for b in self.biases]
        return right(self, h)

    monkeypatch.setattr(StackedMLP, "_forward", wrong)
    models = [seeded(plain)(seed) for seed in (1, 2)]
    found = engine_for(models, "cross_entropy", data()[0])
    assert type(found) is StackedModules


def test_a_hook_on_all_modules_is_seen():
    handle = nn.modules.module.register_module_forward_hook(lambda m, args, out: out * 0.9)
    try:
        models = [seeded(plain)(seed) for seed in (1, 2)]
        assert type(engine_for(models, "mse", one_hot())) is StackedModules
    finally:
        handle.remove()


def one_hot():
    (X, y), _ = data()
    return X, functional.one_hot(y, 3).double()


def test_models_in_turn_say_why():
    with pytest.warns(OneByOne, match=r"gradient of `0.weight` at the start"):
        trained(seeded(gradient_hook), RECIPES["sgd"])


def test_a_build_that_gives_the_same_module_leaves_it_as_it_is():
    model = plain().float()
    before = {name: p.clone() for name, p in model.named_parameters()}
    trained(lambda seed: model, RECIPES["sgd"])
    for name, parameter in model.named_parameters():
        assert parameter.dtype is torch.float32
        assert torch.equal(parameter, before[name])


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        return self.layer(functional.dropout(x, 0.3))


class OwnMode(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        return self.layer(x) * (2 if self.training else 1)


class Centred(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        return self.layer(x - x.mean(0))


def dropping():
    return nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.5), nn.Linear(5, 3)).train()


def normalising():
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)).train()


@pytest.mark.parametrize(
    ("make", "code", "word"),
    [
        (dropping, "E0752", "`build` returns a model in training mode: `1` (Dropout)"),
        (normalising, "E0752", "`build` returns a model in training mode: `1` (BatchNorm1d)"),
        (OwnMode, "E0752", "its outputs depend on the mode"),
        (Noisy, "E0752", "another output when it is called again"),
        (Centred, "E0752", "depends on the batch"),
        (
            lambda: nn.Linear(7, 3),
            "E0752",
            "a model of `build` raises `RuntimeError` on the inputs of `train`",
        ),
        (lambda: None, "E0752", "returned a `NoneType`"),
    ],
)
def test_what_a_build_must_not_return(make, code, word):
    with pytest.raises(cv.SpecError) as refused:
        trained(lambda seed: None if make() is None else make().double(), RECIPES["sgd"])
    found = refused.value.diagnostics[0]
    assert found.code == code
    assert word in found.headline


def test_training_mode_where_it_does_not_matter():
    build = seeded(plain)
    assert torch.equal(
        trained(build, RECIPES["sgd"]).query_loss,
        trained(lambda seed: build(seed).train(), RECIPES["sgd"]).query_loss,
    )


def test_architectures_that_depend_on_the_seed():
    with pytest.raises(cv.SpecError) as refused:
        trained(lambda seed: nn.Sequential(nn.Linear(4, 4 + seed), nn.Linear(4 + seed, 3)).double(),
                RECIPES["sgd"])  # fmt: skip
    assert refused.value.diagnostics[0].code == "E0752"
    assert (
        "[5, 4] for the seed 1 and [6, 4] for the seed 2" in refused.value.diagnostics[0].headline
    )
