"""Retraining by workers: the same bits whoever trains, whatever dies; what cannot be sent is refused first."""

from __future__ import annotations

import functools
import json
import warnings
from dataclasses import replace

import pytest
import torch

import curvlang as cv
from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import CurvlangError
from curvlang.diagnostics.refusal import refusal
from curvlang.evaluation.ground_truth import ground_truth
from curvlang.evaluation.retraining.remote import portable, trained_stack, unpacked
from curvlang.evaluation.retraining.retraining import Retraining
from curvlang.evaluation.retraining.truth_request import TruthRequest
from curvlang.runtime.processes.distributed import world
from curvlang.storage.cache import Cache
from curvlang.workers import dask_workers
from curvlang.workers.answers import WorkOrder, answer, result_of, versions
from curvlang.workers.dask_workers import DaskWorkers
from curvlang.workers.executor import Description, Execution, InTurn, PortableWork
from curvlang.workers.hire import executor_of
from tests.processes import together

TASK = "diabetes(hidden = [3], epochs = 1)"
"""Of odd sizes: a model's place in its stack shows in its last digits."""
PROTOCOL = cv.LDS(subsets=34, retrains=3)


pytestmark = pytest.mark.usefixtures("one_thread")


@functools.cache
def alone():
    return ground_truth(cv.task(TASK), PROTOCOL, 0, cache=Nothing())


class Nothing(Cache):
    """Keeps nothing."""

    def __init__(self):
        super().__init__("nowhere")

    def get(self, key, name):
        return None

    def put(self, key, name, value):
        pass

    def probe(self):
        pass


@pytest.fixture(scope="module")
def two():
    found = DaskWorkers(2)
    yield found
    found.close()


def refused(code, action):
    with pytest.raises(CurvlangError) as caught:
        action()
    assert [d.code for d in caught.value.diagnostics] == [code]
    return str(caught.value)


def by(executor, task=TASK, progress=None):
    cache = Nothing()
    task = cv.task(task) if isinstance(task, str) else task
    return ground_truth(task, PROTOCOL, 0, cache=cache, execution=Execution(executor, progress))


def test_workers_give_the_same_bits(two):
    found = by(two)
    assert (found.trained, found.reused) == (102, 0)
    assert torch.equal(found.outcome, alone().outcome)


def test_a_worker_that_is_killed_has_its_units_done_by_others(two):
    killed = []

    def kill(name, done, total):
        if not killed:
            killed.append(two._local._processes[0])
            killed[0].kill()

    found = by(two, progress=kill)
    assert torch.equal(found.outcome, alone().outcome)
    two._local.look()
    assert two._local._processes[0] is not killed[0]


def test_a_scheduler_that_exists_is_used_and_left_alone(two):
    by(two)
    other = DaskWorkers(two._local.cluster.scheduler_address)
    assert torch.equal(by(other).outcome, alone().outcome)
    other.close()
    assert torch.equal(by(two).outcome, alone().outcome)


def test_what_a_worker_refuses_is_said_once(two):
    said = refused(Code.E0504, lambda: by(two, "diabetes(hidden = [3], epochs = 2, lr = 1e9)"))
    assert "diverged in training" in said
    assert torch.equal(by(two).outcome, alone().outcome)


def over_ranks(folder):
    trained = []
    own = Retraining.trained

    def counted(self, stack, told=None):
        trained.append(stack.models)
        return own(self, stack, told)

    Retraining.trained = counted
    place = world().rank
    # Process 1 has a stack that process 0 lacks.
    cache = Cache(f"{folder}/{place}")
    if place == 1:
        ground_truth(cv.task(TASK), cv.LDS(subsets=25, retrains=1), 0, cache=cache)
        trained.clear()
    with executor_of(None) as executor:
        found = ground_truth(cv.task(TASK), PROTOCOL, 0, cache=cache, execution=Execution(executor))
    return [found.outcome, sum(trained), len(list(cache.root.rglob("*.bin")))]


@pytest.mark.parametrize("size", [2])
def test_processes_of_a_group_share_the_stacks(size, tmp_path):
    found = together(over_ranks, size, str(tmp_path))
    assert all(torch.equal(outcome, alone().outcome) for outcome, _, _ in found)
    assert sum(models for _, models, _ in found) in (102, 102 - 25)
    assert {files for _, _, files in found} == {5}


def diverging():
    with executor_of(None) as executor:
        by(executor, "diabetes(hidden = [3], epochs = 2, lr = 1e9)")


def test_a_model_that_diverges_ends_all_processes():
    found = together(diverging, 2, failing=True)
    assert [x.codes for x in found] == [("E0504",)] * 2


@pytest.mark.parametrize("text", [
    "digits", "digits_cnn(groups = 2)", "characters", "diabetes(hidden = [3])",
])  # fmt: skip
def test_tasks_are_made_again_from_their_text(text):
    """In the task's precision, and after it was trained; `portable` compares the keys."""
    request = TruthRequest.of(cv.task(text, dtype=torch.float64), cv.LDS(subsets=5), 3)
    portable(request, request.key())


def test_files_are_found_from_any_folder(tmp_path, monkeypatch):
    rows = "\n".join(f"{k % 7},{k % 5},{'ab'[k % 2]}" for k in range(40))
    (tmp_path / "rows.csv").write_text(f"one,two,label\n{rows}\n")
    (tmp_path / "mine.cv").write_text(
        'task mine { data file("rows.csv", target = label) model mlp(hidden = [3]) '
        "loss cross_entropy "
        "train sgd(lr = 0.1, batch = 8, epochs = 1) }\nevaluate ggn on mine { }\n"
    )
    spec = cv.load(tmp_path / "mine.cv").evaluations[0].task
    request = TruthRequest.of(cv.task(spec), cv.LDS(subsets=5, retrains=1), 0)
    order = portable(request, request.key())
    wanted = request.retraining().trained(request.stacks()[0])
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    unit = request.stacks()[0].name
    assert (unpacked(trained_stack(order.about, unit)) == wanted.numpy()).all()


