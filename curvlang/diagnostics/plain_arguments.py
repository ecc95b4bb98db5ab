"""Plain arguments of public functions, by name: what each must be, and how it is refused where it is not.

A seed, a precision, a flag or the name of a curvature means the same in every public function: one
table holds their rules, and `validated` applies them before a function begins.
"""

from __future__ import annotations

import inspect
import operator
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from functools import wraps
from types import SimpleNamespace
from typing import Any, ParamSpec, TypeVar, get_args, get_type_hints, is_typeddict

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.diagnostics.suggestion import suggestion
from curvlang.diagnostics.values import another_type, real_number

Given = ParamSpec("Given")
Made = TypeVar("Made")
Kind = TypeVar("Kind")
Rule = Callable[[str, Any], Any]
"""Takes the name and the value, and gives the value as the function wants it; raises where it is wrong."""

LARGEST_SEED = 2**63 - 1


def whole(low: int, example: int, high: int | None = None) -> Rule:
    """A whole number of a range: Python's, numpy's, or a tensor that holds one."""

    def rule(name: str, value: Any) -> int:
        try:
            found = None if isinstance(value, bool) else operator.index(value)
        except TypeError:
            found = None
        if found is None:
            raise another_type(name, value, "an integer", f"`{name}={example}`")
        if found < low or (high is not None and found > high):
            must = f"{low} or more" if high is None or found < low else f"at most {high}"
            raise out_of_range(name, value, must, str(example))
        return found

    return rule


def out_of_range(name: str, value: object, must: str, example: str) -> SpecError:
    """The refusal of a number that is too small or too large."""
    return refusal(
        Code.E0874,
        f"`{name} = {value}` is out of range",
        f"it must be {must}",
        f"for example `{name}={example}`",
    )


def flag(name: str, value: Any) -> bool:
    """A truth value: Python's or numpy's."""
    if type(value).__name__ not in ("bool", "bool_"):
        raise another_type(name, value, "True or False", f"`{name}=True`")
    return bool(value)


def share(name: str, value: Any) -> float:
    """A number between 0 and 1, neither included."""
    found = real_number(value, name, "0.95")
    if not 0 < found < 1:
        raise out_of_range(name, value, "between 0 and 1", "0.95")
    return found


def resamples(name: str, value: Any) -> int:
    """How often is drawn again: 0 for no interval; one draw has no spread."""
    found: int = whole(0, 1000)(name, value)
    if found == 1:
        raise out_of_range(name, value, "0 for no interval, or 2 or more", "1000")
    return found


def precision(name: str, value: Any) -> Any:
    """`torch.float32` or `torch.float64`, or None; torch is not imported for it."""
    if value is None:
        return None
    if not (type(value).__name__ == "dtype" and str(value) in ("torch.float32", "torch.float64")):
        wanted = "`torch.float32` or `torch.float64`"
        if type(value).__name__ != "dtype":
            raise another_type(name, value, wanted, f"`{name}=torch.float64`")
        raise refusal(
            Code.E0563,
            f"`{name}` is `{value}` where {wanted} is expected",
            f"give `{name}=torch.float64`",
        )
    return value


def device(name: str, value: Any) -> Any:
    """A device of torch or its name; whether it can be used is known where it is."""
    if not isinstance(value, str) and type(value).__name__ != "device":
        raise another_type(name, value, "a device", f'`{name}="cpu"`')
    return value


def text(example: str, wanted: str = "a text") -> Rule:
    """A text that says something; None where the function has an answer of its own."""

    def rule(name: str, value: Any) -> str | None:
        if value is not None and not (isinstance(value, str) and value.strip()):
            raise another_type(name, value, wanted, f'`{name}="{example}"`')
        return value

    return rule


def instance(kind: str, wanted: str, example: str) -> Rule:
    """An object of a public class, or None; the class is known by its name."""

    def rule(name: str, value: Any) -> Any:
        classes = {x.__name__ for x in type(value).__mro__ if x.__module__.startswith("curvlang")}
        if value is not None and kind not in classes:
            raise another_type(name, value, wanted, f"`{name}={example}`")
        return value

    return rule


def score(name: str, value: Any) -> Any:
    """A score as a spec writes it, or one of a spec; None for the curvature's own."""
    if type(value).__name__ == "ScoreFormula":
        return value
    return text("relatif", 'a score, a text or `spec.scores["mine"]`')(name, value)


