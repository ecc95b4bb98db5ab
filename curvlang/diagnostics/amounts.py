"""How many bytes, in words: one rule for messages, plans and reports."""

from __future__ import annotations

_KIBI = 1024


def size(count: int) -> str:
    """Bytes in binary units.

    >>> size(640), size(12_800), size(11_000_000), size(3 * 1024**3)
    ('640 B', '12.5 KiB', '10.5 MiB', '3.0 GiB')
    """
    value, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < _KIBI:
            break
        value, unit = value / _KIBI, larger
    return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
