"""`curvlang check`: parse and check, no data, no torch."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer


def command(
    specs: Annotated[list[str], typer.Argument(help="Paths, or names of specs that ship.")],
    as_json: Annotated[bool, typer.Option("--json", help="Diagnostics as JSON.")] = False,
) -> int:
    """Parse and check specs: every problem of every file, exit 2 where there is an error."""
    from curvlang.diagnostics.diagnostic import Diagnostic, Severity, SpecError
    from curvlang.diagnostics.render import as_data, render
    from curvlang.language import analyse, load
    from curvlang.language.files import read, split_name

    from .color import use_color

    found: list[Diagnostic] = []
    data: list[dict[str, Any]] = []
    counts: dict[str, int] = {}
    for given in specs:
        try:
            path, name = split_name(given)
            spec, problems = analyse(read(path))
            counts[given] = len(spec.curvatures)
            if name is not None and not problems:
                load(given)
        except SpecError as error:
            problems = list(error.diagnostics)
        found += problems
        data += [{"spec": given, **as_data(d)} for d in problems]
    if as_json:
        print(json.dumps(data, indent=2, ensure_ascii=False))
    elif found:
        print(render(found, color=use_color()), file=sys.stderr)
    failed = any(d.severity is Severity.ERROR for d in found)
    if not failed and not as_json:
        for given, count in counts.items():
            print(f"{given}: {count} curvature{'s' if count != 1 else ''}, no errors")
    return 2 if failed else 0
