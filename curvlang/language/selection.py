"""Which curvature of a spec is meant, and what the spec says about evaluating it."""

from __future__ import annotations

from curvlang.language import no_curvature
from curvlang.language.chain import Chain, Curvature, Evaluation, Spec
from curvlang.language.checking.spec import curvature_named
from curvlang.language.sums import weighted_chains


def chosen(spec: Spec, curvature: str | None = None) -> Curvature:
    """The curvature of a spec: the one named, else the one evaluated last, else the last one.

    Raises:
        SpecError: E0206 where the spec defines none of that name, or none at all.
    """
    evaluated = [e.curvature for e in spec.evaluations]
    name = curvature or next(reversed([*spec.curvatures, *evaluated]), None)
    if name is not None and name in evaluated:
        return curvature_named(name, spec)
    if name is None or name not in spec.curvatures:
        raise no_curvature(spec, curvature)
    return spec.curvatures[name]


def evaluated(spec: Spec) -> list[Curvature]:
    """What a file defines and what it evaluates, without what only preconditions a solver.

    Raises:
        SpecError: E0206 where the spec defines no curvature.
    """
    named = [e.curvature for e in spec.evaluations]
    helpers = [e.solver.preconditioner for e in spec.evaluations if e.solver is not None]
    own = {n: None for n, c in spec.curvatures.items() if n in named or c not in helpers}
    names = own | dict.fromkeys(named)
    if not names:
        raise no_curvature(spec)
    return [curvature_named(name, spec) for name in names]


def evaluation_of(spec: Spec, curvature: Curvature) -> Evaluation | None:
    """What the spec says about evaluating a curvature."""
    return next((e for e in reversed(spec.evaluations) if e.curvature == curvature.name), None)


def chains_of(curvature: Curvature) -> tuple[Chain, ...]:
    """The chains that a curvature is made of."""
    return tuple(chain for _, chain in weighted_chains(curvature))
