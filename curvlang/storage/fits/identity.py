"""What a store is of, and the refusal of one that is of something else, by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import refusal

FORMAT = 3
"""Counts changes of how a store lies on the disk; a store of another number than these is refused."""
READ = (2, FORMAT)
"""Those that are read: 2 has every tensor of blocks as often as there are blocks."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What decides the numbers of a fit.

    Args:
        model: Hash of architecture, parameters and buffers.
        data: Hash of the training examples and of which of their positions count.
        objective: Hash of the loss and of the weight decay.
        formula: Hash of the curvature with all that it is defined by.
        curvature: The curvature's name.
        task: What the task looks like, for messages.
        seed: Of sampled columns.
        dtype: Precision of the passes over the data.
    """

    model: str
    data: str
    objective: str
    formula: str
    curvature: str
    task: str
    seed: int
    dtype: str

    def plain(self) -> dict[str, Any]:
        """By name."""
        return {name: getattr(self, name) for name in self.__slots__}


def check_identity(path: Path, kept: Identity, wanted: Identity, notes: Sequence[str] = ()) -> None:
    """Refuse a store that is of something else.

    Args:
        path: The store.
        kept: What it is of.
        wanted: What is fitted.
        notes: What else is known of the difference.

    Raises:
        SpecError: E0835, with everything that differs.
    """
    found = list(_differences(kept, wanted))
    if not found:
        return
    what = " and ".join(text for text, _ in found)
    repairs = [repair for _, repair in found if repair]
    held = f"it holds `{kept.curvature}` of {kept.task}; requested is a fit on {wanted.task}"
    raise of_something_else(f"the store `{path}` is of {what}", *repairs, notes=(held, *notes))


def of_something_else(headline: str, *repairs: str, notes: Sequence[str] = ()) -> SpecError:
    """The refusal of a store, or of what lies in one, that is of something else: E0835.

    Args:
        headline: What it is of.
        repairs: What to write so that it fits.
        notes: What else is known.
    """
    other = "name another folder; or delete this one, if it is of no use any more"
    return refusal(Code.E0835, headline, *repairs, other, notes=tuple(notes))


def _differences(kept: Identity, wanted: Identity) -> Iterator[tuple[str, str]]:
    """What differs, and what to write so that it does not."""
    if kept.seed != wanted.seed:
        yield f"another seed ({kept.seed}, not {wanted.seed})", _give("seed", kept.seed)
    if kept.dtype != wanted.dtype:
        # Data and parameters are other numbers in another precision: they cannot be compared.
        yield f"another precision ({kept.dtype}, not {wanted.dtype})", _precision(kept.dtype)
    else:
        if kept.data != wanted.data:
            yield "other data (the training examples differ)", ""
        if kept.model != wanted.model:
            yield "another model (its architecture or its parameters differ)", ""
    if kept.objective != wanted.objective:
        yield "another loss or weight decay", ""
    if kept.formula != wanted.formula:
        same = kept.curvature == wanted.curvature
        other = f"`{kept.curvature}`, not `{wanted.curvature}`"
        yield f"another spec ({'its definition differs' if same else other})", ""


def _give(name: str, value: object) -> str:
    return f"give `--{name} {value}` (`{name}={value}` in Python)"


def _precision(kept: str) -> str:
    """The options that a store's precision is given by: the parts of a fit, as the policy names them."""
    if kept in ("float32", "float64"):
        return f"give `--dtype {kept}` (`dtype=torch.{kept}` in Python)"
    passes, _, narrow = kept.partition(", decompositions ")
    written = f"passes={passes},decompositions={narrow}" if narrow else passes
    return f'give `--precision {written}` (`precision="{written}"` in Python)'


def other_format(path: Path, manifest: Mapping[str, Any], reads: int = FORMAT) -> SpecError:
    """The refusal of a store that another version has written."""
    version = manifest.get("curvlang")
    named = f" ({version})" if version else ""
    return refusal(
        Code.E0836,
        f"the store `{path}` has format {manifest.get('format')}, and this version of curvlang "
        f"reads {reads}",
        f"use the version that wrote it{named}, or name another folder",
    )
