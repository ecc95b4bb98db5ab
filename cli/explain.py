"""`curvlang explain`: structure, passes, contractions, costs and code; nothing is run."""

from __future__ import annotations

from typing import Annotated

import typer


def command(
    spec: Annotated[
        str,
        typer.Argument(
            help="A path (`x.cv`, `x.cv:name`), a shipped name, or the code of a diagnostic."
        ),
    ],
    task: Annotated[str | None, typer.Option(help="A task, as a spec writes it.")] = None,
    device: Annotated[str, typer.Option(help="`cpu`, `cuda`, or `auto`.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="`float32` or `float64`.")] = "float64",
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
    from curvlang.models.builtin import task_from

    from .running import device_of, dtype_of, task_of

    loaded = load(spec)
    names = [*loaded.curvatures] or [*dict.fromkeys(e.curvature for e in loaded.evaluations)]
    for number, name in enumerate(names or [None]):
        curvature = chosen(loaded, name)
        wanted = task_of(evaluation_of(loaded, curvature), task)
        made = task_from(wanted, dtype=dtype_of(dtype), device=device_of(device))
        plan = explain(loaded, made, curvature=name)
        print("\n" * bool(number), end="")
        print(plan.latex() if latex else plan.text(code=code))
    return 0
