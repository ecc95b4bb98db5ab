"""The parse tables that ship: of this grammar, the same parser as one built, and nothing else is read."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import warnings
from importlib import resources

import pytest
from lark import __version__

from curvlang.language import shipped_files, shipped_studies
from curvlang.language.syntax import tables
from curvlang.language.syntax.tables import build, grammar, load, parser
from curvlang.language.syntax.written_tables import written

SHIPPED = (resources.files("curvlang.grammars") / tables.FILE).read_bytes()
SAME_LARK = SHIPPED.startswith(f"lark {'.'.join(__version__.split('.')[:2])} ".encode())


@pytest.mark.skipif(not SAME_LARK, reason="written by another release of lark, which builds them")
def test_the_shipped_tables_are_up_to_date():
    assert written(grammar()) == SHIPPED, "run `python -m curvlang.language.syntax.written_tables`"
    assert load(SHIPPED, grammar()) is not None


def test_they_read_as_a_built_parser_does():
    built, kept = build(grammar()), parser()
    for text in (*shipped_files().values(), *shipped_studies().values()):
        assert kept.parse(text) == built.parse(text)


def test_damaged_tables_and_those_of_another_grammar_are_not_read():
    mine = written(grammar())
    assert load(mine, grammar()) is not None
    assert load(mine, grammar() + "\n// changed\n") is None
    for at in range(0, len(mine), len(mine) // 97):
        assert load(mine[:at] + bytes([mine[at] ^ 1]) + mine[at + 1 :], grammar()) is None
        assert load(mine[:at], grammar()) is None
    for other in (b"", b"\n", b"[" * 100_000, mine + b" ", mine.replace(b"lark 1.", b"lark 0.")):
        assert load(other, grammar()) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda held: b"", 1),
        (lambda held: held[:-2], 1),
        (lambda held: b"x" + held, 1),
        (lambda held: held.replace(b"lark 1.", b"lark 0.", 1), 0),
    ],
)
def test_damaged_tables_are_built_which_is_said_once(change, said, monkeypatch):
    held = change(written(grammar()))
    monkeypatch.setattr(tables, "shipped", lambda: held)
    parser.cache_clear()
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            for _ in range(2):
                found = parser().parse("curvature x = ggn")
        assert found == build(grammar()).parse("curvature x = ggn")
        assert ["damaged or missing" in str(x.message) for x in told] == [True] * said
    finally:
        parser.cache_clear()


def test_a_missing_file_is_no_tables(monkeypatch):
    monkeypatch.setattr(tables, "FILE", "none.tables")
    assert tables.shipped() == b""


class Trap:
    def __reduce__(self):
        return os.system, (f"touch {os.environ['TRAP']}",)


@pytest.mark.parametrize("home", ["trapped", "missing", "read-only"])
def test_no_folder_of_the_user_is_read_or_written(tmp_path, monkeypatch, home):
    """Tables used to be kept in the cache, pickled: whoever wrote there ran code here."""
    sprung, folder = tmp_path / "sprung", tmp_path / "home"
    monkeypatch.setenv("TRAP", str(sprung))
    names = []
    if home != "missing":
        folder.mkdir()
    if home == "trapped":
        names = ["curvlang.tables", "grammar-c4f74ab2b20235b2.tables"]
        for name in names:
            (folder / name).write_bytes(pickle.dumps(Trap()))
    if home == "read-only":
        folder.chmod(0o500)
    start = "from curvlang.cli.main import main; main()"
    asked = [sys.executable, "-c", start, "check", "ekfac"]
    environment = {**os.environ, "CURVLANG_CACHE": str(folder), "HOME": str(folder)}
    ran = subprocess.run(asked, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "no errors" in ran.stdout
    assert not sprung.exists()
    assert sorted(x.name for x in folder.glob("*")) == sorted(names)
    assert folder.exists() is (home != "missing")
