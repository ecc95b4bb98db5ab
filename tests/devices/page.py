"""What runs on the card, as it was found: kept in `outcomes.json`, shown in docs/devices.md."""

from __future__ import annotations

import json
from pathlib import Path

from tests.devices.runs import ALLOWED, specs, tasks

FILE = Path(__file__).with_name("outcomes.json")
PAGE = Path(__file__).resolve().parents[2] / "docs" / "devices.md"
BEGIN, END = "<!-- outcomes -->", "<!-- end of outcomes -->"

Outcomes = dict[str, str]
"""By stage: ✓, or the code with which the host refuses it too."""


def known() -> dict[tuple[str, str], Outcomes]:
    """What is kept, by spec and task."""
    text = json.loads(FILE.read_text()) if FILE.exists() else {}
    return {(spec, task): found for spec, own in text.items() for task, found in own.items()}


def keep(spec: str, task: str, found: Outcomes) -> None:
    """Keep one result."""
    text = json.loads(FILE.read_text()) if FILE.exists() else {}
    text.setdefault(spec, {})[task] = found
    FILE.write_text(json.dumps(text, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def table() -> str:
    """A row for every spec, a column for every task: the stages that are refused, with their codes."""
    found, columns = known(), tasks()
    lines = [
        f"| spec | {' | '.join(f'`{x}`' for x in columns)} |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for spec in specs():
        cells = (_cell(found.get((spec, task))) for task in columns)
        lines.append(f"| `{spec}` | {' | '.join(cells)} |")
    reasons = [f"* `{where}`: {why}" for where, why in ALLOWED.items()]
    return "\n".join(
        [*lines, "", "Lines that may wait for the card inside a loop over batches:", "", *reasons]
    )


def _cell(found: Outcomes | None) -> str:
    """All stages in a few words: a code stands before the stages that it refuses."""
    if found is None:
        return "not run"
    refused: dict[str, list[str]] = {}
    for stage, code in found.items():
        if code != "✓":
            refused.setdefault(code, []).append(stage)
    if len(refused) == 1 and len(next(iter(refused.values()))) == len(found):
        return next(iter(refused))
    parts = [f"{code} {', '.join(own)}" for code, own in refused.items()]
    return "; ".join([f"{len(found) - sum(map(len, refused.values()))} stages", *parts])


def written() -> None:
    """Write the table into the page."""
    PAGE.write_text(with_table(PAGE.read_text()))


def with_table(text: str) -> str:
    """The page with the table as it is now."""
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.partition(END)[2]}"
