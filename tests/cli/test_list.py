"""`list` finds by words, `check --json` is data: as the docs say."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from curvlang.cli.main import run

from curvlang.language import search, shipped

DOCS = (Path(__file__).parents[2] / "docs" / "editors.md").read_text("utf-8")


def listed(capsys, *words):
    assert run(["list", *words]) == 0
    return capsys.readouterr().out


def test_every_kind_is_listed(capsys):
    shown = listed(capsys).splitlines()
    for kind in (
        "curvature",
        "stage",
        "transform",
        "inverse",
        "task",
        "data",
        "model",
        "loss",
        "optimiser",
        "layer",
        "solver",
        "law",
        "measure",
    ):
        assert kind in shown
    assert len({(x.kind, x.name) for x in shipped()}) == len(shipped())
    assert all(x.doc and x.signature for x in shipped())


def test_words_are_searched_together(capsys):
    assert "eigen_correct" in [x.name for x in search(["1806.03884", "transform"])]
    found = search(["ARXIV:1806.03884", "curvature"])
    assert "ekfac" in [x.name for x in found]
    assert {x.kind for x in found} == {"curvature"}
    assert all("arXiv:1806.03884" in x.doc for x in found)
    assert search(["eigen", "nothing of that"]) == []
    assert "did you mean `tikhonov`" in listed(capsys, "tikonov")
    assert "eigen_correct" in listed(capsys, "george", "transform")


def test_list_as_data(capsys):
    found = json.loads(listed(capsys, "kronecker_factor", "transform", "--json"))
    (entry,) = [x for x in found if x["name"] == "kronecker_factor"]
    assert entry["signature"] == "kronecker_factor(sharing: {expand, reduce} = expand)"
    assert entry["where"].startswith("prelude.cv:")
    assert json.loads(listed(capsys, "nothing of that", "--json")) == []
    (stage,) = [x for x in json.loads(listed(capsys, "--json")) if x["name"] == "block_diagonal"]
    assert (
        stage["signature"]
        == "block_diagonal(by: {layer, parameter, neuron, head(count), unit(size), names} = layer, "
        "of: names = [], vocabulary: {layers, apart} = layers)"
    )


def test_what_the_docs_show_of_check(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("bad.cv").write_text("curvature x = hessian |> drop_residuls")
    assert run(["check", "--json", "bad.cv"]) == 2
    (shown,) = re.findall(r"```json\n(.*?)```", DOCS, re.DOTALL)
    assert capsys.readouterr().out == shown


@pytest.mark.parametrize(
    ("text", "code", "severities"),
    [
        ("curvature x = ggn", 0, []),
        ("transform flat { yield C[p,p'] = 2 * identity[p,p'] }", 0, ["warning"]),
        ("curvature x = nothing\ncurvature y = nothing", 2, ["error", "error"]),
    ],
)
def test_exit_codes_with_json(text, code, severities, capsys, tmp_path):
    path = tmp_path / "x.cv"
    path.write_text(text)
    assert run(["check", "--json", str(path)]) == code
    found = json.loads(capsys.readouterr().out)
    assert [x["severity"] for x in found] == severities
    for x in found:
        for label in x["labels"]:
            assert text[label["start"] : label["end"]]
            assert (x["spec"], label["file"]) == (str(path), str(path))


def test_a_missing_file_has_no_place(capsys):
    assert run(["check", "--json", "/nowhere/x.cv"]) == 2
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["code"], found["labels"]) == ("E0110", [])


def test_the_extension_is_written(capsys, tmp_path):
    folder = tmp_path / "a" / "curvlang"
    assert run(["lsp", "--vscode", str(folder)]) == 0
    manifest = json.loads((folder / "package.json").read_text())
    contributed = manifest["contributes"]
    for path in (
        manifest["main"],
        contributed["grammars"][0]["path"],
        contributed["languages"][0]["configuration"],
    ):
        assert (folder / path).is_file()
    grammar = json.loads((folder / contributed["grammars"][0]["path"]).read_text())
    assert grammar["scopeName"] == contributed["grammars"][0]["scopeName"]
    json.loads((folder / contributed["languages"][0]["configuration"]).read_text())
    (tmp_path / "file").write_text("")
    capsys.readouterr()
    assert run(["lsp", "--vscode", str(tmp_path / "file" / "x")]) == 2
    assert "E1002" in capsys.readouterr().err
