"""One engine: an evaluation and a study of one cell find the same; what worked is kept with its reason."""

from __future__ import annotations

import json

import pytest
import torch
from curvlang.cli.main import run

import curvlang as cv
from curvlang.evaluation import summary as summaries
from curvlang.evaluation.question import Run
from curvlang.evaluation.study.execution import run_missing
from curvlang.evaluation.study.files import CellFolder
from curvlang.evaluation.study.run import gather, work_of
from curvlang.evaluation.summary import summary
from curvlang.storage.cache import Cache
from tests.small import network, task

TASK = """
task own {
  data random(examples = 40, inputs = 4, outputs = 3)
  model mlp(hidden = [3], activation = tanh)
  loss cross_entropy
  train sgd(lr = 0.1, batch = 8, epochs = 3)
}
"""
EVALUATED = TASK + "evaluate kfac on own { lds subsets = 12, retrains = 2, bootstrap = 60 }"
STUDIED = (
    TASK
    + """study one {
  task own
  path hessian > ggn > block_ggn > kfac
  protocol subsets = 12, retrains = 2, bootstrap = 60
}"""
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return Cache(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def trained():
    own = cv.loads(EVALUATED).evaluations[0].task
    return cv.task(own, train=True)


PROTOCOL = cv.LDS(subsets=12, retrains=2, bootstrap=60)


def group_of(text, cache, folder, **changes):
    study = cv.loads(text).studies["one"]
    run = Run(cache=cache)
    work, store = work_of(study, run, **changes), CellFolder(folder)
    run_missing(work, store, run)
    return gather(study, work, store).groups[0]


def test_a_study_of_one_cell_and_an_evaluation_print_the_same(cache, tmp_path):
    (report,) = cv.evaluate_requests(cv.evaluation_requests([cv.loads(EVALUATED)]), cache=cache)
    group = group_of(STUDIED, cache, tmp_path)
    assert [r.label for r in group.rows] == [s.label for s in report.steps]
    for row, step in zip(group.rows, report.steps, strict=True):
        assert row.forward == step.forward
        for spot, point in zip(row.spots, step.points, strict=True):
            assert (spot.inverse, spot.influence, spot.cosine) == (
                point.inverse,
                point.influence,
                point.cosine,
            )
            # The study adds folds up where the evaluation has whole correlations.
            for name in ("estimate", "low", "high"):
                expected = pytest.approx(getattr(point.lds, name), abs=1e-14)
                assert getattr(spot.lds, name) == expected
    assert (group.ceiling, group.shared) == (report.ceiling, report.steps[0].shared)
    pairs = {(p.first, p.second): p for p in group.pairs}
    assert len(report.comparisons) == 4
    for one in report.comparisons:
        pair = pairs[one.second, one.first]
        opposite = {"better": "worse", "worse": "better"}
        assert opposite.get(pair.verdict, pair.verdict) == one.verdict
        # A study keeps resamples in single precision.
        assert -pair.difference.estimate == pytest.approx(one.difference.estimate, abs=1e-6)
        assert -pair.difference.high == pytest.approx(one.difference.low, abs=1e-6)


def test_all_that_a_study_has_an_evaluation_has(trained, cache):
    report = cv.evaluate(
        "kfac",
        trained,
        protocol=PROTOCOL,
        cache=cache,
        reference="ggn",
        inverse=["tikhonov(damping = 0.1)", "factored(damping = 0.1)"],
        baselines=["gradient_cosine", "relatif of kfac"],
        measures=["mislabelled", "proximal_response(examples = 4, steps = 5)"],
    )
    assert report.reference == "ggn"
    assert report.inverse == "tikhonov(damping = 0.1)"
    assert [s.structure for s in report.steps][-2:] == ["baseline", "baseline"]
    assert all(s.points[0].lds is not None for s in report.steps)
    (factored,) = report.run.others
    assert factored.inverse == "factored(damping = 0.1)"
    assert factored.steps[3].points[0].lds is not None
    assert "two Kronecker factors" in factored.steps[0].points[0].note
    assert "factored(damping = 0.1)" in str(report)
    tables = report.run.measures["mislabelled"]
    assert [len(t.values) for t in tables] == [4, 4]
    assert any(note.startswith("mislabelled: `") or "`kfac` 0." in note for note in report.notes)


def test_all_that_an_evaluation_has_a_study_has(cache, tmp_path):
    group = group_of(
        STUDIED.replace("bootstrap = 60", "bootstrap = 20"),
        cache,
        tmp_path,
        metric="margin",
        reference=cv.loads("curvature mine = ggn").curvatures["mine"],
    )
    assert group.rows[1].forward == 0
    assert all(s.lds is not None for r in group.rows for s in r.spots)
    plain = group_of(STUDIED.replace("bootstrap = 60", "bootstrap = 20"), cache, tmp_path)
    assert plain.rows[0].forward == 0
    assert plain.rows[0].spots[0].lds != group.rows[0].spots[0].lds


def test_a_measure_says_why_it_has_no_value(trained, cache):
    report = cv.evaluate(
        "kfac",
        trained,
        protocol=PROTOCOL,
        cache=cache,
        inverse="factored(damping = 0.1)",
        measures="mislabelled",
    )
    (table,) = report.run.measures["mislabelled"]
    assert [row[0] is None for row in table.values] == [True, True, True, False]
    assert len(table.notes) == 3
    assert all("two Kronecker factors" in note for note in table.notes)
    assert any("mislabelled: `hessian`" in note for note in report.notes)


def zero():
    model = torch.nn.Linear(3, 2).double().eval()
    zeros = torch.zeros(5, 3).double(), torch.zeros(5, 2).double()
    return cv.Task(model, "mse", zeros, zeros)


def test_steps_that_worked_are_kept_where_the_last_one_did_not():
    text = "curvature mine = ggn |> block_diagonal\ncurvature shifted = mine + identity"
    report = cv.evaluate(cv.loads(text), zero(), curvature="mine", damping=(0.0,))
    assert [s.forward for s in report.steps] == [0.0, 0.0, 0.0]
    assert "not finite" in report.steps[-1].points[0].note
    with pytest.raises(cv.SpecError, match="E0506"):
        _ = report.scores


def test_the_command_writes_what_worked_and_ends_with_the_reason(tmp_path, capsys):
    spec = tmp_path / "mine.cv"
    lines = "curvature mine = hessian |> block_diagonal\nevaluate mine with tikhonov(damping = 1e-9) on own"
    spec.write_text(f"{TASK}{lines} {{ solve cg\n lds subsets = 4, retrains = 1 }}")
    assert run(["eval", str(spec), "--out", str(tmp_path / "run"), "-q"]) == 2
    assert "E0506" in capsys.readouterr().err
    found = json.loads((tmp_path / "run" / "result.json").read_text())
    assert [s["label"] for s in found["steps"]] == ["hessian", "mine"]
    assert found["steps"][1]["forward"] > 0
    assert "negative curvature" in found["steps"][1]["points"][0]["note"]
    assert any("nothing was retrained" in note for note in found["notes"])
    assert found["protocol"] is None
    assert not (tmp_path / "run" / "scores.npy").exists()


def test_the_summary_of_a_task_runs_in_batches(monkeypatch):
    given = task(network([3, 4, 3]), "cross_entropy", n=12)
    whole = summary(given, {})
    sizes = []
    given.model.register_forward_pre_hook(lambda module, x: sizes.append(len(x[0])))
    monkeypatch.setattr(summaries, "forward_batch", lambda *given: 5)
    parts = summary(given, {})
    assert max(sizes) == 5
    with torch.no_grad():
        f = given.model(given.train[0])
        loss = torch.nn.functional.cross_entropy(f, given.train[1])
    assert parts.train_loss == pytest.approx(float(loss), rel=1e-12)
    assert parts.query_accuracy == whole.query_accuracy
