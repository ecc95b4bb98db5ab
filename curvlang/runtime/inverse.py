"""C⁻¹ as a spec means it: an inverse declaration applied to an operator, in closed form or solved."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import torch
from torch import Tensor

from curvlang.compiler.algebra.spectral import bind, bind_factors, number, reads_spectrum
from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import label_at, refusal
from curvlang.ir.expr import Expr
from curvlang.language.chain import InverseUse
from curvlang.language.checking.inverses import shift
from curvlang.operators import (
    BlockDiagonal,
    CholeskyInverse,
    ConjugateGradients,
    Dense,
    EigenBasis,
    ExampleMean,
    Gram,
    Identity,
    Kronecker,
    MatrixFree,
    Operator,
    Scaled,
    Spectral,
    Stacked,
    Sum,
    stacked,
)
from curvlang.operators.iterative.iteration import Progress, Report
from curvlang.operators.operator import unchecked
from curvlang.operators.places import Places
from curvlang.operators.spectrum import narrowed, symmetric_eigh
from curvlang.runtime.passes.entries import by_entries
from curvlang.runtime.solver import FittedSolver
from curvlang.storage.repeated import again, once


def invert(
    operator: Operator,
    use: InverseUse,
    solver: FittedSolver | None = None,
    *,
    by_example: ExampleMean | None = None,
    report: Report | None = None,
    progress: Progress | None = None,
) -> Operator:
    """The inverse of an operator under a declaration.

    A number added to the diagonal of a dense matrix, or of a dense block, needs no eigenvalues where
    Cholesky's factorisation exists. A function of the factors' eigenvalues goes to Kronecker blocks; a solver to matrices without
    structure; what is known by its products alone is solved by conjugate gradients; a matrix that is stated
    by its entries is applied in passes over the examples; all else is a
    function of the spectrum, of the whole operator or of each block.

    Args:
        operator: C.
        use: The inverse with its arguments.
        solver: The spec's `solve` line; None for the closed form where there is one.
        by_example: Where the solver's minibatches come from.
        report: Receives the record of every solve.
        progress: Called after every step of a solve.

    Raises:
        SpecError: Where the structure does not allow the inverse, by name and with the reason.
    """
    if use.inverse.entries is not None:
        return by_entries(operator, use, by_example)
    if len(use.inverse.arguments) > 1:
        return _by_block(operator, lambda block, name: _factored(block, use, name))
    shifted = shift(use.inverse)
    if solver is not None and unstructured(operator):
        if shifted is None:
            solver.refuse(use)
        return solver.inverse(
            operator, _damping(operator, use, shifted), by_example, report, progress
        )
    if not operator.spectrum_known:
        if shifted is None:
            _no_spectrum(operator, use)
        return _solved(operator, _damping(operator, use, shifted), report, progress)
    if not use.inverse.per_block:
        return _in_closed_form(operator, use, shifted)
    form = operator if isinstance(operator, BlockDiagonal) else operator.spectral_form()
    return _by_block(form, lambda block, _: _in_closed_form(block, use, shifted))


def _in_closed_form(operator: Operator, use: InverseUse, shifted: Expr | None) -> Operator:
    """From Cholesky's factors where λ is added and needs no eigenvalues, else from the spectrum."""
    if shifted is not None and not reads_spectrum(use, shifted, beyond_mean=True):
        mean = (operator.trace() / operator.size).reshape(1)
        found = _by_cholesky(operator, number(use, shifted, mean), bind(use, mean))
        if found is not None:
            return found
    form = operator.spectral_form()
    return form.spectral(bind(use, form.eigenvalues()))


def _by_cholesky(operator: Operator, damping: float, function: Spectral) -> Operator | None:
    """(C + λI)⁻¹ of matrices without structure, P³/3 operations where a decomposition takes 9 P³.

    None where there is no such matrix, and where C + λI is not positive definite in the precision it
    has. Of other blocks `function` is taken, which is the same inverse.
    """
    if isinstance(operator, BlockDiagonal):
        found = [_by_cholesky(block, damping, function) for block in operator.parts]
        if all(x is None for x in found):
            return None
        pairs = zip(found, operator.parts, strict=True)
        return operator.with_parts(
            block.spectral(function) if x is None else x for x, block in pairs
        )
    if isinstance(operator, Stacked):
        if not _has_entries(operator.stack):
            return None
        matrix = once(operator.of_each(_entries))
    elif _has_entries(operator):
        matrix = _entries(operator)
    else:
        return None
    matrix.diagonal(dim1=-2, dim2=-1).add_(damping)
    root, failed = torch.linalg.cholesky_ex(narrowed(matrix))
    if bool(failed.any()):
        return None
    root = root.to(matrix.dtype)
    if isinstance(operator, Stacked):
        one = unchecked(CholeskyInverse, {"root": again(root, operator.groups)})
        return Stacked(one, operator.groups, operator.length)
    return CholeskyInverse(root)


def _has_entries(operator: Operator) -> bool:
    """Whether it is a matrix without structure, a multiple or a sum of such, also with c I."""
    match operator:
        case Dense():
            return True
        case Scaled(operator=inner):
            return _has_entries(inner)
        case Sum(terms=terms):
            parts = [t for t in terms if not isinstance(t, Identity)]
            return bool(parts) and all(map(_has_entries, parts))
        case _:
            return False


