"""Operators on the disk: safetensors with the structure tree as text, in one file or a folder; no code in either."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.diagnostics.values import another_type
from curvlang.operators.basic import CholeskyInverse, Dense, Diagonal, Eigen, Identity
from curvlang.operators.block_diagonal import BlockDiagonal
from curvlang.operators.combined import Scaled, Sum
from curvlang.operators.kronecker import EigenBasis, Kronecker, PerOutput, PerOutputEigen
from curvlang.operators.low_rank import Gram, LowRank
from curvlang.operators.matrix_free import MatrixFree
from curvlang.operators.operator import Operator, unchecked
from curvlang.operators.places import Places
from curvlang.operators.projected import Projected
from curvlang.operators.stacked import Stacked
from curvlang.operators.validation import trusting
from curvlang.storage.tensor_folder import (
    is_sealed_folder,
    read_sealed_folder,
    write_sealed_folder,
)
from curvlang.storage.tensors import read_sealed, unusable, write_sealed

FORMAT = 5
"""Counts changes of the tree below and of how tensors lie in a file: another number is refused."""
_READ = (3, 4, FORMAT)
"""Formats that are read. In the third every place of a block's entries is a number of its own; up to the fourth
what blocks of one shape have in common is there for each of them."""


def save(
    operator: Operator,
    path: str | Path,
    notes: Mapping[str, Any] | None = None,
    others: Mapping[str, Operator] | None = None,
) -> None:
    """Write an operator, all or nothing: one file, or a folder with one for each block.

    Args:
        operator: Any structure that holds tensors; a matrix-free one is refused.
        path: The file; a folder where it ends in `/` or is one that was written so.
        notes: Plain values to keep with it.
        others: Operators that belong to it, by name.
    """
    if not isinstance(path, str | os.PathLike):
        raise another_type("path", path, "a path", '`op.save("mine.safetensors")`')
    tensors: dict[str, Tensor] = {}
    every = {"op": operator, **(others or {})}
    trees = {name: to_tree(one, name, tensors) for name, one in every.items()}
    folder = os.fspath(path).endswith(("/", os.sep)) or is_sealed_folder(Path(path))
    write = write_sealed_folder if folder else write_sealed
    write(Path(path), tensors, {"format": FORMAT, "trees": trees, "notes": dict(notes or {})})


def load_operator(path: str | Path) -> tuple[Operator, dict[str, Any], dict[str, Operator]]:
    """Read an operator, what was kept with it, and the operators that belong to it.

    A folder is read file by file: at no time is more than one of them in memory twice.

    Raises:
        SpecError: E0605 where the file is missing, damaged, or not an operator's.
    """
    tensors, text = _read(path)
    try:
        every = {name: from_tree(tree, tensors) for name, tree in text["trees"].items()}
        return every.pop("op"), text["notes"], every
    except _MALFORMED as error:
        _malformed(path, error)


class StoredBlocks(Mapping[str, Operator]):
    """The blocks of an operator's folder by name; each is read from its file when it is asked for.

    An operator that is not a direct sum is one block, called `model`.

    Args:
        path: What `save` wrote.

    Raises:
        SpecError: E0605 where it is missing or damaged; also when a block is asked for.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = path
        self._tensors, text = _read(path)
        try:
            tree = text["trees"]["op"]
            direct = tree["kind"] == "BlockDiagonal"
            names = tree["names"] if direct else ["model"]
            parts = tree["parts"] if direct else [tree]
            places = [(part, k) for part in parts for k in range(part.get("groups", 1))]
            self._places = dict(zip(names, places, strict=True))
        except _MALFORMED as error:
            _malformed(path, error)

    def __getitem__(self, name: str) -> Operator:
        part, number = self._places[name]
        try:
            return from_tree(part, self._tensors).units()[number]
        except _MALFORMED as error:
            _malformed(self.path, error)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


_MALFORMED = (KeyError, TypeError, ValueError, IndexError, AttributeError, RecursionError)
"""What a tree that `to_tree` did not write can raise."""


