"""Commands as the command-line library sees them: headings and examples in the help, conflicts, refusals."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import EnumType
from typing import Any, get_args, get_type_hints

import typer
from typer.core import TyperCommand

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import refusal

from .interrupts import INTERRUPTS
from .modules import command_module
from .options import MACHINE, OUTPUT, SCORES, TASK, Excludes, Needs

Example = tuple[str, str]
"""A command line, and what it is for."""
HEADINGS = ("Arguments", "Options", SCORES, TASK, MACHINE, OUTPUT)
CODES = {"metric": Code.E0590}
"""Options whose choices Python has too, with the code that it refuses others by."""


class ShieldedError(Exception):
    """Carries an exception past the command-line library, which has its own way with it."""

    def __init__(self, cause: BaseException) -> None:
        self.cause = cause
        super().__init__()


class Parser(TyperCommand):
    """A command whose help has a heading for each group of options, and examples at the end."""

    examples: tuple[Example, ...] = ()
    command: Callable[..., int]

    @property
    def written(self) -> dict[str, str]:
        """How each option is written, by the parameter that it becomes."""
        parameters: list[Any] = list(self.params)
        return {p.name: max((p.secondary_opts or p.opts), key=len) for p in parameters}

    def invoke(self, ctx: Any) -> Any:
        """Run the command, unless its options exclude each other."""
        check_conflicts(self.command, ctx.params, self.written)
        return super().invoke(ctx)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """The arguments, then the options, as in the overview of all commands."""
        parameters: list[Any] = list(self.get_params(ctx))
        arguments = [p for p in parameters if p.param_type_name == "argument"]
        return [*(p.metavar or p.name.upper() for p in arguments), "[OPTIONS]"]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Arguments, the command's own options, then the groups that commands share."""
        found: dict[str, list[tuple[str, str]]] = {heading: [] for heading in HEADINGS}
        parameters: list[Any] = list(self.get_params(ctx))
        for param in parameters:
            if param.param_type_name == "argument":
                shown = param.metavar or param.name.upper()
                found["Arguments"].append((shown, param.help or ""))
                continue
            record = param.get_help_record(ctx)
            if record is not None:
                own = OUTPUT if param.name == "help" else "Options"
                found[param.rich_help_panel or own].append(record)
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
    module = command_module(name)
    application = typer.Typer(add_completion=False, rich_markup_mode=None)
    application.command(name, cls=Parser)(_shielded(module.command))
    found: Any = typer.main.get_command(application)
    found.examples, found.command = module.EXAMPLES, module.command
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
    except ShieldedError as error:
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
        shown = param.opts[-1] if param.param_type_name == "option" else param.name.upper()
        choices = _choices(name, param.name)
        reason = error.message.removeprefix("Value error, ").rstrip(".").replace("'", "`")
        repair = f"use one of {', '.join(choices)}" if choices else asked
        reason = reason.replace("Input should be", "must be")
        joint = " " if reason.startswith("must ") else ": "
        return refusal(CODES.get(param.name, Code.E0708), f"`{shown}`{joint}{reason}", repair)
    unknown = getattr(error, "option_name", None)
    if unknown is not None and type(error).__name__ == "NoSuchOption":
        near = ", ".join(f"`{x}`" for x in sorted(error.possibilities or ()))
        repair = f"did you mean {near}?" if near else asked
        return refusal(Code.E0780, f"`curvlang {name}` has no option `{unknown}`", repair)
    reason = error.format_message().rstrip(".").replace("'", "`")
    return refusal(Code.E0780, f"`curvlang {name}`: {reason[:1].lower()}{reason[1:]}", asked)


def _choices(name: str, parameter: str) -> list[str]:
    """The values of a parameter that takes some words alone."""
    hint = get_type_hints(command_module(name).command)[parameter]
    kinds = [x for x in (hint, *get_args(hint)) if isinstance(x, EnumType)]
    return [name for kind in kinds for name in kind.__members__]


def _shielded(command: Callable[..., int]) -> Callable[..., int]:
    """A command whose Ctrl-C and closed pipe reach the caller with what they have to say."""

    @functools.wraps(command)
    def called(**options: Any) -> int:
        try:
            with INTERRUPTS.working():
                return command(**options)
        except (KeyboardInterrupt, BrokenPipeError) as error:
            raise ShieldedError(error) from None

    return called


def check_conflicts(
    command: Callable[..., int], values: Mapping[str, Any], written: Mapping[str, str]
) -> None:
    """Refuse options that exclude each other, and one without the one that it is about.

    Args:
        command: The command, at whose options the rules are declared.
        values: What it is called with.
        written: How each option is written.

    Raises:
        SpecError: E0708.
    """
    parameters = inspect.signature(command).parameters
    given = {name for name, value in values.items() if value != parameters[name].default}
    for name, rule in rules_of(command):
        match rule:
            case Excludes(names=others) if name in given:
                for other in (x for x in others if x in given):
                    raise refusal(
                        Code.E0708,
                        f"`{written[name]}` and `{written[other]}` exclude each other",
                        f"leave `{written[other]}` out",
                    )
            case Needs(name=other, example=example) if name in given and other not in given:
                what = f"`{written[name]}` is about `{written[other]}`, which is not given"
                raise refusal(Code.E0708, what, f"add `{example}`")
            case _:
                pass


def rules_of(command: Callable[..., int]) -> Iterator[tuple[str, Excludes | Needs]]:
    """Every rule that is declared at an option of a command, with the option's parameter."""
    for name, hint in get_type_hints(command, include_extras=True).items():
        for found in getattr(hint, "__metadata__", ()):
            if isinstance(found, Excludes | Needs):
                yield name, found
