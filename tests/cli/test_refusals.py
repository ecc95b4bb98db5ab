"""Every kind of wrong input through the command line: its own diagnostic, exit 2, nothing left."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from curvlang.cli.main import run

ENTRIES = """transform t {{
  needs a[n,t,i], g[n,r,t,o]
  {}
  yield C[o,i,o',i'] = identity[o,o'] * A[i,i']
}}
curvature x = block_ggn |> t
"""

# name: (text, code, words that the message must have)
WRONG = {
    "missing": (None, "E0110", "there is no spec"),
    "empty": ("", "E0112", "is empty"),
    "comment": ("# nothing\n", "E0106", "defines nothing"),
    "binary": (b"\x00\x01curvature", "E0114", "binary"),
    "latin": ("curvature é".encode("latin-1"), "E0114", "not UTF-8"),
    "large": (b"#" * 10_000_000, "E0113", "10000000 bytes"),
    "character": ("curvature x = hessian €", "E0102", "U+20AC"),
    "transform": ("curvature x = block_ggn |> kronecer_factor", "E0209", "`kronecker_factor`?"),
    "source": ("curvature x = hesian |> drop_residual", "E0206", "did you mean `hessian`"),
    "index": (ENTRIES.format("A[i,i'] = mean[n,t,q] a[n,t,i] * a[n,t,i']"), "E0315", "no `q`"),
    "word index": (ENTRIES.format("A[i,i'] = mean[n,tt] a[n,t,i] * a[n,t,i']"), "E0105", "`tt`"),
    "space": (ENTRIES.format("A[i,z] = mean[n,t] a[n,t,i] * a[n,t,z]"), "E0305", "write `i`"),
    "tensor": (ENTRIES.format("A[i,i'] = mean[n,t] b[n,t,i] * b[n,t,i']"), "E0319", "tensor `b`"),
    "free": (ENTRIES.format("A[i,i'] = mean[n] a[n,t,i] * a[n,t,i']"), "E0303", "`sum[t]`"),
    "parameter": ("curvature x = hessian |> drop_residual(fishr = mc)", "E0703", "`fisher`?"),
    "word": ("curvature x = hessian |> drop_residual(fisher = mcc)", "E0706", "`mc`?"),
    "task": ("evaluate kfac on digis", "E0711", "did you mean `digits`"),
    "inverse": ("evaluate kfac with tikonov(damping = 1) on digits", "E0712", "`tikhonov`?"),
    "order": ("curvature x = hessian |> kronecker_factor", "E0207", "`drop_residual`"),
    "no source": ("curvature x = drop_residual |> block_diagonal", "E0205", "`hessian |>"),
    "cycle": ("curvature x = y |> flat\ncurvature y = x |> flat", "E0204", "x → y → x"),
    "twice": ("curvature x = hessian\ncurvature x = ggn", "E0201", "defined twice"),
    "damping": (
        "evaluate kfac with tikhonov(damping = -1) on digits",
        "E0707",
        "must be 0 or more",
    ),
    "keep 0": ("evaluate kfac on digits { lds keep = 0 }", "E0707", "between 0 and 1"),
    "keep 1.5": ("evaluate kfac on digits { lds keep = 1.5 }", "E0707", "between 0 and 1"),
    "subsets 0": ("evaluate kfac on digits { lds subsets = 0 }", "E0707", "2 or more"),
    "subsets 1.5": ("evaluate kfac on digits { lds subsets = 1.5 }", "E0705", "whole number"),
    "epochs": ("evaluate kfac on digits(epochs = -1)", "E0707", "`epochs = -1`"),
    "infinite": ("evaluate kfac on digits(lr = 1e999)", "E0116", "too large for float64"),
    "type": ("evaluate kfac on digits(lr = fast)", "E0705", "expected a number"),
    "deep": ("curvature x = " + "(" * 5000 + "hessian" + ")" * 5000, "E0108", "200 deep"),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("command", ["check", "eval", "explain"])
def test_wrong_specs(name, command, tmp_path, monkeypatch, capsys):
    text, code, words = WRONG[name]
    monkeypatch.chdir(tmp_path)
    if text is not None:
        Path("x.cv").write_bytes(text if isinstance(text, bytes) else text.encode())
    before = sorted(tmp_path.iterdir())
    assert run([command, "x.cv"]) == 2
    shown = capsys.readouterr()
    assert f"error[{code}]" in shown.err
    assert words in shown.err
    assert "help:" in shown.err or code in ("E0707",)
    assert shown.out == ""
    assert sorted(tmp_path.iterdir()) == before


def test_a_problem_of_a_task_is_said_once(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("x.cv").write_text(
        "task q { data digits(scale = big)\n model mlp\n loss mse\n train sgd }\nevaluate kfac on q"
    )
    assert run(["check", "x.cv"]) == 2
    assert capsys.readouterr().err.count("error[E0706]") == 1


def test_check_reports_all_errors_of_all_files(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("a.cv").write_text("curvature x = hesian\ncurvature y = ggm")
    Path("b.cv").write_text("evaluate kfac on digis")
    assert run(["check", "a.cv", "ekfac", "missing.cv", "b.cv"]) == 2
    codes = re.findall(r"error\[(E\d+)\]", capsys.readouterr().err)
    assert codes == ["E0206", "E0206", "E0110", "E0711"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--device", "nothing"], "device `nothing`"),
        (["--device", "meta"], "device `meta`"),
        (["--dtype", "float16"], "use one of float32, float64"),
        (["--seed", "-1"], "--seed"),
        (["--seed", "9" * 30], "--seed"),
        (["--seed", "one"], "--seed"),
        (["--task", "digits(hidden = [16] * 2"], "expected `)`"),
        (["--task", "digits(hiden = [16])"], "did you mean `hidden`"),
        (["--nolds"], "--no-lds"),
    ],
)
def test_wrong_options(options, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["eval", "kfac", *options]) == 2
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("digits(lr = 1e30, epochs = 2)", "diverged in training"),
        ("digits(epochs = 1) { lds keep = 0.0001 }", "keeps 0 of them"),
    ],
)
def test_what_only_the_run_can_see(said, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("x.cv").write_text(f"evaluate kfac on {said}")
    assert run(["eval", "x.cv"]) == 2
    shown = capsys.readouterr()
    assert words in shown.err
    assert shown.out == ""
    assert [p.name for p in tmp_path.iterdir()] == ["x.cv"]
