"""The log of one process in the folder of a store: what it does, when, and how it ended."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from curvlang.storage.fits.store import LOG


@dataclass(frozen=True, slots=True)
class RankLog:
    """Lines with their time, behind those of earlier runs.

    Args:
        store: The folder of the store.
        rank: Whose log it is.
    """

    store: Path
    rank: int

    @property
    def path(self) -> Path:
        """`DIR/log/rank-0.log`."""
        return self.store / LOG / f"rank-{self.rank}.log"

    def write(self, text: str) -> None:
        """Append a line; a log that cannot be written stops no work."""
        now = datetime.now().astimezone()
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(f"{now:%Y-%m-%d %H:%M:%S%z} {text}\n")
