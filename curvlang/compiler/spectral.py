"""Inverse declarations as functions of eigenvalues.

In: `inverse tikhonov(damping = 0.1 * mean(s)): s -> 1 / (s + damping)` with its arguments and the
spectrum of the whole curvature. Out: an elementwise function on eigenvalue tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import assert_never

import torch
from torch import Tensor

from curvlang.diagnostics.diagnostic import Diagnostic, Label, SpecError
from curvlang.ir.expr import (
    Apply,
    Binary,
    BinaryOperator,
    Call,
    Delta,
    Expr,
    Negate,
    Number,
    Reduce,
    Ref,
    Size,
)
from curvlang.language.chain import InverseUse

_PROBE = 1e-30
"""Where the limit at eigenvalue zero is read off: the square root of float64's smallest scale."""
_REMOVABLE = 1e-6
"""Relative change between the probe and twice the probe that still counts as one limit."""

Spectral = Callable[[Tensor], Tensor]


def bind(use: InverseUse, spectrum: Tensor) -> Spectral:
    """The inverse as a function of eigenvalues, its parameters evaluated on the whole spectrum.

    Raises:
        SpecError: E0321 where a parameter is missing, E0322 where the function has no finite
            value at an eigenvalue.
    """
    environment: dict[str, Tensor] = {}
    for name, default in use.inverse.parameters.items():
        expr = use.arguments.get(name, default)
        if expr is None:
            raise _missing(use, name)
        environment[name] = _value(expr, {use.inverse.argument: spectrum}, spectrum)
    body = use.inverse.body

    def function(eigenvalues: Tensor) -> Tensor:
        local = {k: v.to(eigenvalues) for k, v in environment.items()}
        found = _at(body, use.inverse.argument, eigenvalues, local, spectrum)
        if not bool(torch.isfinite(found).all()):
            found = torch.where(
                torch.isfinite(found), found, _limit(use, eigenvalues, local, spectrum)
            )
        return found

    return function


def parameters(use: InverseUse, spectrum: Tensor) -> Mapping[str, float]:
    """The values the parameters take on a spectrum, for printing."""
    return {
        name: float(_value(expr, {use.inverse.argument: spectrum}, spectrum))
        for name, default in use.inverse.parameters.items()
        if (expr := use.arguments.get(name, default)) is not None
    }


def _at(
    body: Expr, argument: str, at: Tensor, parameters: Mapping[str, Tensor], spectrum: Tensor
) -> Tensor:
    return _value(body, {argument: at, **parameters}, spectrum).expand_as(at)


def _limit(
    use: InverseUse, eigenvalues: Tensor, parameters: Mapping[str, Tensor], spectrum: Tensor
) -> Tensor:
    """The value at eigenvalue zero where the singularity is removable, as (1 − e^{−cs})/s has."""
    argument = use.inverse.argument
    near, far = (
        _at(use.inverse.body, argument, torch.full_like(eigenvalues, s), parameters, spectrum)
        for s in (_PROBE, 2 * _PROBE)
    )
    removable = (near - far).abs() <= _REMOVABLE * near.abs()
    if not bool((removable & torch.isfinite(near)).all()):
        raise SpecError(
            Diagnostic(
                "E0322",
                f"the inverse `{use.inverse.name}` is not finite at an eigenvalue of the curvature",
                (Label(use.span, "the curvature is singular here"),) if use.span.end else (),
                ("add damping, or use `pseudo`, which leaves null directions out",),
            )
        )
    return near


def _missing(use: InverseUse, name: str) -> SpecError:
    return SpecError(
        Diagnostic(
            "E0321",
            f"the inverse `{use.inverse.name}` needs a value for `{name}`",
            (Label(use.span, "no value given, and no default declared"),) if use.span.end else (),
            (f"write `{use.inverse.name}({name} = …)`",),
        )
    )


def _value(expr: Expr, known: Mapping[str, Tensor], spectrum: Tensor) -> Tensor:
    go = lambda x: _value(x, known, spectrum)  # noqa: E731
    match expr:
        case Number(value=value):
            return spectrum.new_tensor(value)
        case Ref(name=name):
            return known[name]
        case Negate(operand=operand):
            return -go(operand)
        case Binary(
            operator=BinaryOperator.SUBTRACT,
            left=Number(value=1.0),
            right=Apply(function="exp", arguments=(exponent,)),
        ):
            return -torch.expm1(go(exponent))
        case Binary(operator=operator, left=left, right=right):
            return _binary(operator, go(left), go(right))
        case Apply(function=function, arguments=arguments):
            return _apply(function, [go(x) for x in arguments])
        case Call(function=function, arguments=arguments):
            return _call(function, [go(x) for x in arguments])
        case Delta() | Size() | Reduce():
            raise AssertionError("an inverse is an elementwise expression")
        case _:
            assert_never(expr)


def _binary(operator: BinaryOperator, left: Tensor, right: Tensor) -> Tensor:
    match operator:
        case BinaryOperator.ADD:
            return left + right
        case BinaryOperator.SUBTRACT:
            return left - right
        case BinaryOperator.MULTIPLY:
            return left * right
        case BinaryOperator.DIVIDE:
            return left / right
        case BinaryOperator.POWER:
            return left**right
        case _:
            assert_never(operator)


def _apply(function: str, arguments: list[Tensor]) -> Tensor:
    match function, arguments:
        case "max" | "min", [only]:
            return only.max() if function == "max" else only.min()
        case "max", [x, y]:
            return torch.maximum(x, y.expand_as(x) if y.ndim < x.ndim else y)
        case "min", [x, y]:
            return torch.minimum(x, y.expand_as(x) if y.ndim < x.ndim else y)
        case _:
            elementwise = {"sqrt": torch.sqrt, "exp": torch.exp, "log": torch.log, "abs": torch.abs}
            return elementwise[function](arguments[0])


def _call(function: str, arguments: list[Tensor]) -> Tensor:
    match function, arguments:
        case "mean", [x]:
            return x.mean()
        case "max", [x]:
            return x.max()
        case "min", [x]:
            return x.min()
        case "where", [condition, yes, no]:
            return torch.where(condition > 0, yes, no)
        case "less", [x, y]:
            return (x < y).to(x.dtype)
        case "less_equal", [x, y]:
            return (x <= y).to(x.dtype)
        case _:
            raise AssertionError(f"`{function}` has no meaning in an inverse")
