"""What an index says of itself, and its files: chunks of training examples, sums over them, other models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from curvlang.attribution.indexed.rounding import Rounding
from curvlang.attribution.streams.cut import ScoreCut
from curvlang.language.chain import ScoreFormula
from curvlang.models.fingerprint import digest
from curvlang.storage.fits.identity import of_something_else, other_format
from curvlang.storage.fits.store import FitStore, Folder, damaged_store

FORMAT = 1
"""Counts changes of how an index lies on the disk: another number is refused."""
GRADIENTS = "gradients"
"""The index of gradients in a curvature's coordinates, which every score of them reads."""
SUMS = "sums"
EXACT = "exact"
"""The first examples without rounding: what the error of scores is measured on."""
PARAMETER = "parameter "
"""Before the names of a model's parameters, beside Adam's running means."""


class Contents(msgspec.Struct, forbid_unknown_fields=True):
    """What an index says of itself.

    Args:
        format: How it lies on the disk.
        key: Its folder: `gradients`, or the digest of a score.
        words: What it is of, for a reader.
        parts: What is kept of every training example: the axis of the examples, by name.
        total: Training examples.
        size: Of a chunk.
        stored: The precision that numbers are kept in.
        exact: The precision that they were computed in.
        models: Other models that the score reads: for each of them its checkpoints, of the ends none.
        rates: The learning rate at each checkpoint.
        rounding: The largest error of an example's numbers, of their length.
        error: The largest error of some scores, of the largest of them.
        behind: Files besides the chunks.
        whole: Whether gradients are kept over all parameters.
        each: Models of a checkpoint.
        times: The sum of the learning rates of the steps that each checkpoint stands for.
        stated: Digest of how the task states the other models; empty where the score reads none.
    """

    format: int
    key: str
    words: str
    parts: dict[str, int]
    total: int
    size: int
    stored: str
    exact: str
    models: tuple[int, int] = (0, 0)
    rates: list[float] | None = None
    rounding: float = 0.0
    error: float = 0.0
    behind: list[str] = msgspec.field(default_factory=list)
    whole: bool = False
    each: int = 1
    times: list[float] | None = None
    stated: str = ""

    def described(self) -> str:
        """What is kept, for a reader."""
        found = f"{self.words}, of {self.total} training examples, in {self.stored}"
        if not self.kept.rounds:
            return found
        return (
            f"{found}: rounding is at most {self.rounding:.1e} of an example's numbers, and changes scores of "
            f"a few queries and examples by at most {self.error:.1e} of the largest"
        )

    @property
    def cut(self) -> ScoreCut:
        """The training examples in chunks."""
        return ScoreCut(self.total, self.size)

    @property
    def kept(self) -> Rounding:
        """How numbers are kept."""
        return Rounding(getattr(torch, self.stored), getattr(torch, self.exact))


@dataclass(slots=True, eq=False)
class KeptChunks:
    """What is kept of the training examples, chunk by chunk from files that are mapped.

    Args:
        folder: Of the index.
        contents: What it says of itself.
        device: Where it is wanted.
    """

    folder: Folder
    contents: Contents
    device: torch.device
    _read: dict[str, Mapping[str, Tensor]] = field(default_factory=dict)

    @property
    def cut(self) -> ScoreCut:
        """The chunks."""
        return self.contents.cut

    @property
    def sums(self) -> Mapping[str, Tensor]:
        """Sums over all training examples, by name."""
        return self.file(SUMS) if SUMS in self.contents.behind else {}

    def chunk(self, within: range) -> Mapping[str, Tensor]:
        """What is kept of the examples of a chunk."""
        found = self.file(chunk_name(within.start // self.cut.size))
        return {name: x.to(self.device) for name, x in self.contents.kept.read(found).items()}

    def file(self, name: str) -> Mapping[str, Tensor]:
        """The tensors of a file; its checksum is taken once."""
        if name not in self._read:
            found = self.folder.get(name)
            if found is None:
                raise damaged_store(
                    f"the index in `{self.folder.path}` is damaged: `{name}` is missing or not what was "
                    "written",
                    "run `curvlang index` once more: what is damaged is computed again, the rest is kept",
                )
            self._read[name] = found[0]
        return self._read[name]


def check_stated(path: Path, contents: Contents, wanted: str) -> None:
    """Refuse an index of a score that reads other models than the task states.

    Args:
        path: The store.
        contents: What the index says of itself.
        wanted: Digest of how the task states them; empty where that is not known.

    Raises:
        SpecError: E0835.
    """
    if contents.stated and wanted and contents.stated != wanted:
        raise of_something_else(
            f"the index of {contents.words} in `{path}` is of other checkpoints or other models than the task states",
            "state those of the index (`checkpoints`, `models`, `train`; `trajectory` and `recipe` in Python)",
        )


def chunk_name(number: int) -> str:
    """The file of a chunk."""
    return f"chunk-{number:05d}"


def names_at(model: int, checkpoint: int, each: int) -> list[str]:
    """The files of the models of a checkpoint."""
    name = f"model-{model}-{checkpoint}"
    return [name] if each == 1 else [f"{name}-{k}" for k in range(each)]


def key_of(formula: ScoreFormula) -> str:
    """The folder of an index that is of one score."""
    parts: tuple[object, ...] = (formula.needs, formula.body)
    if formula.functions:
        parts = (*parts, formula.functions)
    return digest(repr(parts))[:32]


def contents_of(store: FitStore, key: str) -> Contents | None:
    """What an index says of itself; None where there is none, or one that is not finished.

    Raises:
        SpecError: E0836 for another format, E0837 where it is damaged.
    """
    record = store.index(key).record()
    if record is None:
        return None
    if record.get("format") != FORMAT:
        raise other_format(store.path, record, FORMAT)
    try:
        return msgspec.convert(record, Contents)
    except msgspec.ValidationError as error:
        raise damaged_store(
            f"the index in the store `{store.path}` is damaged: {error}",
            f"delete `{store.index(key).path}` and write the index once more",
        ) from error
