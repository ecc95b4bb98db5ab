"""The libraries that read checkpoints and texts: imported where they are used, quiet, or refused by name."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.models.execution.calls import exhausted

INSTALL = 'pip install "curvlang[hf]"'
OTHER_TORCHVISION = (
    "the torchvision that is installed is of another build than torch: "
    "`pip uninstall torchvision`, or install both from one index"
)


def library(name: str, use: str) -> Any:
    """A library of the extra `hf`.

    Args:
        name: `transformers`, `datasets` or `peft`.
        use: What it is needed for: `checkpoints are read`.

    Raises:
        SpecError: E0890 where it is not installed, or does not run.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.split(".")[0] == name:
            raise refusal(
                Code.E0890, f"{use} by `{name}`, which is not installed", f"install it: `{INSTALL}`"
            ) from error
        raise broken(name, error) from error
    except Exception as error:
        raise broken(name, error) from error


def broken(name: str, error: BaseException) -> SpecError:
    """The refusal of a library that is there and does not run: E0890."""
    return refusal(
        Code.E0890,
        f"`{name}` is installed and does not run: {first_line(_other_build(error) or error)}",
        other_build(error) or f"make `import {name}` run in Python: the error is the library's own",
    )


def other_build(error: BaseException) -> str:
    """The repair where a torchvision of another build than torch keeps `transformers` from its models."""
    return OTHER_TORCHVISION if _other_build(error) else ""


def _other_build(error: BaseException) -> BaseException | None:
    """The error of such a torchvision, behind those that `transformers` makes of it."""
    cause: BaseException | None = error
    while cause is not None and "torchvision::" not in str(cause):
        cause = cause.__cause__ or cause.__context__
    return cause


def first_line(error: BaseException) -> str:
    """What an error says, on one line; its type where it says nothing."""
    lines = [line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    # A list of details behind a heading: the first of them says more.
    return lines[1] if len(lines) > 1 and lines[0].endswith(":") else lines[0]


@contextmanager
def quiet() -> Iterator[None]:
    """The libraries show no bars and no remarks inside: what matters is refused or stated here."""
    import logging

    from transformers.utils import logging as said

    level, bars = said.get_verbosity(), said.is_progress_bar_enabled()
    said.set_verbosity(logging.CRITICAL)
    said.disable_progress_bar()
    try:
        yield
    finally:
        said.set_verbosity(level)
        if bars:
            said.enable_progress_bar()


@contextmanager
def calling(refused: Callable[[Exception], SpecError]) -> Iterator[None]:
    """Calls of `transformers` or `peft` on files: quiet, and an error is what the files are refused with.

    `transformers` imports a model's module where it is first named: where the library does not
    run, the files are not at fault.

    Args:
        refused: The refusal of the files, by the error.

    Raises:
        SpecError: E0890 where the library does not run, else the refusal.
    """
    try:
        with quiet():
            yield
    except Exception as error:
        if exhausted(error):
            raise
        raise (broken("transformers", error) if other_build(error) else refused(error)) from error


@contextmanager
def quiet_tables() -> Iterator[None]:
    """`datasets` shows no bars inside."""
    utils = library("datasets", "data sets of texts are read").utils

    shown = utils.are_progress_bars_disabled() is False
    utils.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            utils.enable_progress_bars()
