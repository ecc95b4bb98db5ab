"""The benchmark suite: the same work by us and by others, in turns, in one run.

python -m tests.bench [--workload abcdefghij] [--against hand,kronfluence,…] [--quick] [--slopes] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch
from rich.console import Console

from curvlang.costs.rates import measured_rates
from tests.bench.contest import contest
from tests.bench.predict import predicted
from tests.bench.slopes import slopes
from tests.bench.table import as_data, machine_text, slope_table, table, warnings_of
from tests.bench.workloads import PEERS, chosen

TURNS = 5


def arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--workload", default="abcdefgh", help="letters of workloads")
    parser.add_argument("--against", default=",".join(PEERS), help=f"any of {', '.join(PEERS)}")
    parser.add_argument("--turns", type=int, default=None, help=f"of every contestant ({TURNS})")
    parser.add_argument("--quick", action="store_true", help="small sizes, one turn: does it run?")
    parser.add_argument(
        "--slopes", action="store_true", help="how cost grows, in place of the contest"
    )
    parser.add_argument("--json", type=Path, default=None, help="everything measured, to a file")
    found = parser.parse_args(given)
    unknown = set(found.against.split(",")) - {*PEERS, ""} or set(found.workload) - set(
        "abcdefghij"
    )
    if unknown:
        parser.error(f"not known: {', '.join(sorted(unknown))}")
    return found


def main(given: list[str] | None = None) -> int:
    """Run; 1 where a contestant failed or results do not agree."""
    said = arguments(given)
    console = Console()
    rates = measured_rates(torch.device("cpu"))
    console.print(machine_text(rates), soft_wrap=True)
    if said.slopes:
        found = slopes(said.quick)
        console.print(slope_table(found))
        _write(said.json, {"slopes": found})
        return 0
    wrong = False
    written = []
    for workload in chosen(said.workload, said.quick):
        names = ["ours", *said.against.split(",")]
        entries = {n: workload.entries[n] for n in names if n in workload.entries}
        sizes = workload.sizes(said.quick)
        costs = predicted(workload.letter, sizes)
        standings = contest(
            entries, sizes, workload.quick, said.turns or (1 if said.quick else TURNS)
        )
        console.print(table(workload, sizes, standings, costs, rates))
        for line in warnings_of(standings):
            console.print(line, markup=False, soft_wrap=True)
        wrong |= any(s.failure or not s.agrees for s in standings)
        written.append(as_data(workload, sizes, standings, costs))
    _write(said.json, {"machine": machine_text(rates), "workloads": written})
    return int(wrong)


def _write(path: Path | None, data: object) -> None:
    if path is not None:
        path.write_text(json.dumps(data, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
