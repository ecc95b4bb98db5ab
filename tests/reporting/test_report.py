"""What Python calls return shows itself: as text, as HTML, as a frame, and as a run folder."""

from __future__ import annotations

import json
import sys
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import Literal, get_args, get_overloads, get_type_hints

import numpy as np
import pytest
import torch
from torch import Tensor

import curvlang as cv
from curvlang.attribution.influence import influence
from curvlang.diagnostics.notebook import html_table
from curvlang.evaluation.result import Result
from curvlang.reporting.runfolder import FILES, STEP_SCORES, read_result
from curvlang.reporting.tables.table import to_text
from tests.small import network, task

HOSTILE = "<script>alert('x')</script>&\"`"


@pytest.fixture(scope="module")
def small():
    return task(network([3, 4, 3]), "cross_entropy", n=6)


@pytest.fixture(scope="module")
def found(small):
    return cv.evaluate("kfac", small, damping=(0.01, 0.1))


class Page(HTMLParser):
    """Tags that are closed in order; what text they hold."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        assert not any(name.startswith("on") for name, _ in attrs)
        self.open.append(tag)
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def page(shown) -> Page:
    """What a notebook shows, whole and without a script."""
    read = Page(shown._repr_html_())
    assert read.open == []
    assert "script" not in read.tags
    return read


def test_a_result_prints_the_tables_of_the_command_line(found):
    assert isinstance(found, Result)
    assert str(found) == found.table() == to_text(found.plain())
    assert "block_ggn" in str(found)
    assert "Result(" not in str(found)
    assert (
        max(map(len, found.table(width=60).splitlines()))
        <= 60
        < max(map(len, str(found).splitlines()))
    )


def test_a_notebook_shows_every_cell_of_the_tables(found):
    seen = page(found).text
    for step in found.steps:
        assert step.label in seen
        assert step.structure in seen
    for word in ("error against hessian", "influence error by λ", "no models were retrained"):
        assert word in seen


def test_a_result_is_saved_as_the_run_folder(found, small, tmp_path):
    folder = found.save(tmp_path / "run")
    assert {path.name for path in folder.iterdir()} == FILES - {STEP_SCORES}
    assert read_result(folder) == found.plain()
    assert np.array_equal(np.load(folder / "scores.npy"), found.scores)
    assert found.scores.shape == (small.Q, small.N)
    assert (folder / "spec.cv").read_text() == cv.load("kfac").source.text
    notes = json.loads((folder / "provenance.json").read_text())
    assert notes["hashes"]["trained model"] == small.to(dtype=torch.float64).fingerprint()
    assert (notes["dtype"], notes["metric"], notes["protocol"]) == ("float64", "loss", None)
    assert found.save(folder) == folder
    (folder / "mine.txt").write_text("kept")
    with pytest.raises(cv.SpecError, match="E0903"):
        found.save(folder)
    assert (folder / "mine.txt").read_text() == "kept"


def test_the_json_of_a_result_holds_nothing_of_the_run(found):
    assert found.to_json() == found.plain().to_json()
    json.dumps(found.to_json())


def test_a_plan_shows_itself(small):
    plan = cv.explain("kfac", small)
    assert "def " not in plan.text(code=False)
    seen = page(plan)
    assert "torch code" in seen.text
    assert plan.text(code=False) in seen.text
    assert plan.table().splitlines()[-1].split() == ["kfac", "kronecker_factor", "Kronecker", "1"]


def test_coverage_shows_itself(small):
    shown = cv.coverage(small.model, small)
    assert str(shown).startswith(shown.table())
    seen = page(shown)
    assert all(row.parameter in seen.text for row in shown.rows)
    assert seen.tags.count("tr") == 1 + len(shown.rows)


def test_top_examples_show_themselves(small):
    scores = torch.tensor([[3.0, -1.0, 0.0, 2.0, -4.0, 1.0]]).repeat(small.Q, 1)
    shown = cv.top(scores, 2, small)
    assert isinstance(shown, list)
    lines = str(shown).splitlines()
    assert len(lines) == 1 + 4 * small.Q
    label = int(small.train[1][0])
    assert lines[1].split()[-5:] == ["helpful", "#0", "+3", "label", str(label)]
    assert [line.split()[-4] for line in lines[1:5]] == ["#0", "#3", "#4", "#1"]
    assert page(shown).tags.count("tr") == len(lines)
    without = cv.top(scores[:1], 1).table().splitlines()
    assert without[1].split() == ["0", "helpful", "#0", "+3"]


def test_operators_show_their_blocks(small):
    op = cv.fit("kfac", small)
    assert str(op) == repr(op)
    assert "kfac" in str(op)
    seen = page(op)
    for name, block in op.blocks.items():
        assert name in seen.text
        assert block.describe() in seen.text
    assert page(cv.fit("ggn", small)).tags.count("tr") == 2


def test_what_a_notebook_shows_is_escaped():
    shown = html_table([HOSTILE], [[HOSTILE]], title=HOSTILE)
    assert "<script" not in shown
    assert Page(shown).text == HOSTILE * 3


def test_frames(found, small, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=dict))
    table = found.to_pandas()
    points = [(s, p) for s in found.steps for p in s.points]
    assert table["step"] == [s.label for s, _ in points]
    assert table["damping"] == [p.damping for _, p in points]
    assert table["influence"] == [p.influence for _, p in points]
    assert table["lds"] == [None] * len(points)
    shares = cv.coverage(small.model, small).to_pandas()["share"]
    assert sum(shares) == pytest.approx(1)
    assert cv.explain("kfac", small).to_pandas()["passes"] == [0, 1, 1, 1]
    scores = cv.influence(cv.fit("kfac", small), small)
    rows = cv.top(scores, 1, small).to_pandas()
    for q, n, score in zip(rows["query"], rows["example"], rows["score"], strict=True):
        assert score == float(scores[q, n])


def test_a_frame_without_pandas_is_refused(found, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(cv.SpecError, match="E0757") as caught:
        found.to_pandas()
    assert 'pip install "curvlang[pandas]"' in str(caught.value)


def test_scores_have_one_type_for_each_call(small):
    kinds = {}
    for one in get_overloads(influence):
        hints = get_type_hints(one)
        if hints.get("per_token") == Literal[True]:
            assert hints["return"] is cv.TokenScores
            continue
        for value in get_args(hints["per_layer"]) or (None,):
            kinds[value] = hints["return"]
    assert kinds == {False: Tensor, True: dict[str, Tensor], None: Tensor | dict[str, Tensor]}
    op = cv.fit("kfac", small)
    assert isinstance(cv.influence(op, small), Tensor)
    assert isinstance(cv.influence(op, small, per_layer=True), dict)
