"""The numbers are the same in whatever state of torch they are asked for."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize
from torch.utils.checkpoint import checkpoint

import curvlang as cv
from curvlang.models.execution.torch_state import settled
from tests.models.support import assert_equal
from tests.oracles import dense


@contextlib.contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


STATES = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "float64 by default": lambda: default_dtype(torch.float64),
    "bfloat16 by default": lambda: default_dtype(torch.bfloat16),
    "deterministic": deterministic,
    "anomaly": torch.autograd.detect_anomaly,
    "cached": parametrize.cached,
    "another device by default": lambda: torch.device("meta"),
}
states = pytest.mark.parametrize("state", list(STATES.values()), ids=list(STATES))
SPECS = ("hessian", "ggn", "kfac", "ekfac", "diagonal", "identity")


def plain():
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3))


def parametrised():
    return nn.Sequential(parametrizations.orthogonal(nn.Linear(3, 3)), nn.Tanh(), nn.Linear(3, 3))


def parts(make=plain):
    torch.manual_seed(0)
    X, y = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    return make().eval(), X, y


def scored(spec, model, X, y):
    task = cv.Task(model, "cross_entropy", train=(X, y), query=(X[:2], y[:2]))
    operator = cv.fit(spec, task)
    ones = torch.ones(task.P, dtype=torch.float64, device="cpu")
    scores = cv.influence(operator, task, damping=0.5)
    return scores, operator @ ones, cv.self_influence(operator, task)


@states
@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_scores_do_not_depend_on_the_callers_state(state):
    for make, specs in ((plain, SPECS), (parametrised, ("hessian", "ggn"))):
        given = parts(make)
        for spec in specs:
            wanted = scored(spec, *given)
            with state():
                found = scored(spec, *given)
            for x, y in zip(found, wanted, strict=True):
                assert x.dtype == y.dtype
                assert torch.equal(x, y), spec
                assert not x.is_inference()
                assert not x.requires_grad


def test_what_a_model_makes_stays_on_the_default_device():
    class Makes(nn.Linear):
        def forward(self, x):
            seen.add(torch.zeros(1).device.type)
            return super().forward(x)

    seen = set()
    model, X, y = Makes(3, 3), *parts()[1:]
    with torch.device("meta"):
        scored("hessian", model, X, y)
    assert seen == {"meta"}


@pytest.mark.parametrize("state", [torch.no_grad, torch.inference_mode], ids=str)
def test_evaluations_run_in_any_state(state):
    model, X, y = parts()
    task = cv.Task(model, "cross_entropy", train=(X, y), query=(X[:2], y[:2]))
    wanted = cv.evaluate("kfac", task).steps
    with state():
        found = cv.evaluate("kfac", task).steps
        cv.coverage(model, task)
        cv.explain("kfac", task)
    assert repr(found) == repr(wanted)


def test_models_and_data_of_inference_mode():
    with torch.inference_mode():
        given = parts()
        assert given[1].is_inference()
    for spec in ("hessian", "ekfac"):
        for x, y in zip(scored(spec, *given), scored(spec, *parts()), strict=True):
            assert torch.equal(x, y)


class Checkpointed(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.first, self.last, self.reentrant = nn.Linear(3, 3), nn.Linear(3, 3), reentrant

    def forward(self, x):
        z = checkpoint(self._part, x, use_reentrant=self.reentrant)
        return self.last(z)

    def _part(self, x):
        return torch.tanh(self.first(x))


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_checkpoints_have_the_gradients_of_the_function(reentrant):
    torch.manual_seed(0)
    model = Checkpointed(reentrant).double().eval()
    plain = nn.Sequential(model.first, nn.Tanh(), model.last)
    X, y = torch.randn(6, 3).double(), torch.tensor([0, 1, 2, 0, 1, 2])
    task = cv.Task(model, "cross_entropy", train=(X, y), query=(X[:2], y[:2]))
    assert_equal(cv.fit("ggn", task).dense(), dense.ggn(plain, "cross_entropy", X, y))


def compiled(model):
    return torch.compile(model, backend="eager")


def in_place(model):
    model.compile(backend="eager")
    return model


def part(model):
    model[0] = torch.compile(model[0], backend="eager")
    return model


def forward(model):
    model.forward = torch.compile(model.forward, backend="eager")
    return model


@pytest.mark.parametrize("how", [compiled, in_place, part, forward], ids=lambda f: f.__name__)
def test_compiled_models_are_differentiated_as_written(how):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Sequential(nn.Linear(3, 3), nn.Tanh()), nn.Linear(3, 3))
    plain = plain.double().eval()
    X, y = torch.randn(6, 3).double(), torch.tensor([0, 1, 2, 0, 1, 2])
    wanted = cv.Task(plain, "cross_entropy", train=(X, y), query=(X[:2], y[:2]))
    H, G = (f(plain, "cross_entropy", X, y) for f in (dense.hessian, dense.ggn))
    scores = cv.influence(cv.fit("ekfac", wanted), wanted, damping=0.5)
    model = how(plain)
    task = cv.Task(model, "cross_entropy", train=(X, y), query=(X[:2], y[:2]))
    assert_equal(cv.fit("hessian", task).dense(), H)
    assert_equal(cv.fit("ggn", task).dense(), G)
    assert_equal(cv.influence(cv.fit("ekfac", task), task, damping=0.5), scores)
    assert_equal(task.to(dtype=torch.float32).model(X.float()).double(), model(X), tolerance=1e-5)
    if how is not part:
        assert task.parameters == wanted.parameters


def test_retrained_models_may_be_compiled():
    from curvlang.training.retrain import retrain
    from curvlang.training.training import Training

    def build(seed):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3))

    X, y = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3
    keep, recipe = torch.ones(2, 6, dtype=torch.bool), cv.Recipe(lr=0.5, batch=6, epochs=3)
    found = [
        retrain(
            Training(how, "cross_entropy", (X, y), (X, y), keep, recipe, [1, 2], [1, 2])
        ).query_loss
        for how in (build, lambda seed: torch.compile(build(seed), backend="eager"))
    ]
    assert_equal(*found, 1e-6)


@settled
def fails():
    assert torch.is_grad_enabled()
    assert not torch.is_autocast_enabled("cpu")
    raise ZeroDivisionError


def test_the_state_is_put_back():
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), parametrize.cached():
        with pytest.raises(ZeroDivisionError):
            fails()
        assert not torch.is_grad_enabled()
        assert torch.is_autocast_enabled("cpu")
        assert parametrize._cache_enabled == 1


class Halved(nn.Module):
    """Products in bfloat16 by an autocast of its own."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 6), nn.Linear(6, 3)

    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            return self.b(torch.tanh(self.a(x))).float()


