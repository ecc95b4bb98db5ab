"""What commands print, and where: results on standard output, everything else on standard error."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import curvlang as cv
from curvlang.diagnostics.diagnostic import Diagnostic
from curvlang.diagnostics.render import render


def show_problems(problems: Sequence[Diagnostic]) -> None:
    """Print diagnostics, in colour on a terminal unless `NO_COLOR` is set (no-color.org)."""
    color = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    print(render(problems, color=color), file=sys.stderr)


def show_warnings(specs: Iterable[cv.Spec], quiet: bool) -> None:
    """Print what `check` says about specs that have no errors, once each."""
    found = dict.fromkeys(d for spec in specs for d in cv.check(spec, allow_python=True).problems)
    if found and not quiet:
        show_problems(list(found))


def show_notes(lines: Iterable[str]) -> None:
    """Print lines on standard error, dimmed on a terminal."""
    from rich.console import Console

    notes = Console(stderr=True, highlight=False, soft_wrap=True)
    for line in lines:
        notes.print(line, style="dim", markup=False)


def show_lines(lines: Iterable[str]) -> None:
    """Print lines on standard error."""
    print("\n".join(lines), file=sys.stderr)


def print_json(found: Any) -> None:
    """Print a result as JSON, in characters that standard output can show."""
    plain = not (sys.stdout.encoding or "").lower().startswith("utf")
    json.dump(found, sys.stdout, indent=2, ensure_ascii=plain, allow_nan=False)
    print()
