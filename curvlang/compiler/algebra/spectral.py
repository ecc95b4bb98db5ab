"""Inverse declarations as functions of eigenvalues.

In: `inverse tikhonov(damping = 0.1 * mean(s)): s -> 1 / (s + damping)` with its arguments and a
spectrum. Out: an elementwise function on eigenvalue tensors, or its values on the grid of two
factors' eigenvalues.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NoReturn

import torch
from torch import Tensor

from curvlang.compiler.algebra.elementwise import value
from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import label_at, refusal
from curvlang.ir.expr import Call, Expr, Ref
from curvlang.ir.functions import SPECTRUM
from curvlang.ir.indices import walk
from curvlang.language.chain import InverseUse
from curvlang.language.registry import INVERSES
from curvlang.language.registry.kinds import misses
from curvlang.operators.spectrum import singular

_REMOVABLE = 1e-6
"""Relative change between probes around zero that still counts as one limit."""
_POLE = 0.25
"""|f| · rounding above this, and a change by half within rounding: the value is a pole's."""

Spectral = Callable[[Tensor], Tensor]


def bind(use: InverseUse, spectrum: Tensor) -> Spectral:
    """The inverse as a function of eigenvalues, its parameters evaluated on a spectrum.

    Args:
        use: An inverse of one argument with its arguments.
        spectrum: What `mean(s)`, `max(s)` and `min(s)` run over.

    Raises:
        SpecError: E0321 where a parameter is missing, E0330 where one has no value that makes
            sense, and from the function E0322 where it has no finite value at an eigenvalue, E0601
            where an eigenvalue is a pole to rounding.
    """
    (argument,) = use.inverse.arguments
    whole = environment(use, {argument: spectrum})
    numbers = {name: whole[name] for name in use.inverse.parameters}

    def at(eigenvalues: Tensor) -> Tensor:
        local = {argument: eigenvalues, **{k: v.to(eigenvalues) for k, v in numbers.items()}}
        for name, expr in use.inverse.bindings:
            local[name] = value(expr, local, whole)
        return value(use.inverse.body, local, whole).expand_as(eigenvalues)

    def function(eigenvalues: Tensor) -> Tensor:
        if not eigenvalues.numel():
            return eigenvalues
        tiny = torch.finfo(eigenvalues.dtype).tiny
        s = torch.where(eigenvalues.abs() < tiny, 0.0, eigenvalues)
        found = at(s)
        if not bool(torch.isfinite(found).all()):
            found = _at_zero(use, at, s, found)
        _check_poles(use, at, s, found)
        return found

    return function


def bind_factors(use: InverseUse, g: Tensor, a: Tensor) -> Tensor:
    """A function of two factors' eigenvalues, `[O]` and `[I]`, on their grid `[O, I]`.

    Reductions run over the factors' own spectra.

    Raises:
        SpecError: As `bind`.
    """
    first, second = use.inverse.arguments
    whole = environment(use, {first: g[:, None], second: a[None, :]})
    found = value(use.inverse.body, whole, whole).expand(len(g), len(a))
    if not bool(torch.isfinite(found).all()):
        _not_finite(use, "for the eigenvalues of the two factors")
    return found.clone()


def number(use: InverseUse, expr: Expr, spectrum: Tensor) -> float:
    """The value of a formula that does not move with the eigenvalue, λ in `1 / (s + λ)`."""
    whole = environment(use, {use.inverse.arguments[0]: spectrum})
    return float(value(expr, whole, whole))


def reads_spectrum(use: InverseUse, expr: Expr, *, beyond_mean: bool = False) -> bool:
    """Whether a formula, or a parameter or binding that it names, reduces over the spectrum.

    Args:
        use: The inverse.
        expr: The formula.
        beyond_mean: Whether `mean(s)` of the argument itself is left out: the trace gives it.
    """
    given = {**use.inverse.parameters, **use.arguments, **dict(use.inverse.bindings)}
    plain = {("mean", (Ref(x),)) for x in use.inverse.arguments} if beyond_mean else set()
    waiting, seen = [expr], set[str]()
    while waiting:
        for node in walk(waiting.pop()):
            match node:
                case Call(function=function, arguments=arguments) if function in SPECTRUM:
                    if (function, arguments) not in plain:
                        return True
                # A name is looked into once, however many formulas name it.
                case Ref(name=name) if name not in seen and (found := given.get(name)) is not None:
                    seen.add(name)
                    waiting.append(found)
                case _:
                    pass
    return False


