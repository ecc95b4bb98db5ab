"""`curvlang doctor`: what this machine has, what is missing, and how to get it."""

from __future__ import annotations

from dataclasses import asdict

import curvlang as cv

from ...options import JsonOption
from ...terminal import print_json

EXAMPLES = (
    ("curvlang doctor", "versions, threads, device, memory, cache, packages"),
    ("curvlang doctor --json", "the same for a bug report"),
)


def command(as_json: JsonOption = False) -> int:
    """Versions, threads, device, cache, packages: what is missing and how to get it."""
    found = cv.installation()
    if as_json:
        print_json({"works": found.works, "findings": [asdict(x) for x in found.findings]})
    else:
        print(found)
    return 0 if found.works else 3
