"""Scores of other tools as ours: [Q, N], positive where training on an example lowers a query's loss."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from curvlang.attribution.streams.token_scores import TokenScores
from curvlang.diagnostics.values import another_type
from curvlang.exchange.bergson import INFO, read_bergson
from curvlang.exchange.refusals import unreadable
from curvlang.storage.tensors import UNREADABLE, tensors_in

PAIRWISE = "pairwise_scores.safetensors"
ALL = "all_modules"
"""The name of scores that are summed over the modules."""
TOOLS = ("kronfluence", "bergson", "dattri")


def read_scores(path: str | os.PathLike[str], tool: str | None = None) -> Tensor | TokenScores:
    """Scores that another tool has written.

    kronfluence: a folder `…/scores_NAME` or its `pairwise_scores.safetensors`; scores per module are added
    up. bergson: a folder with `scores.bin`; scores of tokens are `TokenScores`, and where its configuration
    says that lower is better the sign is changed. dattri: its tensor (train, test), kept as `.npy`, or as
    `.pt` without any code in it.

    Args:
        path: A folder or a file.
        tool: `kronfluence`, `bergson` or `dattri`; known by the files where not given, except for a bare
            tensor, which does not say whose it is.

    Raises:
        SpecError: E0563 for other arguments, E0926 where nothing can be read, or not all of it was
            written.
    """
    if not isinstance(path, str | os.PathLike):
        raise another_type("path", path, "a path", '`"influence/analysis/scores_mine"`')
    if tool is not None and tool not in TOOLS:
        raise another_type(
            "tool", tool, "a tool whose scores are read", " or ".join(f"`{x}`" for x in TOOLS)
        )
    given = Path(path)
    match tool or _tool(given):
        case "kronfluence":
            return _kronfluence(given / PAIRWISE if given.is_dir() else given)
        case "bergson":
            return read_bergson(given)
        case _:
            return _dattri(given)


def _tool(path: Path) -> str:
    """Whose scores they are, by the files."""
    if (path / PAIRWISE).is_file() or path.name == PAIRWISE:
        return "kronfluence"
    if (path / INFO).is_file():
        return "bergson"
    if not path.exists():
        raise unreadable(f"there is no `{path}`", "check the path")
    if path.suffix in (".pt", ".pth", ".npy"):
        raise unreadable(
            f"`{path}` does not say which of its axes are the queries",
            'say whose it is, `cv.read_scores(path, "dattri")`, or read it with numpy or torch',
        )
    raise unreadable(
        f"`{path}` does not hold scores of {', '.join(TOOLS)}",
        f"name a folder with `{PAIRWISE}` (kronfluence) or `scores.bin` (bergson)",
    )


def _kronfluence(path: Path) -> Tensor:
    """(query, train) as ours, the modules added up."""
    if not path.is_file():
        joined = any(path.parent.glob("pairwise_scores_data_partition*"))
        raise unreadable(
            f"there is no `{path}`",
            "join the partitions with `analyzer.aggregate_pairwise_scores`"
            if joined
            else "check the path",
        )
    try:
        found = tensors_in(path)
    except UNREADABLE as error:
        reason = str(error).partition("\n")[0]
        raise unreadable(
            f"`{path}` cannot be read: {reason}", "compute the scores again"
        ) from error
    scores = [found[ALL]] if ALL in found else list(found.values())
    if not scores or any(x.shape != scores[0].shape or x.ndim != 2 for x in scores):
        shapes = ", ".join(f"`{name}` {list(x.shape)}" for name, x in found.items()) or "nothing"
        raise unreadable(
            f"`{path}` does not hold scores (query, train): it has {shapes}",
            "compute them without `compute_per_token_scores`, whose rows are padded",
        )
    # Half precision is what they are kept in, not what they are added up in.
    total = torch.stack([x.to(torch.promote_types(x.dtype, torch.float32)) for x in scores]).sum(0)
    return _finite(total, path)


def _dattri(path: Path) -> Tensor:
    """(train, test), transposed."""
    try:
        if path.suffix == ".npy":
            found = torch.from_numpy(np.load(path, allow_pickle=False))
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise unreadable(
            f"`{path}` cannot be read: {reason}",
            "keep the tensor alone, `torch.save(scores.detach().cpu(), path)`: no code in a file is run",
        ) from error
    if not isinstance(found, Tensor) or found.ndim != 2 or not found.is_floating_point():
        raise unreadable(
            f"`{path}` does not hold a matrix of scores (train, test)",
            "keep what `attributor.attribute(…)` returned",
        )
    return _finite(found.T.contiguous(), path)


def _finite(scores: Tensor, path: Path) -> Tensor:
    if not bool(torch.isfinite(scores).all()):
        raise unreadable(
            f"`{path}` has scores that are not finite",
            "look for the reason where they were computed",
        )
    return scores
