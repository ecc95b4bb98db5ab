"""Scores of bergson 2: a folder with `scores.bin`, rows of training examples or of their tokens.

A row of the file has for every query a number and a flag that says whether it was written. `info.json` says
where in a row they stand; `offsets.npy` where an example's tokens begin, `config.yaml` what a large score means.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from curvlang.attribution.streams.token_scores import TokenScores
from curvlang.exchange.refusals import unreadable

INFO = "info.json"
_DATA = "scores.bin"
_CONFIG = "config.yaml"
_HALF = "bfloat16"
"""A type that numpy does not have: read as two bytes."""


def read_bergson(path: Path) -> Tensor | TokenScores:
    """The scores in a folder of bergson, [Q, N], positive where training lowers the query's loss.

    Raises:
        SpecError: E0926 where files are missing or damaged, or scores were not written.
    """
    try:
        info = dict(json.loads((path / INFO).read_text("utf-8")))
        scores = _rows(path, info)
        offsets = (
            np.load(path / "offsets.npy", allow_pickle=False)
            if info.get("attribute_tokens")
            else None
        )
        if not _higher_is_better(path):
            scores = -scores
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise unreadable(
            f"`{path}` does not hold scores of bergson ({type(error).__name__}: {reason})",
            "name a folder that `bergson score` wrote",
        ) from error
    if (path / "candidates.npy").is_file():
        raise unreadable(
            f"`{path}` has scores of some candidates alone",
            "score all training examples, without `candidates`",
        )
    if offsets is None:
        return scores
    places = torch.from_numpy(offsets.astype(np.int64))
    if len(places) != info["num_items"] + 1 or int(places[-1]) != scores.shape[1]:
        raise unreadable(f"`{path}/offsets.npy` does not fit `{_DATA}`", "compute the scores again")
    return TokenScores(scores, places)


def _rows(path: Path, info: dict[str, Any]) -> Tensor:
    """All scores [Q, rows]."""
    kind, rows, queries = info["dtype"], int(info["num_rows"]), int(info["num_scores"])
    half = _HALF in kind["formats"]
    formats = ["<u2" if x == _HALF else x for x in kind["formats"]]
    structure: Any = {**kind, "formats": formats}
    layout = np.dtype(structure)
    if (path / _DATA).stat().st_size != rows * layout.itemsize:
        raise ValueError(f"`{_DATA}` has another size than `{INFO}` says")
    held = np.memmap(path / _DATA, dtype=layout, mode="r", shape=(rows,))
    left = sum(int((~held[f"written_{k}"]).sum()) for k in range(queries))
    if left:
        raise unreadable(
            f"{left} of {rows * queries} scores in `{path}` were not written",
            "run the same command of bergson again: it goes on where it was stopped",
        )
    columns = [torch.from_numpy(np.ascontiguousarray(held[f"score_{k}"])) for k in range(queries)]
    found = torch.stack(columns)
    return found.view(torch.bfloat16).float() if half else found


def _higher_is_better(path: Path) -> bool:
    """Whether a large score is that of an example which helps, as `score_cfg` says; it is where nothing does.

    The one word that is looked for is a direct entry of `score_cfg`, in the block style of its writer.
    """
    file = path / _CONFIG
    inside, depth = -1, -1
    for line in file.read_text("utf-8").splitlines() if file.is_file() else ():
        indent, words = len(line) - len(line.lstrip(" -")), line.strip(" -")
        if words.startswith("score_cfg:"):
            inside, depth = indent, -1
        elif inside >= 0 and words and indent <= inside:
            inside = -1
        elif inside >= 0 and words:
            depth = indent if depth < 0 else depth
            if indent == depth and words.startswith("higher_is_better:"):
                return words.split(":", 1)[1].strip().lower() != "false"
    return True
