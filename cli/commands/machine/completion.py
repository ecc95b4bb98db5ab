"""`curvlang completion`: what a shell runs so that it completes commands, options, specs and tasks."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from ...completions import current_shell, install, script

EXAMPLES = (
    ('eval "$(curvlang completion bash)"', "a line of ~/.bashrc"),
    ("curvlang completion fish > ~/.config/fish/completions/curvlang.fish", "for fish"),
    ("curvlang completion --install", "for your shell, from its next start"),
)


Shell = StrEnum("Shell", ["bash", "zsh", "fish"])


def command(
    shell: Annotated[
        Shell | None,
        typer.Argument(
            metavar="[bash|zsh|fish]", help="The shell; the one of $SHELL where not given."
        ),
    ] = None,
    add: Annotated[
        bool,
        typer.Option(
            "--install", help="Add it to what the shell runs at its start, and print where."
        ),
    ] = False,
) -> int:
    """Print the script by which a shell completes commands, options, specs and tasks."""
    wanted = shell or current_shell()
    if add:
        print(f"{wanted} completes `curvlang` from its next start: {install(wanted)}")
    else:
        print(script(wanted))
    return 0