def _read(path: str | Path) -> tuple[Mapping[str, Tensor], dict[str, Any]]:
    if not isinstance(path, str | os.PathLike):
        raise another_type("path", path, "a path", '`cv.load_operator("mine.safetensors")`')
    read = read_sealed_folder if os.path.isdir(path) else read_sealed
    tensors, text = read(Path(path))
    written = text.get("format")
    if written not in _READ:
        raise unusable(
            f"`{path}` has format {written}, and this version of curvlang reads {FORMAT}",
            "save it again with `op.save`, or read it with the version that wrote it",
        )
    return tensors, text


def _malformed(path: str | Path, error: BaseException) -> NoReturn:
    reason = str(error).partition("\n")[0]
    headline = f"`{path}` does not describe an operator ({type(error).__name__}: {reason})"
    raise unusable(headline, "save it with `op.save`") from error


def to_tree(operator: Operator, key: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """An operator as plain values: its kind and its fields, tensors by their names.

    Args:
        operator: Any structure that holds tensors.
        key: What the names of its tensors begin with.
        tensors: Filled with them.

    Raises:
        SpecError: E0603 for a structure that holds no tensors of its own.
    """
    if operator.structure not in STRUCTURES:
        raise _without_tensors(operator)

    def kept(value: object, name: str) -> object:
        match value:
            case Tensor():
                tensors[name] = value
                return {"tensor": name}
            case Operator():
                return to_tree(value, name, tensors)
            case Places():
                return value.plain() if value.single is None else kept(value.single, name)
            case tuple():
                return [kept(item, f"{name}.{k}") for k, item in enumerate(value)]
            case _:
                return value

    held = {f.name: getattr(operator, f.name) for f in fields(operator)}
    made = {name: kept(value, f"{key}.{name}") for name, value in held.items()}
    return {"kind": operator.structure, **made}


def from_tree(
    tree: Mapping[str, Any], tensors: Mapping[str, Tensor], *, stack: bool = False
) -> Operator:
    """The operator that `to_tree` wrote.

    Args:
        tree: Its structure.
        tensors: By the names in it.
        stack: Whether it is what a `Stacked` holds, with an axis of blocks in front of its tensors.
    """
    kind = STRUCTURES[tree["kind"]]
    inside = stack or kind is Stacked
    cpu = torch.device("cpu")

    def read(value: Any) -> Any:
        match value:
            case {"tensor": name}:
                return tensors[name]
            case {"pieces": _}:
                return Places.read(value, cpu)
            case {"kind": _}:
                return from_tree(value, tensors, stack=inside)
            case list():
                return tuple(map(read, value))
            case _:
                return value

    given = {name: read(value) for name, value in tree.items() if name != "kind"}
    # What a file holds was checked when it was made, and may be read as it is needed.
    with trusting():
        return unchecked(kind, given) if stack else kind(**given)


STRUCTURES: Mapping[str, type[Operator]] = {
    kind.structure: kind
    for kind in (
        Dense,
        Eigen,
        CholeskyInverse,
        Diagonal,
        Identity,
        Kronecker,
        EigenBasis,
        PerOutput,
        PerOutputEigen,
        LowRank,
        Gram,
        Projected,
        Scaled,
        Sum,
        Stacked,
        BlockDiagonal,
    )
}
"""What can be kept: every field is a tensor, an operator, a plain value, or a tuple of them."""


def _without_tensors(operator: Operator) -> SpecError:
    if isinstance(operator, MatrixFree):
        return refusal(
            Code.E0603,
            "a matrix-free operator can be neither saved nor moved: it multiplies by running the model",
            "fit it where it is used, in the precision that is wanted: `cv.fit(spec, task, dtype=…)`",
        )
    return refusal(
        Code.E0603,
        f"an inverse by {operator.structure} can be neither saved nor moved: it holds no tensors",
        "save or move the curvature, with which its solver is kept, and take the inverse afterwards",
    )
