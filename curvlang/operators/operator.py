"""The verbs every structured operator knows, and the identities that need no structure.

All operators are symmetric. A structure's file is its page of identities; what it cannot do, it
refuses with a reason.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from math import prod
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor

from curvlang.diagnostics.amounts import size
from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.notebook import Display, html_table
from curvlang.diagnostics.refusal import refusal
from curvlang.diagnostics.values import another_type, finite_number
from curvlang.operators.spectrum import Spectral, chosen, singular, square_root, tikhonov
from curvlang.operators.validation import asymmetric, infinite, wrong_kind

DENSE_AT_MOST = 20_000
"""Rows of a matrix that may be formed in passing: 3 GiB in float64."""
ROUNDINGS = 8
"""Units of rounding of the largest eigenvalue, below which a damping is none."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Operator(Display):
    """A symmetric linear operator on vectors of length P, held by its structure.

    Abstract: a structure implements the abstract verbs; the others follow from them.
    """

    structure: ClassVar[str]
    """The structure's noun."""
    axes: ClassVar[Mapping[str, str]] = {}
    """A letter for each axis of the tensors it holds; the same letter is the same length."""
    rows: ClassVar[str] = "P"
    """The letters whose lengths multiply to P."""
    symmetric: ClassVar[tuple[str, ...]] = ()
    """The fields that hold symmetric matrices."""
    mixed: ClassVar[bool] = False
    """Whether its parts may be in several precisions, each converted to where it is needed."""

    def __post_init__(self) -> None:
        """Refuse parts that do not fit together, and numbers that no verb has an answer for.

        Raises:
            SpecError: E0611 for parts, E0870 for values of another kind, E0607 for
                entries that are not finite, E0871 for a matrix that is not symmetric.
        """
        kind = f"an operator `{self.structure}`"
        if why := wrong_kind(self, Operator):
            repair = "give tensors in float32 or float64, and operators"
            raise refusal(Code.E0870, f"{kind} {why}", repair)
        if why := _unlike(self) or self.misfit():
            raise refusal(Code.E0611, f"{kind} {why}", "make its parts fit each other")
        if why := infinite(self):
            repair = "look for a division by zero or an overflow in what made them"
            raise refusal(Code.E0607, f"{kind} {why}", repair)
        if why := asymmetric(self):
            repair = "give the symmetric part, `(M + M.T) / 2`"
            raise refusal(Code.E0871, f"{kind} {why}", repair)

    def misfit(self) -> str:
        """What is wrong between its parts, as the end of a sentence; empty where they fit."""
        return ""

    @property
    def lengths(self) -> dict[str, int]:
        """The length of each letter in `axes`."""
        return _lengths(self)[0]

    @property
    def size(self) -> int:
        """P."""
        known = self.lengths
        return prod(known[axis] for axis in self.rows)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the tensors held."""
        return next(self.held()).dtype

    @property
    def device(self) -> torch.device:
        """Where the tensors lie."""
        return next(self.held()).device

    def held(self) -> Iterator[Tensor | Operator]:
        """The tensors and the operators that it is made of, in the order of its fields."""
        for field in fields(self):
            value = getattr(self, field.name)
            for x in value if isinstance(value, tuple) else (value,):
                if isinstance(x, Tensor | Operator):
                    yield x

    def tensors(self) -> Iterator[Tensor]:
        """The numbers it holds; positions of entries are not among them."""
        for x in self.held():
            if isinstance(x, Operator):
                yield from x.tensors()
            elif x.is_floating_point():
                yield x

    @abstractmethod
    def apply(self, v: Tensor) -> Tensor:
        """`C v` for columns `v [P, k]`."""

    def linear_terms(self) -> Iterator[tuple[float, Operator]]:
        """Operators and the numbers before them, of which it is the sum."""
        yield 1.0, self

    @abstractmethod
    def diagonal(self) -> Tensor:
        """The P diagonal entries."""

    @abstractmethod
    def eigenvalues(self) -> Tensor:
        """All P eigenvalues, in no particular order."""

    @abstractmethod
    def spectral_form(self) -> Operator:
        """The same operator, eigendecomposed once, so that `spectral` costs only products."""

    @abstractmethod
    def spectral(self, function: Spectral) -> Operator:
        """`f(C)` for an elementwise function of the eigenvalues; another structure."""

    @abstractmethod
    def describe(self) -> str:
        """The operator as mathematics: `Kronecker 16×16 ⊗ 64×64`."""

    @property
    def spectrum_known(self) -> bool:
        """Whether `spectral_form` exists: not so where any part is known by its products alone."""
        return all(x.spectrum_known for x in self.held() if isinstance(x, Operator))

    @property
    def count(self) -> int:
        """How many blocks of a direct sum it stands for: one, unless it holds several as one."""
        return 1

    def units(self) -> tuple[Operator, ...]:
        """These blocks, each by itself."""
        return (self,)

    def first_unit(self) -> Operator:
        """The first of these blocks."""
        return self

    def each(self, function: Callable[..., Operator], *others: Operator) -> Operator:
        """A function of every block; with others of which there are as many, of their blocks too."""
        return function(self, *others)

    @property
    def shape(self) -> tuple[int, int]:
        """`(P, P)`."""
        return self.size, self.size

    def __matmul__(self, v: Tensor) -> Tensor:
        """`C v` for `v` of shape `[P]` or `[P, k]`."""
        if not isinstance(v, Tensor):
            raise another_type("v", v, "a tensor [P] or [P, k]", "`torch.as_tensor(v)`")
        if v.ndim not in (1, 2) or v.shape[0] != self.size:
            raise refusal(
                Code.E0606,
                f"a vector of shape {tuple(v.shape)} does not fit an operator of size {self.size}",
                f"give `v` the shape [{self.size}] or [{self.size}, k]",
            )
        if v.dtype != self.dtype or v.device != self.device:
            raise refusal(
                Code.E0606,
                f"a vector in {_place(v)} does not fit an operator in {_place(self)}",
                f"`v.to('{self.device}', {self.dtype})`",
            )
        return self.apply(v) if v.ndim == 2 else self.apply(v[:, None])[:, 0]

    def dense(self) -> Tensor:
        """All entries, `[P, P]`."""
        check_dense(self.size)
        return self.apply(torch.eye(self.size, dtype=self.dtype, device=self.device))

    def trace(self) -> Tensor:
        """Tr C = Σ C_pp."""
        return self.diagonal().sum()

    def frobenius(self) -> Tensor:
        """‖C‖_F = (Σ s²)^½ over the eigenvalues."""
        return self.eigenvalues().norm()

    def logdet(self, damping: float = 0.0) -> Tensor:
        """Log det(C + λI) = Σ log(s + λ); refused unless every s + λ is positive."""
        damping = finite_number(damping, "damping")
        shifted = self.eigenvalues() + damping
        lowest = float(shifted.min())
        if lowest <= 0:
            raise refusal(
                Code.E0602,
                f"log det needs a positive spectrum; the lowest eigenvalue plus damping is {lowest:.3g}",
                f"use a damping above {damping - lowest:.3g}",
            )
        return shifted.log().sum()

    def distance(self, other: Operator) -> Tensor:
        """‖C − D‖_F, by the rule of the two structures, else from the difference of all entries."""
        if not isinstance(other, Operator):
            raise another_type("other", other, "an operator", "another fitted curvature")
        if self.size != other.size:
            raise refusal(
                Code.E0606,
                f"operators of size {self.size} and {other.size} cannot be compared",
                "fit both on the same parameters",
            )
        rule = DISTANCES.get((type(self), type(other)))
        found = None if rule is None else rule(self, other)
        if found is None:
            check_dense(self.size)
            found = (self.dense() - other.dense()).norm()
        return found

    def inverse(self, damping: float = 0.0, *, spectral: Spectral | None = None) -> Operator:
        """(C + λI)⁻¹, λ added to the matrix exactly; or `f(C)` for a spectral function.

        Raises:
            SpecError: E0873 for both.
        """
        return self.spectral(chosen(damping, spectral) or tikhonov(damping))

    def root_product(self, noise: Tensor) -> Tensor:
        """`R z` for columns `z [P, k]`, with R Rᵀ = C: of standard normal numbers, draws from N(0, C).

        R is the symmetric root where a structure has no cheaper one.

        Raises:
            SpecError: E0922 for a matrix with negative eigenvalues.
        """
        return self.spectral(square_root).apply(noise)

    def memory(self) -> int:
        """Bytes of the tensors held, shared storage counted once."""
        return held_bytes(self)

    def to_scipy(self) -> Any:
        """A `scipy.sparse.linalg.LinearOperator` with the same action."""
        from scipy.sparse.linalg import LinearOperator

        def product(v: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
            columns = torch.as_tensor(np.asarray(v), dtype=self.dtype, device=self.device)
            flat = columns.reshape(self.size, -1)
            return self.apply(flat).reshape(columns.shape).cpu().numpy()

        kind = np.float64 if self.dtype == torch.float64 else np.float32
        return LinearOperator(
            self.shape, matvec=product, rmatvec=product, matmat=product, dtype=np.dtype(kind)
        )

    def __str__(self) -> str:
        return self.describe()

    def _summary(self) -> str:
        named = self.describe().removeprefix(self.structure).strip() or f"of {self.size} entries"
        return f"{named}, {str(self.dtype).removeprefix('torch.')} on {self.device}"

    def _repr_html_(self) -> str:
        row = (self.describe(), str(self.size), size(self.memory()))
        return html_table(("structure", "P", "memory"), [row], right=(False, True, True))


Structure = TypeVar("Structure", bound=Operator)

DistanceRule = Callable[[Any, Any], Tensor | None]
"""‖C − D‖_F of two operators without their entries; None where these two have too little in common."""

DISTANCES: dict[tuple[type[Operator], type[Operator]], DistanceRule] = {}
"""The rules of `distance.py`, by pair of structures; the package fills it, so that no file imports up."""


def held_bytes(*operators: Operator) -> int:
    """Bytes of the tensors of all operators, shared storage counted once."""
    storages = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
        for operator in operators
        for t in operator.tensors()
    }
    return sum(storages.values())


def unchecked(kind: type[Structure], values: Mapping[str, Any]) -> Structure:
    """A structure whose tensors have one axis more than it is checked for: what `Stacked` holds.

    Args:
        kind: The structure.
        values: Its fields.
    """
    made = object.__new__(kind)
    for name, value in values.items():
        object.__setattr__(made, name, value)
    return made


def check_whole(operator: Operator) -> None:
    """Check an operator that was made unchecked, and all that it is made of.

    Raises:
        SpecError: E0611.
    """
    for x in operator.held():
        if isinstance(x, Operator):
            check_whole(x)
    operator.__post_init__()


def _unlike(operator: Operator) -> str:
    """Axes, precisions or devices that differ, as the end of a sentence."""
    _, wrong = _lengths(operator)
    if wrong:
        return wrong
    held = list(operator.held())
    numbers = [x for x in held if isinstance(x, Operator) or x.is_floating_point()]
    kinds = {str(x.dtype).removeprefix("torch."): None for x in numbers}
    if len(kinds) > 1 and not operator.mixed:
        return f"has parts in {' and '.join(kinds)}"
    places = dict.fromkeys(str(x.device) for x in held)
    return f"has parts on {' and '.join(places)}" if len(places) > 1 else ""


def _lengths(operator: Operator) -> tuple[dict[str, int], str]:
    """The length of every letter, and the first tensor that has another one."""
    known: dict[str, int] = {}
    for name, axes in operator.axes.items():
        tensor = getattr(operator, name)
        if tensor is None:
            continue
        own = dict(zip(axes, tensor.shape, strict=False))
        wanted = [known.setdefault(axis, own[axis]) for axis in axes if axis in own]
        if len(axes) != tensor.ndim or list(tensor.shape) != wanted:
            letters = ", ".join(axes)
            return (
                known,
                f"has `{name}` of shape {list(tensor.shape)}, where [{letters}] fits its parts",
            )
    return known, ""


def _place(held: Tensor | Operator) -> str:
    """`float64 on cpu`."""
    return f"{str(held.dtype).removeprefix('torch.')} on {held.device}"


def check_regular(operator: Operator, name: str, damping: float) -> None:
    """Refuse C + λI whose lowest eigenvalue is what rounding makes of a zero.

    Args:
        operator: C, of which the spectrum is known.
        name: Of the block.
        damping: λ, 0 or more; eigenvalues are looked at only where it is as small as rounding.

    Raises:
        SpecError: E0601.
    """
    eps = torch.finfo(operator.dtype).eps
    if operator.structure == "Diagonal" or damping > ROUNDINGS * eps * abs(float(operator.trace())):
        return
    values = operator.eigenvalues()
    lowest = float((values + damping).abs().min())
    # Without λ the zeros of a decomposition are as large as its errors, which grow with the size.
    rounding = eps * float(values.abs().max()) * (ROUNDINGS if damping else len(values))
    if lowest <= rounding:
        raise singular(
            f"`{name}` with the damping {damping:.3g} is singular",
            f"its lowest eigenvalue is 0 to rounding ({lowest:.2g})",
        )


def check_spectrum(operator: Operator, lacking: str, repair: str) -> None:
    """Refuse an operator whose spectrum is not known.

    Args:
        operator: Any.
        lacking: What it does not have then.
        repair: What to do instead.

    Raises:
        SpecError: E0603.
    """
    if not operator.spectrum_known:
        raise refusal(Code.E0603, f"a matrix-free operator has no {lacking}", repair)


def check_dense(size: int) -> None:
    """Refuse to form a matrix that is too large to form in passing."""
    if size > DENSE_AT_MOST:
        raise refusal(
            Code.E0603,
            f"the {size} × {size} matrix would have to be formed, more than {DENSE_AT_MOST} rows",
            "use products (`op @ v`), `op.trace()` or `op.diagonal()` instead",
        )
