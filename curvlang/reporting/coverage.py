"""Which parameters are covered, summed by the type of their layer."""

from __future__ import annotations

from math import fsum

from curvlang.models.tracing.coverage import Coverage, Row


def by_type(found: Coverage) -> str:
    """A line for every layer type and status: parameters, entries, share of the squared gradient norm."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in found.rows:
        groups.setdefault((row.type, row.status), []).append(row)
    head = ("layer type", "status", "parameters", "entries", "‖∇‖² share")
    table = [head, *(_line(*key, rows) for key, rows in groups.items())]
    widths = [max(len(line[k]) for line in table) for k in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if k < 2 else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in table
    )


def _line(kind: str, status: str, rows: list[Row]) -> tuple[str, ...]:
    shares = [row.share for row in rows if row.share is not None]
    share = f"{fsum(shares):.1%}" if shares else ""
    return (kind, status, str(len(rows)), str(sum(row.size for row in rows)), share)
