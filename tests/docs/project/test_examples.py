"""Every example of the gallery runs, small, finds what its page says, and draws its picture."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.models.language_model import hide_torchvision

FOLDER = Path(__file__).parents[3] / "docs/examples"
PAGE = (FOLDER / "README.md").read_text("utf-8")
SCRIPTS = sorted(x.stem for x in FOLDER.glob("*.py") if x.stem != "drawing")
MOST_BYTES = 120_000


@pytest.fixture
def example(tmp_path, monkeypatch):
    """Runs the script of that name in a folder of its own; checks its picture."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setenv("CURVLANG_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    hide_torchvision()

    def run(name, **options):
        found = importlib.import_module(name).main(tmp_path, **options)
        assert ElementTree.parse(tmp_path / f"{name}.svg").getroot().tag.endswith("svg")
        return found

    return run


def test_every_script_has_its_place_and_its_picture_on_the_page():
    for name in SCRIPTS:
        assert f"({name}.py)" in PAGE
        assert re.search(rf"!\[[^\]]{{20,}}\]\({name}\.svg\)", PAGE), name
        assert 1000 < (FOLDER / f"{name}.svg").stat().st_size < MOST_BYTES
    assert len(re.findall(r"^## ", PAGE, re.M)) == len(SCRIPTS)


def test_wrong_labels_are_found_first(example):
    assert example("mislabelled_digits") > 0.7


def test_the_fact_and_its_paraphrase_taught_it(example):
    found = example("language_model")
    assert set(found[:2]) == {"the capital of norway is oslo", "oslo is in norway"}


def test_a_new_approximation_comes_last(example, capsys):
    result = example("new_approximation", hidden=2, subsets=12)
    assert [x.label for x in result.steps] == ["hessian", "ggn", "block_ggn", "mine"]
    assert result.steps[-1].structure == "Kronecker blocks"
    assert "LDS by λ" in capsys.readouterr().out


def test_the_network_is_less_sure_where_there_are_no_data(example):
    inside, outside = example("laplace")
    assert 0 < 3 * inside < outside


def test_a_study_of_ones_own_model(example):
    run = example("own_study", widths="[2]")
    assert run.result.done == run.result.cells == 1
    assert run.result.methods == ("block_ggn", "factored")


def test_scores_of_one_process(example, capsys):
    assert example("several_processes", examples=200).shape == (8, 200)
    assert "1 processes" in capsys.readouterr().out
