"""`curvlang doctor` says what is there, what is missing and how to get it; what it says is true."""

from __future__ import annotations

import json
from importlib import metadata

import pytest
import torch
from curvlang.cli.main import run

import curvlang as cv
from curvlang import doctor as module


@pytest.fixture(autouse=True)
def no_torchvision(monkeypatch):
    """Libraries that the tests compare with may bring one of another build along."""

    def absent(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(module, "import_module", absent)


def by_subject(found):
    return {x.subject: x for x in found.findings}


def test_it_shows_what_runs_here(capsys):
    assert run(["doctor"]) == 0
    shown = capsys.readouterr().out
    for word in (cv.__version__, torch.__version__, "threads", "memory", str(cv.Cache().root)):
        assert word in shown


def test_json(capsys):
    assert run(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["works"] is True
    subjects = {x["subject"]: x["value"] for x in found["findings"]}
    assert subjects["numpy"] == metadata.version("numpy")


@pytest.fixture
def requirements(monkeypatch):
    """What curvlang is said to need."""

    def says(*texts):
        monkeypatch.setattr(module.metadata, "requires", lambda name: list(texts))

    return says


def test_a_needed_package_that_is_missing_is_wrong(requirements, capsys):
    requirements("no-such-package>=1")
    assert run(["doctor"]) == 3
    shown = capsys.readouterr().out
    assert "! no-such-package" in shown
    assert "pip install -U curvlang" in shown


def test_an_extra_that_is_missing_is_only_absent(requirements, capsys):
    requirements('no-such-package>=1; extra == "lsp"')
    found = by_subject(cv.installation())["no-such-package"]
    assert (found.heading, found.state) == ("curvlang[lsp]", "absent")
    assert found.repair == 'pip install "curvlang[lsp]"'
    assert cv.installation().works


def test_what_only_developers_need_is_listed_in_a_checkout_alone(requirements, monkeypatch):
    requirements('no-such-package>=1; extra == "dev"')
    assert "no-such-package" in by_subject(cv.installation())
    monkeypatch.setattr("curvlang.doctor.__file__", "/somewhere/else/curvlang/doctor.py")
    assert "no-such-package" not in by_subject(cv.installation())


def test_a_version_outside_the_limits_is_wrong(requirements):
    requirements("numpy<1")
    found = by_subject(cv.installation())["numpy"]
    assert found.state == "wrong"
    assert found.repair == 'pip install "numpy<1"'


def test_an_extra_that_takes_others_together_is_no_package(requirements):
    requirements('curvlang[hf]; extra == "lsp"', 'numpy; extra == "lsp"')
    packages = [x.subject for x in cv.installation().findings if x.heading == "curvlang[lsp]"]
    assert packages == ["numpy"]


def test_a_requirement_of_another_python_is_not_asked_for(requirements):
    requirements('no-such-package; python_version < "3"')
    assert "no-such-package" not in by_subject(cv.installation())


def test_a_cache_that_cannot_be_written_to_is_wrong(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CURVLANG_CACHE", str(tmp_path / "file"))
    found = by_subject(cv.installation())["cache"]
    assert found.state == "wrong"
    assert found.repair


def test_a_torchvision_of_another_build_is_wrong(monkeypatch, requirements):
    requirements('transformers>=1; extra == "lsp"')

    def broken(name):
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(module, "import_module", broken)
    found = by_subject(cv.installation())["transformers"]
    assert found.state == "wrong"
    assert "pip uninstall torchvision" in found.repair
