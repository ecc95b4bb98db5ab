"""Every public value shows itself: results in a line and in a notebook, settings as the call that makes them."""

from __future__ import annotations

import inspect
import re
from functools import partial

import pytest
import torch

import curvlang as cv
from curvlang.costs.rates import measured_rates
from curvlang.diagnostics.notebook import LONGEST
from curvlang.reporting.figures.figures import FIGURES
from curvlang.reporting.report import report
from curvlang.reporting.runfolder import Record
from tests.reporting.example import digits
from tests.reporting.test_report import HOSTILE, Page, page
from tests.small import network
from tests.small import task as make_task

SETTINGS = {
    "LDS", "BinaryCrossEntropy", "CrossEntropy", "EvaluationSettings", "Metric", "Precision", "Recipe",
    "Scoring", "Setup", "TaskSource", "World",
}  # fmt: skip
"""What a user writes down: its `repr` is the call, and a notebook shows that."""
INPUTS = {"Task", "TaskSpec", "StoredRows", "Trajectory", "TokenScores"}
"""Data: their `repr` says their sizes."""
ERRORS = {"Interrupted", "MachineError", "SpecError"}
RUNNING = {"Bars"}


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """A value of every public type that results have, by the type's name."""
    place = tmp_path_factory.mktemp("shown")
    task = make_task(network([3, 2, 3]), "cross_entropy", n=6)
    op = cv.fit("kfac", task, progress=False)
    source = cv.TaskSource("digits(hidden = [2], epochs = 1)")
    kfac = cv.load("kfac")
    fit = cv.fit_request(kfac, task, cv.Setup(store=str(place / "store")))
    index = cv.index_request("kfac", task, cv.Setup(store=str(place / "index")))
    indexed = index.run(progress=False)
    request = cv.score_request(kfac, task, cv.Scoring(damping=0.1))
    study = cv.study_requests("depth", quick=True)[0]
    studied = study.report(place / "study")
    top = cv.top(cv.influence(op, task, damping=0.1, progress=False), 1, task)
    (evaluation,) = cv.evaluation_requests([kfac], cv.EvaluationSettings(source))
    found = (
        cv.evaluate("kfac", task, progress=False), cv.explain("kfac", task), kfac, op, op.operator,
        cv.coverage(task.model, task), cv.covered([kfac], source), benchmark("kfac", task),
        cv.check("kfac"), cv.check_laws("kfac", examples=1, law="positive", progress=False),
        cv.installation(), cv.Cache(place / "cache"), cv.NaturalGradient(op, task.model, 0.1),
        cv.Evidence(op, task), cv.precision_errors("kfac", task, "float32"), fit, fit.run(progress=False),
        request, request.run(progress=False), study, studied, studied.result, top, top[0],
        top[0].helpful[0], evaluation, broken(), index, indexed, indexed.index,
        cv.leading_eigenpairs(op, 2, progress=False), cv.search(["kfac"])[0], measured_lds(),
    )  # fmt: skip
    return {type(one).__name__: one for one in found}


def benchmark(spec, task):
    """With the rates of small sizes: this machine's are told from others by no test here."""
    few = partial(measured_rates, held=2**22)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("curvlang.costs.benchmark.measured_rates", few)
        return cv.benchmark(spec, task)


def broken() -> cv.Diagnostic:
    with pytest.raises(cv.SpecError) as caught:
        cv.loads("curvature x = hessian |> kroneker_factor")
    return caught.value.diagnostics[0]


def measured_lds():
    draws = torch.Generator().manual_seed(0)
    scores, outcome = torch.randn(2, 6, generator=draws), torch.randn(5, 2, generator=draws)
    return cv.lds(scores, torch.rand(5, 6, generator=draws) < 0.5, outcome, bootstrap=10)


def own_types(text: str, names: dict[str, object]) -> set[str]:
    """The classes of this package that a return annotation names."""
    found = (names.get(word) for word in re.findall(r"\w+", text))
    classes = (one for one in found if inspect.isclass(one))
    return {one.__name__ for one in classes if one.__module__.startswith("curvlang")}


