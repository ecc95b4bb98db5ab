"""One forward pass that remembers what went into each covered layer and where its output is.

A module that is called several times, and modules that share their parameters, give several
uses of one layer: their positions are laid one after the other along t, which makes every sum
over t the exact sum over uses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn import functional

from curvlang.diagnostics.diagnostic import SpecError
from curvlang.models.layers import Input, Layer
from curvlang.models.refusal import refusal


@dataclass(frozen=True, slots=True, eq=False)
class Watched:
    """A layer whose uses are recorded.

    Args:
        modules: Names of the modules that share its parameters.
        kind: How they show `a` and `g`.
        inside: Whether the product is inside a module that calls no submodule for it.
        constant: Whether its input is the same for every example, without them on its first axis.
    """

    modules: tuple[str, ...]
    kind: Layer
    inside: bool = False
    constant: bool = False


Groups = Mapping[str, Watched]
"""The layers to watch, by name."""


@dataclass(frozen=True, slots=True, eq=False)
class Use:
    """One call of a module.

    Args:
        module: The module.
        kind: How it shows `a` and `g`.
        input: What it was given, the examples on the first axis.
        version: The input's version counter then, which tells of later changes in place.
        edge: Where its output stands in the graph; None where the pass keeps no graph.
        shape: The output's shape, as it stands in the graph.
        folded: How the examples stand in the output: `first`, `second` (positions before them), or
            `both` on the first axis.
    """

    module: nn.Module
    kind: Layer
    input: Tensor
    version: int
    edge: GradientEdge | None
    shape: torch.Size
    folded: str = "first"

    def a_nti(self, columns: str) -> tuple[Input, ...]:
        """The input, [B, T, I] for each part of the layer, with the block's columns.

        Of a part with groups [G, B, T, I].
        """
        return self.kind.a(self.module, self.input, self._rows_shape(), columns)

    def g_nrto(self, cotangents: Tensor, columns: str) -> tuple[Tensor, ...]:
        """Cotangents [R, *shape] of the output as [B, R, T, O] for each part of the layer.

        Of a part with groups [G, B, R, T, O].
        """
        R, B = cotangents.shape[0], self.input.shape[0]
        rows = unfolded(cotangents, B, self.folded, 1)
        parts = self.kind.g(self.module, self.input, rows.flatten(0, 1), columns)
        return tuple(p.reshape(*p.shape[:-3], R, B, *p.shape[-2:]).transpose(-4, -3) for p in parts)

    def _rows_shape(self) -> torch.Size:
        B = self.input.shape[0]
        match self.folded:
            case "second":
                return torch.Size((B, self.shape[0], *self.shape[2:]))
            case "both":
                return torch.Size((B, self.shape[0] // B, *self.shape[1:]))
            case _:
                return self.shape


def unfolded(x: Tensor, batch: int, folded: str, lead: int) -> Tensor:
    """Examples on the axis `lead`, positions after it."""
    match folded:
        case "second":
            return x.transpose(lead, lead + 1)
        case "both":
            split = (*x.shape[:lead], -1, batch, *x.shape[lead + 1 :])
            return x.reshape(split).transpose(lead, lead + 1)
        case _:
            return x


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
    inside: dict[int, tuple[str, nn.Module]] = {}
    with ExitStack() as stack:
        for layer, watched in groups.items():
            for name in watched.modules:
                module = model.get_submodule(name)
                if watched.inside:
                    inside[id(getattr(module, watched.kind.weight))] = (layer, module)
                else:
                    call = _call(layer, watched.kind, hook)
                    handle = module.register_forward_hook(call, with_kwargs=True)
                    stack.callback(handle.remove)
        if inside:
            stack.enter_context(_products(inside, hook))
        stack.enter_context(_without_fast_path())
        yield


def _call(layer: str, kind: Layer, hook: Hook) -> Callable[..., Tensor | None]:
    def call(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> Tensor | None:
        why = kind.refuses_call(args, kwargs)
        if why is not None:
            raise refusal(
                "E0410",
                f"`{layer}` is called in a way that is not read: {why}",
                "give it a batch with the examples on the first axis, and nothing else",
            )
        return hook(layer, module, args[0] if args else kwargs["input"], output)

    return call


@contextmanager
def _products(weights: Mapping[int, tuple[str, nn.Module]], hook: Hook) -> Iterator[None]:
    """Call the hook after every product with one of the weights.

    `nn.MultiheadAttention` calls `functional.linear` itself, behind a function that hides its calls
    from torch's own modes: the name is replaced for as long as the model runs.
    """
    plain = functional.linear

    def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        output = plain(input, weight, bias)
        if id(weight) not in weights:
            return output
        replaced = hook(*weights[id(weight)], input, output)
        return output if replaced is None else replaced

    functional.linear = linear
    try:
        yield
    finally:
        functional.linear = plain


@contextmanager
def _without_fast_path() -> Iterator[None]:
    """Attention through its parts: the fused kernel of inference calls none of them."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


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
    B = X.shape[0]

    def hook(layer: str, module: nn.Module, given: Tensor, output: Tensor) -> Tensor | None:
        watched = groups[layer]
        replaced = None
        if watched.constant:
            given, output = _spread(given, B), _spread(output, B)
            replaced = output
        elif graph and output._is_view():
            # A view that an activation changes in place would lose its place in the graph.
            replaced = output = output.clone()
        folded = _folding(given, B) if watched.inside else "first"
        rows = unfolded(given.detach(), B, folded, 0)
        if graph and not output.requires_grad:
            raise cut_off(f"`{layer}` is called where no gradient is recorded")
        edge = get_gradient_edge(output) if graph else None
        uses[layer].append(
            Use(module, watched.kind, rows, given._version, edge, output.shape, folded)
        )
        versions.append((given, given._version, layer))
        return replaced

    versions: list[tuple[Tensor, int, str]] = []
    with torch.set_grad_enabled(graph), watching(model, groups, hook):
        output = model(X)
    check_output(output, B)
    if graph and not output.requires_grad:
        raise cut_off("the model's output has no gradient")
    _check(uses, B, {layer for layer, watched in groups.items() if watched.inside})
    _check_versions(versions)
    return Trace(output, {layer: tuple(calls) for layer, calls in uses.items()})


