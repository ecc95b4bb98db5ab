"""Content of functions and objects: equal in every process, different where anything that counts is."""

from __future__ import annotations

import functools
import os
import random
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

import curvlang as cv
from curvlang.models.content import ONLY_HERE, UnknownContentError, content, is_own, own_code
from curvlang.models.losses.losses import loss_named
from curvlang.models.losses.user_loss import AutodiffLoss

ROOT = Path(__file__).parents[2]
DELTA = 10.0
shared = ModuleType("replaced by the test that reads it")


def huber(f, y, delta=1.0):
    return nn.functional.huber_loss(f, y, delta=delta)


def reads(f, y):
    return huber(f, y, DELTA)


def closing(delta):
    return lambda f, y: huber(f, y, delta)


class Scaled:
    """Its representation holds an address."""

    def __init__(self, scale, weight=None):
        self.scale = scale
        self.weight = torch.ones(3) if weight is None else weight

    def __call__(self, f, y):
        return self.scale * huber(f, y)

    def method(self, f, y):
        return self.scale * huber(f, y)


class Slotted:
    __slots__ = ("scale",)

    def __init__(self, scale):
        self.scale = scale

    def __call__(self, f, y):
        return self.scale * huber(f, y)


class Module(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.scale = scale
        self.register_buffer("weight", torch.ones(2) * scale)

    def forward(self, f, y):
        return self.scale * huber(f, y)


def values():
    """Losses of every kind, two of each that differ in one thing."""
    return {
        "function": (huber, reads),
        "lambda": (lambda f, y: huber(f, y), lambda f, y: huber(f, y, 2.0)),
        "partial": (functools.partial(huber, delta=2.0), functools.partial(huber, delta=3.0)),
        "partial of partial": (
            functools.partial(functools.partial(huber, delta=2.0)),
            functools.partial(functools.partial(huber, delta=3.0)),
        ),
        "closure": (closing(2.0), closing(3.0)),
        "object": (Scaled(1.0), Scaled(2.0)),
        "tensor of an object": (Scaled(1.0), Scaled(1.0, torch.zeros(3))),
        "bound method": (Scaled(1.0).method, Scaled(2.0).method),
        "partial of a method": (
            functools.partial(Scaled(1.0).method),
            functools.partial(Scaled(2.0).method),
        ),
        "partial with an object": (
            functools.partial(huber, delta=Scaled(1.0)),
            functools.partial(huber, delta=Scaled(2.0)),
        ),
        "slots": (Slotted(1.0), Slotted(2.0)),
        "module": (Module(1.0), Module(2.0)),
        "cached": (functools.lru_cache(huber), functools.lru_cache(reads)),
        "set": (functools.partial(huber, delta={"a", "b"}), functools.partial(huber, delta={"a"})),
        "state": (random.Random(0), random.Random(1)),
    }


KINDS = tuple(values())


@pytest.mark.parametrize("kind", KINDS)
def test_equal_content_is_equal_and_other_content_is_not(kind):
    one, other = (content(x) for x in values()[kind])
    assert (one, other) == tuple(content(x) for x in values()[kind])
    assert one != other


def test_what_a_function_reads_counts(monkeypatch):
    before = content(reads)
    monkeypatch.setattr(sys.modules[__name__], "DELTA", 20.0)
    assert content(reads) != before
    monkeypatch.undo()
    assert content(reads) == before
    monkeypatch.setattr(sys.modules[__name__], "huber", closing(1.0))
    assert content(reads) != before


def test_code_of_installed_packages_counts_by_name():
    assert not any(is_own(x) for x in ("torch.nn", "curvlang.models", "functools", "pytest", None))
    assert is_own(__name__)
    assert is_own("__main__")
    assert content(nn.functional.huber_loss) != content(nn.functional.mse_loss)


@pytest.mark.parametrize(
    "make",
    [threading.Lock, lambda: open(os.devnull), lambda: (x for x in "ab")],  # noqa: SIM115
)
def test_content_that_cannot_be_read_is_refused(make):
    with pytest.raises(UnknownContentError):
        content(functools.partial(huber, delta=make()))


def shown():
    """Content, identity and text of every value, a line each."""
    found = []
    for kind, pair in values().items():
        losses = [loss_named(one) if callable(one) else None for one in pair]
        found += [
            f"{kind} {content(one)} {loss and loss.identity} {loss}"
            for one, loss in zip(pair, losses, strict=True)
        ]
    return found


def test_another_process_finds_the_same():
    script = "from tests.models.test_content import shown; print(*shown(), sep='\\n')"
    ran = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.splitlines() == shown()
    assert "0x" not in ran.stdout
    assert len(set(shown())) == 2 * len(KINDS)


@pytest.mark.parametrize(
    ("loss", "name"),
    [
        ("cross_entropy", "CrossEntropy("),
        (nn.NLLLoss(), "AutodiffLoss(NLLLoss("),
        (nn.functional.huber_loss, "AutodiffLoss(torch.nn.functional.huber_loss)"),
        (functools.partial(nn.functional.huber_loss, delta=2.0), "huber_loss(delta=2.0))"),
    ],
)
def test_losses_that_ship_keep_their_names_in_keys(loss, name):
    found = loss_named(loss)
    assert found.identity == repr(found)
    assert name.rstrip(")") in repr(found)


def test_fingerprints_know_own_code():
    X, y = torch.randn(6, 2), torch.randn(6, 2)

    def task(loss, model=None):
        return cv.Task(model or nn.Linear(2, 2), loss, (X, y), (X, y))

    losses = [
        loss for kind in ("partial", "closure", "object", "module") for loss in values()[kind]
    ]
    assert len({task(loss).data_fingerprint() for loss in losses}) == len(losses)

    class Own(nn.Linear):
        def __repr__(self):
            return f"Own({type(self).__repr__} {object()})"

    class Other(Own):
        def forward(self, x):
            return 2 * super().forward(x)

    Other.__qualname__ = Own.__qualname__
    own = [task("mse", model(2, 2)) for model in (Own, Own, Other)]
    first, second, other = (x.data_fingerprint() for x in own)
    assert first == second != other
    assert own[0].data_fingerprint(by_name=True) == own[1].data_fingerprint(by_name=True)


class WithSlope(nn.Module):
    slope = 0.1

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x):
        return nn.functional.leaky_relu(self.layer(x), self.slope)


