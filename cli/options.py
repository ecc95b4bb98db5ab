"""Options that several commands take alike."""

from __future__ import annotations

from typing import Annotated

import typer

DeviceOption = Annotated[str, typer.Option(help="`cpu`, `cuda`, or `auto`.")]
DtypeOption = Annotated[str, typer.Option(help="`float32` or `float64` for the analysis.")]
SeedOption = Annotated[
    int, typer.Option(min=0, max=2**63 - 1, help="Of the initialisation and of sampling.")
]
MetricOption = Annotated[str, typer.Option(help="`loss`, `margin` or `logit` of a query.")]
InverseOption = Annotated[
    str | None, typer.Option(help="An inverse as a spec writes it: `pseudo(rtol = 1e-4)`.")
]
ResultOption = Annotated[bool, typer.Option("--json", help="The result alone, on standard output.")]
MemoryOption = Annotated[
    str | None,
    typer.Option(
        help="What a fit, and preconditioned queries, may hold: `2GiB`, `500MB`; what is free where not given."
    ),
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No notes, no progress.")]
