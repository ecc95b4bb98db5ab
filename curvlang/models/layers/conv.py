"""Convolutions: every output position sees a patch, and each group is a matrix of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from curvlang.models.layers.layer import Input, Layer, Part, entries, parameter, rows_of


class Convolution(Layer):
    """`nn.Conv1d`, `nn.Conv2d`, `nn.Conv3d` with any stride, padding, dilation and groups.

    Weight [O, C/groups, *kernel]; i = (channel, place in the kernel), t = place in the output.
    """

    name = "Conv"

    def parts(self, module: nn.Module) -> tuple[Part, ...]:
        """The rows of each group."""
        weight = parameter(module, self.weight)
        groups = group_count(module)
        rows, outputs = rows_of(weight), entries(weight.shape[0], weight)
        if groups == 1:
            return (Part(rows, outputs),)
        return (Part(rows.reshape(groups, -1, rows.shape[1]), outputs.reshape(groups, -1)),)

    def inputs(self, module: nn.Module, x: Tensor, shape: torch.Size) -> tuple[Input, ...]:
        """Patches, [B, T, C/groups · kernel] for each group."""
        return (_by_group(_patches(_padded(module, x), module), x.dim() - 2, group_count(module)),)

    def outputs(self, module: nn.Module, x: Tensor, cotangent: Tensor) -> tuple[Tensor, ...]:
        """[B, O, *places] to [B, T, O/groups] for each group."""
        return (_rows_by_group(cotangent, group_count(module)),)


class TransposedConvolution(Layer):
    """`nn.ConvTranspose1d/2d/3d`: an ordinary one over the input with zeros between its places.

    y[o,p] = Σ W[c,o,κ] x[c,q] over all q, κ with p = q·stride − padding + κ·dilation. Weight
    [C, O/groups, *kernel].
    """

    name = "ConvTranspose"

    def parts(self, module: nn.Module) -> tuple[Part, ...]:
        """Outputs of a group by its own channels and the kernel."""
        weight = parameter(module, self.weight)
        groups = group_count(module)
        places = torch.arange(weight.numel(), device=weight.device).reshape(weight.shape)
        outputs = entries(groups * weight.shape[1], weight)
        if groups == 1:
            return (Part(places.movedim(1, 0).flatten(1), outputs),)
        rows = places.reshape(groups, -1, *weight.shape[1:]).movedim(2, 1).flatten(2)
        return (Part(rows, outputs.reshape(groups, -1)),)

    def inputs(self, module: nn.Module, x: Tensor, shape: torch.Size) -> tuple[Input, ...]:
        """What every output place reads, zeros where nothing is."""
        spread = _spread(x, _numbers(module, "stride"))
        kernel, dilation = _numbers(module, "kernel_size"), _numbers(module, "dilation")
        padding = _numbers(module, "padding")
        pads: list[int] = []
        for d in reversed(range(len(kernel))):
            span = dilation[d] * (kernel[d] - 1)
            left = span - padding[d]
            pads += [left, shape[2 + d] + span - left - spread.shape[2 + d]]
        windows = _windows(functional.pad(spread, pads), kernel, [1] * len(kernel), dilation)
        flipped = windows.flip([windows.dim() - 1 - d for d in range(len(kernel))])
        return (_by_group(flipped, len(kernel), group_count(module)),)

    def outputs(self, module: nn.Module, x: Tensor, cotangent: Tensor) -> tuple[Tensor, ...]:
        """[B, O, *places] to [B, T, O/groups] for each group."""
        return (_rows_by_group(cotangent, group_count(module)),)

    def dense_rows(self, module: nn.Module) -> bool:
        """The output's size may be asked for in the call: not known without it."""
        return False


def group_count(module: nn.Module) -> int:
    """Groups of a convolution."""
    return int(module.groups)  # type: ignore[arg-type]


def _numbers(module: nn.Module, name: str) -> tuple[int, ...]:
    value: tuple[int, ...] = getattr(module, name)
    return value


def _padded(module: nn.Module, x: Tensor) -> Tensor:
    """The input with the module's padding, in its mode."""
    sides: list[int] = []
    padding = getattr(module, "padding")  # noqa: B009
    kernel, dilation = _numbers(module, "kernel_size"), _numbers(module, "dilation")
    for d in reversed(range(len(kernel))):
        if padding == "same":
            whole = dilation[d] * (kernel[d] - 1)
            sides += [whole // 2, whole - whole // 2]
        elif padding == "valid":
            sides += [0, 0]
        else:
            sides += [padding[d], padding[d]]
    if not any(sides):
        return x
    mode = str(module.padding_mode)
    return functional.pad(x, sides, "constant" if mode == "zeros" else mode)


def _patches(padded: Tensor, module: nn.Module) -> Tensor:
    """[B, C, *places, *kernel]: every output place's patch, a view."""
    kernel = _numbers(module, "kernel_size")
    return _windows(padded, kernel, _numbers(module, "stride"), _numbers(module, "dilation"))


def _windows(
    x: Tensor, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> Tensor:
    """[B, C, *places, *kernel], a view."""
    for d, (k, s, gap) in enumerate(zip(kernel, stride, dilation, strict=True)):
        x = x.unfold(2 + d, gap * (k - 1) + 1, s)[..., ::gap]
    return x


def _by_group(patches: Tensor, axes: int, groups: int) -> Tensor:
    """[B, C, *places, *kernel] to [B, T, C · K]; with several groups to [G, B, T, C/G · K]: one copy."""
    split = patches.unflatten(1, (groups, -1))
    places, kernel = range(3, 3 + axes), range(3 + axes, 3 + 2 * axes)
    found = split.permute(1, 0, *places, 2, *kernel).flatten(2 + axes).flatten(2, 1 + axes)
    return found if groups > 1 else found[0]


def _rows_by_group(cotangent: Tensor, groups: int) -> Tensor:
    """[B, O, *places] to [B, T, O]; with several groups to [G, B, T, O/G]."""
    rows = cotangent.flatten(2)
    if groups == 1:
        return rows.transpose(1, 2)
    return rows.reshape(rows.shape[0], groups, -1, rows.shape[2]).permute(1, 0, 3, 2)


def _spread(x: Tensor, stride: Sequence[int]) -> Tensor:
    """Zeros between the places of the input: place q moves to q·stride."""
    places = x.shape[2:]
    wide = [s * (length - 1) + 1 for s, length in zip(stride, places, strict=True)]
    spread = x.new_zeros(*x.shape[:2], *wide)
    steps: tuple[slice, ...] = tuple(slice(None, None, s) for s in stride)
    spread[(slice(None), slice(None), *steps)] = x
    return spread
