"""Operators in files: safetensors with the structure tree in the metadata; no code in either."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal
from curvlang.operators.basic import CholeskyInverse, Dense, Diagonal, Eigen, Identity
from curvlang.operators.combined import BlockDiagonal, Scaled, Sum
from curvlang.operators.kronecker import EigenBasis, Kronecker, PerOutput, PerOutputEigen
from curvlang.operators.low_rank import Gram, LowRank
from curvlang.operators.matrix_free import MatrixFree
from curvlang.operators.operator import Operator
from curvlang.operators.projected import Projected
from curvlang.operators.stacked import Stacked
from curvlang.storage.sealed import read_sealed, write_sealed

FORMAT = 2
"""Counts changes of the tree below: a file of another number is refused."""


def save(
    operator: Operator,
    path: str | Path,
    notes: Mapping[str, Any] | None = None,
    others: Mapping[str, Operator] | None = None,
) -> None:
    """Write an operator, all or nothing.

    Args:
        operator: Any structure that holds tensors; a matrix-free one is refused.
        path: The file.
        notes: Plain values to keep with it.
        others: Operators that belong to it, by name.
    """
    tensors: dict[str, Tensor] = {}
    every = {"op": operator, **(others or {})}
    trees = {name: to_tree(one, name, tensors) for name, one in every.items()}
    write_sealed(path, tensors, {"format": FORMAT, "trees": trees, "notes": dict(notes or {})})


def load_operator(path: str | Path) -> tuple[Operator, dict[str, Any], dict[str, Operator]]:
    """Read an operator, what was kept with it, and the operators that belong to it.

    Raises:
        SpecError: E0605 where the file is missing, damaged, or not an operator's.
    """
    tensors, text = read_sealed(path)
    if text.get("format") != FORMAT:
        raise refusal(
            Code.E0605, f"`{path}` was written by another version", "save it with `op.save`"
        )
    every = {name: from_tree(tree, tensors) for name, tree in text["trees"].items()}
    return every.pop("op"), text["notes"], every


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


_PLAIN: Mapping[str, tuple[Callable[..., Operator], tuple[str, ...], tuple[str, ...]]] = {
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


def from_tree(tree: dict[str, Any], tensors: Mapping[str, Tensor]) -> Operator:
    """The operator that `to_tree` wrote."""
    kind, key = tree["kind"], tree["key"]
    match kind:
        case "Scaled":
            return Scaled(tree["factor"], from_tree(tree["inner"], tensors))
        case "Projected":
            left, right = (tensors.get(f"{key}.{side}") for side in ("left", "right"))
            inner = from_tree(tree["inner"], tensors)
            return Projected(inner, left, right, tensors[f"{key}.complement"])
        case "Sum":
            return Sum(tuple(from_tree(t, tensors) for t in tree["terms"]))
        case "Stacked":
            return Stacked(from_tree(tree["inner"], tensors), tree["groups"], tree["length"])
        case "BlockDiagonal":
            blocks = tuple(from_tree(b, tensors) for b in tree["blocks"])
            index = tuple(tensors[f"{key}.index.{k}"].to(torch.long) for k in range(len(blocks)))
            return BlockDiagonal(tuple(tree["names"]), blocks, index)
        case _:
            make, names, values = _PLAIN[kind]
            given = {name: tensors.get(f"{key}.{name}") for name in names}
            return make(**given, **{name: tree[name] for name in values})
