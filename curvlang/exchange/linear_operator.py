"""A curvature as a linear operator of curvlinops, for its traces, diagonals, inverses and norms."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal
from curvlang.diagnostics.values import another_type
from curvlang.runtime.fitted import FittedOperator
from curvlang.runtime.vectors import parameters_of


def to_curvlinops(op: FittedOperator, model: nn.Module | None = None) -> Any:
    """The curvature as a `curvlinops.PyTorchLinearOperator`, symmetric.

    It multiplies vectors `[P]`, matrices `[P, k]`, and lists of tensors in the shapes of the parameters.

    Args:
        op: The curvature, or its inverse.
        model: Whose parameters have the shapes of the lists; without it a list is one tensor `[P]`.

    Raises:
        SpecError: E0563 for other types, E0923 for a model with other parameters, E0927 where curvlinops
            is not installed.
    """
    if not isinstance(op, FittedOperator):
        raise another_type("op", op, "a fitted curvature", "`cv.fit(spec, task)`")
    P = op.shape[0]
    shapes = [torch.Size([P])]
    if model is not None:
        shapes = [p.shape for p in parameters_of(model, op.parameters, P).values()]
    try:
        from curvlinops._torch_base import PyTorchLinearOperator
    except ImportError as error:
        raise refusal(
            Code.E0927,
            f"an operator of curvlinops needs `curvlinops`, which cannot be imported: {error}",
            "install it with `pip install curvlinops-for-pytorch`, or use `op.to_scipy()`",
        ) from error

    class Curvature(PyTorchLinearOperator):  # type: ignore[misc]
        """The products of a curvature, in the form that curvlinops multiplies in."""

        SELF_ADJOINT = True
        device = op.operator.device
        dtype = op.operator.dtype

        def _matmat(self, X: list[Tensor]) -> list[Tensor]:
            columns = torch.cat([x.reshape(-1, x.shape[-1]) for x in X])
            pieces = (op @ columns).split([shape.numel() for shape in shapes])
            return [y.reshape(*s, -1) for y, s in zip(pieces, shapes, strict=True)]

    return Curvature(shapes, shapes)
