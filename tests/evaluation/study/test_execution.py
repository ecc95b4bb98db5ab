"""A study by workers and by the processes of a group: the cells of one process, but for their times."""

from __future__ import annotations

import json

import pytest

import curvlang as cv
from curvlang.diagnostics.codes import Code
from curvlang.evaluation.study.execution import evaluated_cell
from curvlang.evaluation.study.files import packed_cell, unpacked_cell
from curvlang.storage.cache import Cache
from curvlang.workers.executor import Description
from tests.processes import together

SPEC = """
task tiny(hidden = [3]) {
  data    random(examples = 20, inputs = 4, outputs = 3)
  model   mlp(hidden = hidden, activation = tanh, bias = false)
  loss    cross_entropy
  train   sgd(lr = 0.1, batch = 8, epochs = 2)
}

study tiny_width {
  task       tiny(hidden = [width]) for width in [2, 3]
  path       ggn > kfac
  seeds      2
  inverses   tikhonov
  damping    [1]
  protocol   subsets = 12, retrains = 2, bootstrap = 10
}
"""


def numbers(result):
    """All of a result but times."""
    found = json.loads(json.dumps(result.to_json()))
    for group in found["groups"]:
        group["seconds"] = 0
    found["provenance"] = {}
    return json.dumps(found, sort_keys=True)


def run(spec, folder, cache, **options):
    return cv.study(spec, folder, cache=Cache(cache), progress=False, **options)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    path = tmp_path_factory.mktemp("spec") / "mine.cv"
    path.write_text(SPEC)
    return str(path)


@pytest.fixture(scope="module")
def whole(spec, tmp_path_factory):
    place = tmp_path_factory.mktemp("whole")
    return numbers(run(spec, place / "run", place / "cache"))


@pytest.fixture(scope="module")
def shared(spec, tmp_path_factory):
    """Half of the study by workers, the rest of it here."""
    place = tmp_path_factory.mktemp("shared")
    setup, cache = cv.Setup(workers=2), Cache(place / "cache")
    (asked,) = cv.study_requests(spec, setup, cache=cache, shard="1/2")
    assert asked.run(place / "run", progress=False).result.done == 2
    return numbers(run(spec, place / "run", place / "cache")), place


def test_workers_give_the_study_of_one_process(shared, whole):
    found, place = shared
    assert found == whole
    assert (place / "run/report.html").exists()
    # Of the 24 models of a ground truth, those of its first cell count as trained.
    cells = [json.loads(x.read_text())["cell"] for x in (place / "run/cells").glob("*.json")]
    assert sorted((c["trained"], c["reused"]) for c in cells) == [(0, 24)] * 2 + [(24, 0)] * 2


def by_ranks(spec, folder):
    return numbers(run(spec, f"{folder}/run", f"{folder}/cache"))


def test_processes_of_a_group_share_the_cells(spec, whole, tmp_path):
    assert together(by_ranks, 2, spec, str(tmp_path)) == [whole, whole]


def test_a_worker_with_another_study_runs_nothing(spec):
    order = {
        "text": SPEC,
        "path": spec,
        "study": "tiny_width",
        "small": False,
        "words": {},
        "precision": "float64",
        "device": "cpu",
        "memory": None,
        "allow_python": False,
        "cache": "nowhere",
    }
    with pytest.raises(cv.SpecError) as caught:
        evaluated_cell(Description(json.dumps(order)), "of other data")
    assert caught.value.diagnostics[0].code == Code.E0846


def test_a_metric_of_python_is_refused(spec, tmp_path):
    own = cv.Metric(lambda f, y: (f - y).abs().sum(), better="lower")
    with pytest.raises(cv.SpecError, match="E0845"):
        run(spec, tmp_path / "run", tmp_path / "cache", workers=1, metric=own)
    assert not (tmp_path / "run/cells").exists()


def test_cells_come_back_as_they_were_sent(shared):
    for text in (shared[1] / "run/cells").glob("*.json"):
        content, arrays = text.read_bytes(), text.with_suffix(".npz").read_bytes()
        sent = len(content).to_bytes(8, "little") + content + arrays
        cell, values = unpacked_cell(sent)
        assert packed_cell(cell, values) == sent
