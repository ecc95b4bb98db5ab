"""A fitted curvature that lies in a store: blocks are read when they are asked for, each mapped by itself."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import torch

from curvlang.language import inverse_kept, inverse_read, score_kept, score_read
from curvlang.operators import Identity, Operator, added, load_operator, scaled
from curvlang.runtime.fitted import FittedOperator, load_fitted
from curvlang.runtime.solver import NOT_KEPT, FittedSolver
from curvlang.runtime.stored.parts import Part, read_part, whole
from curvlang.storage.fits.store import (
    PRECONDITIONER,
    FitStore,
    Folder,
    damaged_store,
    is_store,
    unusable_store,
)

HOST = torch.device("cpu")


class Term(msgspec.Struct, forbid_unknown_fields=True):
    """One curvature of a sum, with its weight and the key of its result."""

    weight: float
    result: str


class Notes(msgspec.Struct, forbid_unknown_fields=True):
    """What a manifest says of the operator in its store: `FittedOperator` without its blocks."""

    parameters: tuple[str, ...]
    label: str
    declared: str
    size: int
    terms: tuple[Term, ...]
    decay: float
    inverse: dict[str, Any] | None = None
    solver: dict[str, Any] | None = None
    score: dict[str, str] | None = None


class StoredOperator(FittedOperator):
    """A curvature in a store; of its blocks nothing is read before they are asked for.

    Args:
        path: The store.

    Raises:
        SpecError: E0836 to E0838 for a store that cannot be read, or whose fit is not finished.
    """

    def __init__(self, path: str | Path) -> None:
        self.store = FitStore(path)
        notes = _notes(self.store)
        self._said = notes
        self.parameters = notes.parameters
        kept = notes.inverse
        self.rule = None if kept is None else inverse_read(kept, str(path))
        self.label = notes.label
        self.by_example = NOT_KEPT
        self.refit = None
        self.declared = notes.declared
        own = notes.score
        self.score = None if own is None else score_read(own, str(path))

    @property
    def shape(self) -> tuple[int, int]:
        """`(P, P)`."""
        return self._said.size, self._said.size

    @cached_property
    def operator(self) -> Operator:  # type: ignore[override]
        """All blocks, mapped; the checksum of each file is taken once, here."""
        terms = [scaled(t.weight, whole(self._parts(t.result))) for t in self._said.terms]
        found = added(terms) if len(terms) > 1 else terms[0]
        return _with_decay(found, self._said.decay)

    @cached_property
    def blocks(self) -> Mapping[str, Operator]:
        """Block name to operator; each is read from its file when it is asked for."""
        if len(self._said.terms) > 1 or self._said.terms[0].weight != 1.0:
            return super().blocks
        return _Blocks(self, self._said.terms[0].result, self._said.decay)

    @cached_property
    def solver(self) -> FittedSolver | None:  # type: ignore[override]
        """The spec's solver; its preconditioner is read where it is asked for."""
        kept = self._said.solver
        if kept is None:
            return None
        folder = self.store.path / PRECONDITIONER
        first = load_operator(folder)[0] if folder.is_dir() else None
        return FittedSolver.read(kept, first)

    def _parts(self, key: str) -> Sequence[Part]:
        folder, record = self.result(key)
        return [self.part(folder, file) for file in record["files"]]

    def result(self, key: str) -> tuple[Folder, dict[str, Any]]:
        """The folder of a result, and what its record says.

        Raises:
            SpecError: E0837 where it is damaged.
        """
        folder = self.store.result(key)
        record = folder.record()
        if record is None:
            raise self._damaged(folder.path)
        return folder, record

    def part(self, folder: Folder, file: str) -> Part:
        """A part in a file of a result.

        Raises:
            SpecError: E0837 where the file is damaged.
        """
        found = read_part(folder, file, HOST)
        if found is None:
            raise self._damaged(folder.path / file)
        return found

    def _damaged(self, path: Path) -> Exception:
        said = self.store.damaged or [f"`{path}` is missing"]
        return damaged_store(
            f"the store `{self.store.path}` is damaged: {said[-1]}",
            "run the command that made it once more: what is damaged is computed again, the rest "
            "is kept",
        )


def load(path: str | Path) -> FittedOperator:
    """Read a fitted curvature: a file or a folder of `FittedOperator.save`, or the store of a fit.

    Of a store nothing is read before it is asked for, then block by block; tensors are mapped.

    Args:
        path: The file or the folder.

    Raises:
        SpecError: E0605 where it is missing or damaged, or was written by something else; E0836 to
            E0838 for a store that cannot be read, or whose fit is not finished.
    """
    if isinstance(path, str | os.PathLike) and is_store(path):
        return StoredOperator(path)
    return load_fitted(path)


def operator_notes(
    op: FittedOperator, terms: Sequence[tuple[float, str]], decay: float
) -> dict[str, Any]:
    """What a manifest says of the operator in its store.

    Args:
        op: The operator.
        terms: The results that it is made of, with their weights.
        decay: What is added to the diagonal.
    """
    found: dict[str, Any] = {
        "parameters": list(op.parameters),
        "label": op.label,
        "declared": op.declared,
        "size": op.shape[0],
        "terms": [{"weight": weight, "result": key} for weight, key in terms],
        "decay": decay,
    }
    if op.rule is not None:
        found["inverse"] = inverse_kept(op.rule)
    if op.solver is not None:
        found["solver"] = op.solver.kept()
    if op.score is not None:
        found["score"] = score_kept(op.score)
    return found


class _Blocks(Mapping[str, Operator]):
    """The blocks of a stored operator by name; nothing is kept of one that was read."""

    def __init__(self, operator: StoredOperator, key: str, decay: float) -> None:
        self._operator = operator
        self._decay = decay
        self._folder, record = operator.result(key)
        self._files = {
            name: (file, number)
            for file, names in zip(record["files"], record["names"], strict=True)
            for number, name in enumerate(names)
        }

    def __getitem__(self, name: str) -> Operator:
        file, number = self._files[name]
        unit = self._operator.part(self._folder, file).operator.units()[number]
        return _with_decay(unit, self._decay)

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def _with_decay(operator: Operator, decay: float) -> Operator:
    if not decay:
        return operator
    scale = torch.tensor(decay, dtype=operator.dtype, device=operator.device)
    return added((operator, Identity(scale, operator.size)))


def _notes(store: FitStore) -> Notes:
    manifest = store.manifest()
    if manifest is None:
        raise unusable_store(
            f"there is no store `{store.path}`",
            "check the path, or fit there: `curvlang fit SPEC --store DIR`",
        )
    if "operator" not in manifest:
        raise unusable_store(
            f"the fit in the store `{store.path}` is not finished",
            "run the same command once more: what is finished is kept",
        )
    try:
        return msgspec.convert(manifest["operator"], Notes)
    except msgspec.ValidationError as error:
        raise damaged_store(
            f"the manifest of the store `{store.path}` is damaged: {error}",
            "delete the folder and fit once more",
        ) from error
