"""What a call asks for, checked before anything runs: grids of λ, and inverses that leave λ open."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from curvlang.attribution.inverses import two_inverses, without_open_damping
from curvlang.diagnostics.values import another_type
from curvlang.evaluation.protocol import SWEEP
from curvlang.language.chain import InverseUse
from curvlang.language.checking.arguments import number
from curvlang.language.registry import GRID


def check_swept(damping: Any, inverses: Sequence[InverseUse | None], *, named: bool) -> None:
    """Refuse λ that none of the inverses leaves open.

    Args:
        damping: What was asked for; `SWEEP` where it was not.
        inverses: All of the evaluation; None is the default one, which leaves λ open.
        named: Whether they were given in place of the spec's.

    Raises:
        SpecError: E0709.
    """
    given = [x for x in inverses if x is not None and not x.damping_open]
    if damping is SWEEP or not given or len(given) < len(inverses):
        return
    if named:
        raise two_inverses(
            ", and the inverse leaves no damping open",
            'give one; or leave the damping open, `inverse="tikhonov"`',
        )
    raise without_open_damping(given[0])


def sweep_of(damping: Any) -> tuple[float, ...]:
    """The grid of λ: one number, or several in a list, an array or a tensor.

    Raises:
        SpecError: E0563 for none, E0705 and E0707 for what is not a number of 0 or more.
    """
    if isinstance(damping, np.ndarray | Tensor):
        damping = damping.tolist()
    found = damping if isinstance(damping, list | tuple) else (damping,)
    if not found:
        raise another_type("damping", damping, "a number, or several", "`damping=(0.01, 0.1)`")
    return tuple(number("damping", value, GRID) for value in found)
