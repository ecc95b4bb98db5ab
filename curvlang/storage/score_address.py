"""Where a store of scores lies: a folder or an address of fsspec, who may write there, and what is refused."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import CurvlangError
from curvlang.diagnostics.refusal import refusal
from curvlang.storage.atomic import Destination

_HERE = ("file://", "local://")
"""Schemes of paths on this machine."""
_NOTE = "chunks that are written stay: run the same command to go on"


def address_of(path: str | os.PathLike[str]) -> str:
    """A path, or an address of fsspec; `file:///scores.zarr` is a path."""
    text = os.fspath(path)
    for scheme in _HERE:
        text = text.removeprefix(scheme)
    return text


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Whether a name is an address, `s3://bucket/scores.zarr`, and not a path."""
    return "://" in address_of(path)


def check_packages(address: str) -> None:
    """Refuse a store whose packages are not installed.

    Raises:
        SpecError: E0880, or E0884 for a scheme that fsspec does not know.
    """
    if importlib.util.find_spec("zarr") is None:
        raise refusal(
            Code.E0880,
            "zarr stores need `zarr`, which is not installed",
            'install it with `pip install "curvlang[scale]"`, or write `.npy`',
        )
    if not is_remote(address):
        return
    import fsspec  # type: ignore[import-untyped]
    from fsspec.registry import known_implementations  # type: ignore[import-untyped]

    scheme = address.split("://")[0]
    try:
        if not scheme:
            raise ValueError(address)
        fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        wanted = known_implementations.get(scheme, {}).get("err", str(error))
        raise refusal(
            Code.E0880,
            f"`{scheme}://` needs a package that is not installed: {wanted}",
            "install it, or name a folder",
        ) from error
    except ValueError as error:
        raise refusal(
            Code.E0884,
            f"`{address}`: the scheme `{scheme}://` is not known",
            "use `s3://`, `gs://`, `az://` or another scheme of fsspec, or name a folder",
        ) from error


def zarr_place(address: str) -> Any:
    """The store of zarr for a folder or an address."""
    if not is_remote(address):
        return address
    from zarr.storage import FsspecStore

    return FsspecStore.from_url(address)


@contextmanager
def held(address: str) -> Iterator[None]:
    """Keep other runs on this machine away; where the system has no locks all write the same numbers.

    Raises:
        SpecError: E0883.
    """
    if is_remote(address):
        yield
        return
    from filelock import lock_descriptor

    handle = None
    try:
        free = True
        with suppress(OSError):
            handle = os.open(address, os.O_RDONLY)
            free = lock_descriptor(handle, blocking=False)
        if not free:
            raise refusal(
                Code.E0883,
                f"another run is writing `{address}`",
                "wait until it has ended, or name another store",
            )
        yield
    finally:
        if handle is not None:
            os.close(handle)


@contextmanager
def refusals(address: str, needed: int = 0) -> Iterator[None]:
    """Refuse what the system, or what keeps the address, does not let be done.

    Args:
        address: Of the store.
        needed: Bytes that are to be written.

    Raises:
        SpecError: E0585 for a folder, E0884 for an address.
        MachineError: E0802 where the disk is full.
    """
    if not is_remote(address):
        with Destination(Path(address), "scores", _NOTE).refusals(needed):
            yield
        return
    try:
        yield
    except CurvlangError:
        raise
    except Exception as error:
        # Every package of fsspec has errors of its own kind.
        what = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise refusal(
            Code.E0884,
            f"`{address}` cannot be used: {what}",
            "check the address and the right to write there, or name another store",
        ) from error
