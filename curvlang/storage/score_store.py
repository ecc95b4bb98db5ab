"""Scores in a zarr store: written chunk by chunk, resumed after a kill, readable while it grows.

A store is a group of zarr format 3. `scores` is one array, or a group with an array for every layer; numbers that
are not there yet are NaN. `written` has an entry for every chunk: 0, or a checksum of the chunk's numbers
that is written after them. A chunk whose numbers do not give its checksum counts as absent.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.storage.atomic import probe
from curvlang.storage.score_address import (
    address_of,
    check_packages,
    held,
    is_remote,
    refusals,
    zarr_place,
)
from curvlang.storage.score_layout import FORMAT, Chunk, StoreLayout, layout_of, record_of

OURS = "curvlang_scores"
"""The attribute by which a store of scores is known."""
WRITTEN = "written"
TOTAL = "scores"
"""The array of scores, or the group of the layers' arrays."""
OFFSETS = "offsets"
"""The array that says where the tokens of every training example begin."""
ANOTHER = "name another store, or delete this one"

Array = NDArray[Any]


def check_store(path: str | os.PathLike[str]) -> None:
    """Refuse, before the work, what a store of scores cannot be written to.

    Raises:
        SpecError: E0880 where a package is missing, E0882 for something else in its place, E0884 for an
            address that cannot be reached, E0585 where the system does not let it be written.
    """
    address = address_of(path)
    check_packages(address)
    if is_remote(address):
        _known(address)
        return
    place = Path(address)
    if place.exists() and not place.is_dir():
        raise refusal(
            Code.E0882,
            f"`{address}` is a file, and a zarr store is a folder",
            "name another store, or remove the file",
        )
    if missing_bytes(address) == 0:
        # It is read alone: a folder that nothing can be written to will do.
        return
    with refusals(address):
        probe(place / WRITTEN if place.exists() else place)
    _known(address)


class ScoreStore:
    """A store that is written and read; see `opened`.

    Args:
        address: Its path or address.
        layout: What it holds.
        group: The zarr group.
    """

    def __init__(self, address: str, layout: StoreLayout, group: Any) -> None:
        self.address = address
        self.layout = layout
        self._group = group
        names = [f"{TOTAL}/{_node(x)}" for x in layout.names] or [TOTAL]
        self._arrays = dict(
            zip(layout.names or (TOTAL,), (group[name] for name in names), strict=True)
        )
        self._written = group[WRITTEN]

    @property
    def notes(self) -> dict[str, str]:
        """What the numbers mean."""
        return {k: v for k, v in self._group.attrs.items() if isinstance(v, str)}

    @property
    def labels(self) -> dict[str, tuple[object, ...]]:
        """What the positions of an axis are called, where they are not numbers."""
        known = {axis: self._group.attrs.get(f"labels of {axis}") for axis in self.layout.axes}
        return {axis: tuple(x) for axis, x in known.items() if x is not None}

    def note(
        self, notes: Mapping[str, str], labels: Mapping[str, Sequence[object]] | None = None
    ) -> None:
        """Add to what the numbers mean, as the other formats say it.

        Args:
            notes: Convention, inverse, task and the like.
            labels: What the positions of an axis are called.
        """
        more = {f"labels of {axis}": list(found) for axis, found in (labels or {}).items()}
        with refusals(self.address):
            self._group.attrs.update({**notes, **more})

    def keep_offsets(self, offsets: Array) -> None:
        """Keep where the tokens of every training example begin, [N + 1]."""
        with refusals(self.address, offsets.nbytes):
            if OFFSETS not in self._group:
                self._group.create_array(
                    OFFSETS,
                    shape=offsets.shape,
                    chunks=offsets.shape,
                    dtype="int64",
                    compressors=None,
                )
            self._group[OFFSETS][...] = offsets

    @property
    def offsets(self) -> Array | None:
        """Where the tokens of every training example begin; None for other scores."""
        with refusals(self.address):
            return np.asarray(self._group[OFFSETS][...]) if OFFSETS in self._group else None

    def claimed(self) -> set[Chunk]:
        """The chunks that have an entry, whether or not their numbers are whole."""
        with refusals(self.address):
            found = np.asarray(self._written[...])
        return {tuple(int(k) for k in chunk) for chunk in np.argwhere(found)}

    def finished(self, among: Iterable[Chunk] | None = None) -> set[Chunk]:
        """The chunks whose numbers are there and give their checksum.

        Args:
            among: The chunks that are looked at; all that have an entry where not given.
        """
        return {c for c in (self.claimed() if among is None else among) if self._whole(c)}

    def _whole(self, chunk: Chunk) -> bool:
        place = self.layout.place(chunk)
        try:
            parts = [np.asarray(array[place]) for array in self._arrays.values()]
        except (OSError, ValueError):
            # Half of a chunk: the process was killed, or the disk was full, while it was written.
            return False
        return int(np.asarray(self._written[chunk])) == _checksum(parts)

    def write(self, chunk: Chunk, arrays: Mapping[str, Array]) -> None:
        """Write one chunk of every array, then its entry.

        Raises:
            SpecError: E0585 or E0884 where the system does not let it be written.
            MachineError: E0802 where the disk is full.
        """
        place = self.layout.place(chunk)
        parts = [np.ascontiguousarray(arrays[name], self.layout.dtype) for name in self._arrays]
        with refusals(self.address, sum(x.nbytes for x in parts)):
            for array, part in zip(self._arrays.values(), parts, strict=True):
                array[place] = part
            self._written[chunk] = np.uint64(_checksum(parts))

    def rows(self, name: str, places: Sequence[int]) -> Array:
        """Some entries of the first axis of an array; no others are read.

        Args:
            name: Of the layer, or `scores`.
            places: Which entries; all of them in one piece where they are all.
        """
        array = self._arrays[name]
        with refusals(self.address):
            if list(places) == list(range(self.layout.shape[0])):
                return np.asarray(array[...])
            return np.stack([np.asarray(array[k]) for k in places])