def parameters(use: InverseUse, spectrum: Tensor) -> Mapping[str, float]:
    """The values the parameters take on a spectrum, for printing."""
    whole = environment(use, {use.inverse.arguments[0]: spectrum})
    return {name: float(whole[name]) for name in use.inverse.parameters}


def environment(use: InverseUse, spectra: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Arguments, parameters and bindings of an inverse over whole spectra."""
    known = dict(spectra)
    known.setdefault("", torch.zeros((), dtype=torch.float64))
    for name, default in use.inverse.parameters.items():
        expr = use.arguments.get(name, default)
        if expr is None:
            _missing(use, name)
        known[name] = value(expr, known, known)
        _check_parameter(use, name, float(known[name]))
    for name, expr in use.inverse.bindings:
        known[name] = value(expr, known, known)
    return known


def _at_zero(use: InverseUse, at: Callable[[Tensor], Tensor], s: Tensor, found: Tensor) -> Tensor:
    """The limit at eigenvalue zero where there is one, as (1 − e^{−cs})/s has."""
    probe = torch.finfo(s.dtype).tiny ** 0.5
    points = s.new_tensor([probe, 2 * probe, -probe])
    limits = at(points)
    limit = limits[0]
    wrong = ~torch.isfinite(found) & (s != 0)
    if bool(wrong.any()):
        worst = float(s[wrong][0])
        _not_finite(use, f"at the eigenvalue {worst:.3g}")
    same = (limits - limit).abs() <= _REMOVABLE * limit.abs()
    if not bool((same & torch.isfinite(limits)).all()):
        _not_finite(use, "at an eigenvalue that is zero", singular=True)
    return torch.where(torch.isfinite(found), found, limit)


def _check_poles(use: InverseUse, at: Callable[[Tensor], Tensor], s: Tensor, found: Tensor) -> None:
    """Refuse values that rounding of the eigenvalues decides: 1/(s + λ) where s is −λ to rounding."""
    width = torch.finfo(s.dtype).eps * s.abs().max()
    large = found.abs() * width > _POLE
    if not bool(large.any()):
        return
    near, values = s[large], found[large]
    for moved in (at(near - width), at(near + width)):
        wrong = ~((moved - values).abs() <= 0.5 * values.abs())
        if bool(wrong.any()):
            raise singular(
                f"C is singular under `{use.inverse.name}`",
                f"the eigenvalue {float(near[wrong][0]):.3g} is a pole to rounding",
                label_at(use.span),
            )


def _check_parameter(use: InverseUse, name: str, found: float) -> None:
    shown = f"`{name}` of the inverse `{use.inverse.name}` evaluates to {found:.3g}"
    if found != found or found in (float("inf"), float("-inf")):
        raise refusal(Code.E0330, shown, f"give `{name}` a number", labels=label_at(use.span))
    must = misses(found, INVERSES[name].kind) if name in INVERSES else ""
    if must:
        help_ = f"give `{name}` a number of {must}: the spectrum's mean may be negative"
        raise refusal(Code.E0330, shown, help_, labels=label_at(use.span))


def _not_finite(use: InverseUse, where: str, singular: bool = False) -> NoReturn:
    repair = "add damping, or use `pseudo`, which leaves null directions out"
    other = "choose arguments for which the formula is finite at every eigenvalue"
    raise refusal(
        Code.E0322,
        f"the inverse `{use.inverse.name}` is not finite {where}",
        repair if singular else other,
        labels=label_at(use.span),
    )


def _missing(use: InverseUse, name: str) -> NoReturn:
    raise refusal(
        Code.E0321,
        f"the inverse `{use.inverse.name}` needs a value for `{name}`",
        f"write `{use.inverse.name}({name} = …)`",
        labels=label_at(use.span),
    )
