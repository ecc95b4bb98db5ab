"""What a container lets a process allocate: the memory limits of its control groups (Linux).

Of version 2 `memory.max` and `memory.current`, of version 1 `memory.limit_in_bytes` and
`memory.usage_in_bytes`, of the process's own group and of all groups around it. Cached files that nothing
uses at the moment (`inactive_file`) are counted as used there, but make way for allocations.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_GROUPS = Path("/proc/self/cgroup")
_ROOT = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class _Files:
    """What a version calls its limit, its use, and the cached files of a group and those inside it."""

    limit: str
    used: str
    cached: str


_TWO = _Files("memory.max", "memory.current", "inactive_file")
_ONE = _Files("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def left_in_group(groups: Path = _GROUPS, root: Path = _ROOT) -> int | None:
    """Bytes that the control groups of this process still allow; None where none has a limit.

    Args:
        groups: Which groups the process is in.
        root: Where groups are shown.
    """
    found = [_left(folder, files) for folder, files in _folders(groups, root)]
    return min((x for x in found if x is not None), default=None)


def _folders(groups: Path, root: Path) -> Iterator[tuple[Path, _Files]]:
    """The process's group and those around it, in both versions.

    A container may be told a path of the machine outside that it cannot see: its own group is the root then.
    """
    if not groups.exists():
        return
    for line in groups.read_text().splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            base, files = root, _TWO
        elif "memory" in controllers.split(","):
            base, files = root / "memory", _ONE
        else:
            continue
        inside = base / path.lstrip("/")
        for folder in (inside, *inside.parents):
            yield folder, files
            if folder == base:
                break


def _left(folder: Path, files: _Files) -> int | None:
    limit, used = _number(folder / files.limit), _number(folder / files.used)
    if limit is None or used is None:
        return None
    return max(0, limit - used + _cached(folder / "memory.stat", files.cached))


def _number(path: Path) -> int | None:
    """A file's number; None where there is no such file, or the word `max` in it."""
    if not path.is_file():
        return None
    text = path.read_text().strip()
    return int(text) if text.isdigit() else None


def _cached(path: Path, name: str) -> int:
    if not path.is_file():
        return 0
    for line in path.read_text().splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return 0
