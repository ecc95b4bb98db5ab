"""The natural gradient: a curvature as a preconditioner of the gradients that an optimiser of torch reads."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.notebook import Display
from curvlang.diagnostics.refusal import refusal
from curvlang.diagnostics.values import another_type
from curvlang.runtime.fitted import FittedOperator
from curvlang.runtime.vectors import by_parameter, joined, parameters_of


class NaturalGradient(Display):
    """Replaces the gradients g of a model's parameters by (C + λI)⁻¹ g, for any optimiser of torch.

    Between `loss.backward()` and `optimizer.step()` call `step`, or let the optimiser do so:
    `optimizer.register_step_pre_hook(lambda *_: natural.step())`. What the optimiser adds itself,
    momentum and weight decay, comes after the inverse.

    Args:
        op: A curvature of the mean loss, fitted on this model or on one of its architecture.
        model: Whose gradients are replaced.
        damping: λ, added to the matrix exactly; None for the inverse that the spec names.
        others: What happens to parameters that the curvature does not cover: `refuse`, or `keep`
            their gradients as they are.

    Raises:
        SpecError: E0563 for other types, E0923 for a model whose parameters are others, E0929 where it
            has more of them, or frozen ones.
    """

    def __init__(
        self,
        op: FittedOperator,
        model: nn.Module,
        damping: float | None = None,
        *,
        others: str = "refuse",
    ) -> None:
        if not isinstance(op, FittedOperator):
            raise another_type("op", op, "a fitted curvature", "`cv.fit(spec, task)`")
        if others not in ("refuse", "keep"):
            raise another_type("others", others, "`refuse` or `keep`", '`others="keep"`')
        self._parameters = parameters_of(model, op.parameters, op.shape[0])
        beside = [
            name
            for name, p in model.named_parameters()
            if p.requires_grad and name not in self._parameters
        ]
        if beside and others == "refuse":
            raise refusal(
                Code.E0929,
                f"the curvature does not cover `{beside[0]}`, whose gradient would stay as it is",
                'say so, `others="keep"`, or fit a curvature with a clause `others = diagonal`',
            )
        frozen = [name for name, p in self._parameters.items() if not p.requires_grad]
        if frozen:
            raise refusal(
                Code.E0929,
                f"`{frozen[0]}` takes part in the curvature and has no gradient: it is frozen",
                "fit the curvature again now that it is frozen, or let it train",
            )
        self._preconditioner = op.inverse(damping)

    def _summary(self) -> str:
        return f"of {len(self._parameters)} parameters: {self._preconditioner.operator.describe()}"

    @torch.no_grad()
    def step(self) -> None:
        """Replace every gradient, in place; one that is None counts as zero.

        Raises:
            SpecError: E0929 where no parameter has a gradient.
        """
        if all(p.grad is None for p in self._parameters.values()):
            raise refusal(
                Code.E0929,
                "no parameter has a gradient",
                "call `step` after `loss.backward()` and before `optimizer.step()`",
            )
        for p in self._parameters.values():
            if p.grad is None:
                p.grad = torch.zeros_like(p)
            elif p.grad.layout is not torch.strided:
                p.grad = p.grad.to_dense()
        held = self._preconditioner.operator
        g = joined([_gradient(p) for p in self._parameters.values()], held.dtype, held.device)
        found = by_parameter(self._preconditioner @ g, self._parameters)
        for name, p in self._parameters.items():
            _gradient(p).copy_(found[name])


def _gradient(p: nn.Parameter) -> Tensor:
    assert p.grad is not None
    return p.grad
