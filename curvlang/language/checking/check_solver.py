"""`solve cg(preconditioner = mine)`: the solver of an evaluation, checked."""

from __future__ import annotations

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import Diagnostic
from curvlang.diagnostics.refusal import label_at
from curvlang.diagnostics.source import Span
from curvlang.language.chain import Curvature, InverseUse, Solver
from curvlang.language.checking.arguments import arguments
from curvlang.language.checking.chains import Chains
from curvlang.language.checking.inverses import shift
from curvlang.language.checking.names import Names
from curvlang.language.registry import NONE, SOLVERS
from curvlang.language.syntax import nodes as s
from curvlang.language.syntax.problems import Problems


def check_solver(
    use: s.Use, inverse: InverseUse | None, names: Names, chains: Chains, problems: Problems
) -> Solver | None:
    """A solver with every argument known; None (and a diagnostic) where something is wrong.

    Args:
        use: The line as written.
        inverse: What it is to apply; None for the default, which is `1 / (s + damping)`.
        names: What the file sees.
        chains: Types the preconditioner.
        problems: Collects diagnostics.
    """
    entry = SOLVERS.get(use.name)
    if entry is None:
        problems.unknown(Code.E0734, "solver", use.name, use.name_span, SOLVERS)
        return None
    before = len(problems)
    if inverse is not None and shift(inverse.inverse) is None:
        problems.append(another_equation(use.name, use.span, inverse))
    given = arguments(use, entry, {}, problems)
    name = str(given.get("preconditioner", NONE))
    found = None if name == NONE else _preconditioner(name, use, names, chains, problems)
    if len(problems) > before:
        return None
    return Solver(use.name, given, found, use.span)


def another_equation(solver: str, span: Span, use: InverseUse) -> Diagnostic:
    """What is wrong with an inverse that is not the solution of a linear system.

    Args:
        solver: Its name.
        span: Where it is written.
        use: The inverse.
    """
    return Diagnostic(
        Code.E0735,
        f"`{solver}` solves (C + λI) x = v, which is not what `{use.inverse.name}` asks for",
        (
            *label_at(span, "solves linear systems"),
            *label_at(use.span, "is not `s -> 1 / (s + λ)`"),
        ),
        (
            "use `tikhonov(damping = …)`, or leave the solver out: other functions need the spectrum",
        ),
    )


def _preconditioner(
    name: str, use: s.Use, names: Names, chains: Chains, problems: Problems
) -> Curvature | None:
    definition = names.curvatures.get(name)
    if definition is None:
        span = next((a.span for a in use.arguments if a.name == "preconditioner"), use.span)
        problems.unknown(Code.E0206, "curvature", name, span, (*names.curvatures, NONE))
        return None
    return chains.curvature(definition)
