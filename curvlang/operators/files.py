"""Operators in files: safetensors with the structure tree in the metadata; no code in either."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from curvlang.operators.basic import CholeskyInverse, Dense, Diagonal, Eigen, Identity
from curvlang.operators.combined import BlockDiagonal, Scaled, Sum
from curvlang.operators.kronecker import EigenBasis, Kronecker, PerOutput, PerOutputEigen
from curvlang.operators.low_rank import Gram, LowRank
from curvlang.operators.operator import Operator, refuse
from curvlang.operators.projected import Projected
from curvlang.operators.stacked import Stacked
from curvlang.storage.leftovers import belongs_to, clear, hidden_name, locked

FORMAT = "curvlang-operator-1"


def save(operator: Operator, path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write an operator, all or nothing.

    Args:
        operator: Any structure that holds tensors; a matrix-free one is refused.
        path: The file.
        metadata: Text to keep with it.
    """
    tensors: dict[str, Tensor] = {}
    tree = _write(operator, "op", tensors)
    notes = {**(metadata or {}), "format": FORMAT, "tree": json.dumps(tree)}
    target = Path(path).resolve()
    clear(target.parent, belongs_to(target))
    part = hidden_name(target)
    part.touch()
    try:
        with locked(part):
            save_file({k: t.contiguous().clone() for k, t in tensors.items()}, part, notes)
            os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def load_operator(path: str | Path) -> tuple[Operator, dict[str, str]]:
    """Read an operator and the text kept with it.

    Raises:
        SpecError: E0605 where the file is missing, damaged, or not an operator's.
    """
    if not Path(path).is_file():
        refuse("E0605", f"there is no operator file `{path}`", "check the path")
    try:
        with safe_open(str(path), framework="pt") as file:
            notes = dict(file.metadata() or {})
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        refuse("E0605", f"`{path}` is damaged or not an operator file: {error}", "save it again")
    if notes.get("format") != FORMAT:
        refuse("E0605", f"`{path}` was not written by `op.save`", "save it with `op.save`")
    return _read(json.loads(notes["tree"]), tensors), notes


def _write(operator: Operator, key: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
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
            return {**made, "inner": _write(inner, f"{key}.0", tensors)}
        case Scaled(factor=factor, operator=inner):
            return {**put(), "factor": factor, "inner": _write(inner, f"{key}.0", tensors)}
        case Sum(terms=terms):
            parts = [_write(t, f"{key}.{k}", tensors) for k, t in enumerate(terms)]
            return {**put(), "terms": parts}
        case Stacked(stack=stack, groups=groups, length=length):
            sizes = {"groups": groups, "length": length}
            return {**put(), **sizes, "inner": _write(stack, f"{key}.0", tensors)}
        case BlockDiagonal(names=names, parts=parts, places=places):
            written = [_write(part, f"{key}.{k}", tensors) for k, part in enumerate(parts)]
            for k, positions in enumerate(places):
                tensors[f"{key}.index.{k}"] = positions
            return {**put(), "names": list(names), "blocks": written}
        case _:
            refuse(
                "E0603",
                f"a {operator.structure} holds no tensors that could be saved",
                "save the structure it was made from",
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


def _read(tree: dict[str, Any], tensors: Mapping[str, Tensor]) -> Operator:
    kind, key = tree["kind"], tree["key"]
    match kind:
        case "Scaled":
            return Scaled(tree["factor"], _read(tree["inner"], tensors))
        case "Projected":
            left, right = (tensors.get(f"{key}.{side}") for side in ("left", "right"))
            inner = _read(tree["inner"], tensors)
            return Projected(inner, left, right, tensors[f"{key}.complement"])
        case "Sum":
            return Sum(tuple(_read(t, tensors) for t in tree["terms"]))
        case "Stacked":
            return Stacked(_read(tree["inner"], tensors), tree["groups"], tree["length"])
        case "BlockDiagonal":
            blocks = tuple(_read(b, tensors) for b in tree["blocks"])
            index = tuple(tensors[f"{key}.index.{k}"].to(torch.long) for k in range(len(blocks)))
            return BlockDiagonal(tuple(tree["names"]), blocks, index)
        case _:
            make, names, values = _PLAIN[kind]
            given = {name: tensors.get(f"{key}.{name}") for name in names}
            return make(**given, **{name: tree[name] for name in values})
