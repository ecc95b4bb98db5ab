"""`curvlang`: one command, its subcommands loaded when they are called."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Mapping

import curvlang as cv
from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal
from curvlang.diagnostics.suggestion import suggestion

from .characters import write_any_character
from .interrupts import CODE, INTERRUPTS
from .ranks import Ranks, ranks
from .terminal import show_problems

COMMANDS: Mapping[str, str] = {
    "eval": "evaluate a spec: error, influence and LDS along the chain",
    "fit": "fit a curvature and keep it in a folder",
    "influence": "scores of your queries against the training examples, to a file",
    "index": "projected gradients of the training examples, kept for later queries",
    "study": "a sweep: tables, figures, and a verdict no stronger than its intervals",
    "check": "parse and check, no data",
    "explain": "structure, passes, contractions, cost and code; nothing is run",
    "bench": "time and memory of every stage on this machine, predicted and measured",
    "test": "check the laws of a spec on small drawn tasks",
    "list": "what ships",
    "fmt": "format in place",
    "lsp": "the language server, for editors",
    "init": "a spec, a task and a test to start from",
    "doctor": "versions, threads, device, cache, what is missing and how to get it",
    "cache": "size and clearing of the kept ground truth",
    "completion": "completion of commands and options in your shell",
}

COMPLETION = {
    "--install-completion": ("completion", "--install"),
    "--show-completion": ("completion",),
}
"""Options that other commands of Python have for what `completion` does."""

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
`curvlang COMMAND --help` describes a command; `curvlang --version` prints the version;
`curvlang --install-completion` has your shell complete commands, options, specs and tasks.
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
        write_any_character()
    given = sys.argv[1:] if arguments is None else arguments
    sys.exit(run(given))


def run(given: list[str]) -> int:
    """Run a command and return its exit code: 0 done, 1 failed, 2 wrong input, 3 machine, 130."""
    if "_CURVLANG_COMPLETE" in os.environ:
        from .completions import complete

        return complete(list(COMMANDS))
    place = ranks()
    if not place.part(given[0] if given else ""):
        return 0
    if not given or given[0] in ("--help", "-h", "help"):
        print(usage(), end="")
        return 0 if given else 2
    if given[0] in ("--version", "-V"):
        print(f"curvlang {cv.__version__}")
        return 0
    if given[0] in COMPLETION:
        given = [*COMPLETION[given[0]], *given[1:]]
    return _guarded(given[0], given[1:], place)


def _guarded(name: str, rest: list[str], place: Ranks) -> int:
    """A command's own exit code, or that of the error it ended with."""
    before, warnings.formatwarning = warnings.formatwarning, _plain_warning
    try:
        with place.working():
            return _invoke(name, rest)
    except BrokenPipeError:
        # The reader of a pipe has left (`curvlang list | head`): not an error of ours.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (Exception, KeyboardInterrupt) as error:
        ending = _ending(error)
        if ending is None:
            if place.raises():
                raise
            return 1
        code, words = ending
        place.say(words)
        return code
    finally:
        warnings.formatwarning = before


Ending = tuple[int, Callable[[], None]]
"""An exit code, and what prints why."""


def _ending(error: BaseException) -> Ending | None:
    """How a command ends that ended with an error; None for one that is a fault of ours."""
    if isinstance(error, cv.Interrupted):
        return CODE, lambda: _say(f"interrupted: {error}; run the same command to go on")
    if isinstance(error, cv.SpecError | cv.MachineError) and not _of_another(error):
        problems = error.diagnostics
        return (2 if isinstance(error, cv.SpecError) else 3), lambda: show_problems(problems)
    if INTERRUPTS.asked or isinstance(error, KeyboardInterrupt):
        # A library, or another process, has turned the Ctrl-C into an error of its own.
        return CODE, lambda: _say("interrupted")
    # The language half raises no error of this kind, and imports no torch.
    found = cv.exhausted(error) if "torch" in sys.modules else None
    return None if found is None else (3, lambda: show_problems(found.diagnostics))


def _of_another(error: cv.SpecError | cv.MachineError) -> bool:
    """Whether a Ctrl-C that all processes were sent has come here as the error of another one."""
    return INTERRUPTS.asked and any(d.code is Code.E0831 for d in error.diagnostics)


def _say(text: str) -> None:
    print(f"\n{text}", file=sys.stderr)


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
