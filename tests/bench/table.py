"""What was measured, for the terminal and as plain data."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Mapping
from typing import Any

import torch
from rich.table import Table

from curvlang.compiler.planning.cost import Cost
from curvlang.costs.rates import Rates
from curvlang.runtime.limits.memory import gibibytes
from tests.bench.contest import AGREEMENT, DISTURBED, Sizes, Standing
from tests.bench.workloads import Workload


def machine_text(rates: Rates) -> str:
    single, double = (rates.peak_flops(d) / 1e9 for d in (torch.float32, torch.float64))
    return (
        f"{platform.machine()}, {os.cpu_count()} processors, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}; products {single:.0f} GFLOP/s in float32, {double:.0f} in "
        f"float64, copies {rates.peak_bytes / 1e9:.1f} GB/s read and written"
    )


def table(
    workload: Workload,
    sizes: Sizes,
    standings: list[Standing],
    costs: Mapping[str, Cost],
    rates: Rates,
) -> Table:
    """A row for every contestant: agreement, seconds of each stage with the ratio to ours, peak."""
    ours = standings[0]
    stages = ours.stages
    said = ", ".join(f"{k} {v}" for k, v in sizes.items())
    found = Table(title=f"({workload.letter}) {workload.about}\n{said}", title_justify="left")
    found.add_column("")
    found.add_column("differs")
    shown = stages if len(stages) <= 3 else []
    for stage in shown:
        found.add_column(stage, justify="right")
    found.add_column("total", justify="right")
    found.add_column("peak", justify="right")
    for standing in standings:
        found.add_row(standing.name, *_row(standing, ours, shown))
    _add_costs(found, ours, shown, costs, rates, sizes)
    return found


def _row(standing: Standing, ours: Standing, stages: list[str]) -> list[str]:
    if standing.failure:
        return ["failed", *[""] * len(stages), "", ""]
    differs = "" if standing.differs is None else f"{standing.differs:.1g}"
    cells = [_cell(standing, ours, [s]) for s in stages]
    return [differs, *cells, _cell(standing, ours, ours.stages), gibibytes(standing.peak)]


def _cell(standing: Standing, ours: Standing, stages: list[str]) -> str:
    """Seconds, and how many times ours; no ratio before the results are known to agree."""
    if any(stage not in standing.stages for stage in stages) or not stages:
        return "–"
    seconds = sum(standing.median(s) for s in stages)
    about = "≈ " if standing.partly else ""
    if standing is ours or not ours.turns:
        return f"{seconds:.4g} s"
    if not standing.agrees:
        return f"{about}{seconds:.4g} s (no ratio)"
    return f"{about}{seconds:.4g} s ({seconds / sum(ours.median(s) for s in stages):.3g}×)"


def _add_costs(
    found: Table,
    ours: Standing,
    stages: list[str],
    costs: Mapping[str, Cost],
    rates: Rates,
    sizes: Sizes,
) -> None:
    """FLOPs and bytes of our plan, and the shares of the machine's rates that our times come to."""
    if not costs or ours.failure:
        return
    dtype = torch.float64 if sizes.get("dtype") == "float64" else torch.float32
    cells = []
    for stage in stages:
        cost = costs.get(stage)
        if cost is None:
            cells.append("")
            continue
        seconds = ours.median(stage)
        products = cost.flops / seconds / rates.peak_flops(dtype)
        copies = cost.bytes / seconds / rates.peak_bytes
        cells.append(
            f"{cost.flops / 1e9:.3g} GFLOP ({products:.0%})\n{cost.bytes / 1e9:.3g} GB ({copies:.0%})"
        )
    found.add_section()
    found.add_row("plan (share of peak)", "", *cells, "", "")


def warnings_of(standings: list[Standing]) -> list[str]:
    """What makes the numbers above less than they seem."""
    found = []
    for s in standings:
        if s.failure:
            found.append(f"{s.name} failed:\n{s.failure}")
        if not s.agrees:
            found.append(f"{s.name} differs by {s.differs:.2g} (more than {AGREEMENT:g}): no ratio")
        if s.partly:
            found.append(f"{s.name}: {s.partly}")
        if s.disturbed > DISTURBED:
            found.append(
                f"warning: {s.name} waited for the processor in {s.disturbed:.0%} of its time: other "
                f"work runs on this machine, and times are too long; its processors took {_processor(s)}"
            )
    return found


def _processor(standing: Standing) -> str:
    """Seconds of processors by stage, which other work lengthens less than those of the clock."""
    turns = standing.processor
    stages = {s: statistics.median(turn[s] for turn in turns) for s in standing.stages}
    return ", ".join(f"{seconds:.4g} s ({stage})" for stage, seconds in stages.items())


def as_data(
    workload: Workload, sizes: Sizes, standings: list[Standing], costs: Mapping[str, Cost]
) -> dict[str, Any]:
    """Everything measured, plain."""
    return {
        "workload": workload.letter,
        "about": workload.about,
        "sizes": dict(sizes),
        "plan": {k: {"flops": c.flops, "bytes": c.bytes} for k, c in costs.items()},
        "contestants": [
            {
                "name": s.name,
                "partly": s.partly,
                "failure": s.failure,
                "differs": s.differs,
                "agrees": s.agrees,
                "median": {stage: s.median(stage) for stage in s.stages},
                "turns": s.turns,
                "processor": s.processor,
                "peak_bytes": s.peak,
                "waited": s.disturbed,
            }
            for s in standings
        ],
    }


def slope_table(found: list[dict[str, Any]]) -> Table:
    """Exponents of growth: expected by the mathematics, counted by the plan, measured."""
    shown = Table(title="How cost grows", title_justify="left")
    for name in ("what", "with", "sizes", "seconds", "expected", "measured"):
        shown.add_column(name)
    for one in found:
        shown.add_row(
            one["what"], one["with"], ", ".join(map(str, one["sizes"])),
            ", ".join(f"{s:.3g}" for s in one["seconds"]),
            f"{one['expected']:g}", f"{one['measured']:.2f}",
        )  # fmt: skip
    return shown
