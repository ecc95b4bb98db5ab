"""`curvlang completion`: what a shell runs so that it completes commands and options."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer
from curvlang.cli.completions import current_shell, script

EXAMPLES = (
    ('eval "$(curvlang completion bash)"', "a line of ~/.bashrc"),
    ("curvlang completion fish > ~/.config/fish/completions/curvlang.fish", "for fish"),
)


class Shell(StrEnum):
    """Shells that ask commands for completions."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def command(
    shell: Annotated[
        Shell | None, typer.Argument(help="The shell; the one of $SHELL where not given.")
    ] = None,
) -> int:
    """Print the script by which a shell completes commands and options of curvlang."""
    print(script(shell or current_shell()))
    return 0