def test_changed_tasks_and_functions_are_refused():
    task = cv.task(TASK)
    changed = task.replaced(train=(task.train[0] * 2, task.train[1]))
    own = cv.Metric(lambda f, y: (f - y).abs().sum(), better="lower")
    for request in (
        TruthRequest.of(changed, PROTOCOL, 0),
        TruthRequest.of(task, PROTOCOL, 0, own),
    ):
        refused(Code.E0845, lambda r=request: portable(r, r.key()))


def net(seed, width=2):
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Linear(2, width), torch.nn.Tanh(), torch.nn.Linear(width, 1)
    )


def cost(f, y):
    return torch.nn.functional.huber_loss(f, y, delta=0.3)


def python_task(build=net, loss="mse", dtype=torch.float32, **options):
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(40, 2, generator=generator).to(dtype)
    recipe = cv.Recipe(lr=0.1, batch=8, epochs=2)
    data = {"train": (X, X.sin().sum(1, True)), "query": (X[:5], X[:5, :1])}
    return cv.Task(build(0).to(dtype), loss, **data, build=build, recipe=recipe, **options)


def test_tasks_of_python_are_sent_by_the_names_of_their_functions(two):
    task = python_task(functools.partial(net, width=3), cost)
    here, there = by(InTurn(), task), by(two, task)
    assert torch.equal(here.outcome, there.outcome)


@pytest.mark.parametrize("loss", ["mse", torch.nn.functional.huber_loss, cost])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tasks_of_python_are_made_again(loss, dtype):
    request = TruthRequest.of(python_task(loss=loss, dtype=dtype), cv.LDS(subsets=5, retrains=1), 0)
    order = portable(request, request.key())
    (stack,) = request.stacks()
    wanted = request.retraining().trained(stack)
    assert (unpacked(trained_stack(order.about, stack.name)) == wanted.numpy()).all()


@pytest.mark.parametrize(("changes", "reason"), [
    ({"build": lambda seed: net(seed)}, "its `build` is not a function of a module"),
    ({"build": functools.partial(net, width=torch.tensor(3))}, "its `build` is not"),
    ({"loss": lambda f, y: (f - y).square().sum()}, "its loss is not"),
    ({"mask": torch.ones(40, 1, dtype=torch.bool)}, "its examples are padded"),
])  # fmt: skip
def test_parts_without_a_name_are_refused(changes, reason):
    request = TruthRequest.of(python_task(**changes), cv.LDS(subsets=5), 0)
    assert reason in refused(Code.E0845, lambda: portable(request, request.key()))


def test_what_cannot_be_sent_is_refused_before_anything_is_fitted(monkeypatch):
    def build(seed):
        torch.manual_seed(seed)
        return torch.nn.Linear(2, 1).double()

    X = torch.randn(8, 2).double()
    task = cv.Task(build(0), "mse", (X, X[:, :1]), (X, X[:, :1]), build=build, recipe=cv.Recipe())
    monkeypatch.setattr("curvlang.facade.experiment", None)
    refused(Code.E0845, lambda: cv.evaluate("ggn", task, protocol=PROTOCOL, workers=2))


def order(function):
    return WorkOrder.of(PortableWork(function, Description("about")))


def test_answers_hold_results_warnings_and_refusals():
    def work(about, unit):
        warnings.warn("not ours", UserWarning, stacklevel=1)
        cv.task("digits(hidden = [2])")
        from curvlang.training.one_by_one import OneByOne

        warnings.warn("slow", OneByOne, stacklevel=1)
        return f"{about.text} {unit}\n".encode() * 2

    def bad(about, unit):
        raise refusal(Code.E0504, "it diverged", "do less")

    def broken(about, unit):
        raise ValueError("no such thing")

    assert result_of(answer(order(work), "x")) == (b"about x\nabout x\n", ["slow"])
    assert "it diverged" in refused(Code.E0504, lambda: result_of(answer(order(bad), "x")))
    assert "ValueError: no such thing" in refused(
        Code.E0848, lambda: result_of(answer(order(broken), "x"))
    )


@pytest.mark.parametrize("name", ["curvlang", "torch"])
def test_workers_of_other_versions_do_nothing(name):
    def never(about, unit):
        raise AssertionError

    own = versions()
    other = replace(order(never), versions={**own, name: "0.0"})
    (line, content) = answer(other, "x").split(b"\n")
    assert content == b""
    theirs = {**json.loads(line), "versions": {**own, name: "0.0"}}
    said = refused(Code.E0847, lambda: result_of(json.dumps(theirs).encode() + b"\n"))
    assert f"has {name} 0.0, and this process {name} {own[name]}" in said


@pytest.mark.parametrize("wanted", [0, -1, "localhost:8786", ""])
def test_workers_that_cannot_be(wanted):
    refused(Code.E0849, lambda: DaskWorkers(wanted))


def test_a_scheduler_that_is_not_there(monkeypatch):
    monkeypatch.setattr(dask_workers, "CONNECTING", 0.3)
    said = refused(Code.E0849, lambda: by(DaskWorkers("tcp://127.0.0.1:9")))
    assert "no scheduler at `tcp://127.0.0.1:9`" in said


def test_a_missing_package_is_said(monkeypatch):
    monkeypatch.setattr(dask_workers.importlib.util, "find_spec", lambda name: None)
    assert "curvlang[scale]" in refused(Code.E0849, lambda: DaskWorkers(2))
