"""Completion of commands and options in a shell."""

from __future__ import annotations

import os
from collections.abc import Sequence

import typer
from typer import completion

from .modules import command_module

VARIABLE = "_CURVLANG_COMPLETE"
"""The variable by which a shell asks."""


def complete(commands: Sequence[str]) -> int:
    """Answer a shell that asks what may follow, and return an exit code."""
    application = typer.Typer(rich_markup_mode=None)
    for name in commands:
        module = command_module(name)
        application.command(name)(module.command)
    try:
        typer.main.get_command(application).main(prog_name="curvlang", complete_var=VARIABLE)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def script(shell: str) -> str:
    """What a shell runs at its start so that it asks.

    Args:
        shell: `bash`, `zsh` or `fish`.
    """
    made: str = completion.get_completion_script(  # type: ignore[attr-defined]
        prog_name="curvlang", complete_var=VARIABLE, shell=shell
    )
    return made


def install(shell: str) -> str:
    """Have a shell complete from its next start, and return the file that makes it so."""
    _, path = completion.install(  # type: ignore[attr-defined]
        prog_name="curvlang", complete_var=VARIABLE, shell=shell
    )
    return str(path)


def current_shell() -> str:
    """The shell that the person works in; `bash` where it is not known."""
    name = os.path.basename(os.environ.get("SHELL", ""))
    return name if name in ("bash", "zsh", "fish") else "bash"
