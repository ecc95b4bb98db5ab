"""Results of studies as files: packed and plain ones say the same, earlier schemas are read, damage is refused."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

import curvlang as cv
from curvlang.evaluation.result_file import dumps, plain
from curvlang.evaluation.study.study_file import packed_study

SPEC = """
study small {
  task       diabetes(epochs = 2, hidden = [3])
  path       ggn > kfac
  seeds      2
  inverses   tikhonov, pseudo(rtol = 1e-4)
  damping    [1e-2, 1]
  protocol   subsets = 12, retrains = 2, bootstrap = 20, queries = 6
}
"""
RESULTS = Path(__file__).parents[3] / "docs" / "results"


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    (folder / "small.cv").write_text(SPEC)
    return cv.study(folder / "small.cv", cache=cv.Cache(folder / "cache"), progress=False)


def test_both_forms_hold_the_result(result, tmp_path):
    (tmp_path / "study.json").write_text(dumps(result.to_json()), "utf-8")
    (tmp_path / "small.json.gz").write_bytes(packed_study(result))
    whole, packed = (cv.read_study(tmp_path / name) for name in ("study.json", "small.json.gz"))
    assert plain(whole.to_json()) == plain(result.to_json())
    assert packed_study(whole) == packed_study(packed) == packed_study(result)
    for group, other in zip(result.groups, packed.groups, strict=True):
        for row, same in zip(group.rows, other.rows, strict=True):
            assert same.label == row.label
            for spot, read in zip(row.spots, same.spots, strict=True):
                assert read.lds.estimate == pytest.approx(spot.lds.estimate, rel=1e-6)


def test_a_choice_is_made_where_there_are_several_settings(result):
    swept, fixed = result.groups
    for row in swept.rows:
        assert row.honest is not None
        assert sum(share for _, share in row.honest.chosen) == pytest.approx(1)
        assert {x for x, _ in row.honest.chosen} <= {1e-2, 1}
        best = row.spots[row.best].lds.estimate
        assert row.honest.lds.estimate + row.honest.optimism.estimate == pytest.approx(best)
    assert len(swept.honest_pairs) == 1
    assert swept.honest_pairs[0].detectable > 0
    assert [row.honest for row in fixed.rows] == [None, None]
    assert fixed.honest_pairs == ()


def test_files_of_earlier_schemas_are_read(result, tmp_path):
    found = plain(result.to_json())
    found["schema"] = 2
    for group in found["groups"]:
        del group["honest_pairs"], group["task"]["origin"]
        for row in group["rows"]:
            del row["honest"]
        for pair in group["pairs"] + group["best_pairs"]:
            del pair["detectable"]
    (tmp_path / "old.json").write_text(json.dumps(found))
    read = cv.read_study(tmp_path / "old.json")
    assert read.groups[0].rows[0].honest is None
    assert read.groups[0].pairs[0].detectable is None
    assert read.groups[0].rows[0].spots == result.groups[0].rows[0].spots


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", "cannot be read"),
        (b"[1]", "has no schema"),
        (b'{"schema": 99}', "has no schema"),
        (b'{"schema": true}', "has no schema"),
        (b'{"schema": 4, "name": 3}', "is not the result of a study"),
    ],
)
def test_damage_is_refused(content, reason, tmp_path):
    for name, given in (("a.json", content), ("a.json.gz", gzip.compress(content))):
        (tmp_path / name).write_bytes(given)
        with pytest.raises(cv.SpecError, match=reason) as caught:
            cv.read_study(tmp_path / name)
        assert caught.value.diagnostics[0].code == "E0512"
    (tmp_path / "b.json.gz").write_bytes(gzip.compress(content)[:9])
    with pytest.raises(cv.SpecError, match="cannot be read"):
        cv.read_study(tmp_path / "b.json.gz")


def test_the_results_that_are_kept_can_be_read():
    files = sorted(RESULTS.glob("*.json.gz"))
    assert files
    for path in files:
        result = cv.read_study(path)
        assert path.name == f"{result.name}.json.gz"
        assert result.done == result.cells
        assert {"repeat", "versions", "spec"} <= set(result.provenance)
