"""`curvlang explain`: structure, passes, contractions, costs and code; nothing is run."""

from __future__ import annotations

from typing import Annotated

import typer

from .options import DeviceOption, DtypeOption, MemoryOption
from .sources import DataOption, ModelOption, PythonOption, Sources, TaskOption


def command(
    spec: Annotated[
        str,
        typer.Argument(
            help="A path (`x.cv`, `x.cv:name`), a shipped name, or the code of a diagnostic."
        ),
    ],
    task: TaskOption = None,
    data: DataOption = None,
    model: ModelOption = None,
    allow_python: PythonOption = False,
    device: DeviceOption = "cpu",
    dtype: DtypeOption = "float64",
    memory: MemoryOption = None,
    latex: Annotated[
        bool, typer.Option("--latex", help="The derivation alone, as LaTeX (amsmath).")
    ] = False,
    code: Annotated[bool, typer.Option(help="Show the torch code.")] = True,
) -> int:
    """Print the plan of a spec on its task: nothing is trained, nothing is fitted.

    For the code of a diagnostic (`E0207`), print its page.
    """
    from curvlang.diagnostics.pages import page

    text = page(spec)
    if text is not None:
        print(text, end="")
        return 0
    from curvlang.facade import chosen, evaluation_of, explain
    from curvlang.language import load

    from .running import device_of, dtype_of
    from .sources import fresh_task, task_of

    sources = Sources(task, data, model, allow_python)
    loaded = load(spec)
    names = [*loaded.curvatures] or [*dict.fromkeys(e.curvature for e in loaded.evaluations)]
    for number, name in enumerate(names or [None]):
        curvature = chosen(loaded, name)
        wanted = task_of(evaluation_of(loaded, curvature), sources)
        made = fresh_task(wanted, sources, seed=0, device=device_of(device))
        made = made.to(dtype=dtype_of(dtype))
        plan = explain(loaded, made, curvature=name, memory=memory)
        print("\n" * bool(number), end="")
        print(plan.latex() if latex else plan.text(code=code))
    return 0
