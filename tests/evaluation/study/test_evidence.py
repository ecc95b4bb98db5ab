"""The evidence and the list of results are what the result files say; other pages quote them rightly."""

from __future__ import annotations

import importlib
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

DOCS = Path(__file__).parents[3] / "docs"
ROUNDING = 0.0051
"""Two decimals in prose."""


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(DOCS))
    yield importlib.import_module("make_evidence")
    sys.path.remove(str(DOCS))


@pytest.fixture(scope="module")
def results(script):
    return script.read()


def test_the_pages_are_what_the_results_say(script, results):
    renew = f"renew it: {script.RENEW}"
    assert script.evidence(results) == script.PAGE.read_text("utf-8"), renew
    assert script.listing(results) == script.LIST.read_text("utf-8"), renew


def test_a_changed_result_changes_the_pages(script, results):
    first = results["depth"].groups[0]
    row = first.rows[0]
    spots = tuple(replace(s, lds=replace(s.lds, estimate=s.lds.estimate + 0.1)) for s in row.spots)
    rows = (replace(row, spots=spots), *first.rows[1:])
    groups = (replace(first, rows=rows), *results["depth"].groups[1:])
    other = results | {"depth": replace(results["depth"], groups=groups)}
    assert script.listing(other) != script.LIST.read_text("utf-8")


def test_every_figure_is_there_and_says_what_it_shows(script):
    page = script.PAGE.read_text("utf-8")
    shown = re.findall(r"!\[(.+?)\]\(figures/([a-z-]+)\.svg\)", page)
    assert len(shown) == 6
    assert {f"{name}.svg" for _, name in shown} == {x.name for x in script.FIGURES.glob("*.svg")}
    for title, name in shown:
        assert f"**{title}.**" in page
        tree = ElementTree.parse(script.FIGURES / f"{name}.svg")
        assert tree.getroot().tag.endswith("svg")
        assert tree.getroot().get("viewBox")


def test_a_run_that_is_not_whole_is_not_taken_over(script, results, tmp_path):
    part = replace(results["depth"], done=1)
    (tmp_path / "study.json").write_text(json.dumps(part.to_json()))
    with pytest.raises(SystemExit, match="1 of"):
        script.take_over(tmp_path)


def own_differences(results, first, second):
    """Differences of a pair that are told apart, each curvature at its own λ."""
    return [
        p.difference.estimate
        for result in results.values()
        for group in result.groups
        if group.inverse.startswith("tikhonov")
        for p in (group.honest_pairs or group.best_pairs)
        if (p.first, p.second) == (first, second) and p.verdict == "better"
    ]


def quoted(page, pattern):
    found = re.search(pattern, " ".join((DOCS.parent / page).read_text("utf-8").split()))
    assert found, f"{page} says nothing of: {pattern}"
    return [float(x) for x in found.groups()]


def test_what_the_readme_says_of_the_kronecker_step(results):
    low, high = quoted("README.md", r"the Kronecker step costs (\.\d+) to (\.\d+) of LDS")
    found = own_differences(results, "block_ggn", "ekfac")
    assert min(found) - ROUNDING <= low <= high <= max(found) + ROUNDING, found


def test_what_the_readme_says_of_fashion_mnist(results):
    (below,) = quoted("README.md", r"on Fashion-MNIST, where the Hessian is (\.\d+) below K-FAC")
    group = results["fashion"].groups[0]
    found = {(p.first, p.second): p for p in group.honest_pairs}
    assert found["block_ggn", "ekfac"].verdict == "cannot be told apart"
    assert found["block_ggn", "kfac"].verdict == "cannot be told apart"
    pair = found["hessian", "kfac"]
    assert pair.verdict == "worse"
    assert abs(pair.difference.estimate + below) < ROUNDING


def test_what_the_readme_says_of_scores_that_follow_the_training(results):
    (gain,) = quoted("README.md", r"\(SOURCE\) gain (\.\d+) on EK-FAC at its end")
    group = results["baselines"].groups[-1]
    pairs = group.honest_pairs or group.best_pairs
    (pair,) = [p for p in pairs if {p.first, p.second} == {"ekfac", "source"}]
    assert pair.verdict in ("better", "worse")
    assert abs(abs(pair.difference.estimate) - gain) < ROUNDING
