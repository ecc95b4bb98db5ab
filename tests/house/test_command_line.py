"""The command line is written on the public names alone, and its options are the same in every command."""

from __future__ import annotations

import ast
import shlex
from collections import defaultdict
from pathlib import Path

import pytest
from curvlang.cli.application import parser_of, rules_of
from curvlang.cli.main import COMMANDS
from curvlang.cli.modules import command_module
from curvlang.cli.options import Excludes

import curvlang

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "cli").rglob("*.py"))
MOST_LINES = 40
"""Of a command's body: it reads its options, calls, and prints."""


def imports(text):
    """Modules of curvlang that a file imports, those of `cli` itself left out."""
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.ImportFrom(level=0, module=str(module)):
                yield module
            case ast.Import(names=names):
                yield from (x.name for x in names)


def allowed(module):
    first, _, rest = module.partition(".")
    return first != "curvlang" or rest.partition(".")[0] in ("", "diagnostics")


def names_used(text):
    """What a file reads of `cv`."""
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Attribute(value=ast.Name(id="cv"), attr=name):
                yield name


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_it_imports_public_names_and_diagnostics_alone(path):
    text = path.read_text("utf-8")
    assert [x for x in imports(text) if not allowed(x)] == []
    assert [x for x in names_used(text) if x not in curvlang.__all__] == []


def test_the_law_of_imports_can_fail():
    assert not allowed("curvlang.runtime.fit")
    assert allowed("curvlang.diagnostics.codes")
    assert list(imports("def f():\n    from curvlang.storage import cache")) == ["curvlang.storage"]
    assert list(names_used("cv.fit(cv.nothing)")) == ["fit", "nothing"]


def parsers():
    return {name: parser_of(name) for name in COMMANDS}


def declared(parameter):
    """All that a person sees of an option."""
    options = tuple(parameter.opts), tuple(parameter.secondary_opts)
    return options, parameter.help, repr(parameter.default), parameter.rich_help_panel


def test_an_option_is_the_same_in_every_command():
    """By name; that of one command's own has no twin."""
    found = defaultdict(set)
    for parser in parsers().values():
        for parameter in parser.params:
            if parameter.param_type_name == "option":
                found[parameter.name].add(declared(parameter))
    assert {name: x for name, x in found.items() if len(x) > 1} == {}
    written = defaultdict(set)
    for name, ((options, *_),) in found.items():
        for option in options[0]:
            written[option].add(name)
    assert {option: x for option, x in written.items() if len(x) > 1} == {}


@pytest.mark.parametrize("name", COMMANDS)
def test_rules_are_about_the_commands_own_options(name):
    parser = parser_of(name)
    for option, rule in rules_of(parser.command):
        others = rule.names if isinstance(rule, Excludes) else (rule.name,)
        assert option in parser.written
        if name in ("influence", "study", "check", "explain"):
            assert set(others) <= set(parser.written)


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_are_command_lines(name):
    """Every example is read by the parser of its command; nothing is run."""
    parser = parser_of(name)
    assert parser.examples
    for line, meaning in parser.examples:
        assert meaning
        words = shlex.split(line.removeprefix('eval "$(').removesuffix(')"').partition(" > ")[0])
        assert words[:2] == ["curvlang", name]
        context = parser.make_context(f"curvlang {name}", words[2:])
        assert context.params


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_is_plain_text_of_eighty_columns(name, capsys):
    parser = parser_of(name)
    text = parser.get_help(parser.context_class(parser, info_name=f"curvlang {name}"))
    assert text.startswith(f"Usage: curvlang {name} ")
    for line, _ in parser.examples:
        assert line in text
    long = [x for x in text.splitlines() if len(x) > 80]
    assert long == []
    assert "\x1b" not in text


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_short(name):
    module = command_module(name)
    tree = ast.parse(Path(module.__file__).read_text("utf-8"))
    (command,) = (x for x in tree.body if isinstance(x, ast.FunctionDef) and x.name == "command")
    assert command.end_lineno - command.body[1].lineno + 1 <= MOST_LINES