def test_every_public_type_is_decided(shown):
    public = [getattr(cv, name) for name in cv.__all__]
    kinds = {one.__name__ for one in public if inspect.isclass(one)}
    for one in filter(inspect.isfunction, public):
        whole = inspect.unwrap(one)
        kinds |= own_types(whole.__annotations__["return"], whole.__globals__)
    apart = SETTINGS | INPUTS | ERRORS | RUNNING
    assert kinds - apart <= set(shown)
    assert not apart & set(shown)
    assert apart <= kinds


def test_results_are_one_short_line(shown):
    for name, one in shown.items():
        line = repr(one)
        assert "\n" not in line, name
        assert len(line) <= LONGEST + 2, name
        assert line.startswith("<"), name
        assert " object at 0x" not in line, name


def test_results_show_themselves_in_a_notebook(shown):
    for name, one in shown.items():
        assert page(one).text.strip(), name


def test_a_notebook_keeps_its_own_colours(shown):
    for name, one in shown.items():
        html = one._repr_html_()
        assert "color:" not in html, name
        assert "background" not in html, name


def test_names_of_a_user_are_escaped():
    text = f"# {HOSTILE}\ncurvature x = hessian |> drop_residual"
    assert page(cv.loads(text)).text
    model = torch.nn.Sequential(torch.nn.Linear(3, 2))
    X, y = torch.randn(4, 3), torch.tensor([0, 1, 0, 1])
    task = cv.Task(model, "cross_entropy", (X, y), (X, y), name=HOSTILE)
    assert page(cv.explain("kfac", task)).text
    problem = broken()
    hostile = cv.Diagnostic(problem.code, HOSTILE, problem.labels, (HOSTILE,), (HOSTILE,))
    seen = page(hostile)
    assert seen.tags == ["p", "b", "ul", "li", "li", "li"]
    assert seen.text.count(HOSTILE) == 3


def test_the_line_of_a_model_of_many_layers_is_cut():
    wide = torch.nn.Sequential(*(torch.nn.Linear(2, 2) for _ in range(60)))
    X, y = torch.randn(4, 2), torch.tensor([0, 1, 0, 1])
    op = cv.fit("kfac", cv.Task(wide, "cross_entropy", (X, y), (X, y)), progress=False)
    assert repr(op).endswith("…>")
    assert len(repr(op.operator)) <= LONGEST + 2
    assert len(str(op.operator)) > LONGEST


def test_an_inverse_is_named_apart_from_its_curvature():
    X, y = torch.randn(4, 3), torch.tensor([0, 1, 0, 1])
    task = cv.Task(torch.nn.Sequential(torch.nn.Linear(3, 2)), "cross_entropy", (X, y), (X, y))
    op = cv.fit("kfac", task, progress=False)
    assert repr(op).startswith("<kfac: ")
    assert repr(op.inverse(0.1)).startswith("<kfac⁻¹: ")
    assert repr(op.inverse(spectral=torch.sqrt)).startswith("<f(kfac): ")


def test_settings_show_the_call_that_makes_them():
    for value in (cv.Recipe(lr=0.5), cv.LDS(subsets=3), cv.TaskSource("digits")):
        assert eval(repr(value), {type(value).__name__: type(value)}) == value


def test_the_figures_of_a_result(tmp_path):
    result = report(digits(), Record(None))
    for name in FIGURES:
        figure = result.figure(name)
        assert figure.svg is not None
        assert "svg" in Page(figure._repr_html_()).tags
        assert figure.save(tmp_path / f"{name}.svg").read_text() == figure.svg
    with pytest.raises(cv.SpecError, match=r"E0722.*`figure_9`") as caught:
        result.figure("figure_9")
    assert all(name in str(caught.value) for name in FIGURES)
    with pytest.raises(cv.SpecError, match="E0722"):
        result.figure("chain").save(tmp_path / "chain.png")


def test_a_figure_without_numbers_says_what_to_do(shown):
    with pytest.raises(cv.SpecError, match=r"E0722[\s\S]*protocol=cv\.LDS"):
        shown["Report"].figure("sweep")
    assert shown["Report"].figure("chain").svg is not None