ARGUMENTS: Mapping[str, Rule] = {
    "seed": whole(0, 0, LARGEST_SEED),
    "examples": whole(1, 50),
    "chunk": whole(1, 4096),
    "bootstrap": resamples,
    "level": share,
    "dtype": precision,
    "device": device,
    "curvature": text("mine", "a curvature's name"),
    "inverse": text("tikhonov(damping = 0.1)"),
    "solve": text("cg"),
    "score": score,
    **dict.fromkeys(
        (
            "train", "allow_python", "per_layer", "per_position", "own", "quick", "lds", "small",
            "step_scores", "by_layer", "write", "grouped", "quiet",
        ),
        flag,
    ),
    "setup": instance("Setup", "a `Setup`", "cv.Setup(seed=1)"),
    "scoring": instance("Scoring", "a `Scoring`", "cv.Scoring(damping=0.1)"),
    "settings": instance("EvaluationSettings", "settings", "cv.EvaluationSettings(quick=True)"),
    "source": instance("TaskSource", "a `TaskSource`", 'cv.TaskSource(data="flowers.csv")'),
    "cache": instance("Cache", "a `Cache`", 'cv.Cache("folder")'),
    "protocol": instance("LDS", "a protocol", "cv.LDS(subsets=100, retrains=5)"),
}  # fmt: skip
"""What a name means in every public function that has it."""


def argument(name: str, value: Any) -> Any:
    """The value of one argument, as the function wants it.

    Raises:
        SpecError: E0563 for something of another type, E0874 for a number out of range.
    """
    return ARGUMENTS[name](name, value)


def check_keywords(function: Callable[..., Any], given: Iterable[str]) -> None:
    """Refuse arguments by names that a function does not have.

    Raises:
        SpecError: E0567.
    """
    names = _keywords(function)
    for name in given:
        if names is not None and name not in names:
            called = function.__qualname__.removesuffix(".__init__")
            moved = _ELSEWHERE.get(name) if "task" in names else None
            help_ = (moved,) if moved else suggestion(name, names)
            raise refusal(Code.E0567, f"`{called}` has no argument `{name}`", *help_)


def _keywords(function: Callable[..., Any]) -> tuple[str, ...] | None:
    """The arguments that may be given by name, those of `**words: Unpack[…]` among them; None for any."""
    whole = inspect.unwrap(function)
    names: list[str] = []
    for one in inspect.signature(whole).parameters.values():
        if one.kind is not one.VAR_KEYWORD:
            names.append(one.name)
            continue
        own = SimpleNamespace(__annotations__={"own": one.annotation})
        said = get_type_hints(own, vars(sys.modules[whole.__module__]))["own"]
        words = [x for x in get_args(said) if is_typeddict(x)]
        if not words:
            return None
        names += words[0].__annotations__
    return tuple(name for name in names if name != "self")


_ELSEWHERE: Mapping[str, str] = {
    name: f"a task has its {word}: `task.to({name}={example})`"
    for name, word, example in (
        ("device", "device", '"cuda"'),
        ("dtype", "precision", "torch.float32"),
        ("precision", "precision", '"float32"'),
    )
}
"""Arguments that belong to a task, where a function takes one and not these."""


def validated(function: Callable[Given, Made]) -> Callable[Given, Made]:
    """The function, begun only after each argument that has a rule has passed it."""
    signature = inspect.signature(function)
    names = [name for name in signature.parameters if name in ARGUMENTS]

    @wraps(function)
    def run(*args: Given.args, **kwargs: Given.kwargs) -> Made:
        if kwargs.keys() - signature.parameters.keys():
            check_keywords(function, kwargs)
        bound = signature.bind(*args, **kwargs)
        for name in names:
            default = signature.parameters[name].default
            if bound.arguments.get(name, default) is not default:
                bound.arguments[name] = argument(name, bound.arguments[name])
        return function(*bound.args, **bound.kwargs)

    return run


def keyworded(kind: type[Kind]) -> type[Kind]:
    """A dataclass that users write down: a field by a name that it does not have is E0567."""
    plain = kind.__init__
    names = inspect.signature(plain).parameters.keys()

    @wraps(plain)
    def made(self: Kind, *args: Any, **kwargs: Any) -> None:
        if kwargs.keys() - names:
            check_keywords(plain, kwargs)
        plain(self, *args, **kwargs)

    kind.__init__ = made  # type: ignore[assignment]
    return kind


def validate_fields(made: Any) -> None:
    """Check the fields of a new frozen dataclass that have a rule.

    Raises:
        SpecError: As `argument`.
    """
    for field in fields(made):
        if field.name in ARGUMENTS:
            found = argument(field.name, getattr(made, field.name))
            object.__setattr__(made, field.name, found)