def model_of(change):
    """A model that is alike in its representation and its parameters, whatever is changed."""
    torch.manual_seed(0)
    model = WithSlope()
    change(model)
    return "\n".join(own_code(model))


def hooked(number):
    def change(model):
        model.layer.register_forward_hook(lambda module, args, out: out * number)

    return change


def test_models_are_told_apart_by_what_their_classes_instances_and_hooks_hold(monkeypatch):
    plain = model_of(lambda model: None)
    assert plain == model_of(lambda model: None)
    assert model_of(hooked(2.0)) == model_of(hooked(2.0))
    assert len({plain, model_of(hooked(2.0)), model_of(hooked(3.0))}) == 3
    assert model_of(lambda model: setattr(model, "slope", 0.3)) != plain
    monkeypatch.setattr(WithSlope, "slope", -1.0)
    assert model_of(lambda model: None) != plain


def test_what_is_read_from_own_modules_counts(monkeypatch):
    config = ModuleType("own_config")
    config.__file__ = str(ROOT / "own_config.py")
    config.SCALE = 2.0
    config.unused = 1
    config.inner = ModuleType("own_config.inner")
    config.inner.DEEP = 1.0
    config.inner.__file__ = config.__file__
    config.inner.back = config
    monkeypatch.setitem(sys.modules, "own_config", config)
    monkeypatch.setitem(sys.modules, "own_config.inner", config.inner)

    def local(f, y):
        import own_config

        return own_config.SCALE * own_config.inner.DEEP * huber(f, y)

    def fresh(f, y):
        return shared.SCALE * huber(f, y)

    monkeypatch.setitem(globals(), "shared", config)
    before = content(local), content(fresh)
    config.unused = 2
    assert before == (content(local), content(fresh))
    config.SCALE = 3.0
    after = content(local), content(fresh)
    assert before[0] != after[0]
    assert before[1] != after[1]
    config.inner.DEEP = 4.0
    assert content(local) != after[0]


class Forgetful:
    def __init__(self, scale):
        self.scale = scale

    def __getstate__(self):
        return {}

    def __call__(self, f, y):
        return self.scale * huber(f, y)


class Wrapping:
    def __init__(self, scale):
        self.func = nn.functional.mse_loss
        self.scale = scale

    def __call__(self, f, y):
        return self.scale * self.func(f, y)


def wrapped(scale):
    return functools.wraps(nn.functional.mse_loss)(lambda f, y: scale * huber(f, y))


@pytest.mark.parametrize(
    "make",
    [
        Forgetful,
        Wrapping,
        wrapped,
        lambda k: nn.HuberLoss(reduction="sum", delta=k).forward,
    ],
)
def test_a_loss_is_told_apart_by_more_than_a_name_it_carries(make):
    def identity(k):
        return AutodiffLoss(make(k), "same").identity

    assert identity(1.0) != identity(2.0)


class Squares(nn.Module):
    def __init__(self, scale: float):
        super().__init__()
        self.scale = scale

    def forward(self, f, y):
        return self.scale * ((f - y) ** 2).sum()


def test_a_scripted_module_is_kept_by_no_process():
    assert ONLY_HERE in AutodiffLoss(torch.jit.script(Squares(1.0)), "same").identity


def test_names_of_torch_say_all():
    assert AutodiffLoss(nn.functional.mse_loss, "mse").identity == "AutodiffLoss(mse)"
