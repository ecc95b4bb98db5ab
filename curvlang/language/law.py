"""What laws can say of a curvature, and what can be said of it without running it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from curvlang.language.chain import Chain, Combination, Curvature, Property, Stage
from curvlang.language.sums import weighted_chains

PROPERTIES: Mapping[str, str] = {
    "as_written": "the compiled curvature is the direct reading of its expressions",
    "symmetric": "C = Cᵀ, of the expressions and of the operator",
    "positive_semidefinite": "no eigenvalue below zero",
    "solves": "(C + λI)⁻¹ (C + λI) v = v for every damping λ",
    "verbs_agree": "every verb of the structure gives what the dense matrix gives",
    "any_batches": "how the data is cut into batches changes nothing",
    "any_order": "the order of the examples changes nothing",
    "repeatable": "computing it twice, and using it in between, changes nothing",
}
"""Laws about one curvature; all but the third hold for every curvature, whatever its spec says."""

MEASURES: Mapping[str, str] = {
    "trace": "the sum of the diagonal entries",
    "norm": "the Frobenius norm",
    "diagonal": "the diagonal entries",
    "eigenvalues": "the sorted eigenvalues",
    "autodiff": "the same chain by plain automatic differentiation, one example at a time",
}
"""What may stand around a curvature."""


DEFAULT_WITHIN = 1e-8
"""Relative; float64 and the condition numbers of small random tasks."""
DEFAULT_BY = 1e-3
"""Relative; far above rounding, far below what a wrong factor makes."""
DEFAULT_SCORE = 6.0
"""Standard errors that the mean of sampled curvatures may lie from the exact one."""


def property_text(statement: Property) -> str:
    """`ggn: symmetric`, as tables show it."""
    return f"{statement.subject}: {'not ' if statement.negated else ''}{statement.word}"


def _stages(curvature: Curvature) -> list[Stage]:
    return [stage for _, chain in weighted_chains(curvature) for stage in chain.stages]


def drops_residual(curvature: Curvature) -> bool:
    """Whether a chain of the curvature has columns."""
    return any(s.name == "drop_residual" for s in _stages(curvature))


def sampled(curvature: Curvature) -> bool:
    """Whether its columns come from sampled labels."""
    return any(
        s.name == "drop_residual" and s.arguments.get("fisher") == "mc" for s in _stages(curvature)
    )


def builtin(curvature: Curvature) -> bool:
    """Whether plain automatic differentiation can say what it is: no written stage, no sampling."""
    return all(s.builtin for s in _stages(curvature)) and not sampled(curvature)


def with_columns(curvature: Curvature, kind: str) -> Curvature:
    """The curvature with columns of this kind in place of its own."""
    match curvature:
        case Combination(terms=terms):
            made = tuple((w, with_columns(part, kind)) for w, part in terms)
            return replace(curvature, terms=made)
        case Chain(stages=stages):
            new = tuple(
                replace(s, arguments={**s.arguments, "fisher": kind, "samples": 1})
                if s.name == "drop_residual"
                else s
                for s in stages
            )
            return replace(curvature, stages=new)


def expects_semidefinite(curvature: Curvature) -> bool:
    """Whether a curvature must be positive semidefinite unless its spec says that it is not.

    A chain that drops the residual starts from one, and so does a formula that needs nothing of
    the model; sums with weights of one sign keep it. Whether the formulas after that keep it is
    what the law finds out.
    """
    match curvature:
        case Combination(terms=terms):
            return all(w.number >= 0 and expects_semidefinite(part) for w, part in terms)
        case Chain(stages=stages):
            return any(s.name == "drop_residual" or (s.body and not s.needs) for s in stages)
