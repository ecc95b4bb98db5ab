"""The table of `curvlang bench`: stages with their predicted and measured time and memory."""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.console import Console
from rich.text import Text

from curvlang.compiler.explain.listing import binary, count
from curvlang.costs.benchmark import Benchmark, Row
from curvlang.costs.rates import Rates
from curvlang.diagnostics.notebook import Display, frame
from curvlang.reporting.tables.table import printed, ruled

DISTURBED = 0.05
"""Share of the time spent waiting for a processor above which times are not to be trusted."""
WIDTH = 110
"""Columns that the table takes."""
COLUMNS = (
    "stage",
    "FLOP",
    "moved",
    "predicted",
    "measured",
    "ratio",
    "memory predicted",
    "measured",
)


@dataclass(frozen=True, slots=True, repr=False)
class CostReport(Display):
    """The costs of a run, predicted and measured; printable."""

    found: Benchmark

    def show(self, console: Console | None = None) -> None:
        """Print the table; on a narrower console its lines wrap whole."""
        console = console or Console()
        console.width = max(console.width, WIDTH)
        _show(self.found, console)

    def table(self) -> str:
        """The table as plain text."""
        file = io.StringIO()
        self.show(Console(file=file, width=WIDTH, force_terminal=False, color_system=None))
        return file.getvalue()

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame` with a row for every stage.

        Raises:
            SpecError: E0757 where pandas is not installed.
        """
        rows = [asdict(row) for row in self.found.rows]
        return frame({name: [row[name] for row in rows] for name in (rows[0] if rows else ())})

    def to_json(self) -> dict[str, Any]:
        """All numbers, plain."""
        return _plain(self.found)

    def _summary(self) -> str:
        found = self.found
        return f"of {found.name or 'curvature'} on {found.task}: {seconds(found.measured)} measured"

    def __str__(self) -> str:
        return self.table()


def _show(found: Benchmark, console: Console) -> None:
    """Print the machine's rates, the stages, their sum, and what disturbed them."""
    table = ruled(console)
    for k, name in enumerate(COLUMNS):
        table.add_column(name, justify="left" if k == 0 else "right", no_wrap=True)
    for row in found.rows:
        table.add_row(*_cells(row))
    parts = [
        Text(f"{found.name or 'curvature'} on {found.task}"),
        Text(machine(found.rates)),
        Text(""),
    ]
    printed([*parts, table, Text(""), *map(Text, _below(found))], console)


def _cells(row: Row) -> tuple[str, ...]:
    ratio = "" if not row.seconds else f"{row.measured / row.seconds:.2f}"
    return (
        row.stage,
        count(row.flops) if row.flops else "",
        binary(row.moved) if row.moved else "",
        "" if row.seconds is None else seconds(row.seconds),
        seconds(row.measured),
        ratio,
        "" if row.memory is None else binary(row.memory),
        binary(row.peak),
    )


def _below(found: Benchmark) -> list[str]:
    lines = ["no stage has a prediction: what a solver asks for is not known before"]
    if any(row.seconds is not None for row in found.rows):
        lines = [
            f"predicted {seconds(found.predicted)}, measured {seconds(found.measured)}: the stages "
            "that have a prediction, together"
        ]
    if found.disturbed > DISTURBED:
        lines.append(
            f"warning: this process waited for a processor in {found.disturbed:.0%} of its time: other "
            "work runs on this machine, and the measured times are too long"
        )
    return lines


def machine(rates: Rates) -> str:
    """The machine's rates in one line."""
    single, double = (rates.peak_flops(d) / 1e9 for d in (torch.float32, torch.float64))
    return (
        f"this machine: products {single:.0f} GFLOP/s in float32, {double:.0f} in float64; "
        f"copies {rates.peak_bytes / 1e9:.1f} GB/s read and written; {torch.get_num_threads()} threads"
    )


def seconds(value: float) -> str:
    """Seconds with three digits, in a unit that suits them."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value / 1e-6:.3g} µs"


def _plain(found: Benchmark) -> dict[str, Any]:
    """All numbers, plain."""
    return {
        "curvature": found.name,
        "task": found.task,
        "machine": {
            "float32_flops_per_second": found.rates.peak_flops(torch.float32),
            "float64_flops_per_second": found.rates.peak_flops(torch.float64),
            "bytes_per_second": found.rates.peak_bytes,
            "threads": torch.get_num_threads(),
        },
        "stages": [asdict(row) for row in found.rows],
        "predicted_seconds": found.predicted,
        "measured_seconds": found.measured,
        "waited": found.disturbed,
    }
