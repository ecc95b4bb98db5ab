"""What can refuse an evaluation does so before anything is trained, fitted or retrained: trainings are counted."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import curvlang as cv
from curvlang.evaluation.question import Run
from curvlang.evaluation.study.execution import run_missing
from curvlang.evaluation.study.files import CellFolder
from curvlang.evaluation.study.run import work_of
from curvlang.runtime import fit
from curvlang.storage.cache import Cache
from curvlang.training import retrain
from tests.small import network, task

LARGE = "random(examples = 12, inputs = 700, outputs = 10)"
"""With 140 hidden units about 1e5 parameters: the Hessian and the GGN are known by products alone."""


def spec(lines="", on="", task_lines="", train="sgd(epochs = 1, batch = 8)", data=None, hidden=3):
    text = f"""
task own {{
  data {data or "random(examples = 24, inputs = 4, outputs = 3)"}
  model mlp(hidden = [{hidden}], activation = tanh)
  loss cross_entropy
  train {train}
}}
{lines}
"""
    return cv.loads(text)


@pytest.fixture
def trainings(monkeypatch):
    """Trainings that were started, and fits."""
    started = []
    engine, fitted = retrain.engine, fit._fitted

    def counted(models, *args, **kwargs):
        started.append(len(models))
        return engine(models, *args, **kwargs)

    def counted_fit(*args, **kwargs):
        started.append("fit")
        return fitted(*args, **kwargs)

    monkeypatch.setattr(retrain, "engine", counted)
    monkeypatch.setattr(fit, "_fitted", counted_fit)
    return started


def evaluated(text, **settings):
    asked = cv.evaluation_requests([text], cv.EvaluationSettings(**settings))
    return list(cv.evaluate_requests(asked))


KEEP = "evaluate kfac on own { lds subsets = 4, keep = 0.01 }"
FACTORED = "evaluate ekfac with factored(damping = 0.01) on own { lds subsets = 4 }"
SECOND = "evaluate kfac on own { lds subsets = 4 }\n" + FACTORED
PRODUCTS = "evaluate ggn with pseudo on own"
RELATIVE = "evaluate ggn with tikhonov_per_block on own"
PRECONDITIONER = """evaluate ggn with tikhonov(damping = 1) on own {
  solve cg(preconditioner = ggn)
}"""


@pytest.mark.parametrize(
    ("lines", "settings", "code", "large"),
    [
        (KEEP, {}, "E0502", False),
        (FACTORED, {}, "E0791", False),
        (SECOND, {}, "E0791", False),
        ("evaluate kfac on own", {"metric": "nonsense"}, "E0590", False),
        (PRODUCTS, {}, "E0790", True),
        (RELATIVE, {}, "E0790", True),
        (PRECONDITIONER, {}, "E0621", True),
        ("evaluate kfac on own", {"setup": cv.Setup(memory="1 KiB")}, "E0801", False),
    ],
)
def test_what_a_spec_asks_for_is_refused_before_its_model_is_trained(
    lines, settings, code, large, trainings
):
    text = spec(lines, data=LARGE, hidden=140) if large else spec(lines)
    with pytest.raises((cv.SpecError, cv.MachineError)) as refused:
        evaluated(text, **settings)
    assert refused.value.diagnostics[0].code == code
    assert trainings == []


@pytest.mark.parametrize(
    ("inverse", "code"), [("pseudo", "E0790"), ("tikhonov", "E0790"), ("factored", "E0791")]
)
def test_scores_of_a_large_model_are_refused_before_it_is_trained(inverse, code, trainings):
    lines = f"evaluate ggn with {inverse} on own"
    with pytest.raises(cv.SpecError) as refused:
        cv.score_request(spec(lines, data=LARGE, hidden=140)).run()
    assert refused.value.diagnostics[0].code == code
    assert trainings == []


STUDY = """study own_study {{
  task own
  path ggn > ekfac
  {lines}
  protocol subsets = 4, retrains = 1, bootstrap = 10
}}"""


@pytest.mark.parametrize(
    ("lines", "train", "code"),
    [
        ("inverses factored(damping = 0.1)", "sgd(epochs = 1, batch = 8)", "E0791"),
        ("baselines source of ekfac", "sgd(epochs = 1, batch = 8)", "E0428"),
        ("baselines metagradient", "adam(epochs = 1, batch = 8)", "E0509"),
        (
            "baselines relatif of kfac, relatif of diagonal with factored(damping = 1)",
            "sgd(epochs = 1, batch = 8)",
            "E0791",
        ),
    ],
)
def test_a_study_is_refused_before_its_first_model_is_trained(
    lines, train, code, trainings, tmp_path
):
    study = spec(STUDY.format(lines=lines), train=train, hidden=30).studies["own_study"]
    run = Run(cache=Cache(tmp_path / "cache"))
    with pytest.raises(cv.SpecError) as refused:
        run_missing(work_of(study, run), CellFolder(tmp_path), run)
    assert refused.value.diagnostics[0].code == code
    assert trainings == []


def test_a_cell_that_cannot_be_run_is_refused_before_the_first_one_is(trainings, tmp_path):
    lines = STUDY.replace("task own", "task digits(hidden = [3], epochs = 1) ").format(lines="")
    lines = lines.replace("subsets = 4", "subsets = 4, keep = share")
    lines = lines.replace("bootstrap = 10", "bootstrap = 10 for share in [0.5, 0.0001]")
    study = spec(lines).studies["own_study"]
    run = Run(cache=Cache(tmp_path / "cache"))
    with pytest.raises(cv.SpecError, match="E0502"):
        run_missing(work_of(study, run), CellFolder(tmp_path), run)
    assert trainings == []


def trainable(**changes):
    def build(seed):
        return network([3, 4, 3], seed=seed)

    return task(network([3, 4, 3]), "cross_entropy", n=12).replaced(
        **{"build": build, "recipe": cv.Recipe(epochs=1, batch=4), **changes}
    )


@pytest.mark.parametrize(
    ("changes", "options", "code"),
    [
        ({"build": None}, {"protocol": cv.LDS(subsets=4)}, "E0503"),
        (
            {"build": lambda seed: nn.Linear(3, 3).double()},
            {"protocol": cv.LDS(subsets=4)},
            "E0507",
        ),
        (
            {"build": lambda seed: network([3, 4, 3], seed=0)},
            {"protocol": cv.LDS(subsets=4)},
            "E0753",
        ),
        ({}, {"baselines": ("gradient_cosine",)}, "E0510"),
        (
            {},
            {"baselines": ("metagradient",), "protocol": cv.LDS(subsets=4), "metric": "margin"},
            "E0511",
        ),
        ({}, {"baselines": ("metagradient",), "protocol": cv.LDS(subsets=4)}, "E0509"),
        ({"build": None}, {"measures": ("mislabelled",)}, "E0503"),
        ({}, {"inverse": "factored(damping = 0.1)"}, "E0791"),
        ({}, {"inverse": "pseudo", "solve": "cg"}, "E0735"),
    ],
)
def test_what_a_call_asks_for_is_refused_before_any_work(changes, options, code, trainings):
    with pytest.raises(cv.SpecError) as refused:
        cv.evaluate("ggn" if "solve" in options else "ekfac", trainable(**changes), **options)
    assert refused.value.diagnostics[0].code == code
    assert trainings == []


def test_what_is_planned_is_what_is_fitted():
    """The structure that an inverse is tried on is that of the fit, for every curvature that ships."""
    from curvlang.language import curvature_named, shipped
    from curvlang.runtime.combine import fit_all
    from curvlang.runtime.limits.planned import planned

    given = task(network([3, 4, 3]), "cross_entropy", n=12)
    # A factor with more columns than rows is made dense, which only the fit can know; the model has no heads.
    apart = ("ekfac_lm", "low_rank", "ggn_by_head", "kfac_by_head")
    names = [x.name for x in shipped() if x.kind == "curvature" and x.name not in apart]
    curvatures = [curvature_named(name) for name in names]
    mix = cv.loads("curvature mix = 0.5 * kfac + 2 * diagonal").curvatures["mix"]

    def kinds(operator):
        return [type(part).__name__ for part in getattr(operator, "parts", (operator,))]

    fitted = fit_all([*curvatures, mix], given)
    for own, stage in zip(planned([*curvatures, mix], given), fitted, strict=True):
        assert kinds(own) == kinds(stage.operator), stage.label
    assert torch.is_tensor(fitted[0].operator.trace())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "task, inverse and protocol are the defaults shown"),
        ({"lds": False}, "task and inverse are the defaults shown"),
        ({"quick": True}, "task and inverse are the defaults shown"),
        ({"source": cv.TaskSource(task="digits")}, "inverse and protocol are the defaults shown"),
        (
            {"source": cv.TaskSource(task="digits"), "lds": False},
            "the inverse is the default shown",
        ),
        (
            {"source": cv.TaskSource(data="random(examples = 4)")},
            "the rest of the task, inverse and protocol are the defaults shown",
        ),
    ],
)
def test_only_what_was_left_open_is_a_default(settings, said):
    (one,) = cv.evaluation_requests(["kfac"], cv.EvaluationSettings(**settings))
    assert one.notes()[-1] == f"the spec names no evaluation: {said}"


def test_quick_says_what_it_does():
    (one,) = cv.evaluation_requests(["kfac"], cv.EvaluationSettings(quick=True))
    assert "small protocol" in one.notes()[0]
    (one,) = cv.evaluation_requests(["kfac"], cv.EvaluationSettings(quick=True, lds=False))
    assert one.notes()[0].startswith("--quick changes nothing without the LDS")
