"""Data sets, with their parameters."""

from __future__ import annotations

from collections.abc import Mapping

from curvlang.language.registry.common import AT_LEAST_TWO, COUNT, QUERY_SHARE, seed
from curvlang.language.registry.entry import NONE, Entry, Parameter
from curvlang.language.registry.kinds import Choice, NameList, NumberOr, String, Truth

_SPLIT = seed("the choice of the queries")

DATA: Mapping[str, Entry] = {
    "digits": Entry(
        "1797 images of 8 × 8 pixels, 10 classes (scikit-learn's bundled set)",
        {
            "test": QUERY_SHARE,
            "seed": _SPLIT,
            "scale": Parameter(
                Choice(("standard", "unit", NONE)),
                "standard",
                "pixels of zero mean and unit variance, from 0 to 1, or from 0 to 16",
            ),
            "layout": Parameter(
                Choice(("flat", "image")), "flat", "inputs of 64 pixels, or images 1 × 8 × 8"
            ),
        },
    ),
    "diabetes": Entry(
        "442 patients, ten measurements and the progression of a disease (scikit-learn's bundled set)",
        {"test": QUERY_SHARE, "seed": _SPLIT},
    ),
    "characters": Entry(
        "sequences of characters from eleven sonnets of Shakespeare, 27 letters; targets are the next ones",
        {
            "context": Parameter(COUNT, 8, "letters of an example"),
            "test": QUERY_SHARE,
            "seed": _SPLIT,
        },
    ),
    "random": Entry(
        "standard normal inputs and drawn targets; its seed also initialises the model of a law",
        {
            "examples": Parameter(COUNT, 8, "training examples, and as many queries"),
            "inputs": Parameter(COUNT, 3, "features of an example"),
            "outputs": Parameter(COUNT, 3, "outputs of a model for it"),
            "positions": Parameter(COUNT, 1, "positions of an example"),
            "seed": seed("inputs and targets"),
        },
    ),
    "file": Entry(
        "columns of an npz, csv, tsv, parquet or safetensors file; queries by share, by column or from a file",
        {
            "path": Parameter(String(), doc="the file, from the spec's own folder"),
            "inputs": Parameter(NameList(), ("all",), "columns that the model reads"),
            "target": Parameter(NameList(), ("y",), "column of the target, or several"),
            "query": Parameter(String(), NONE, "a second file, of the queries"),
            "split": Parameter(String(), NONE, "a column of the words `train` and `query`"),
            "test": QUERY_SHARE,
            "seed": _SPLIT,
            "scale": Parameter(
                Choice((NONE, "standard")),
                NONE,
                "`standard`: inputs of zero mean and unit variance",
            ),
        },
        first="path",
    ),
    "dataset": Entry(
        "texts or images of a jsonl, csv or parquet file, a folder of `save_to_disk` or a hub, for a `pretrained` model",
        {
            "path": Parameter(String(), doc="the file or folder, from the spec's own, or a name"),
            "query": Parameter(String(), NONE, "a second one, of the queries"),
            "split": Parameter(String(), NONE, "of a data set of a hub; `train` where not given"),
            "text": Parameter(String(), "text", "column of whole texts"),
            "prompt": Parameter(String(), NONE, "column of what is read and not predicted"),
            "completion": Parameter(String(), NONE, "column of what follows the prompt"),
            "messages": Parameter(
                String(), "messages", "column of conversations, whose answers are predicted"
            ),
            "label": Parameter(String(), NONE, "column of the classes, for a classifier"),
            "pair": Parameter(String(), NONE, "column of second texts, for a classifier of pairs"),
            "tokens": Parameter(
                String(), NONE, "column of lists of words, for a classifier of words"
            ),
            "tags": Parameter(String(), NONE, "column of a class for every word"),
            "source": Parameter(String(), NONE, "column that an encoder reads"),
            "target": Parameter(String(), NONE, "column that its decoder predicts"),
            "image": Parameter(String(), NONE, "column of images, for a classifier of images"),
            "tokenizer": Parameter(
                String(), NONE, "folder or name; the model's own where not given"
            ),
            "length": Parameter(
                NumberOr(AT_LEAST_TWO, NONE), NONE, "most tokens of a row: longer ones are cut"
            ),
            "pack": Parameter(
                Truth(), False, "whether training texts are joined and cut into rows of `length`"
            ),
            "test": QUERY_SHARE,
            "seed": _SPLIT,
        },
        first="path",
    ),
    "python": Entry(
        "training and query examples from a function, `package.module:function` (needs --allow-python)",
        {"function": Parameter(String(), doc="`package.module:function`")},
        first="function",
        open=True,
        runs_code=True,
    ),
}
