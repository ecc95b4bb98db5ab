"""`curvlang influence`: files in every format, what is shown, and what is refused before the work."""

from __future__ import annotations

import csv
import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
import zarr
from curvlang.cli.main import run
from safetensors import safe_open

TASK = ["--task", "digits(hidden = [2], epochs = 1)"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def scored(*options, spec="kfac"):
    assert run(["influence", spec, *TASK, "-q", *options]) == 0


def test_all_formats_hold_the_same_numbers():
    scored()
    array = np.load("scores.npy")
    assert array.shape == (180, 1617)
    assert array.dtype == np.float64
    scored("--out", "new/s.safetensors")
    with safe_open("new/s.safetensors", "np") as file:
        assert np.array_equal(file.get_tensor("scores"), array)
        notes = file.metadata()
    assert "not divided by N" in notes["convention"]
    assert notes["sign"].startswith("positive: training on the example lowers")
    assert json.loads(notes["axes"]) == ["query", "train"]
    scored("--group", "all", "--out", "s.csv")
    with open("s.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert {r["group"] for r in rows} == {"all"}
    assert np.allclose([float(r["score"]) for r in rows], array.sum(0), rtol=1e-9)
    import pyarrow.parquet as pq

    scored("--group", "label", "--per-layer", "--out", "s.parquet")
    table = pq.read_table("s.parquet")
    assert table.column_names == ["layer", "group", "train", "score"]
    train, score = (table[name].to_numpy() for name in ("train", "score"))
    total = np.bincount(train, score)
    assert np.allclose(total, array.sum(0), rtol=1e-9, atol=1e-9)
    assert {p.name for p in Path().iterdir()} == {"scores.npy", "new", "s.csv", "s.parquet"}


def test_the_header_says_what_the_numbers_mean(capsys):
    assert run(["influence", "ekfac", *TASK, "--damping", "0.01"]) == 0
    shown = capsys.readouterr()
    assert shown.out == ""
    for words in (
        "score[q,n] = ∇m_qᵀ C⁻¹ ∇ℓ_n, not divided by N",
        "positive: training on the example lowers the query's loss",
        "λ = 0.01",
        "scores.npy [query 180, train 1617]",
    ):
        assert words in shown.err
    assert run(["influence", "ekfac", *TASK, "--metric", "margin"]) == 0
    shown = capsys.readouterr().err
    assert "raises the query's margin" in shown
    assert "(replaced)" in shown


def test_top_shows_labels_scores_and_images(capsys):
    scored("--top", "2", "--queries", "5", "--seed", "3")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "scores: positive where training on the example lowers the query's loss"
    assert lines[2].startswith("query 5, label ")
    assert any("█" in line for line in lines)
    scores = np.load("scores.npy")[5]
    best, worst = int(scores.argmax()), int(scores.argmin())
    assert any(line.strip().startswith(f"#{best} ") for line in lines)
    assert any(line.strip().startswith(f"#{worst} ") for line in lines)


def test_top_shows_text_as_text(capsys):
    options = ["--task", "characters(epochs = 1)", "-q", "--top", "1", "--queries", "4"]
    assert run(["influence", "identity", *options]) == 0
    found = capsys.readouterr().out
    assert found.count("“") == 3
    assert run(["influence", "identity", *options, "--per-position", "--out", "p.npy"]) == 0
    assert capsys.readouterr().out == found
    scores, apart = np.load("scores.npy"), np.load("p.npy")
    assert apart.shape == (*scores.shape, 8)
    assert np.allclose(apart.sum(-1), scores)


@pytest.fixture
def by_token(capsys):
    """Scores by token of a small text, written to a file, and by example."""
    options = ["--task", "characters(epochs = 1)", "-q", "--top", "1", "--queries", "4"]
    assert run(["influence", "identity", *options]) == 0
    shown = capsys.readouterr().out

    def written(file):
        assert run(["influence", "identity", *options, "--per-token", "--out", file]) == 0
        assert capsys.readouterr().out == shown
        return np.load("scores.npy")

    return written


def test_scores_by_token_have_offsets(by_token):
    from safetensors.numpy import load_file

    scores = by_token("tokens.safetensors")
    found = load_file("tokens.safetensors")
    assert found["offsets"].tolist() == list(range(0, 8 * scores.shape[1] + 1, 8))
    assert found["scores"].shape == (len(scores), 8 * scores.shape[1])
    assert np.allclose(found["scores"].reshape(*scores.shape, 8).sum(-1), scores)


def test_a_table_of_them_names_example_and_place(by_token):
    scores = by_token("tokens.csv")
    with open("tokens.csv", encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    assert head == ["query", "train", "token", "score"]
    assert len(rows) == 8 * scores.size
    assert rows[8 * scores.shape[1] + 8 * 3 + 5][:3] == ["1", "3", "5"]


def test_a_store_of_them_goes_on_with_its_offsets(by_token, monkeypatch):
    zarr = pytest.importorskip("zarr")
    scores = by_token("tokens.zarr")
    group = zarr.open_group("tokens.zarr", mode="r")
    assert group["offsets"][...].tolist() == list(range(0, 8 * scores.shape[1] + 1, 8))
    first = group["scores"][...]
    assert np.allclose(first.reshape(*scores.shape, 8).sum(-1), scores)
    with monkeypatch.context() as patch:
        # Nothing is computed again, neither the model nor the offsets.
        patch.setattr("curvlang.scoring.fit", None)
        patch.setattr("curvlang.scoring.TokenScoring", None)
        by_token("tokens.zarr")


def test_one_array_has_no_place_for_them(capsys):
    text = ["influence", "identity", "--task", "characters(epochs = 1)", "--per-token"]
    assert run([*text, "--out", "t.npy"]) == 2
    assert "tokens need their `offsets`" in capsys.readouterr().err
    assert run([*text, "--per-layer"]) == 2
    assert run(["influence", "identity", *TASK, "--per-token"]) == 2
    assert "E0592" in capsys.readouterr().err


def test_compressed_queries_say_their_bound(capsys):
    wide = ["influence", "kfac", "--task", "digits(hidden = [16], epochs = 1)", "-q"]
    assert run([*wide, "--damping", "1"]) == 0
    wanted = np.load("scores.npy")
    capsys.readouterr()
    assert run([*wide, "--damping", "1", "--compress", "1e-2", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)["precision"]
    off = np.abs(np.load("scores.npy") - wanted).max()
    assert 0 < off <= 1.05 * float(said.split()[-1])
    assert run(["influence", "ekfac", *TASK, "--compress", "2"]) == 2
    assert "between 0 and 1" in capsys.readouterr().err


def test_json_stands_alone_on_standard_output(capsys):
    scored("--top", "1", "--json", "--group", "label", "--reduce", "mean")
    found = json.loads(capsys.readouterr().out)
    assert found["shape"] == [10, 1617]
    assert found["axes"] == ["group", "train"]
    assert len(found["top"]) == 3
    scores = np.load("scores.npy")
    assert found["top"][0]["helpful"][0]["train"] == int(scores[0].argmax())


def test_an_evaluation_of_margins_says_so_and_can_be_repeated(capsys):
    assert run(["eval", "kfac", *TASK, "--quick", "--metric", "margin", "--out", "run"]) == 0
    assert "the metric of the queries is their margin" in " ".join(capsys.readouterr().out.split())
    notes = json.loads(Path("run/provenance.json").read_text())
    assert notes["metric"] == "margin"
    assert notes["repeat"][-3:-1] == ["--metric", "margin"]
    assert run(["eval", "kfac", *TASK, "--metric", "accuracy"]) == 2
    assert "error[E0590]" in capsys.readouterr().err


def test_self_influence_is_one_number_for_each_example(capsys):
    scored("--self", "--damping", "0.1")
    found = np.load("scores.npy")
    assert found.shape == (1617,)
    assert (found >= 0).all()
    scored("--self", "--damping", "0.1", "--top", "2")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "largest self-influence:"
    assert lines[1].strip().startswith(f"#{int(found.argmax())} ")
    assert any("█" in line for line in lines)
    scored("--self", "--damping", "0.1", "--top", "2", "--json")
    shown = json.loads(capsys.readouterr().out)["largest"]
    assert [one["train"] for one in shown] == np.argsort(-found)[:2].tolist()


@pytest.fixture
def untrained(monkeypatch):
    """Fails where a model is trained."""
    from curvlang.training import baseline

    def never(*args, **options):
        raise AssertionError("a model was trained")

    monkeypatch.setattr(baseline, "train_baseline", never)


@pytest.mark.parametrize("options", [["--out", "s.csv"], ["--per-layer", "--out", "s.safetensors"]])
def test_scores_that_do_not_fit_are_refused_before_the_work(options, capsys, untrained):
    """180 × 1617 numbers of eight bytes, for each of two layers."""
    memory = "4MB" if "--per-layer" in options else "2MB"
    assert run(["influence", "kfac", *TASK, "--memory", memory, *options]) == 3
    shown = capsys.readouterr().err
    assert "error[E0801]" in shown
    assert "scoring 180 queries" in shown


@pytest.mark.parametrize("out", ["s.npy", "s.zarr"])
def test_what_is_written_in_parts_may_be_larger_than_memory(out):
    scored("--damping", "0.1")
    scored("--damping", "0.1", "--memory", "2MB", "--out", out)
    found = np.load(out) if out.endswith("npy") else zarr.open_group(out, mode="r")["scores"][:]
    wanted = np.load("scores.npy")
    assert np.abs(found - wanted).max() <= 1e-10 * np.abs(wanted).max()


def test_a_store_says_what_was_there(capsys):
    options = ["influence", "kfac", *TASK, "--damping", "0.1", "--out", "s.zarr"]
    assert run(options) == 0
    assert "chunks were there" not in capsys.readouterr().err
    assert run(options) == 0
    assert "2 of 2 chunks were there, nothing was computed" in capsys.readouterr().err
    assert run([*options, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["chunks"], found["chunks_found"]) == (2, 2)
    assert found["file"] == str(Path("s.zarr").absolute())
    assert run([*options, "--metric", "margin"]) == 2
    assert "another metric: loss, not margin" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--out", "s3://bucket/s.zarr"], "E0880"),
        (["--out", "nowhere://s.zarr"], "E0884"),
        (["--out", "file/s.zarr"], "E0585"),
        (["--out", "s.txt"], "E0583"),
        (["--out", "s"], "E0583"),
        (["--per-layer"], "E0583"),
        (["--out", "a" * 300 + ".npy"], "E0585"),
        (["--out", "/proc/s.npy"], "E0585"),
        (["--out", "file/s.npy"], "E0585"),
        (["--metric", "accuracy"], "E0590"),
        (["--per-position"], "E0592"),
        (["--group", "color"], "E0708"),
        (["--reduce", "max"], "E0708"),
        (["--queries", "3"], "E0708"),
        (["--top", "1", "--queries", "180"], "E0708"),
        (["--damping", "-1"], "E0708"),
        (["--damping", "1", "--inverse", "pseudo"], "E0708"),
        (["--reduce", "mean"], "E0708"),
        (["--self", "--per-layer"], "E0708"),
        (["--self", "--reduce", "mean"], "E0708"),
        (["--self", "--top", "1", "--queries", "1"], "E0708"),
    ],
)
def test_wrong_options_are_refused_before_the_work(options, code, folder, capsys, untrained):
    Path("file").write_text("mine")
    assert run(["influence", "kfac", *TASK, *options]) == 2
    assert f"error[{code}]" in capsys.readouterr().err
    assert [p.name for p in folder.iterdir()] == ["file"]


def test_a_full_disk_leaves_the_earlier_file(folder, capsys, monkeypatch):
    Path("scores.npy").write_bytes(b"earlier")

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert run(["influence", "kfac", *TASK]) == 3
    shown = capsys.readouterr().err
    assert "error[E0802]: the disk is full" in shown
    assert "2.2 MiB" in shown
    assert Path("scores.npy").read_bytes() == b"earlier"
    assert [p.name for p in folder.iterdir()] == ["scores.npy"]
