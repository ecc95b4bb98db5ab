"""Tensor expressions in index notation: what a transform's right-hand sides are made of.

Every node is frozen and compares by meaning: spans take no part in equality or hashing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

from curvlang.diagnostics.source import NOWHERE, Span


@dataclass(frozen=True, slots=True, order=True)
class Index:
    """An index: the letter names its space, primes make further indices of the same space."""

    space: str
    primes: int = 0

    def __str__(self) -> str:
        return self.space + "'" * self.primes


def _span() -> Span:
    return field(default=NOWHERE, compare=False, repr=False)


class BinaryOperator(StrEnum):
    """Elementwise operators of two expressions."""

    ADD = "+"
    SUBTRACT = "-"
    MULTIPLY = "*"
    DIVIDE = "/"
    POWER = "^"


class ReductionKind(StrEnum):
    """What a bracketed index list does to its indices."""

    SUM = "sum"
    MEAN = "mean"


@dataclass(frozen=True, slots=True)
class Number:
    """A literal, or a scalar parameter after its value is known."""

    value: float
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Ref:
    """A tensor with its indices, or a scalar (a parameter, `trace` result) without any.

    As the argument of a tensor function, `cut` reads it as a matrix: `Y[o,i | k]` has `cut` 2, the
    number of indices that run over its rows. Zero everywhere else.
    """

    name: str
    indices: tuple[Index, ...] = ()
    span: Span = _span()
    cut: int = 0


@dataclass(frozen=True, slots=True)
class Delta:
    """`identity[i,i']`: one where the two indices agree."""

    left: Index
    right: Index
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Size:
    """`size[i]`: how many values an index takes, as a number."""

    index: Index
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Negate:
    """Unary minus."""

    operand: Expr
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Binary:
    """An elementwise operator; `^` takes a constant exponent."""

    operator: BinaryOperator
    left: Expr
    right: Expr
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Apply:
    """An elementwise function: `sqrt exp log abs` of one argument, `min max` of two."""

    function: str
    arguments: tuple[Expr, ...]
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Reduce:
    """`sum[t,o] body` or `mean[n] body`: covers the product to its right."""

    kind: ReductionKind
    indices: tuple[Index, ...]
    body: Expr
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Call:
    """A tensor function of whole tensors: `eigh(A)`, `power(A, 1/2)`, `trace(A)`.

    Arguments are `Ref`s without indices (the tensor as a whole), `Ref`s read as matrices
    (`Y[o,i | k]`), or constant expressions. Where a function makes a tensor inside an expression
    (`random_normal[k,i](seed)`, and what `ir.places` names), `indices` says which.
    """

    function: str
    arguments: tuple[Expr, ...]
    indices: tuple[Index, ...] = ()
    span: Span = _span()


Expr: TypeAlias = Number | Ref | Delta | Size | Negate | Binary | Apply | Reduce | Call


@dataclass(frozen=True, slots=True)
class Target:
    """A name with its indices on a left-hand side or in `needs`; the name `_` is thrown away."""

    name: str
    indices: tuple[Index, ...]
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Define:
    """`A[i,i'] = …`, or several targets for a function of several results (`eigh`)."""

    targets: tuple[Target, ...]
    value: Expr
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Space:
    """`space k = min(rank, size[i])`: a new index space and its length, rounded down.

    The last space of a split names the index and all of its parts, which have its length together.
    """

    letter: str
    length: Expr
    span: Span = _span()
    parts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Project:
    """`project i -> k with P[i,k]`: for the stages after this one, `i` runs over the columns of P.

    P has orthonormal columns. What later stages yield is lifted back to the space they came from.
    """

    old: str
    new: str
    basis: Ref
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Yield:
    """`yield C[o,i,o',i'] = …`: the entries of the block.

    `lift` holds one basis per row index, or None where the index was not projected; the block is
    then `(R ⊗ P) C (R ⊗ P)ᵀ`. It is empty where nothing was projected.
    """

    target: Target
    value: Expr
    span: Span = _span()
    lift: tuple[Ref | None, ...] = ()


Statement: TypeAlias = Define | Space | Yield
"""What a program is made of."""
BodyStatement: TypeAlias = Statement | Project
"""What the body of a transform is made of."""
