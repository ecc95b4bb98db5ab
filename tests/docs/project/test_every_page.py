"""Whatever a page shows, wherever it stands: languages are known, specs check, commands parse, Python compiles.

Pages whose results matter are run by tests of their own; no page is outside of these.
"""

from __future__ import annotations

import ast
import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest
from curvlang.cli.application import parser_of
from curvlang.cli.main import COMMANDS

import curvlang
from curvlang.language import check_text

ROOT = Path(__file__).parents[3]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
FENCE = re.compile(r"^( *)```(\w*)(?: [^`\n]*)?\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
SHELL = {"sh", "bash", "shell", "console"}
OTHER = {"", "text", "math", "diff", "json", "toml", "lua", "elisp"}
CALL = re.compile(r"^(?:\$ )?(?:\w+=\S+ )*(?:(?:srun |torchrun |python ).*?-m )?curvlang (.*)$")


def fences(path):
    """(language, text) of every block of a page."""
    for indent, language, text in FENCE.findall(path.read_text("utf-8")):
        yield language, re.sub(f"^{indent}", "", text, flags=re.MULTILINE)


def calls(text):
    """What stands behind `curvlang` in the command lines of a block, comments and pipes cut off."""
    joined = text.replace("\\\n", " ")
    for line in joined.splitlines():
        found = CALL.match(line.strip())
        if found:
            yield re.split(r"\s+(?:#|\||>|&&|2>|&)", found[1])[0]


def names(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", PAGES, ids=names)
def test_what_a_page_shows_is_right(path):
    found = [*fences(path), ("", "")]
    for (language, text), (_, behind) in pairwise(found):
        assert language in {"cv", "python", "py"} | SHELL | OTHER, language
        if language in SHELL:
            for call in calls(text):
                words = shlex.split(call)
                if words[0] not in ("--version", "--help", "--install-completion"):
                    assert words[0] in COMMANDS, call
                    parser_of(words[0]).make_context(f"curvlang {words[0]}", words[1:])
        elif language in ("python", "py"):
            for node in ast.walk(ast.parse(text)):
                match node:
                    case ast.Attribute(value=ast.Name(id="cv"), attr=name):
                        assert hasattr(curvlang, name), name
        elif language == "cv":
            for problem in check_text(text):
                elsewhere = re.search(r"unknown curvature `(\w+)`", problem.headline)
                if elsewhere and f"curvature {elsewhere[1]} =" in path.read_text("utf-8"):
                    continue  # The page defines it in another block.
                # A wrong spec is shown for its message, which stands behind it.
                shown = f"[{problem.code}]" in behind
                assert shown or problem.severity.value != "error", (problem, text)


@pytest.mark.parametrize("path", PAGES, ids=names)
def test_no_block_is_overlooked(path):
    """What is left of a page without its blocks has no fence."""
    rest = FENCE.sub("", path.read_text("utf-8"))
    left = [x for x in rest.splitlines() if x.strip().startswith(("```", "~~~"))]
    assert [x for x in left if not re.fullmatch(r" *(`{3,})[^`].*\1.*", x)] == []


def test_a_block_with_a_title_is_read():
    assert FENCE.findall('```cv title="x.cv"\ncurvature x = kfac\n```') == [
        ("", "cv", "curvature x = kfac\n")
    ]


def test_blocks_and_calls_are_found():
    shown = [x for path in PAGES for x in fences(path)]
    assert sum(language == "cv" for language, _ in shown) > 100
    assert len([x for language, text in shown if language in SHELL for x in calls(text)]) > 60
    line = "$ OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 -m curvlang fit ekfac --store \\\n  DIR > log &"
    assert [shlex.split(x) for x in calls(line)] == [["fit", "ekfac", "--store", "DIR"]]
