"""Operators in another precision or on another device: the same structure over moved tensors."""

from __future__ import annotations

from math import floor, inf, isfinite, log10

import torch
from torch import Tensor

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal
from curvlang.operators.basic import CholeskyInverse
from curvlang.operators.files import from_tree, to_tree
from curvlang.operators.operator import Operator
from curvlang.operators.validation import PRECISIONS
from curvlang.storage.repeated import of_once


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
            and float64, E0872 for numbers that float32 does not hold, E0610 for a device that cannot be used.
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
            kind = (dtype if tensor.is_floating_point() else None) or tensor.dtype
            done[id(tensor)] = of_once(lambda x: x.to(device=place, dtype=kind), tensor)
            _check_range(tensor, done[id(tensor)])
        return done[id(tensor)]

    found = from_tree(tree, {name: there(tensor) for name, tensor in tensors.items()})
    if found.dtype != operator.dtype and not _holds(found, CholeskyInverse):
        # Factors may be held where their products are not.
        _check_range(operator.diagonal(), found.diagonal())
    return found


def _holds(operator: Operator, kind: type[Operator]) -> bool:
    """Whether an operator is of a kind, or made of such."""
    parts = (x for x in operator.held() if isinstance(x, Operator))
    return isinstance(operator, kind) or any(_holds(x, kind) for x in parts)


def _check_range(before: Tensor, after: Tensor) -> None:
    """Refuse numbers that another precision does not hold: infinities, or nothing but zeros.

    Raises:
        SpecError: E0872.
    """
    if after.dtype == before.dtype or not before.numel() or before.dtype != torch.float64:
        return
    largest, kept = float(before.abs().max()), float(after.abs().max())
    if isfinite(kept) == isfinite(largest) and (kept or not largest):
        return
    factor = f"{10.0 ** -floor(log10(largest)):.0e}" if largest < inf else "0.1"
    name = str(after.dtype).removeprefix("torch.")
    limits = torch.finfo(after.dtype)
    side = f"above {limits.max:.2g}" if kept else f"below {limits.smallest_normal:.2g}"
    raise refusal(
        Code.E0872,
        f"a part of the operator is of size {largest:.2g}, {side}: {name} does not hold it",
        f"stay in float64, or scale the operator first: `({factor} * op).to(torch.{name})`",
    )


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
