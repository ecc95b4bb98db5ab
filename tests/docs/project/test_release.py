"""What a release says about itself: one version, a changelog, extras, and files that GitHub reads."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from curvlang.version import VERSION

ROOT = Path(__file__).parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
SCHEMAS = {
    "vendor.github-workflows": sorted((ROOT / ".github/workflows").glob("*.yml")),
    "vendor.github-issue-forms": [
        ROOT / ".github/ISSUE_TEMPLATE" / x for x in ("approximation.yml", "bug.yml")
    ],
    "vendor.github-issue-config": [ROOT / ".github/ISSUE_TEMPLATE/config.yml"],
    "vendor.citation-file-format": [ROOT / "CITATION.cff"],
}


def names(requirements):
    return {re.match(r"[\w-]+", x)[0].lower() for x in requirements}


@pytest.mark.parametrize("schema", SCHEMAS)
def test_files_for_github_have_its_form(schema):
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema]
    done = subprocess.run([*command, *map(str, SCHEMAS[schema])], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_one_version_everywhere():
    assert PROJECT["version"] == VERSION
    assert re.search(rf"^version: {re.escape(VERSION)}$", (ROOT / "CITATION.cff").read_text(), re.M)
    extension = (ROOT / "curvlang/editors/extension/package.json").read_text()
    assert json.loads(extension)["version"] == VERSION


def test_the_changelog_begins_with_this_version():
    text = (ROOT / "CHANGELOG.md").read_text()
    assert re.findall(r"^## (.*)$", text, re.M)[0] == VERSION
    assert len(text.splitlines()) < 120


def test_the_main_job_needs_no_extra(tmp_path):
    """As in an environment without them: each import of what an extra brings fails."""
    # pandas stays: scikit-learn reads it from `sys.modules` where it is there under any value.
    absent = "hypothesis transformers datasets zarr dask distributed peft pygls tokenizers"
    code = (
        "import sys; sys.modules.update(dict.fromkeys(sys.argv[1].split())); "
        "from curvlang.cli.main import run; "
        "task = 'digits(hidden = [2], epochs = 1)'; "
        "sys.exit(run(['eval', 'kfac', '--quick', '-q', '--task', task, '--out', 'run']))"
    )
    command = [sys.executable, "-c", code, absent]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run/report.html").exists()


def test_extras_are_whole_and_bring_no_torchvision():
    (everything,) = EXTRAS["all"]
    users = set(re.search(r"\[(.*)\]", everything)[1].split(","))
    assert users == set(EXTRAS) - {"all", "dev", "docs"}
    assert "hypothesis" in names(EXTRAS["laws"]) & names(EXTRAS["dev"])
    asked = names([*PROJECT["dependencies"], *(x for extra in EXTRAS.values() for x in extra)])
    # kronfluence asks for torchvision whatever it is used for.
    assert not asked & {"torchvision", "kronfluence"}


def test_the_page_of_versions_states_the_limits_of_the_project():
    text = (ROOT / "docs/versions.md").read_text()
    torch = next(x for x in PROJECT["dependencies"] if x.startswith("torch"))
    low, high = re.search(r">=([\d.]+),<([\d.]+)", torch).groups()
    assert f"torch {low} or later, below {high}" in text
    for extra in EXTRAS:
        assert f"| `{extra}` |" in text
    shown = set(re.findall(r"Python :: (3\.\d+)", " ".join(PROJECT["classifiers"])))
    assert shown == set(re.findall(r"^\| (3\.\d+) \|", text, re.M))


def test_every_statement_about_files_names_tests_that_exist():
    text = (ROOT / "SECURITY.md").read_text()
    named = re.findall(r"`(tests/[\w/]+\.py)`", text)
    assert len(named) >= 5
    assert [x for x in named if not (ROOT / x).exists()] == []
