"""`curvlang completion`: what a shell runs so that it completes commands and options."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from ..completions import current_shell, script

EXAMPLES = (
    ('eval "$(curvlang completion bash)"', "a line of ~/.bashrc"),
    ("curvlang completion fish > ~/.config/fish/completions/curvlang.fish", "for fish"),
)


Shell = StrEnum("Shell", ["bash", "zsh", "fish"])


def command(
    shell: Annotated[
        Shell | None,
        typer.Argument(
            metavar="[bash|zsh|fish]", help="The shell; the one of $SHELL where not given."
        ),
    ] = None,
) -> int:
    """Print the script by which a shell completes commands and options of curvlang."""
    print(script(shell or current_shell()))
    return 0
