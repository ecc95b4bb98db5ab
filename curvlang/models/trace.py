"""One forward pass that remembers what went into each covered layer and where its output is.

A module that is called several times, and modules that share their parameters, give several
uses of one layer: their positions are laid one after the other along t, which makes every sum
over t the exact sum over uses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from curvlang.models.layers import LAYERS, Layer
from curvlang.models.refusal import refusal

Groups = Mapping[str, tuple[str, ...]]
"""For every layer the names of the modules that share its parameters."""


@dataclass(frozen=True, slots=True, eq=False)
class Use:
    """One call of a module.

    Args:
        module: The module.
        kind: How it shows `a` and `g`.
        input: What it was given.
        version: The input's version counter then, which tells of later changes in place.
        edge: Where its output stands in the graph; None where the pass keeps no graph.
        shape: The output's shape.
    """

    module: nn.Module
    kind: Layer
    input: Tensor
    version: int
    edge: GradientEdge | None
    shape: torch.Size

    def a_nti(self) -> Tensor:
        """The input, [B, T, I], without a bias column."""
        return self.kind.inputs(self.module, self.input)

    def g_nto(self, cotangent: Tensor) -> Tensor:
        """A cotangent of the output as [B, T, O]."""
        return self.kind.outputs(self.module, cotangent)


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """The model's output [B, …] and the uses of every layer, in the order of the calls."""

    output: Tensor
    uses: Mapping[str, tuple[Use, ...]]


Hook = Callable[[str, nn.Module, Tensor, Tensor], "Tensor | None"]
"""Called with a layer's name, the module, its input and output; may replace the output."""


@contextmanager
def watching(model: nn.Module, groups: Groups, hook: Hook) -> Iterator[None]:
    """Call `hook` after every call of a module of the groups, until the block ends."""
    handles = []
    for layer, modules in groups.items():
        for name in modules:

            def call(
                module: nn.Module,
                args: tuple[Any, ...],
                kwargs: dict[str, Any],
                output: Any,
                layer: str = layer,
            ) -> Any:
                return hook(layer, module, args[0] if args else kwargs["input"], output)

            module = model.get_submodule(name)
            handles.append(module.register_forward_hook(call, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def trace(model: nn.Module, X: Tensor, groups: Groups, *, graph: bool = True) -> Trace:
    """Run the model once and record the uses of the layers in `groups`.

    Args:
        model: The model; it is run as it is, in the mode that it is in.
        X: Inputs, [B, …].
        groups: The layers.
        graph: Whether the output is to be differentiated; without it only inputs are recorded.

    Raises:
        SpecError: E0404 for a layer that is not reached, E0408 for an output that is not one
            tensor, E0410 for an input without a batch axis, E0414 for one that is changed in
            place afterwards.
    """
    uses: dict[str, list[Use]] = {layer: [] for layer in groups}

    def hook(layer: str, module: nn.Module, given: Tensor, output: Tensor) -> Tensor | None:
        edge = get_gradient_edge(output) if graph else None
        kind = LAYERS[type(module)]
        uses[layer].append(Use(module, kind, given.detach(), given._version, edge, output.shape))
        # A view that an activation changes in place would lose its place in the graph.
        return output.clone() if graph and output._is_view() else None

    with torch.set_grad_enabled(graph), watching(model, groups, hook):
        output = model(X)
    check_output(output, X.shape[0])
    _check(uses, X.shape[0])
    return Trace(output, {layer: tuple(calls) for layer, calls in uses.items()})


def check_output(output: object, batch: int) -> None:
    """The model gives one tensor with the examples on its first axis.

    Raises:
        SpecError: E0408.
    """
    if not isinstance(output, Tensor):
        raise refusal(
            "E0408",
            f"the model gives a `{type(output).__name__}`, not a tensor",
            "wrap the model in a module whose `forward` returns the logits alone",
        )
    if output.dim() < 1 or output.shape[0] != batch:
        raise refusal(
            "E0408",
            f"the model gives outputs of shape {list(output.shape)} for a batch of {batch}",
            "return the outputs of every example, with the examples on the first axis",
        )


def _check(uses: Mapping[str, Sequence[Use]], batch: int) -> None:
    """Every layer is used, on inputs that have the batch first and stay as they were."""
    silent = [f"`{layer}`" for layer, calls in uses.items() if not calls]
    if silent:
        raise refusal(
            "E0404",
            f"the forward pass never calls {', '.join(silent)}",
            "freeze the parameters of a layer that takes no part (`requires_grad_(False)`)",
            notes=(
                "a layer whose weight is used without calling the layer counts as never called",
            ),
        )
    for layer, calls in uses.items():
        for use in calls:
            if use.input.dim() < 2 or use.input.shape[0] != batch:
                raise refusal(
                    "E0410",
                    f"`{layer}` is given an input of shape {list(use.input.shape)}, whose first "
                    f"axis is not the batch of {batch}",
                    "keep the examples on the first axis up to this layer",
                )
            if use.input._version != use.version:
                raise refusal(
                    "E0414",
                    f"the input of `{layer}` is changed in place after the layer has read it",
                    "use the operation that returns a new tensor instead",
                )


def pull_back(found: Trace, columns: Tensor) -> dict[str, Tensor]:
    """Columns at the model's output, pulled back to every layer's output.

    Args:
        found: A trace with its graph.
        columns: [B, F, R], columns of the loss-curvature factor (or gradients, R = 1).

    Returns:
        g_nrto for every layer, [B, R, T, O]: all columns in one batched backward pass.
    """
    order = [(layer, use) for layer, calls in found.uses.items() for use in calls]
    cotangents = columns.movedim(-1, 0).reshape(-1, *found.output.shape)
    grads = _gradients(found.output, [use for _, use in order], cotangents)
    pieces: dict[str, list[Tensor]] = {layer: [] for layer in found.uses}
    for (layer, use), grad in zip(order, grads, strict=True):
        rows = use.g_nto(grad.flatten(0, 1))
        pieces[layer].append(rows.reshape(*grad.shape[:2], *rows.shape[1:]).transpose(0, 1))
    return {layer: torch.cat(parts, 2) for layer, parts in pieces.items()}


def _gradients(output: Tensor, uses: Sequence[Use], cotangents: Tensor) -> list[Tensor]:
    """Cotangents of every use's output, [R, *output of the use]; zero where f does not depend."""
    edges = [use.edge for use in uses if use.edge is not None]
    assert len(edges) == len(uses), "a trace without a graph cannot be pulled back"
    R = cotangents.shape[0]
    if R == 1:
        found = torch.autograd.grad(
            output, edges, cotangents[0], allow_unused=True, retain_graph=True
        )
        grads = [None if grad is None else grad.unsqueeze(0) for grad in found]
    else:
        grads = list(
            torch.autograd.grad(
                output,
                edges,
                cotangents,
                allow_unused=True,
                retain_graph=True,
                is_grads_batched=True,
            )
        )
    return [
        cotangents.new_zeros(R, *use.shape) if grad is None else grad
        for use, grad in zip(uses, grads, strict=True)
    ]


def inputs(found: Trace) -> dict[str, Tensor]:
    """a_nti for every layer, [B, T, I] without a bias column, uses one after the other."""
    return {
        layer: calls[0].a_nti() if len(calls) == 1 else torch.cat([u.a_nti() for u in calls], 1)
        for layer, calls in found.uses.items()
    }
