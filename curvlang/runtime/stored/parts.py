"""The blocks of a fitted curvature on the disk: a file for each, mapped into memory when it is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from curvlang.operators import BlockDiagonal, Operator
from curvlang.operators.files import STRUCTURES, from_tree, to_tree
from curvlang.operators.operator import unchecked
from curvlang.operators.places import Places
from curvlang.operators.stacked import structures_in
from curvlang.storage.fits.store import Folder, file_name

PLACES = "places"


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A block of a curvature, or several that are held as one; of one without blocks all of it.

    Args:
        names: Of the blocks; `model` where there are none.
        operator: Their structure.
        places: The entries of the parameter vector that they act on; None where there are no blocks.
    """

    names: tuple[str, ...]
    operator: Operator
    places: Places | None

    @property
    def keepable(self) -> bool:
        """Whether it holds tensors: what is known by its products alone cannot be kept."""
        return all(x.structure in STRUCTURES for x in structures_in(self.operator))


def write_part(folder: Folder, number: int, part: Part) -> int:
    """Write a part; its bytes on the disk."""
    tensors: dict[str, Tensor] = {}
    tree = to_tree(part.operator, "op", tensors)
    text: dict[str, Any] = {"tree": tree, "names": list(part.names)}
    if part.places is not None and part.places.single is not None:
        tensors[PLACES] = part.places.single
    elif part.places is not None:
        text[PLACES] = part.places.plain()
    return folder.put(file_name(number, part.names[0]), tensors, text)


def read_part(folder: Folder, file: str, device: torch.device) -> Part | None:
    """The part in a file; its tensors are mapped where they are to lie on a processor.

    Args:
        folder: Where.
        file: Its name there.
        device: Where its tensors are to lie.

    Returns:
        None where the file is absent or damaged.
    """
    found = folder.get(file)
    if found is None:
        return None
    tensors, text = found
    placed = {name: tensor.to(device) for name, tensor in tensors.items()}
    index, places = placed.pop(PLACES, None), None
    if index is not None:
        places = Places.of(index)
    elif PLACES in text:
        places = Places.read(text[PLACES], device)
    return Part(tuple(text["names"]), from_tree(text["tree"], placed), places)


def whole(parts: Sequence[Part]) -> Operator:
    """The operator of all parts in their order."""
    first = parts[0]
    if first.places is None:
        return first.operator
    names = tuple(name for part in parts for name in part.names)
    places = tuple(part.places for part in parts)
    # Their files are checked: to look at every place once more would read them all.
    given: Mapping[str, Any] = {
        "names": names,
        "parts": tuple(part.operator for part in parts),
        "places": places,
    }
    return unchecked(BlockDiagonal, given)
