"""How products of a model are formed: tried on a few examples, and checked, before they are needed.

Forward over reverse takes many vectors at once, but `torch.func` does not run every model, and of some it
gives derivatives that are wrong without a word. Reverse over reverse runs whatever autograd runs. A way is
taken where its product with a random vector agrees with a difference quotient of plain gradients (H), or
with plain backward passes (the GGN).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.models.data.rows import Rows
from curvlang.models.derivatives import forward, reverse
from curvlang.models.derivatives.difference_quotient import (
    Reference,
    direction,
    limit_of,
    moved,
    relative,
    tried,
)
from curvlang.models.derivatives.forward import RowProducts
from curvlang.models.execution.calls import whole_text
from curvlang.models.execution.custom_backward import own_functions
from curvlang.models.execution.torch_state import product_state
from curvlang.models.losses.loss import Loss
from curvlang.models.tracing.blocks import trainable
from curvlang.models.tracing.verify import EXAMPLES

FORWARD, REVERSE = "forward", "reverse"

WORDS: Mapping[str, str] = {
    FORWARD: "by tangents of the gradient",
    REVERSE: "by a second backward pass for every vector",
}
"""How a plan says which way products with the Hessian are formed."""

HESSIANS: Mapping[str, Callable[[nn.Module, Loss], RowProducts]] = {
    FORWARD: forward.hessian_rows,
    REVERSE: reverse.hessian_rows,
}
GGNS: Mapping[str, Callable[[nn.Module, Loss], RowProducts]] = {
    FORWARD: forward.ggn_rows,
    REVERSE: reverse.ggn_rows,
}

OWN = "functions with a `backward` of their own"
DIFFERENTIABLE = (
    "write `backward` by differentiable operations, without `once_differentiable`, `detach` and "
    "`no_grad`"
)
FIRST_DERIVATIVES = (
    "or fit `ggn`, or another chain with `drop_residual`: first derivatives are enough for it, but not for "
    "`evaluate`, which compares every step with the Hessian"
)


def hessian_way(model: nn.Module, loss: Loss, X: Rows, y: Rows) -> str:
    """The first way whose product with H is right: `FORWARD`, or `REVERSE`.

    Raises:
        SpecError: E0820 where the model cannot be differentiated twice, E0821 where its second
            derivatives are not those of its gradient.
    """
    few = _few(model, X, y)
    with product_state(model):
        found = _tried_ways(model, loss, few)
        if not found.right and math.isfinite(found.gap):
            # On a kink, or where zeros make a norm steep, no step is small enough: beside it one is.
            with moved(model):
                found = replace(found, right=_tried_ways(model, loss, few).right)
    if found.right:
        return found.right
    if found.ran and not math.isfinite(found.gap):
        # Not finite whichever way: the checks of results say at which example.
        return found.ran
    raise _no_hessian(model, few[0], found.error, found.gap)


@dataclass(frozen=True, slots=True)
class _Search:
    """The first way that is right, the first one that runs, the smallest gap, and what the last one raised."""

    right: str = ""
    ran: str = ""
    gap: float = math.inf
    error: Exception | None = None


def _tried_ways(model: nn.Module, loss: Loss, few: tuple[Tensor, Tensor]) -> _Search:
    """Products of every way against quotients, where the parameters are now."""
    reference = Reference(model, loss, few, reverse.gradient(model, loss, *few))
    done = _Search()
    for way, make in HESSIANS.items():
        found, error = tried(partial(_gap, reference, make(model, loss), few))
        if found is not None and found <= reference.limit:
            return _Search(right=way)
        ran = done.ran or (way if found is not None else "")
        done = _Search("", ran, min(done.gap, math.inf if found is None else found), error)
    return done


def ggn_way(model: nn.Module, loss: Loss, X: Rows, y: Rows) -> str | None:
    """The first way whose product with the GGN is right; None where there is none."""
    few = _few(model, X, y)
    with product_state(model):
        for way, make in GGNS.items():
            rows = make(model, loss)
            found, _ = tried(partial(_ggn_gap, model, loss, few, way, rows))
            if found is not None and found <= limit_of(precision(model)):
                return way
    return None


def _few(model: nn.Module, X: Rows, y: Rows) -> tuple[Tensor, Tensor]:
    """The first, the last and a middle example, on the model's device."""
    device = next(iter(trainable(model).values())).device
    rows = torch.tensor(sorted({0, len(X) // 2, len(X) - 1})[:EXAMPLES])
    return X[rows].to(device), y[rows].to(device)


def precision(model: nn.Module) -> torch.dtype:
    """The parameters' precision."""
    return next(iter(trainable(model).values())).dtype


def _gap(reference: Reference, rows: RowProducts, few: tuple[Tensor, Tensor]) -> float:
    """How far products are from the quotient, or H from symmetric; the smallest of a few trials."""
    best = math.inf
    for step, v, u in reference.directions():
        Hv, Hu = rows(*few, torch.stack([v, u]).to(reference.dtype)).double()
        wanted = reference.quotient(v, step).double()
        v, u = v.double(), u.double()
        floor = reference.size
        skew = float((u @ Hv - v @ Hu).abs())
        bound = float(u.norm() * (Hv.norm() + floor * 1e-3) + v.norm() * (Hu.norm() + floor * 1e-3))
        gap = max(relative(Hv, wanted, floor * 1e-3), skew * math.sqrt(len(v)) / max(bound, 1e-300))
        best = min(best, gap)
        if best <= reference.limit:
            break
    return best


def _ggn_gap(
    model: nn.Module, loss: Loss, few: tuple[Tensor, Tensor], way: str, rows: RowProducts
) -> float:
    """How far J v is from the adjoint of plain backward passes, and G v from what follows."""
    X, y = few
    own = list(trainable(model).values())
    generator = torch.Generator().manual_seed(0)
    v = direction(own, generator).to(precision(model))
    f = model(X)
    tangent = _tangent(model, X, f, own, v, way)
    w = torch.randn(f.shape, generator=generator, dtype=torch.float64).to(f)
    back = reverse.pull_back(model, f, w).double()
    left, right = float((w.double() * tangent.double()).sum()), float(back @ v.double())
    scale = float(w.double().norm() * tangent.double().norm()) / math.sqrt(f.numel())
    scale += float(back.norm() * v.double().norm()) / math.sqrt(len(v))
    curved = loss.hessian_product(f.detach(), y, tangent).reshape(f.shape)
    wanted = reverse.pull_back(model, f, curved).double()
    (found,) = rows(X, y, v.unsqueeze(0)).double()
    return max(abs(left - right) / max(scale, 1e-300), relative(found, wanted))


def _tangent(
    model: nn.Module, X: Tensor, f: Tensor, own: Sequence[Tensor], v: Tensor, way: str
) -> Tensor:
    if way == REVERSE:
        return reverse.tangents(f, own, v.unsqueeze(0))[0]
    return forward.tangent(model, X, v)


def no_products(model: nn.Module, X: Rows) -> SpecError:
    """The refusal of a model without tangents."""
    written = own_functions(model, X[:EXAMPLES].to(next(model.parameters()).device))
    return refusal(
        Code.E0820,
        "the model's outputs have no tangents: neither `torch.func.jvp` nor two backward passes give them",
        DIFFERENTIABLE,
        notes=[f"{OWN}: {', '.join(written)}"] if written else [],
    )


def _no_hessian(model: nn.Module, X: Tensor, error: Exception | None, gap: float) -> SpecError:
    """The refusal of a model without second derivatives."""
    if isinstance(error, SpecError):
        return error
    written = own_functions(model, X)
    notes = [f"{OWN}: {', '.join(written)}"] if written else []
    if error is not None:
        notes.insert(0, whole_text(error))
        repair = "replace the operation that the text names by one that can be differentiated twice"
        if written:
            repair = DIFFERENTIABLE
        return refusal(
            Code.E0820,
            "the model's loss cannot be differentiated twice",
            repair,
            FIRST_DERIVATIVES,
            notes=notes,
        )
    return refusal(
        Code.E0821,
        "the second derivatives that autograd gives are not those of the gradient: they differ by "
        f"{gap:.0%}",
        "let `backward` be differentiable, and the gradient be that of the function: no "
        "`once_differentiable`, `detach` or `no_grad` in it, no straight-through estimate, no hook that "
        "changes gradients",
        FIRST_DERIVATIVES,
        notes=notes,
    )
