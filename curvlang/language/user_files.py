"""Which lines of a task name functions that would run: refused unless that is allowed."""

from __future__ import annotations

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import Diagnostic, Label
from curvlang.diagnostics.source import NOWHERE
from curvlang.language.chain import TaskSpec
from curvlang.language.registry import DATA, MODELS


def code_in(task: TaskSpec) -> list[Diagnostic]:
    """E0550 for each line of a task that would run a function of the user's."""
    lines = ((task.data, DATA), (task.model, MODELS))
    return [
        Diagnostic(
            Code.E0550,
            f"`{part.name}` calls `{part.arguments.get('function')}`, and that is not allowed here",
            () if part.span is NOWHERE else (Label(part.span, "would run code"),),
            ("add `--allow-python` where you trust the spec and the function",),
            ("a spec from elsewhere runs no code unasked",),
        )
        for part, table in lines
        if part.name in table and table[part.name].runs_code
    ]
