"""The precision policy: in what passes, decompositions and products are computed, by one name each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

import torch

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.plain_arguments import keyworded
from curvlang.diagnostics.refusal import refusal
from curvlang.diagnostics.values import another_type

KINDS: Mapping[str, torch.dtype] = {
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "tf32": torch.float32,
    "float64": torch.float64,
}
"""Names of precisions, and in what numbers are stored under each."""
WIDE = ("float32", "float64")
"""Names of what matrices are decomposed in."""


@keyworded
@dataclass(frozen=True, slots=True)
class Precision:
    """In which precision what is computed. Sums over batches are in float64 whatever it says.

    Where nothing is said everything is in float64: differences of curvatures are looked at, not rounding.

    Args:
        passes: The model's forward and backward passes, and the products of what its layers show, batch
            by batch: `bfloat16`, `float32`, `tf32` (CUDA alone) or `float64`.
        decompositions: Eigenvectors, inverses and roots of the statistics: `float32` or `float64`.
        products: Products of preconditioned queries with training examples; as the passes where not
            given.
    """

    passes: str = "float64"
    decompositions: str = "float64"
    products: str = ""

    def __post_init__(self) -> None:
        """Take types of torch for their names; refuse other names.

        Raises:
            SpecError: E0563 for another type, E0875 for another name, E0878 for decompositions that are
                narrower than float32.
        """
        for field in fields(self):
            object.__setattr__(self, field.name, _checked(field.name, getattr(self, field.name)))
        if not self.products:
            object.__setattr__(self, "products", self.passes)

    @property
    def dtype(self) -> torch.dtype:
        """Of the model and its inputs in the passes."""
        return KINDS[self.passes]

    @property
    def operands(self) -> torch.dtype | None:
        """What products inside passes take their operands in, where that is less than they come in."""
        return torch.bfloat16 if self.passes == "bfloat16" else None

    @property
    def scored(self) -> torch.dtype:
        """What the products of queries with training examples take their operands in."""
        return KINDS[self.products]

    @property
    def apart(self) -> torch.dtype | None:
        """That of the products of queries with training examples, where it is not that of the passes."""
        return None if self.products == self.passes else self.scored

    @property
    def exact(self) -> bool:
        """Whether everything is in float64."""
        return {self.passes, self.decompositions, self.products} == {"float64"}

    @property
    def fitted(self) -> str:
        """What of it decides a fit: products with training examples come after it."""
        narrow = ", decompositions float32" if self.decompositions == "float32" else ""
        return f"{self.passes}{narrow}"

    @staticmethod
    def of(given: PrecisionLike) -> Precision:
        """From its text, a type of torch, or itself.

        `bfloat16` is of passes and products, `passes=bfloat16,products=float32` of the parts that it names.

        Args:
            given: `"bfloat16"`, `torch.bfloat16`, `"passes=bfloat16,products=float32"`, or a `Precision`.

        Raises:
            SpecError: E0563 and E0875 for what says no precision.
        """
        if isinstance(given, Precision):
            return given
        if isinstance(given, torch.dtype):
            return Precision(_checked("passes", given))
        if not isinstance(given, str):
            raise another_type("precision", given, "a precision", '`precision="bfloat16"`')
        parts = [part.strip() for part in given.split(",")]
        if len(parts) == 1 and "=" not in given:
            return Precision(_checked("passes", parts[0]))
        return Precision(**_named(given, parts))

    def check_on(self, device: torch.device) -> None:
        """Refuse what a device has no products in.

        Raises:
            SpecError: E0876 for TF32 on another device than CUDA.
        """
        for part in ("passes", "products"):
            if getattr(self, part) == "tf32" and device.type != "cuda":
                raise refusal(
                    Code.E0876,
                    f"`{part} = tf32` on the device `{device.type}`, which has no TF32",
                    "use `float32`, which is as exact or more; or `bfloat16`, which is faster",
                    notes=("TF32 is a format of products on CUDA devices",),
                )

    def __str__(self) -> str:
        """The shortest text that `of` reads as the same."""
        if self == Precision(self.passes):
            return self.passes
        plain = Precision(self.passes)
        parts = [x.name for x in fields(self) if getattr(self, x.name) != getattr(plain, x.name)]
        named = ["passes", *(x for x in parts if x != "passes")]
        return ",".join(f"{x}={getattr(self, x)}" for x in named)


PrecisionLike: TypeAlias = Precision | str | torch.dtype
"""A policy, its text, or the type of the passes."""


def agreed(
    precision: PrecisionLike | None,
    dtype: torch.dtype | None,
    products: torch.dtype | None = None,
    *,
    device: torch.device | None = None,
) -> Precision | None:
    """The policy that the arguments of a function say; None where none of them is given.

    Args:
        precision: The policy.
        dtype: That of the passes alone, by its older name.
        products: That of the products alone, likewise.
        device: Where it is computed.

    Raises:
        SpecError: E0877 where two of them disagree, E0876 for what the device has no products in.
    """
    if precision is None:
        return None if dtype is None else Precision.of(dtype)
    found = Precision.of(precision)
    if device is not None:
        found.check_on(device)
    for name, other, own in (
        ("dtype", dtype, found.dtype),
        ("products", products, found.scored),
    ):
        if other is not None and other != own:
            raise refusal(
                Code.E0877,
                f"`precision` and `{name}` disagree: `{found}` and `{str(other).removeprefix('torch.')}`",
                f"leave `{name}` out: `precision` says both",
            )
    return found


def narrow_matrices(policy: Precision | None) -> torch.dtype | None:
    """What matrices are decomposed in, where that is less than they come in."""
    return torch.float32 if policy is not None and policy.decompositions == "float32" else None


def _checked(part: str, value: Any) -> str:
    if part == "products" and value == "":
        return ""
    if isinstance(value, torch.dtype):
        value = str(value).removeprefix("torch.")
    if not isinstance(value, str):
        raise another_type(part, value, "a precision", f'`{part}="float32"`')
    if value not in KINDS:
        raise _unknown(part, value)
    if part == "decompositions" and value not in WIDE:
        raise refusal(
            Code.E0878,
            f"`decompositions = {value}`: matrices are decomposed in float32 or float64",
            "leave `decompositions` out, or write `decompositions=float32`",
            notes=("eigenvectors of a matrix that is rounded to 8 or 11 bits are mostly rounding",),
        )
    return value


def _unknown(part: str, value: str) -> SpecError:
    choices = ", ".join(f"`{name}`" for name in KINDS)
    slow = value == "float16"
    notes = (
        ("numbers of float16 end at 65504, and processors have no products in it",) if slow else ()
    )
    return refusal(
        Code.E0875,
        f"`{value}` is not a precision of {part}",
        "use `bfloat16`" if slow else f"use one of {choices}",
        notes=notes,
    )


def _named(given: str, parts: list[str]) -> dict[str, str]:
    known = [field.name for field in fields(Precision)]
    found: dict[str, str] = {}
    for part in parts:
        name, sign, value = (x.strip() for x in part.partition("="))
        if not sign or name not in known or name in found:
            twice = name in found
            raise refusal(
                Code.E0875,
                f"`{given}` is not a precision: `{part}` {'comes twice' if twice else 'names no part'}",
                "write one name, `bfloat16`, or parts: `passes=bfloat16,products=float32`",
                notes=(f"parts are {', '.join(known)}",),
            )
        found[name] = value
    return found
