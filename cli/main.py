"""`curvlang`: one command, its subcommands loaded when they are called."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Mapping

import curvlang as cv
from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal
from curvlang.diagnostics.suggestion import suggestion

from .interrupts import CODE, INTERRUPTS
from .terminal import show_problems

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
    "completion": "completion of commands and options in your shell",
}

USAGE = """\
Usage: curvlang COMMAND SPEC [OPTIONS]

State a curvature approximation, and measure what each step of it costs.

Commands:
{commands}

Examples:
  # the steps from the Hessian to EK-FAC, on digits, in a small protocol
  curvlang eval ekfac --quick
  # what is wrong with a spec, with places and repairs
  curvlang check mine.cv

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
    if "_CURVLANG_COMPLETE" in os.environ:
        from .completions import complete

        return complete(list(COMMANDS))
    if not given or given[0] in ("--help", "-h", "help"):
        print(usage(), end="")
        return 0 if given else 2
    if given[0] in ("--version", "-V"):
        print(f"curvlang {cv.__version__}")
        return 0
    return _guarded(given[0], given[1:])


def _guarded(name: str, rest: list[str]) -> int:
    """A command's own exit code, or that of the error it ended with."""
    before, warnings.formatwarning = warnings.formatwarning, _plain_warning
    try:
        return _invoke(name, rest)
    except cv.SpecError as error:
        show_problems(error.diagnostics)
        return 2
    except cv.MachineError as error:
        show_problems(error.diagnostics)
        return 3
    except BrokenPipeError:
        # The reader of a pipe has left (`curvlang list | head`): not an error of ours.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except cv.Interrupted as error:
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
        # The language half raises no error of this kind, and imports no torch.
        found = cv.exhausted(error) if "torch" in sys.modules else None
        if found is None:
            raise
        show_problems(found.diagnostics)
        return 3
    finally:
        warnings.formatwarning = before


def _invoke(name: str, rest: list[str]) -> int:
    if name not in COMMANDS:
        listed = f"commands are {', '.join(COMMANDS)}"
        repairs = suggestion(name, COMMANDS) or (listed,)
        raise refusal(Code.E0780, f"there is no command `{name}`", *repairs)
    from .application import invoke

    # Threads that wait in a loop take the processor from those that work: on a machine shared
    # with others, or with fewer cores than threads, a run took four times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return invoke(name, rest)


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
