"""Every form of a data set of texts gives the same rows; what cannot be read is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

import curvlang as cv
from curvlang.models.language_models.text_table import text_table
from tests.models.language_models.checkpoints import TEXTS, lines


def written(kind):
    """The texts in a file or folder of a kind."""
    from datasets import Dataset

    table = Dataset.from_dict({"text": list(TEXTS)})
    match kind:
        case "jsonl" | "json":
            return lines(f"x.{kind}", TEXTS)
        case "csv":
            table.to_csv("x.csv", index=False)
        case "tsv":
            table.to_csv("x.tsv", index=False, sep="\t")
        case "parquet":
            table.to_parquet("x.parquet")
        case "txt":
            Path("x.txt").write_text("\n".join(TEXTS) + "\n")
        case _:
            # A table whose rows have been put into another order on the disk.
            Dataset.from_dict({"text": TEXTS[::-1]}).select(
                range(len(TEXTS) - 1, -1, -1)
            ).save_to_disk("x.folder")
    return Path(f"x.{kind}")


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "tsv", "parquet", "txt", "folder"])
def test_every_form_gives_the_texts_in_their_order(kind):
    assert text_table(written(kind), Path(), "train").texts("text") == list(TEXTS)


def test_rows_in_memory():
    from datasets import Dataset

    for given in (
        list(TEXTS),
        [{"text": x} for x in TEXTS],
        Dataset.from_dict({"text": list(TEXTS)}),
    ):
        assert text_table(given, Path(), "train").texts("text") == list(TEXTS)


def test_a_share_of_the_rows_is_cut_as_of_a_file(checkpoint):
    import torch

    rows = [f"{x} {y}" for x in TEXTS[:5] for y in ("today", "sat")]
    task = cv.Task.pretrained(checkpoint, rows, test=0.2, seed=3)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(3))
    found = cv.top(torch.eye(2, 8), 1, task)
    assert [x.text for x in found] == [rows[k] for k in order[8:].sort().values]
    assert (task.N, task.Q) == (8, 2)


def broken(kind):
    match kind:
        case "no file":
            return "nothing.jsonl"
        case "a binary file":
            Path("x.jsonl").write_bytes(bytes(range(256)))
            return "x.jsonl"
        case "lines that are not JSON":
            Path("x.jsonl").write_text("hello\n")
            return "x.jsonl"
        case "no rows":
            Path("x.csv").write_text("text\n")
            return "x.csv"
        case "another kind of file":
            Path("x.docx").write_text("hello")
            return "x.docx"
        case "a folder of something else":
            Path("folder").mkdir()
            return "folder"
        case "several data sets":
            from datasets import Dataset, DatasetDict

            table = Dataset.from_dict({"text": list(TEXTS)})
            DatasetDict({"train": table, "test": table}).save_to_disk("both")
            return "both"
        case "a name without a network":
            return "nobody/nothing"
        case "pairs":
            return [("a", 0), ("b", 1)]
        case _:
            return [{"text": "a"}, {"text": 3}]


SAID = {
    "no file": "no such file",
    "a binary file": "x.jsonl",
    "lines that are not JSON": "x.jsonl",
    "no rows": "no rows",
    "another kind of file": "`*.docx`",
    "a folder of something else": "folder",
    "several data sets": "`both/train`",
    "a name without a network": "nobody/nothing",
    "pairs": "a `tuple` is not a row such as",
    "rows of two kinds": "each with values of one kind",
}


@pytest.mark.parametrize("why", SAID)
def test_what_cannot_be_read(why, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(cv.SpecError, match="E0895") as caught:
        text_table(broken(why), Path(), "train")
    assert SAID[why] in str(caught.value)


def test_the_repair_of_several_data_sets_works():
    broken("several data sets")
    assert len(text_table("both/train", Path(), "train")) == len(TEXTS)
