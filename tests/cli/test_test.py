"""`curvlang test` as a person uses it: exit codes, table, counterexamples, JSON."""

from __future__ import annotations

import json

import pytest
from curvlang.cli.main import run

TRUE = """curvature mine = block_ggn |> kronecker_factor
law mine equals kfac
law mine differs_from block_ggn when examples > 1
"""
FALSE = TRUE + "law mine equals block_ggn when examples > 1\n"


@pytest.fixture(autouse=True)
def specs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "true.cv").write_text(TRUE)
    (tmp_path / "false.cv").write_text(FALSE)


def test_laws_that_hold(capsys):
    assert run(["test", "true.cv", "--examples", "6"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("true.cv: 10 laws, all hold (seed 0)\n")
    for words in ("✓ mine: as_written", "✓ mine equals kfac", "6 tasks", "≤ 1e-08", "> 0.001"):
        assert words in shown
    assert run(["test", "true.cv", "--examples", "6", "-q"]) == 0
    assert capsys.readouterr().out == ""


def test_a_law_that_fails_is_shown_with_a_task_that_can_be_kept(capsys):
    assert run(["test", "false.cv", "true.cv", "-k", "equals", "--examples", "20"]) == 1
    shown = capsys.readouterr().out
    assert "false.cv: 2 laws, 1 failed (seed 0)" in shown
    assert "true.cv: 1 law, all hold" in shown
    assert "✗ mine equals block_ggn when examples > 1" in shown
    again = 'again: curvlang test false.cv --examples 20 --seed 0 -k "mine equals block_ggn when examples > 1"'
    assert again in shown
    task = shown[shown.index("task counterexample {") : shown.index("}\n") + 1]
    with open("false.cv", "a") as handle:
        handle.write(task)
    assert run(["test", "false.cv", "--task", "counterexample", "-k", "equals block"]) == 1
    assert "1 task " in capsys.readouterr().out
    assert run(["check", "false.cv"]) == 0
    assert run(["explain", "false.cv", "--task", "digits"]) == 0


def test_json_and_the_same_seed_twice(capsys):
    found = []
    for _ in range(2):
        assert run(["test", "false.cv", "-k", "mine equals", "--json", "--seed", "5"]) == 1
        found.append(json.loads(capsys.readouterr().out))
    assert found[0] == found[1]
    good, bad = found[0]
    assert (good["holds"], good["kind"], good["counterexample"]) == (True, "every task", None)
    assert (bad["spec"], bad["seed"], bad["bound"]) == ("false.cv", 5, 1e-8)
    assert bad["counterexample"]["task"].startswith("task counterexample {")
    assert bad["counterexample"]["measured"] > 1e-8


def test_a_random_seed_is_printed(capsys):
    assert run(["test", "true.cv", "-k", "mine equals", "--seed", "random", "--examples", "2"]) == 0
    assert "(seed " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["true.cv", "--seed", "x"], "neither a whole number"),
        (["true.cv", "-k", "nothing"], "no law contains"),
        (["true.cv", "--task", "digits"], "too large for laws"),
        (["true.cv", "--task", "digit"], "did you mean `digits`"),
        (["true.cv", "--examples", "0"], "--examples"),
        (["missing.cv"], "no spec"),
    ],
)
def test_bad_input(arguments, words, capsys):
    assert run(["test", *arguments]) == 2
    assert words in capsys.readouterr().err
