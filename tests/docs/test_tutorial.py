"""The tutorial is followed step by step: files written, commands run, output compared."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest
from curvlang.cli.main import run

PAGE = Path(__file__).parents[2] / "docs" / "tutorial.md"
FILE = "weighted.cv"
TINY = ["--no-lds", "--task", "digits(hidden = [4], epochs = 1)"]
NUMBER = re.compile(r"\d+(\.\d+)?(e-?\d+)?")


def blocks():
    return re.findall(r"```(\w+)\n(.*?)```", PAGE.read_text(), re.DOTALL)


def write(text):
    """A block that starts with the file's name begins it, any other goes on with it."""
    path = Path(FILE)
    before = "" if text.startswith(f"# {FILE}") else path.read_text() + "\n"
    path.write_text(before + text)


def apply(diff):
    """Each removed line stands in the file once, and the line behind it takes its place."""
    lines = diff.splitlines()
    text = Path(FILE).read_text()
    for old, new in pairwise(lines):
        if old.startswith("-"):
            assert new.startswith("+")
            assert text.count(old[1:] + "\n") == 1, old
            text = text.replace(old[1:] + "\n", new[1:] + "\n")
    Path(FILE).write_text(text)


def masked(line):
    """Rounding differs between machines: measured numbers of laws are compared by their form."""
    return NUMBER.sub("#", line) if re.match(r"  [✓✗] |      measured ", line) else line


def assert_shown(shown, printed):
    """What the page shows, where a line `…` stands for any number of lines."""
    lines = [masked(x.rstrip()) for x in printed.rstrip().splitlines()]
    pattern = "".join(
        r"(?:.*\n)*?" if line == "…" else re.escape(masked(line)) + r"\n"
        for line in shown.rstrip().splitlines()
    )
    assert re.fullmatch(pattern, "\n".join(lines) + "\n"), printed


def steps(text):
    """Step, stage and structure of each line of the table of stages."""
    table = text[text.index("\nstages\n") :].split("\n\n")[0].splitlines()[4:]
    return [tuple(re.split(r"  +", line)[:3]) for line in table]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tutorial")


def test_the_tutorial_is_what_happens(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    done = {"cv": 0, "diff": 0, "console": 0, "python": 0}
    for language, text in blocks():
        done[language] += 1
        if language == "cv":
            write(text)
        elif language == "diff":
            apply(text)
        elif language == "python":
            exec(compile(text, "tutorial", "exec"), {})
        else:
            command, shown = text.split("\n", 1)
            follow(command, shown, capsys)
    assert done == {"cv": 4, "diff": 4, "console": 8, "python": 1}


def follow(command, shown, capsys):
    found = re.findall(r"'[^']*'|\S+", command.removeprefix("$ curvlang "))
    evaluated = found[0] == "eval"
    run([*found, *(TINY if evaluated else [])])
    captured = capsys.readouterr()
    printed = captured.out + captured.err
    if not evaluated:
        assert_shown(shown, printed)
    elif "\nstages\n" in shown:
        assert len(steps(shown)) == 4
        assert steps(shown) == steps(printed)
    else:
        assert "inverse     root; λ swept over 1e-4, .001, .01, .1, 1; compared at" in shown
        assert "inverse     root; λ swept over 1e-4, .001, .01, .1, 1; compared at" in printed
