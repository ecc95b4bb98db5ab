"""Operators in another precision or on another device: the same structure over moved tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal
from curvlang.operators.files import from_tree, to_tree
from curvlang.operators.operator import Operator

PRECISIONS = (torch.float32, torch.float64)
"""What decompositions are computed in."""


def moved(
    operator: Operator,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Operator:
    """The same structure; what is given decides precision and place, positions stay integers.

    Args:
        operator: Any structure that holds tensors; a matrix-free one is refused.
        dtype: Of the numbers; theirs where not given.
        device: Where they are to lie; where they lie where not given.

    Raises:
        SpecError: E0603 for a structure without tensors, E0758 for another precision than float32
            and float64, E0610 for a device that cannot be used.
    """
    if dtype is not None and dtype not in PRECISIONS:
        raise refusal(
            Code.E0758,
            f"`{dtype}` is not a precision of operators: eigendecompositions need float32 or more",
            "give `torch.float32` or `torch.float64`",
        )
    place = operator.device if device is None else usable(device)
    tensors: dict[str, Tensor] = {}
    tree = to_tree(operator, "op", tensors)
    done: dict[int, Tensor] = {}

    def there(tensor: Tensor) -> Tensor:
        # What two blocks share stays one tensor.
        if id(tensor) not in done:
            kind = dtype if tensor.is_floating_point() else None
            done[id(tensor)] = tensor.to(device=place, dtype=kind or tensor.dtype)
        return done[id(tensor)]

    return from_tree(tree, {name: there(tensor) for name, tensor in tensors.items()})


def usable(device: torch.device | str) -> torch.device:
    """The device, where a tensor can lie on it.

    Raises:
        SpecError: E0610.
    """
    try:
        found = torch.device(device)
        torch.zeros(1, device=found).item()
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        reason = str(error).split("\n")[0]
        raise refusal(
            Code.E0610, f"the device `{device}` cannot be used: {reason}", "use `cpu`"
        ) from error
    return found
