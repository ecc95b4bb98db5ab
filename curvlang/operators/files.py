"""Operators on the disk: safetensors with the structure tree as text, in one file or a folder; no code in either."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal
from curvlang.diagnostics.values import another_type
from curvlang.operators.basic import CholeskyInverse, Dense, Diagonal, Eigen, Identity
from curvlang.operators.block_diagonal import BlockDiagonal
from curvlang.operators.combined import Scaled, Sum
from curvlang.operators.kronecker import EigenBasis, Kronecker, PerOutput, PerOutputEigen
from curvlang.operators.low_rank import Gram, LowRank
from curvlang.operators.matrix_free import MatrixFree
from curvlang.operators.operator import Operator, unchecked
from curvlang.operators.projected import Projected
from curvlang.operators.stacked import Stacked
from curvlang.storage.tensors import (
    is_sealed_folder,
    read_sealed,
    unusable,
    write_sealed,
    write_sealed_folder,
)

FORMAT = 3
"""Counts changes of the tree below and of how tensors lie in a file."""
READ = (2, 3)
"""Formats that are read; a file of another one is refused."""


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
            whole = {"names": ["model"], "blocks": [tree]}
            found = tree if tree["kind"] == "BlockDiagonal" else whole
            counts = [
                part["groups"] if part["kind"] == "Stacked" else 1 for part in found["blocks"]
            ]
            places = [
                (part, k) for part, n in zip(found["blocks"], counts, strict=True) for k in range(n)
            ]
            self._places = dict(zip(found["names"], places, strict=True))
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
    tensors, text = read_sealed(Path(path))
    written = text.get("format")
    if written not in READ:
        known = " and ".join(map(str, READ))
        raise unusable(
            f"`{path}` has format {written}, and this version of curvlang reads {known}",
            "save it again with `op.save`, or read it with the version that wrote it",
        )
    return tensors, text


def _malformed(path: str | Path, error: BaseException) -> NoReturn:
    reason = str(error).partition("\n")[0]
    headline = f"`{path}` does not describe an operator ({type(error).__name__}: {reason})"
    raise unusable(headline, "save it with `op.save`") from error


def to_tree(operator: Operator, key: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """An operator as plain values; its tensors are put under names that begin with `key`.

    Raises:
        SpecError: E0603 for a structure that holds no tensors of its own.
    """

    def put(**named: Tensor | None) -> dict[str, Any]:
        for name, tensor in named.items():
            if tensor is not None:
                tensors[f"{key}.{name}"] = tensor
        return {"kind": operator.structure, "key": key}

    match operator:
        case Dense(matrix=matrix):
            return put(matrix=matrix)
        case Eigen(vectors=vectors, values=values):
            return put(vectors=vectors, values=values)
        case CholeskyInverse(root=root):
            return put(root=root)
        case Diagonal(entries=entries):
            return put(entries=entries)
        case Identity(scale=scale, length=length):
            return {**put(scale=scale), "length": length}
        case Kronecker(left=left, right=right):
            return put(left=left, right=right)
        case EigenBasis(left=left, right=right, spectrum=spectrum):
            return put(left=left, right=right, spectrum=spectrum)
        case PerOutput(blocks=blocks, axis=axis):
            return {**put(blocks=blocks), "axis": axis}
        case PerOutputEigen(vectors=vectors, values=values, axis=axis):
            return {**put(vectors=vectors, values=values), "axis": axis}
        case LowRank(basis=basis, values=values, complement=complement):
            return put(basis=basis, values=values, complement=complement)
        case Gram(columns=columns):
            return put(columns=columns)
        case Projected(inner=inner, left=left, right=right, complement=complement):
            made = put(left=left, right=right, complement=complement)
            return {**made, "inner": to_tree(inner, f"{key}.0", tensors)}
        case Scaled(factor=factor, operator=inner):
            return {**put(), "factor": factor, "inner": to_tree(inner, f"{key}.0", tensors)}
        case Sum(terms=terms):
            parts = [to_tree(t, f"{key}.{k}", tensors) for k, t in enumerate(terms)]
            return {**put(), "terms": parts}
        case Stacked(stack=stack, groups=groups, length=length):
            sizes = {"groups": groups, "length": length}
            return {**put(), **sizes, "inner": to_tree(stack, f"{key}.0", tensors)}
        case BlockDiagonal(names=names, parts=parts, places=places):
            written = [to_tree(part, f"{key}.{k}", tensors) for k, part in enumerate(parts)]
            for k, positions in enumerate(places):
                tensors[f"{key}.index.{k}"] = positions
            return {**put(), "names": list(names), "blocks": written}
        case MatrixFree():
            raise refusal(
                Code.E0603,
                "a matrix-free operator can be neither saved nor moved: it multiplies by running the model",
                "fit it where it is used, in the precision that is wanted: `cv.fit(spec, task, dtype=…)`",
            )
        case _:
            raise refusal(
                Code.E0603,
                f"an inverse by {operator.structure} can be neither saved nor moved: it holds no tensors",
                "save or move the curvature, with which its solver is kept, and take the inverse afterwards",
            )


_PLAIN: Mapping[str, tuple[type[Operator], tuple[str, ...], tuple[str, ...]]] = {
    "Dense": (Dense, ("matrix",), ()),
    "Eigen": (Eigen, ("vectors", "values"), ()),
    "CholeskyInverse": (CholeskyInverse, ("root",), ()),
    "Diagonal": (Diagonal, ("entries",), ()),
    "Identity": (Identity, ("scale",), ("length",)),
    "Kronecker": (Kronecker, ("left", "right"), ()),
    "EigenBasis": (EigenBasis, ("left", "right", "spectrum"), ()),
    "PerOutput": (PerOutput, ("blocks",), ("axis",)),
    "PerOutputEigen": (PerOutputEigen, ("vectors", "values"), ("axis",)),
    "LowRank": (LowRank, ("basis", "values", "complement"), ()),
    "Gram": (Gram, ("columns",), ()),
}


def from_tree(
    tree: dict[str, Any], tensors: Mapping[str, Tensor], *, stack: bool = False
) -> Operator:
    """The operator that `to_tree` wrote.

    Args:
        tree: Its structure.
        tensors: By the names in it.
        stack: Whether it is what a `Stacked` holds, with an axis of blocks in front of its tensors.
    """
    kind, key = tree["kind"], tree["key"]
    below = lambda x: from_tree(x, tensors, stack=stack)  # noqa: E731
    make = unchecked if stack else _made
    match kind:
        case "Scaled":
            return make(Scaled, {"factor": tree["factor"], "operator": below(tree["inner"])})
        case "Projected":
            own = {name: tensors.get(f"{key}.{name}") for name in ("left", "right", "complement")}
            return make(Projected, {"inner": below(tree["inner"]), **own})
        case "Sum":
            return make(Sum, {"terms": tuple(map(below, tree["terms"]))})
        case "Stacked":
            inner = from_tree(tree["inner"], tensors, stack=True)
            return Stacked(inner, tree["groups"], tree["length"])
        case "BlockDiagonal":
            blocks = tuple(map(below, tree["blocks"]))
            index = tuple(tensors[f"{key}.index.{k}"].to(torch.long) for k in range(len(blocks)))
            return BlockDiagonal(tuple(tree["names"]), blocks, index)
        case _:
            plain, names, values = _PLAIN[kind]
            given = {name: tensors.get(f"{key}.{name}") for name in names}
            return make(plain, {**given, **{name: tree[name] for name in values}})


def _made(kind: type[Operator], values: Mapping[str, Any]) -> Operator:
    return kind(**values)