def cut_off(headline: str) -> SpecError:
    """The refusal of a path that cannot be differentiated."""
    return refusal(
        "E0417",
        headline,
        "compute the output from the parameters by differentiable operations (no `torch.no_grad`, "
        "`detach`, `argmax` or numpy in between), or freeze the parameters before the cut",
    )


def _spread(x: Tensor, batch: int) -> Tensor:
    """What is the same for all examples, once for each of them: [B, …]."""
    whole = x if x.shape[0] == 1 and x.dim() > 1 else x.unsqueeze(0)
    return whole.expand(batch, *whole.shape[1:])


def _folding(given: Tensor, batch: int) -> str:
    """Inside an attention: [T, B, D], or [T·B, D]."""
    return "second" if given.dim() == 3 else "both"


def input_shapes(model: nn.Module, X: Tensor, groups: Groups) -> dict[str, tuple[torch.Size, ...]]:
    """Shapes of what every layer is given, in the order of its calls."""
    found: dict[str, list[torch.Size]] = {layer: [] for layer in groups}

    def hook(layer: str, module: nn.Module, given: Tensor, output: Tensor) -> None:
        found[layer].append(given.shape)

    with torch.no_grad(), watching(model, groups, hook):
        model(X)
    return {layer: tuple(shapes) for layer, shapes in found.items()}


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


def _check(uses: Mapping[str, Sequence[Use]], batch: int, inside: set[str]) -> None:
    """Every layer is used, on inputs that have the batch first."""
    silent = [layer for layer, calls in uses.items() if not calls]
    if silent:
        note = "a layer whose weight is used without calling the layer counts as never called"
        if set(silent) & inside:
            note = "attention between different inputs uses parts of `in_proj_weight` one by one"
        raise refusal(
            "E0404",
            f"the forward pass never calls {', '.join(f'`{layer}`' for layer in silent)}",
            "freeze the parameters of a layer that takes no part (`requires_grad_(False)`)",
            notes=(note,),
        )
    for layer, calls in uses.items():
        for use in calls:
            if use.input.shape[:1] != (batch,) or (
                use.input.is_floating_point() and use.input.dim() < 2
            ):
                raise refusal(
                    "E0410",
                    f"`{layer}` is given an input of shape {list(use.input.shape)}, whose first "
                    f"axis is not the batch of {batch}",
                    "keep the examples on the first axis up to this layer",
                )


def _check_versions(given: Sequence[tuple[Tensor, int, str]]) -> None:
    """No input was changed after it was read."""
    for x, version, layer in given:
        if x._version != version:
            raise refusal(
                "E0414",
                f"the input of `{layer}` is changed in place after the layer has read it",
                "use the operation that returns a new tensor instead",
            )


def pull_back(found: Trace, columns: Tensor) -> dict[str, tuple[Tensor, ...]]:
    """Columns at the model's output, pulled back to the output of every use.

    Args:
        found: A trace with its graph.
        columns: [B, F, R], columns of the loss-curvature factor (or gradients, R = 1).

    Returns:
        Cotangents [R, *shape of the output] for every use of every layer: all columns in one
        batched backward pass.
    """
    order = [(layer, use) for layer, calls in found.uses.items() for use in calls]
    cotangents = columns.movedim(-1, 0).reshape(-1, *found.output.shape)
    grads = _gradients(found.output, [use for _, use in order], cotangents)
    pieces: dict[str, list[Tensor]] = {layer: [] for layer in found.uses}
    for (layer, _), grad in zip(order, grads, strict=True):
        pieces[layer].append(grad)
    return {layer: tuple(parts) for layer, parts in pieces.items()}


def _gradients(output: Tensor, uses: Sequence[Use], cotangents: Tensor) -> list[Tensor]:
    """Cotangents of every use's output, [R, *output of the use]; zero where f does not depend."""
    edges = [use.edge for use in uses if use.edge is not None]
    assert len(edges) == len(uses), "a trace without a graph cannot be pulled back"
    R = cotangents.shape[0]
    if not edges:
        return []
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
