"""`python -m curvlang`: the command line."""

from __future__ import annotations

from curvlang.cli.main import main  # type: ignore[import-not-found, unused-ignore]

main()
