"""Numbers of training examples in fewer bytes: rounded, with a power of two for every example, and by how much they are off."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

SCALE = "scale of "
"""Before the name of the tensor whose examples it is about."""
_EXPONENTS = 126
"""Powers of two that float32 has with all digits."""


@dataclass(frozen=True, slots=True)
class Rounding:
    """How numbers are kept.

    Args:
        dtype: The precision that they are kept in.
        exact: The precision that they come in.
    """

    dtype: torch.dtype
    exact: torch.dtype

    @property
    def rounds(self) -> bool:
        """Whether digits are lost."""
        return torch.finfo(self.dtype).bits < torch.finfo(self.exact).bits

    def kept(self, tensors: Mapping[str, Tensor], axes: Mapping[str, int]) -> dict[str, Tensor]:
        """Tensors as they are written, with a scale for every example where they are rounded.

        Args:
            tensors: By name.
            axes: Of the examples, by name.
        """
        if not self.rounds:
            return {name: x.contiguous() for name, x in tensors.items()}
        found = {}
        for name, x in tensors.items():
            scale = _scale(x, axes[name])
            found[name] = (x / scale).to(self.dtype).contiguous()
            found[SCALE + name] = scale.float().contiguous()
        return found

    def read(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors as they were before they were written, but for the digits that were lost."""
        found = {name: x for name, x in tensors.items() if not name.startswith(SCALE)}
        if not self.rounds:
            return found
        return {
            name: x.to(self.exact) * tensors[SCALE + name].to(self.exact)
            for name, x in found.items()
        }


def relative_error(
    exact: Mapping[str, Tensor], read: Mapping[str, Tensor], axes: Mapping[str, int]
) -> float:
    """The largest error of an example's numbers, of their length."""
    worst = 0.0
    for name, x in exact.items():
        own = x.movedim(axes[name], 0).flatten(1) if x.ndim > 1 else x[:, None]
        other = read[name].movedim(axes[name], 0).flatten(1) if x.ndim > 1 else read[name][:, None]
        lengths = own.norm(dim=1).clamp_min(torch.finfo(own.dtype).tiny)
        worst = max(worst, float(((own - other).norm(dim=1) / lengths).max()))
    return worst


def _scale(x: Tensor, axis: int) -> Tensor:
    """A power of two for every example, such that its largest number is between 1/2 and 1."""
    others = [k for k in range(x.ndim) if k != axis]
    largest = x.abs().amax(others, keepdim=True) if others else x.abs()
    _, exponent = torch.frexp(largest)
    return torch.ldexp(torch.ones_like(largest), exponent.clamp(-_EXPONENTS, _EXPONENTS))
