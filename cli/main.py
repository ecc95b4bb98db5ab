"""`curvlang`: one command, its subcommands loaded when they are called."""

from __future__ import annotations

import functools
import importlib
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from .interrupts import CODE, INTERRUPTS

if TYPE_CHECKING:
    from curvlang.diagnostics.diagnostic import MachineError

COMMANDS: Mapping[str, str] = {
    "eval": "evaluate a spec: error, influence and LDS along the chain",
    "influence": "scores of your queries against the training examples, to a file",
    "study": "a sweep: tables, figures, and a verdict no stronger than its intervals",
    "check": "parse and check, no data",
    "explain": "structure, passes, contractions, cost and code; nothing is run",
    "bench": "time and memory of every stage on this machine, predicted and measured",
    "test": "check the laws of a spec on small drawn tasks",
    "list": "what ships",
    "fmt": "format in place",
    "lsp": "the language server, for editors",
    "cache": "size and clearing of the kept ground truth",
}

USAGE = """\
Usage: curvlang COMMAND SPEC [OPTIONS]

State a curvature approximation, and measure what each step of it costs.

Commands:
{commands}

A SPEC is a path (`mine.cv`, `mine.cv:name`) or the name of one that ships (`ekfac`).
`curvlang COMMAND --help` describes a command; `curvlang --version` prints the version.
"""


def usage() -> str:
    """The overview of all commands."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name.ljust(width)}  {line}" for name, line in COMMANDS.items()]
    return USAGE.format(commands="\n".join(lines))


def main(arguments: list[str] | None = None) -> None:
    """Run a command; the process ends with its exit code."""
    if arguments is None:
        INTERRUPTS.install()
    given = sys.argv[1:] if arguments is None else arguments
    sys.exit(run(given))


def run(given: list[str]) -> int:
    """Run a command and return its exit code: 0 done, 1 failed, 2 wrong input, 3 machine, 130."""
    if not given or given[0] in ("--help", "-h", "help"):
        print(usage(), end="")
        return 0 if given else 2
    if given[0] in ("--version", "-V"):
        from curvlang.version import VERSION

        print(f"curvlang {VERSION}")
        return 0
    name, rest = given[0], given[1:]
    if name not in COMMANDS:
        return _unknown(name)
    return _guarded(name, rest)


def _unknown(name: str) -> int:
    from difflib import get_close_matches

    near = get_close_matches(name, list(COMMANDS), 1, 0.5)
    hint = f"did you mean `{near[0]}`?" if near else f"commands: {', '.join(COMMANDS)}"
    print(f"error: no command `{name}`\n  = help: {hint}", file=sys.stderr)
    return 2


def _guarded(name: str, rest: list[str]) -> int:
    """A command's own exit code, or that of the error it ended with."""
    from curvlang.diagnostics.diagnostic import Interrupted, MachineError, SpecError
    from curvlang.diagnostics.render import render

    from .color import use_color

    color = use_color()
    before, warnings.formatwarning = warnings.formatwarning, _plain_warning
    try:
        return _invoke(name, rest)
    except SpecError as error:
        print(render(error.diagnostics, color=color), file=sys.stderr)
        return 2
    except MachineError as error:
        print(render(error.diagnostics, color=color), file=sys.stderr)
        return 3
    except BrokenPipeError:
        # The reader of a pipe has left (`curvlang list | head`): not an error of ours.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Interrupted as error:
        print(f"\ninterrupted: {error}; run the same command to go on", file=sys.stderr)
        return CODE
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return CODE
    except Exception as error:
        if INTERRUPTS.asked:
            # A library has turned the Ctrl-C into an error of its own.
            print("\ninterrupted", file=sys.stderr)
            return CODE
        found = _exhausted(error)
        if found is None:
            raise
        print(render(found.diagnostics, color=color), file=sys.stderr)
        return 3
    finally:
        warnings.formatwarning = before


def _plain_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,
) -> str:
    """Our own warnings as their message; others with where they come from."""
    if category.__module__.startswith("curvlang."):
        return f"warning: {message}\n"
    return f"{filename}:{lineno}: {category.__name__}: {message}\n"


def _exhausted(error: BaseException) -> MachineError | None:
    """Whether an error says that memory ran out; the language half raises none of this kind."""
    if "torch" not in sys.modules:
        return None
    from curvlang.runtime.limits.memory import exhausted

    return exhausted(error)


def _invoke(name: str, rest: list[str]) -> int:
    import typer

    # Threads that wait in a loop take the processor from those that work: on a machine shared
    # with others, or with fewer cores than threads, a run took four times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    module = importlib.import_module(f"curvlang.cli.{name}")
    application = typer.Typer(add_completion=False, rich_markup_mode=None)
    application.command(name)(_shielded(module.command))
    try:
        code: Any = typer.main.get_command(application).main(
            rest, prog_name=f"curvlang {name}", standalone_mode=False
        )
    except _usage_error() as error:
        print(f"error: {error.format_message()}", file=sys.stderr)  # type: ignore[attr-defined]
        print(f"  = help: `curvlang {name} --help` lists the options", file=sys.stderr)
        return 2
    except _Shielded as error:
        raise error.cause from None
    except typer.Abort:
        raise KeyboardInterrupt from None
    except typer.Exit as error:
        return int(error.exit_code)
    return int(code or 0)


class _Shielded(Exception):  # noqa: N818
    """Carries an exception past the command-line library, which has its own way with it."""

    def __init__(self, cause: BaseException) -> None:
        self.cause = cause
        super().__init__()


def _shielded(command: Callable[..., int]) -> Callable[..., int]:
    """A command whose Ctrl-C and closed pipe reach `_guarded` with what they have to say."""

    @functools.wraps(command)
    def called(*args: Any, **options: Any) -> int:
        try:
            with INTERRUPTS.working():
                return command(*args, **options)
        except (KeyboardInterrupt, BrokenPipeError) as error:
            raise _Shielded(error) from None

    return called


def _usage_error() -> type[Exception]:
    """The base of wrong usage, wherever the installed typer keeps its command-line library."""
    import typer

    base: type[Exception] = typer.BadParameter.__bases__[0]
    return base
