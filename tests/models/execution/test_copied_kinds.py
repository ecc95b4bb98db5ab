"""A copied model is the model, on numbers of its own: whatever its modules hold."""

from __future__ import annotations

import functools
import threading
import types
import weakref

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

import curvlang as cv
from curvlang.models.execution.copies import copied


def layer():
    return nn.Linear(3, 3)


def locked():
    model = layer()
    model.lock, model.file = threading.Lock(), open("/dev/null")  # noqa: SIM115
    return model


def pruned():
    model = nn.Sequential(layer(), nn.Tanh(), layer())
    prune.l1_unstructured(model[0], "weight", amount=0.5)
    model(torch.ones(1, 3))
    return model


def normed():
    return nn.Sequential(
        parametrizations.weight_norm(layer()), parametrizations.orthogonal(layer())
    )


@pytest.mark.filterwarnings("ignore::FutureWarning")
def normed_by_hook():
    return nn.Sequential(nn.utils.weight_norm(layer()), nn.utils.spectral_norm(layer()))


def hooked():
    model = layer()
    model.scale = nn.Parameter(torch.tensor(2.0))
    model.register_forward_hook(lambda module, args, out: out * model.scale)
    return model


def replaced():
    model = layer()
    own = model.forward
    model.forward = lambda x: own(x) * 2
    return model


def method():
    model = layer()
    model.forward = types.MethodType(lambda self, x: x @ self.weight, model)
    return model


class Helper:
    """No module, and holds one."""

    __slots__ = ("inner", "lock")

    def __init__(self, inner):
        self.inner, self.lock = inner, threading.Lock()

    def __call__(self, x):
        return self.inner(x)


class Odd(nn.Module):
    """Modules in lists, objects, weak references, partials and bound methods; a cached tensor."""

    def __init__(self):
        super().__init__()
        self.first, self.last = layer(), layer()
        self.helper, self.parts = Helper(self.first), [self.first, (self.last,)]
        self.weak, self.proxy = weakref.ref(self.last), [weakref.proxy(self.first)]
        self.partial = functools.partial(nn.functional.linear, weight=self.first.weight)
        self.first.register_forward_pre_hook(self.shift)
        self.table = {"w": self.last.weight}
        self.cached, self.calls = self.last.weight * 2, []

    def shift(self, module, args):
        return (args[0] + self.last.bias,)

    def forward(self, x):
        self.calls.append(len(x))
        self.cached = self.helper(x) + self.parts[1][0](x) + self.weak()(x)
        return self.cached + self.proxy[0](x) + self.partial(x) + x @ self.table["w"]


def twice():
    shared = layer()
    return nn.Sequential(shared, nn.Tanh(), shared)


def tied():
    model = nn.Sequential(layer(), nn.Tanh(), layer())
    model[2].weight = model[0].weight
    return model


def same_numbers():
    model = nn.Sequential(layer(), nn.Tanh(), layer())
    model[2].weight.data = model[0].weight.data.T
    return model


def recurrent():
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.LSTM(3, 4, batch_first=True)

        def forward(self, x):
            return self.inner(x[:, None])[0][:, 0]

    return Last()


def traced():
    return torch.fx.symbolic_trace(nn.Sequential(layer(), nn.ReLU()))


def buffered():
    model = nn.Sequential(layer(), nn.BatchNorm1d(3))
    with torch.inference_mode():
        model[1].running_mean = torch.ones(3) * 2
    return model


KINDS = [
    layer, locked, pruned, normed, normed_by_hook, hooked, replaced, method, Odd, twice, tied,
    same_numbers, recurrent, traced, buffered,
]  # fmt: skip


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_the_copy_is_the_model_on_other_numbers(make):
    torch.manual_seed(0)
    model, x = make().eval(), torch.randn(4, 3)
    with torch.no_grad():
        before = model(x)
        copy = copied(model)
        assert type(copy) is type(model)
        for part in ("parameters", "buffers", "modules"):
            assert not {*map(id, getattr(model, part)())} & {*map(id, getattr(copy, part)())}
        assert [n for n, _ in copy.named_parameters()] == [n for n, _ in model.named_parameters()]
        assert torch.equal(copy(x), before)
        moved = copied(model, torch.float64, "cpu")(x.double())
        assert moved.dtype is torch.float64
        assert torch.allclose(moved.float(), before, atol=1e-5)
        # Every tie holds in the copy, and none reaches the model.
        for parameter in copy.parameters():
            parameter.mul_(1.3).add_(0.1)
        assert torch.equal(model(x), before)
        for parameter in model.parameters():
            parameter.mul_(1.3).add_(0.1)
        assert not torch.equal(model(x), before)
        assert torch.equal(copy(x), model(x))


model = layer()
"""A model at the top of a file or notebook, which its hook reads as a global name."""
model.scale = nn.Parameter(torch.tensor(2.0))
model.register_forward_hook(lambda module, args, out: out * model.scale)


def test_hooks_that_read_a_global_model():
    copy = copied(model)
    with torch.no_grad():
        copy.scale.zero_()
        assert not copy(torch.ones(1, 3)).any()
        assert model(torch.ones(1, 3)).any()


def test_state_that_a_call_changes_is_not_shared():
    odd = Odd()
    copy = copied(odd)
    copy(torch.randn(2, 3))
    assert odd.calls == []
    assert copy.calls == [2]


def test_hooks_on_gradients_are_kept():
    own = layer()
    own.weight.register_hook(torch.zeros_like)
    copy = copied(own)
    copy(torch.ones(1, 3)).sum().backward()
    assert not copy.weight.grad.any()


def test_what_parameters_carry():
    own = layer()
    own.weight.requires_grad_(False)
    own.weight.mark = "kept"
    own.bias.grad = torch.ones(3)
    copy = copied(own)
    assert not copy.weight.requires_grad
    assert copy.weight.mark == "kept"
    assert copy.bias.grad is None
    conv = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    assert copied(conv).weight.stride() == conv.weight.stride()


@pytest.mark.parametrize("make", [locked, pruned, hooked, Odd], ids=lambda make: make.__name__)
def test_tasks_of_such_models_are_evaluated(make):
    g = torch.Generator().manual_seed(0)
    X, y = torch.randn(6, 3, generator=g), torch.randint(0, 3, (6,), generator=g)
    task = cv.Task(make().eval(), "cross_entropy", train=(X, y), query=(X[:2], y[:2]))
    assert task.to(dtype=torch.float64).dtype is torch.float64
    some = task.parameters[:1]
    assert task.restricted(some).parameters == some