def known(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """What a store says of itself: `content`, `layout`, `plan`; None where there is no store.

    Raises:
        SpecError: E0882 for something else in its place, or a store of a newer format.
    """
    address = address_of(path)
    check_packages(address)
    group = _known(address)
    if group is None:
        return None
    found: dict[str, Any] = dict(group.attrs[OURS])
    return found


def missing_bytes(path: str | os.PathLike[str]) -> int | None:
    """What the chunks of a store without an entry will take, by the entries alone; None where there is no store.

    A store whose arrays a killed process has not made yet has no chunk.
    """
    address = address_of(path)
    with refusals(address):
        group = _known(address)
        if group is None:
            return None
        done = np.count_nonzero(group[WRITTEN][...]) if WRITTEN in group else 0
    layout = layout_of(dict(group.attrs[OURS]))
    return layout.bytes - layout.bytes * int(done) // len(layout.all)


def check_content(path: str | os.PathLike[str], content: Mapping[str, str]) -> None:
    """Refuse a store of other scores.

    Raises:
        SpecError: E0881, by the name of what differs.
    """
    there = known(path)
    if there is None:
        return
    for name in {**content, **there["content"]}:
        own, other = content.get(name), there["content"].get(name)
        if own != other:
            shown = name if _digest(own) or _digest(other) else f"{name}: {other}, not {own}"
            raise refusal(
                Code.E0881,
                f"`{os.fspath(path)}` holds scores of another {shown}",
                ANOTHER,
                notes=("a store is continued only with the scores that it was begun with",),
            )


@contextmanager
def opened(path: str | os.PathLike[str], layout: StoreLayout) -> Iterator[ScoreStore]:
    """A store to write to: made where there is none, and held against other runs on this machine.

    Args:
        path: A folder, or an address of fsspec.
        layout: What it will hold; of an existing store the same.

    Raises:
        SpecError: E0585, E0881 to E0884.
        MachineError: E0802 where the disk is full.
    """
    address = address_of(path)
    check_content(path, layout.content)
    with refusals(address, layout.bytes):
        if not is_remote(address):
            Path(address).mkdir(parents=True, exist_ok=True)
    with held(address):
        yield _made(address, layout)


def joined(path: str | os.PathLike[str], layout: StoreLayout, *, writes: bool = True) -> ScoreStore:
    """A store that another process has opened, or that is only read.

    Args:
        path: A folder, or an address.
        layout: What it holds.
        writes: Whether it is written to.
    """
    import zarr

    group = zarr.open_group(zarr_place(address_of(path)), mode="r+" if writes else "r")
    return ScoreStore(address_of(path), layout, group)


def _made(address: str, layout: StoreLayout) -> ScoreStore:
    """The store with all its arrays; what a killed process has not made yet is made."""
    import zarr

    with refusals(address, layout.bytes):
        if not is_remote(address):
            _clear(Path(address))
        # Made with its attributes: a group without them is not known as one of ours.
        attributes: dict[str, Any] = {"axes": list(layout.axes), OURS: record_of(layout)}
        group = zarr.open_group(zarr_place(address), mode="a", zarr_format=3, attributes=attributes)
        parent = group
        if layout.names:
            parent = group.require_group(TOTAL)
        for name in layout.names or (TOTAL,):
            if _node(name) not in parent:
                parent.create_array(
                    _node(name),
                    shape=layout.shape,
                    chunks=layout.chunks,
                    dtype=layout.dtype,
                    fill_value=float("nan"),
                    compressors=None,
                    dimension_names=layout.axes,
                )
        if WRITTEN not in group:
            group.create_array(
                WRITTEN,
                shape=layout.grid,
                chunks=(1,) * len(layout.grid),
                dtype="uint64",
                fill_value=0,
                compressors=None,
            )
        return ScoreStore(address, layout, group)


def _known(address: str) -> Any:
    """The group of a store of scores; None where nothing is there yet."""
    import zarr
    from zarr.errors import ContainsArrayError, GroupNotFoundError

    if not is_remote(address) and not _begun(Path(address)):
        return None
    with refusals(address):
        try:
            group = zarr.open_group(zarr_place(address), mode="r", zarr_format=3)
        except (GroupNotFoundError, FileNotFoundError) as error:
            if is_remote(address):
                return None
            raise _something_else(address) from error
        except (ContainsArrayError, ValueError) as error:
            raise _something_else(address) from error
    record = group.attrs.get(OURS)
    if not isinstance(record, Mapping) or "format" not in record:
        raise _something_else(address)
    if record["format"] != FORMAT:
        raise refusal(
            Code.E0882,
            f"`{address}` has the format {record['format']}, and this version writes {FORMAT}",
            "use the version of curvlang that wrote it, or name another store",
        )
    return group


def _something_else(address: str) -> SpecError:
    return refusal(Code.E0882, f"`{address}` holds something else than scores of curvlang", ANOTHER)


def _begun(folder: Path) -> bool:
    """Whether a folder holds anything that is not the rest of a killed process."""
    return folder.is_dir() and any(not _partial(x) for x in folder.iterdir())


def _partial(path: Path) -> bool:
    return path.suffix == ".partial"


def _clear(folder: Path) -> None:
    """Remove unfinished files of killed processes."""
    for path in folder.rglob("*.partial"):
        with suppress(OSError):
            path.unlink()


def _node(name: str) -> str:
    """A layer's name as that of an array: a slash would make a folder."""
    return quote(name, safe=" ()[],+=:@") or "%"


def _digest(text: str | None) -> bool:
    """Whether a part of the content is a digest, which says nothing to a reader."""
    return text is None or (len(text) == 64 and set(text) <= set("0123456789abcdef"))


def _checksum(parts: Sequence[Array]) -> int:
    """Of the numbers of a chunk, never 0."""
    state = hashlib.blake2b(digest_size=8)
    for part in parts:
        state.update(np.ascontiguousarray(part).data)
    return int.from_bytes(state.digest(), "little") | 1