def test_models_with_an_autocast_of_their_own_have_hessians():
    torch.manual_seed(0)
    X, y, model = torch.randn(6, 3), torch.arange(6) % 3, Halved().eval()
    task = cv.Task(model, "cross_entropy", train=(X, y), query=(X, y))
    found = cv.fit("hessian", task).operator.dense()
    plain = nn.Sequential(model.a, nn.Tanh(), model.b)
    wanted = cv.fit("hessian", cv.Task(plain, "cross_entropy", train=(X, y), query=(X, y)))
    assert_equal(found, wanted.operator.dense(), 0.02)
    assert "the Hessian, by" in str(cv.explain("hessian", task))


def test_threads_take_turns():
    torch.manual_seed(0)
    X, y = torch.randn(6, 3).double(), torch.arange(6) % 3
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double().eval()

    def scores(_=None):
        task = cv.Task(model, "cross_entropy", train=(X, y), query=(X, y))
        return cv.influence(cv.fit("hessian", task), task, damping=1.0)

    wanted = scores()
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(scores, range(8)):
            assert_equal(found, wanted)


def test_imports_draw_no_random_numbers():
    """What is imported on first use leaves the caller's streams as they were."""
    program = """
import random, numpy, torch, curvlang
states = lambda: (random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
before = states()
for name in curvlang.__all__:
    getattr(curvlang, name)
assert states() == before
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def drawn():
    """The next number of every stream of the process, which stays where it is."""
    with torch.random.fork_rng():
        own = float(torch.rand(()))
    python, array = random.getstate(), np.random.get_state()
    found = own, random.random(), float(np.random.rand())
    random.setstate(python)
    np.random.set_state(array)
    return found


def seeding(seed):
    """A `build` as people write it."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double().eval()


def test_the_callers_random_numbers_go_on(tmp_path, monkeypatch):
    """A `build` that seeds the process is called for retraining, for baselines, and for a task of a text."""
    g = torch.Generator().manual_seed(0)
    X, y = torch.randn(12, 3, generator=g).double(), torch.randint(0, 3, (12,), generator=g)
    own = cv.Task(
        seeding(0), "cross_entropy", (X, y), (X[:3], y[:3]), build=seeding,
        recipe=cv.Recipe(lr=0.1, epochs=1, batch=4),
    )  # fmt: skip
    code = (
        "import torch\n\ndef made():\n    torch.manual_seed(3)\n    return torch.nn.Linear(3, 3)\n"
    )
    (tmp_path / "seeding_model.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    text = """task own {
      data random(examples = 6, inputs = 3, outputs = 3)
      model python(function = "seeding_model:made")
      loss cross_entropy
      train sgd(epochs = 1, batch = 4)
    }
    evaluate kfac on own { lds subsets = 2, retrains = 1, bootstrap = 3, initialisation = shared }"""
    spec, cache = cv.loads(text), cv.Cache(tmp_path / "cache")
    source = cv.TaskSource(allow_python=True)
    calls = {
        "evaluate": lambda: cv.evaluate(
            "kfac", own, protocol=cv.LDS(subsets=2, retrains=1, bootstrap=3), cache=cache
        ),
        "task": lambda: cv.task(spec.evaluations[0].task, train=True, allow_python=True),
        "requests": lambda: list(
            cv.evaluate_requests(
                cv.evaluation_requests([spec], cv.EvaluationSettings(source)), cache=cache
            )
        ),
        "scores": lambda: cv.score_request(spec, source, cv.Scoring(damping=0.1)).run(),
        "explanations": lambda: list(cv.explanations(spec, source)),
        "fit": lambda: cv.fit("ekfac_mc", own),
    }
    for name, call in calls.items():
        before = drawn()
        call()
        assert drawn() == before, name
