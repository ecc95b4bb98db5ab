"""Kinds of values that parameters take: numbers with limits, words, texts, lists."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isfinite
from typing import Any, TypeAlias, assert_never

from curvlang.language.chain import Value
from curvlang.language.partition import groups_of, is_block_word, partition_of

LARGEST = 2**63 - 1
"""The largest whole number that is read: what 64 bits hold."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The numbers from `least` to `most`; `above` and `below` exclude the ends."""

    least: float = -inf
    most: float = inf
    above: bool = False
    below: bool = False

    def hold(self, number: float) -> bool:
        """Whether a number lies within."""
        low = number > self.least if self.above else number >= self.least
        high = number < self.most if self.below else number <= self.most
        return low and high

    def __str__(self) -> str:
        match (isfinite(self.least), isfinite(self.most), self.above, self.below):
            case (True, True, True, True):
                return f"between {self.least:g} and {self.most:g}"
            case (True, True, False, False):
                return f"from {self.least:g} to {self.most:g}"
            case (True, True, above, _):
                low = f"{'above' if above else 'at least'} {self.least:g}"
                return f"{low}, {'at most' if above else 'below'} {self.most:g}"
            case (True, False, above, _):
                return f"above {self.least:g}" if above else f"{self.least:g} or more"
            case (False, True, _, below):
                return f"{'below' if below else 'at most'} {self.most:g}"
            case _:
                return "finite"


@dataclass(frozen=True, slots=True)
class Integer:
    """A whole number."""

    limits: Limits = Limits()


@dataclass(frozen=True, slots=True)
class Real:
    """A finite number."""

    limits: Limits = Limits()


@dataclass(frozen=True, slots=True)
class Truth:
    """True or false."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One of these words; any word where none are listed."""

    words: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class String:
    """A text: a path, the name of a function or of a column."""


@dataclass(frozen=True, slots=True)
class NameList:
    """One name or several; none only where that is `empty`."""

    empty: bool = False


@dataclass(frozen=True, slots=True)
class NumberList:
    """A list of numbers; one number stands for a list of one."""

    of: Integer | Real
    empty: bool = True


@dataclass(frozen=True, slots=True)
class NumberOr:
    """A number, or a word in its place."""

    of: Integer | Real
    word: str


@dataclass(frozen=True, slots=True)
class CurvatureName:
    """The name of a curvature."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """What a block is of: a word, `head(8)` or `unit(4)`, or patterns of names, one entry for each block."""


@dataclass(frozen=True, slots=True)
class Anything:
    """Any value that the language can write."""


Kind: TypeAlias = (
    Integer
    | Real
    | Truth
    | Choice
    | String
    | NameList
    | NumberList
    | NumberOr
    | CurvatureName
    | Blocks
    | Anything
)


class OtherTypeError(Exception):
    """A value of another type than its kind has."""


def taken(value: object, kind: Kind) -> Value:
    """The value as its kind has it: a whole float as an integer, an array as a tuple.

    Limits and words are not looked at: `misses` does.

    Raises:
        OtherTypeError: For a value of another type.
    """
    given = _plain(value)
    match kind:
        case Integer():
            return _integer(given)
        case Real():
            return _real(given)
        case Truth():
            return _instance(given, bool)
        case Choice() | String() | CurvatureName():
            return _instance(given, str)
        case NameList(empty=empty):
            names = given if isinstance(given, tuple) else (given,)
            if not names and not empty:
                raise OtherTypeError
            return tuple(_instance(x, str) for x in names)
        case NumberList(of=of, empty=empty):
            numbers = given if isinstance(given, tuple) else (given,)
            if not numbers and not empty:
                raise OtherTypeError
            return tuple(taken(x, of) for x in numbers)
        case NumberOr(of=of, word=word):
            return word if given == word else taken(given, of)
        case Blocks():
            return _blocks(given)
        case Anything():
            found: Value = given
            return found
        case _:
            assert_never(kind)


def _plain(value: object) -> Any:
    """Python's own value for numpy's and torch's: numbers, and tuples of them for arrays and lists."""
    if hasattr(value, "tolist"):
        found = value.tolist()
        single = isinstance(found, list) and tuple(getattr(value, "shape", ())) == (1,)
        value = found[0] if single else found
    return tuple(map(_plain, value)) if isinstance(value, list | tuple) else value


def _instance(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise OtherTypeError
    return value


def _blocks(value: Any) -> Value:
    """A word as it is, whether or not it is one of those that are known; patterns as groups of them."""
    groups = None if is_block_word(value) else groups_of(value)
    return _instance(value, str) if groups is None else groups


def _integer(value: Any) -> int:
    if isinstance(value, bool | str | bytes):
        raise OtherTypeError
    if isinstance(value, int):
        return int(value)
    number = _real(value)
    if not isfinite(number) or number != int(number):
        raise OtherTypeError
    return int(number)


def _real(value: Any) -> float:
    if isinstance(value, bool | str | bytes) or not hasattr(value, "__float__"):
        raise OtherTypeError
    try:
        return float(value)
    except OverflowError:
        return inf if value > 0 else -inf
    except (TypeError, ValueError, RuntimeError) as error:
        raise OtherTypeError from error


def misses(value: Value, kind: Kind) -> str:
    """What a taken value must be and is not: `1 or more`; empty where it fits."""
    match kind, value:
        case (NumberList(of=of), tuple()):
            return next((f"{wrong} each" for x in value if (wrong := misses(x, of))), "")
        case (NumberOr(of=of, word=word), _) if value != word:
            wrong = misses(value, of)
            return f"`{word}`, or {wrong}" if wrong else ""
        case (Blocks(), str()) if is_block_word(value) and not partition_of(value).stated:
            return "1 or more"
        case (Integer(limits=limits), int()):
            if abs(value) > LARGEST:
                return "less than 2^63"
            return "" if limits.hold(value) else str(limits)
        case (Real(limits=limits), int() | float()):
            if not isfinite(value):
                return "finite"
            return "" if limits.hold(value) else str(limits)
        case _:
            return ""
