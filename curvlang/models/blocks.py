"""Blocks of the parameter vector: one for each covered layer, or one for each parameter tensor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from curvlang.models.refusal import refusal
from curvlang.models.survey import CoveredLayer, covered_layers
from curvlang.models.trace import Groups, Trace, inputs, trace
from curvlang.models.verify import EXAMPLES, check_examples, check_gradient


@dataclass(frozen=True, slots=True, eq=False)
class LayerBlock:
    """One block: entries (o, i), row-major, with the bias as the last i.

    Args:
        name: The layer's name, or the parameter's where blocks are parameter tensors.
        layer: The layer's name: its first module's path, `model` for the model itself.
        d_in: I, the bias column included.
        d_out: O.
        positions: T over all uses of the layer, for inputs shaped like the example.
        bias: `joint` (last column of `a` is 1), `none`, or `only` (`a` is 1 and nothing else).
        index: Positions in the parameter vector of the block's entries, [O·I], int64.
        parameters: Names of the block's parameters.
        modules: Paths of the modules that share these parameters.
    """

    name: str
    layer: str
    d_in: int
    d_out: int
    positions: int
    bias: str
    index: Tensor
    parameters: tuple[str, ...]
    modules: tuple[str, ...]

    @property
    def size(self) -> int:
        """O·I."""
        return self.d_in * self.d_out

    def a_nti(self, inputs: Tensor) -> Tensor:
        """The layer's inputs [B, T, I] with this block's bias column."""
        ones = inputs.new_ones(*inputs.shape[:2], 1)
        match self.bias:
            case "joint":
                return torch.cat([inputs, ones], 2)
            case "only":
                return ones
            case _:
                return inputs


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of the problem: trainable ones, in the order of `named_parameters()`."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def offsets(model: nn.Module, layers: Sequence[CoveredLayer]) -> dict[str, int]:
    """Where every parameter of the layers begins in the vector of all of them."""
    covered = {name for layer in layers for name in (layer.weight, layer.bias)}
    found, start = {}, 0
    for name, p in trainable(model).items():
        if name in covered:
            found[name] = start
            start += p.numel()
    return found


def blocks(
    model: nn.Module, example_input: Tensor, by: str = "layer", *, partial: bool = False
) -> tuple[LayerBlock, ...]:
    """The blocks of a model, in the order of their first parameter.

    Args:
        model: A model whose trainable parameters all sit in covered layers.
        example_input: Inputs [B, …]; the first few are run through the model, to find the
            positions and to check that the layers' `a` and `g` give autograd's gradient.
        by: `layer` (weight and bias are one block) or `parameter`.
        partial: Leave out parameters that no layer covers instead of refusing them; the
            parameter vector is then that of the covered ones.

    Raises:
        SpecError: E0401 to E0404, E0408, E0410, E0412 to E0414: see `covered_layers`, `trace` and
            the checks in `verify`.
    """
    if by not in ("layer", "parameter"):
        raise refusal("E0412", f"`by` is `layer` or `parameter`, not `{by}`", "use `by = layer`")
    layers = covered_layers(model, partial=partial)
    X = example_input[:EXAMPLES]
    found = trace(model, X, {layer.name: layer.modules for layer in layers})
    check_examples(model, X, found.output)
    check_gradient(model, found, layers)
    positions = {name: a.shape[1] for name, a in inputs(found).items()}
    starts = offsets(model, layers)
    made = [
        block
        for layer in layers
        for block in _layer_blocks(layer, positions[layer.name], starts, by)
    ]
    return tuple(sorted(made, key=lambda block: min(starts[name] for name in block.parameters)))


def groups(blocks: Sequence[LayerBlock]) -> Groups:
    """The modules to watch for these blocks, by layer."""
    return {block.layer: block.modules for block in blocks}


def block_inputs(blocks: Sequence[LayerBlock], found: Trace) -> dict[str, Tensor]:
    """a_nti of every block, [B, T, I]."""
    given = inputs(found)
    return {block.name: block.a_nti(given[block.layer]) for block in blocks}


def _layer_blocks(
    layer: CoveredLayer, positions: int, starts: dict[str, int], by: str
) -> Iterator[LayerBlock]:
    """The layer's block, or its weight's and its bias's."""
    if layer.weight and layer.bias and by == "layer":
        yield _block(layer, layer.name, (layer.weight, layer.bias), positions, starts)
        return
    for name in (layer.weight, layer.bias):
        if name:
            yield _block(layer, layer.name if by == "layer" else name, (name,), positions, starts)


def _block(
    layer: CoveredLayer,
    name: str,
    parameters: tuple[str, ...],
    positions: int,
    starts: dict[str, int],
) -> LayerBlock:
    module = layer.module
    columns = []
    for parameter in parameters:
        tensor = module.weight if parameter == layer.weight else module.bias
        assert isinstance(tensor, Tensor)
        d_out = tensor.shape[0]
        places = torch.arange(tensor.numel(), device=tensor.device) + starts[parameter]
        columns.append(places.reshape(d_out, -1))
    index = torch.cat(columns, 1)
    bias = {(True, True): "joint", (True, False): "none", (False, True): "only"}[
        layer.weight in parameters, layer.bias in parameters
    ]
    return LayerBlock(
        name,
        layer.name,
        index.shape[1],
        index.shape[0],
        positions,
        bias,
        index.reshape(-1),
        parameters,
        layer.modules,
    )