def _entries(operator: Operator) -> Tensor:
    """Entries of what has them, in a tensor of their own."""
    match operator:
        case Scaled(factor=factor, operator=inner):
            return _entries(inner).mul_(factor)
        case Sum(terms=terms):
            whole = sum(_entries(t) for t in terms if not isinstance(t, Identity))
            assert isinstance(whole, Tensor)
            whole.diagonal().add_(sum(t.scale for t in terms if isinstance(t, Identity)))
            return whole
        case Dense(matrix=matrix):
            return matrix.clone()
        case _:
            raise AssertionError(operator.structure)


def unstructured(operator: Operator) -> bool:
    """Whether any part has no structure that makes its inverse cheap: solvers are for these."""
    match operator:
        case Dense() | Gram() | MatrixFree():
            return True
        case Scaled(operator=inner):
            return unstructured(inner)
        case Sum(terms=terms):
            return any(map(unstructured, terms))
        case Stacked(stack=stack):
            return unstructured(stack)
        case BlockDiagonal(parts=parts):
            return any(map(unstructured, parts))
        case _:
            return False


def decomposed(operator: Operator, use: InverseUse, solver: FittedSolver | None) -> Operator:
    """The form from which `invert` costs least when it is called again with other parameters."""
    solved = solver is not None and unstructured(operator)
    if len(use.inverse.arguments) != 1 or solved or not operator.spectrum_known:
        return operator
    return operator.spectral_form()


def _by_block(operator: Operator, make: Callable[[Operator, str], Operator]) -> Operator:
    """Block by block; an operator without blocks is one block, called `model`."""
    if not isinstance(operator, BlockDiagonal):
        return make(operator, "model")
    parts: list[Operator] = []
    places: list[Places] = []
    for names, part, own in operator.named_parts():
        made = [make(unit, name) for unit, name in zip(part.units(), names, strict=True)]
        together = stacked(made)
        parts += made if together is None else [together]
        places += own.parts(part.count) if together is None else [own]
    return BlockDiagonal(operator.names, tuple(parts), tuple(places))


def _factored(block: Operator, use: InverseUse, name: str) -> Operator:
    """f(G, A) = (U⊗V) diag(f(s_G, s_A)) (U⊗V)ᵀ for G ⊗ A; everything else is refused by name."""
    match block:
        case Scaled(factor=factor, operator=Kronecker(left=left, right=right)):
            return _factored(Kronecker(factor * left, right), use, name)
        case Kronecker(left=left, right=right):
            g, u = symmetric_eigh(left, "a Kronecker factor over outputs")
            a, v = symmetric_eigh(right, "a Kronecker factor over inputs")
            return EigenBasis(u, v, bind_factors(use, g, a))
        case _:
            raise refusal(
                Code.E0791,
                f"`{use.inverse.name}` needs two Kronecker factors, and `{name}` is "
                f"{block.structure}: {_reason(block)}",
                "use `tikhonov(damping = …)`, which adds λ to the matrix whatever its structure",
                labels=label_at(use.span),
            )


def _reason(block: Operator) -> str:
    match block:
        case EigenBasis():
            return "its spectrum is not a product of two"
        case Sum(terms=terms) if any(isinstance(t, Kronecker) for t in terms):
            return "G ⊗ A plus another term (weight decay?) is not a product"
        case _:
            return "it is not a product G ⊗ A"


def _solved(
    operator: Operator, damping: float, report: Report | None, progress: Progress | None
) -> Operator:
    """(C + λI)⁻¹: conjugate gradients where products are all there is, closed forms elsewhere."""
    if isinstance(operator, BlockDiagonal):
        return _by_block(operator, lambda block, _: _solved(block, damping, report, progress))
    if operator.spectrum_known:
        return operator.inverse(damping)
    return ConjugateGradients(operator, damping, report=report, progress=progress)


def stated_damping(use: InverseUse) -> float | None:
    """λ of an inverse (C + λI)⁻¹ where it is one number for every curvature; None elsewhere."""
    shifted = shift(use.inverse)
    if shifted is None or reads_spectrum(use, shifted):
        return None
    return number(use, shifted, torch.zeros(1, dtype=torch.float64))


def _damping(operator: Operator, use: InverseUse, expr: Expr) -> float:
    stated = stated_damping(use)
    if stated is not None:
        return stated
    if not operator.spectrum_known:
        name = use.inverse.name
        raise refusal(
            Code.E0790,
            f"`{name}` takes its damping from the spectrum, and the curvature is known by its "
            "products alone",
            f"give a number, as in `{name}(damping = 1e-2)`",
            labels=label_at(use.span),
        )
    return number(use, expr, operator.eigenvalues())


def _no_spectrum(operator: Operator, use: InverseUse) -> NoReturn:
    raise refusal(
        Code.E0790,
        f"`{use.inverse.name}` needs the eigenvalues of the curvature, which is known by its "
        f"products alone ({operator.size} rows)",
        "use `tikhonov(damping = …)`, which conjugate gradients solve, or a structured curvature",
        labels=label_at(use.span),
    )
