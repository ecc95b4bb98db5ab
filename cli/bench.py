"""`curvlang bench`: what a spec costs on this machine, stage by stage, predicted and measured."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from .options import DeviceOption, DtypeOption, InverseOption, MemoryOption, SeedOption
from .sources import DataOption, ModelOption, PythonOption, Sources, TaskOption

WIDTH = 110
"""Columns that the table takes: on a narrower terminal its lines wrap whole."""


def command(
    spec: Annotated[str, typer.Argument(help="A path (`x.cv`, `x.cv:name`), or a shipped name.")],
    task: TaskOption = None,
    data: DataOption = None,
    model: ModelOption = None,
    allow_python: PythonOption = False,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "float64",
    inverse: InverseOption = None,
    memory: MemoryOption = None,
    seed: SeedOption = 0,
    as_json: Annotated[bool, typer.Option("--json", help="All numbers, as JSON.")] = False,
) -> int:
    """Fit, invert and score once, and print time and memory of every stage beside their prediction.

    The model is not trained: its cost does not depend on its parameters.
    """
    from rich.console import Console

    from curvlang.costs.benchmark import benchmark
    from curvlang.facade import chosen, evaluation_of
    from curvlang.language import inverse_text, load
    from curvlang.reporting.costs import as_data, show
    from curvlang.runtime.limits.memory import limited

    from .running import device_of, dtype_of
    from .sources import fresh_task, task_of

    loaded = load(spec)
    curvature = chosen(loaded)
    evaluation = evaluation_of(loaded, curvature)
    sources = Sources(task, data, model, allow_python)
    made = fresh_task(task_of(evaluation, sources), sources, seed=seed, device=device_of(device))
    use = evaluation.inverse if evaluation is not None else None
    if inverse is not None:
        use = inverse_text(inverse, "<inverse>")
    with limited(memory):
        found = benchmark(
            curvature,
            made.to(dtype=dtype_of(dtype)),
            inverse=use,
            solver=evaluation.solver if evaluation is not None else None,
            seed=seed,
        )
    if as_json:
        json.dump(as_data(found), sys.stdout, indent=2, allow_nan=False)
        print()
        return 0
    console = Console()
    console.width = max(console.width, WIDTH)
    show(found, console)
    return 0
