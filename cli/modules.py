"""Where the module of a command is: one file for each, loaded when it is called."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

MACHINE = ("cache", "completion", "doctor")
"""Commands about the machine, which have a folder of their own."""


def command_module(name: str) -> ModuleType:
    """The module of a command.

    Args:
        name: The command's.
    """
    place = "machine." if name in MACHINE else ""
    return import_module(f"curvlang.cli.commands.{place}{name}")
