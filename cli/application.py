"""Commands as the command-line library sees them: headings and examples in the help, conflicts, refusals."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any, get_type_hints

import typer
from curvlang.cli.interrupts import INTERRUPTS
from curvlang.cli.options import MACHINE, OUTPUT, SCORES, TASK, Excludes, Needs
from typer.core import TyperCommand

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import refusal

Example = tuple[str, str]
"""A command line, and what it is for."""
HEADINGS = ("Arguments", "Options", SCORES, TASK, MACHINE, OUTPUT)
CODES = {"metric": Code.E0590}
"""Options whose choices Python has too, with the code that it refuses others by."""


class Shielded(Exception):  # noqa: N818
    """Carries an exception past the command-line library, which has its own way with it."""

    def __init__(self, cause: BaseException) -> None:
        self.cause = cause
        super().__init__()


class Parser(TyperCommand):
    """A command whose help has a heading for each group of options, and examples at the end."""

    examples: tuple[Example, ...] = ()

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """The arguments, then the options, as in the overview of all commands."""
        arguments = [p for p in self.get_params(ctx) if p.param_type_name == "argument"]
        return [*(p.metavar or p.human_readable_name for p in arguments), "[OPTIONS]"]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Arguments, the command's own options, then the groups that commands share."""
        found: dict[str, list[tuple[str, str]]] = {heading: [] for heading in HEADINGS}
        for param in self.get_params(ctx):
            if param.param_type_name == "argument":
                shown = param.metavar or param.human_readable_name
                found["Arguments"].append((shown, getattr(param, "help", None) or ""))
                continue
            record = param.get_help_record(ctx)
            if record is not None:
                own = OUTPUT if param.name == "help" else "Options"
                found[getattr(param, "rich_help_panel", None) or own].append(record)
        for heading, records in found.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """The examples, a comment over each."""
        with formatter.section("Examples"):
            for line, meaning in self.examples:
                formatter.write_text(f"# {meaning}")
                formatter.write(f"{'':{formatter.current_indent}}{line}\n")


def parser_of(name: str) -> Parser:
    """The command of that name, ready to read its arguments."""
    module = import_module(f"curvlang.cli.commands.{name}")
    application = typer.Typer(add_completion=False, rich_markup_mode=None)
    application.command(name, cls=Parser)(_shielded(module.command))
    found: Any = typer.main.get_command(application)
    found.examples = module.EXAMPLES
    parser: Parser = found
    return parser


def invoke(name: str, rest: Sequence[str]) -> int:
    """Run a command with its arguments and return its exit code.

    Raises:
        SpecError: E0708 for a value that an option does not take, E0780 for arguments that are not
            the command's.
    """
    usage: type[Exception] = typer.BadParameter.__bases__[0]
    try:
        code = parser_of(name).main([*rest], prog_name=f"curvlang {name}", standalone_mode=False)
    except usage as error:
        raise _refused(name, error) from None
    except Shielded as error:
        raise error.cause from None
    except typer.Abort:
        raise KeyboardInterrupt from None
    except typer.Exit as error:
        return int(error.exit_code)
    return int(code or 0)


def _refused(name: str, error: Any) -> SpecError:
    """What the library says about wrong usage, as a diagnostic."""
    param = getattr(error, "param", None)
    asked = f"`curvlang {name} --help` lists the options"
    if param is not None and type(error).__name__ == "BadParameter":
        shown = param.opts[-1] if param.param_type_name == "option" else param.human_readable_name
        choices = getattr(param.type, "choices", None)
        reason = error.message.rstrip(".").replace("'", "`")
        repair = f"use one of {', '.join(map(str, choices))}" if choices else asked
        joint = " " if reason.startswith("must ") else ": "
        return refusal(CODES.get(param.name, Code.E0708), f"`{shown}`{joint}{reason}", repair)
    unknown = getattr(error, "option_name", None)
    if unknown is not None and type(error).__name__ == "NoSuchOption":
        near = ", ".join(f"`{x}`" for x in sorted(error.possibilities or ()))
        repair = f"did you mean {near}?" if near else asked
        return refusal(Code.E0780, f"`curvlang {name}` has no option `{unknown}`", repair)
    reason = error.format_message().rstrip(".").replace("'", "`")
    return refusal(Code.E0780, f"`curvlang {name}`: {reason[:1].lower()}{reason[1:]}", asked)


def _shielded(command: Callable[..., int]) -> Callable[..., int]:
    """A command whose conflicts are refused, and whose Ctrl-C and closed pipe reach the caller."""

    @functools.wraps(command)
    def called(**options: Any) -> int:
        try:
            with INTERRUPTS.working():
                check_conflicts(command, options)
                return command(**options)
        except (KeyboardInterrupt, BrokenPipeError) as error:
            raise Shielded(error) from None

    return called


def check_conflicts(command: Callable[..., int], values: Mapping[str, Any]) -> None:
    """Refuse options that exclude each other, and one without the one that it is about.

    Raises:
        SpecError: E0708.
    """
    parameters = inspect.signature(command).parameters
    given = {name for name, value in values.items() if value != parameters[name].default}
    for name, rule, option in rules_of(command):
        if name not in given:
            continue
        match rule:
            case Excludes(names=others):
                for other in (x for x in others if x in given):
                    said = option[other]
                    raise refusal(
                        Code.E0708,
                        f"`{option[name]}` and `{said}` exclude each other",
                        f"leave `{said}` out",
                    )
            case Needs(name=other, example=example) if other not in given:
                what = f"`{option[name]}` is about `{option[other]}`, which is not given"
                raise refusal(Code.E0708, what, f"add `{example}`")
            case _:
                pass


def rules_of(
    command: Callable[..., int],
) -> Iterator[tuple[str, Excludes | Needs, Mapping[str, str]]]:
    """Every rule that is declared at an option of a command, and how its options are written."""
    hints = get_type_hints(command, include_extras=True)
    metadata = {name: getattr(hint, "__metadata__", ()) for name, hint in hints.items()}
    written = {
        name: next((d for x in found for d in getattr(x, "param_decls", None) or ()), name)
        for name, found in metadata.items()
    }
    for name, found in metadata.items():
        yield from ((name, x, written) for x in found if isinstance(x, Excludes | Needs))
