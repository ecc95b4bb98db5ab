"""Instructions: what generated code does, as values; `printer` makes torch code of them.

Fusion, sharing, cost and predicted memory match on these types. Names of tensors are a spec's own, or
made by the compiler: what they are called in Python is the printer's concern alone.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias, assert_never

from curvlang.ir.expr import Index

_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


class Kernel(StrEnum):
    """What generated code calls besides torch, the tensor functions and the makers of tensors."""

    GRAM = "gram"
    ROTATE = "rotate"
    SQUARE_SUM = "square_sum"
    NUMBER = "number"
    EYE = "eye"
    MASK = "mask"


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor while code is made: its name and its indices, in the order of its axes."""

    name: str
    indices: tuple[Index, ...]


@dataclass(frozen=True, slots=True)
class Operand:
    """A tensor as an instruction reads it: its name, and a letter for every axis."""

    name: str
    letters: str = ""


Argument: TypeAlias = Operand | float
"""A tensor, or a bare number of the formula."""


@dataclass(frozen=True, slots=True)
class Einsum:
    """The product of tensors, summed over the letters that the result lacks."""

    operands: tuple[Operand, ...]
    output: str


@dataclass(frozen=True, slots=True)
class Gram:
    """Σ x[…, i] x[…, i'], the columns in groups."""

    columns: str
    groups: int = 1


@dataclass(frozen=True, slots=True)
class Rotation:
    """Σ_i x[…, i] V[i, k], or with the transpose of V."""

    rows: str
    matrix: str
    transposed: bool = False


@dataclass(frozen=True, slots=True)
class AxisSum:
    """The sum over axes of one tensor, or of its squares."""

    operand: str
    axes: tuple[int, ...]
    squares: bool = False


@dataclass(frozen=True, slots=True)
class Pointwise:
    """`+ * / ^` or a function of numbers, entry by entry; a letter that one lacks is spread over."""

    function: str
    arguments: tuple[Argument, ...]
    output: str


@dataclass(frozen=True, slots=True)
class View:
    """The same entries: axes moved, dropped (of length one), or added (spread to a shape)."""

    operand: Argument
    output: str
    shape: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Constant:
    """A tensor that is read from nothing: an identity, or random entries from a seed."""

    maker: str
    shape: tuple[int, ...]
    seed: float | None = None


@dataclass(frozen=True, slots=True)
class Mask:
    """Ones where the places of indices compare as they should, zeros elsewhere."""

    function: str
    shape: tuple[int, ...]
    numbers: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Reshape:
    """The same entries with an axis split into its parts, or parts joined; -1 for the length of the batch."""

    operand: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Call:
    """A tensor function of one tensor, read as a matrix: axes in an order, then in two groups.

    Args:
        function: Its name in the language.
        operand: The tensor.
        order: Axes in the order they are read in; empty for the order they are held in.
        shape: Rows and columns, where a group is not one axis.
        numbers: What follows the tensor.
    """

    function: str
    operand: str
    order: tuple[int, ...] = ()
    shape: tuple[int, ...] = ()
    numbers: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Selection:
    """Part of what a function made: the first or last entries of its last axis, in a shape."""

    operand: str
    count: int | None
    last: bool
    shape: tuple[int, ...] = ()


Operation: TypeAlias = (
    Einsum
    | Gram
    | Rotation
    | AxisSum
    | Pointwise
    | View
    | Constant
    | Mask
    | Reshape
    | Call
    | Selection
)


@dataclass(frozen=True, slots=True)
class Instruction:
    """One line of code: what it assigns, how, the result's axes, and its cost.

    `flops` counts a multiply and an add as two, as `torch.utils.flop_counter` does for products;
    `side` is set on those that it counts, products of tensors that sum an index: the shortest of
    rows, columns and summed entries of the matrices that are multiplied, which says how fast that is.

    Args:
        targets: Names that are assigned; `_` for a result that is dropped.
        operation: What is computed.
        indices: Of the first target.
        elements: Of the first target.
        flops: Floating-point operations.
        view: Whether it computes nothing.
        side: See above.
        free: Whether no cost counts it: a sum that is divided once, a second name.
        count: For how many blocks of one shape it is computed; elements and operations are those of one.
    """

    targets: tuple[str, ...]
    operation: Operation
    indices: tuple[Index, ...]
    elements: int
    flops: int = 0
    view: bool = False
    side: int = 0
    free: bool = False
    count: int = 1

    @property
    def target(self) -> str:
        """The first name that is assigned."""
        return self.targets[0]


def names_read(operation: Operation) -> tuple[str, ...]:
    """Names of the tensors that an operation reads, as often as it does."""
    match operation:
        case Einsum(operands=operands):
            return tuple(x.name for x in operands)
        case Pointwise(arguments=arguments):
            return tuple(x.name for x in arguments if isinstance(x, Operand))
        case View(operand=operand):
            return (operand.name,) if isinstance(operand, Operand) else ()
        case Gram(columns=name) | AxisSum(operand=name) | Call(operand=name):
            return (name,)
        case Selection(operand=name) | Reshape(operand=name):
            return (name,)
        case Rotation(rows=rows, matrix=matrix):
            return rows, matrix
        case Constant() | Mask():
            return ()
        case _:
            assert_never(operation)


def lettering(indices: Iterable[Index]) -> dict[Index, str]:
    """A letter for every index, the space's own where it can be."""
    found: dict[Index, str] = {}
    used = ""
    for index in dict.fromkeys(indices):
        letter = index.space[0]
        if letter in used or letter not in _LETTERS:
            letter = next(x for x in _LETTERS if x not in used)
        found[index] = letter
        used += letter
    return found


def operand(tensor: Tensor) -> Operand:
    """A tensor alone, with a letter for every axis."""
    letters = lettering(tensor.indices)
    return Operand(tensor.name, "".join(letters[x] for x in tensor.indices))


def unused(wish: str, taken: Container[str]) -> str:
    """A name that is not taken: the one that is asked for, with underscores behind it if need be."""
    while wish in taken:
        wish += "_"
    return wish
