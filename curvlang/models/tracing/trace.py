"""One forward pass that remembers what went into each covered layer and where its output is.

A module that is called several times, and modules that share their parameters, give several
uses of one layer: their positions are laid one after the other along t, which makes every sum
over t the exact sum over uses. What a hook cannot read as rows of the examples is told by layer, with
the reason: such a layer's parameters are outside any layer's weight matrix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.models.layers import Input, Layer
from curvlang.models.tracing.watching import Groups, Odd, OutsideError, TracedLayer, watching


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
        dtype: The output's precision.
        folded: How the examples stand in the output: `first`, `second` (positions before them),
            `both` on the first axis with the positions before the examples, or `rows`, both on it
            with the positions of an example one after the other.
    """

    module: nn.Module
    kind: Layer
    input: Tensor
    version: int
    edge: GradientEdge | None
    shape: torch.Size
    dtype: torch.dtype
    folded: str = "first"

    @property
    def fold(self) -> int:
        """Rows of an example on the first axis."""
        return self.shape[0] // self.input.shape[0] if self.folded == "rows" else 1

    def a_nti(self, columns: str) -> tuple[Input, ...]:
        """The input, [B, T, I] for each part of the layer, with the block's columns.

        Of a part with groups [G, B, T, I].
        """
        return self.kind.a(self.module, self._cast(self.input), self._rows_shape(), columns)

    def g_nrto(self, cotangents: Tensor, columns: str) -> tuple[Tensor, ...]:
        """Cotangents [R, *shape] of the output as [B, R, T, O] for each part of the layer.

        Of a part with groups [G, B, R, T, O].
        """
        R, B = cotangents.shape[0], self.input.shape[0]
        rows = self._cast(unfolded(cotangents, B, self.folded, 1))
        given = self._cast(self.input)
        parts = self.kind.g(self.module, given, rows.flatten(0, 1), columns)
        return tuple(p.reshape(*p.shape[:-3], R, B, *p.shape[-2:]).transpose(-4, -3) for p in parts)

    def _cast(self, x: Tensor) -> Tensor:
        """In the weight's precision: a model may run in a lower one than its parameters have."""
        weight: Tensor = getattr(self.module, self.kind.weight)
        return x.to(weight.dtype) if x.is_floating_point() else x

    def _rows_shape(self) -> torch.Size:
        B = self.input.shape[0]
        match self.folded:
            case "second":
                return torch.Size((B, self.shape[0], *self.shape[2:]))
            case "both" | "rows":
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
        case "rows":
            return x.reshape(*x.shape[:lead], batch, -1, *x.shape[lead + 1 :])
        case _:
            return x


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """The model's output [B, …], the uses of every layer in the order of the calls, and odd layers.

    `dtype` is that of the parameters, which the output's may differ from. `outside` has the layers that are
    not read as rows of the examples, each with the reason.
    """

    output: Tensor
    uses: Mapping[str, tuple[Use, ...]]
    dtype: torch.dtype
    outside: Mapping[str, str] = field(default_factory=dict)


def trace(
    model: nn.Module, X: Tensor, groups: Groups, *, graph: bool = True, trying: bool = False
) -> Trace:
    """Run the model once and record the uses of the layers in `groups`.

    Args:
        model: The model; it is run as it is, in the mode that it is in.
        X: Inputs, [B, …].
        groups: The layers.
        graph: Whether the output is to be differentiated; without it only inputs are recorded.
        trying: Whether layers that are not read are listed in the trace, not raised.

    Raises:
        SpecError: E0408 for an output that is not one tensor, E0417 for one without a gradient.
        OutsideError: For layers that are not reached, whose inputs are not rows of the examples,
            or change in place afterwards.
    """
    recorder = _Recorder(groups, X.shape[0], graph)
    with torch.set_grad_enabled(graph), watching(model, groups, recorder.note, recorder.odd):
        output = model(X)
    check_output(output, X.shape[0])
    if graph and not output.requires_grad:
        raise cut_off("the model's output has no gradient")
    uses, outside = recorder.found()
    if outside and not trying:
        raise OutsideError(outside)
    # Frozen parameters may be in another precision, or quantised.
    trained = (p.dtype for p in model.parameters() if p.requires_grad)
    return Trace(output, uses, next(trained, output.dtype), outside)


class _Recorder:
    """What the hooks of one forward pass have seen."""

    def __init__(self, groups: Groups, batch: int, graph: bool) -> None:
        self.groups = groups
        self.batch = batch
        self.graph = graph
        self.odd: Odd = {}
        self._uses: dict[str, list[Use]] = {layer: [] for layer in groups}
        self._given: list[tuple[Tensor, int, str]] = []

    def note(self, layer: str, module: nn.Module, given: Tensor, output: Tensor) -> Tensor | None:
        """Record a call; gives the output that stands in the graph where it is another tensor."""
        watched, B = self.groups[layer], self.batch
        replaced = None
        if watched.constant:
            given, output = _spread(given, B), _spread(output, B)
            replaced = output
        folded = _folding(watched, given, B)
        why = self._why_not(given, output, folded)
        if why is not None:
            self.odd.setdefault(layer, why)
            return None
        if self.graph and output._is_view() and replaced is None:
            # A view that an activation changes in place would lose its place in the graph.
            replaced = output = output.clone()
        rows = unfolded(given.detach(), B, folded, 0)
        edge = get_gradient_edge(output) if self.graph else None
        self._uses[layer].append(
            Use(
                module,
                watched.kind,
                rows,
                given._version,
                edge,
                output.shape,
                output.dtype,
                folded,
            )
        )
        self._given.append((given, given._version, layer))
        return replaced

    def _why_not(self, given: Tensor, output: Tensor, folded: str) -> str | None:
        if self.graph and not output.requires_grad:
            return "no gradient is recorded where it is called"
        if folded == "" or (given.is_floating_point() and given.dim() < 2):
            return (
                f"it is given a tensor of shape {list(given.shape)}, whose first axis does not have "
                f"the examples ({self.batch} of them) one by one"
            )
        return None

    def found(self) -> tuple[dict[str, tuple[Use, ...]], dict[str, str]]:
        """The uses of the layers that are read, and the others with the reason."""
        outside = dict(self.odd)
        for x, version, layer in self._given:
            if x._version != version:
                outside.setdefault(layer, "its input is changed in place after it has been read")
        for layer, calls in self._uses.items():
            if not calls:
                inside = self.groups[layer].inside
                outside.setdefault(layer, _NO_PRODUCT if inside else _NO_CALL)
        uses = {k: tuple(calls) for k, calls in self._uses.items() if k not in outside}
        return uses, outside


_NO_CALL = "the forward pass does not call it on the examples that were tried"
_NO_PRODUCT = "its inputs are not one tensor, so that parts of the weight are used one by one"


def cut_off(headline: str, others: bool = False) -> SpecError:
    """The refusal of a path that cannot be differentiated.

    Args:
        headline: What has no gradient.
        others: Whether there are parameters that a gradient reaches.
    """
    return refusal(
        Code.E0417,
        headline,
        "compute the output from the parameters by differentiable operations (no `torch.no_grad`, "
        "`detach`, `argmax` or numpy in between)"
        + (", or freeze the parameters before the cut" if others else ""),
    )


def _spread(x: Tensor, batch: int) -> Tensor:
    """What is the same for all examples, once for each of them: [B, …]."""
    whole = x if x.shape[0] == 1 and x.dim() > 1 else x.unsqueeze(0)
    return whole.expand(batch, *whole.shape[1:])


def _folding(watched: TracedLayer, given: Tensor, batch: int) -> str:
    """How the examples stand in an input; empty where they do not stand in it one by one."""
    if watched.inside:
        # Inside an attention: [T, B, D], or [T·B, D].
        second = given.dim() == 3
        axis = 1 if second else 0
        fits = given.dim() > axis and given.shape[axis] % batch == 0
        return ("second" if second else "both") if fits else ""
    rows = given.shape[0] if given.dim() else 0
    deep = given.dim() >= (3 if given.is_floating_point() else 2)
    beside = watched.kind.folds and deep and given.shape[1] == batch
    if watched.second:
        return "second" if beside else ""
    if rows == batch:
        return "first"
    if beside and watched.second is None:
        return "second"
    if watched.kind.folds and rows and rows % batch == 0:
        count = rows // batch
        if watched.folds is None or count in watched.folds:
            return "rows"
    return ""


def input_shapes(model: nn.Module, X: Tensor, groups: Groups) -> dict[str, tuple[torch.Size, ...]]:
    """Shapes of what every layer is given, in the order of its calls."""
    found: dict[str, list[torch.Size]] = {layer: [] for layer in groups}

    def hook(layer: str, module: nn.Module, given: Tensor, output: Tensor) -> None:
        found[layer].append(given.shape)

    with torch.no_grad(), watching(model, groups, hook, {}):
        model(X)
    return {layer: tuple(shapes) for layer, shapes in found.items()}


def check_output(output: object, batch: int) -> None:
    """The model gives one tensor with the examples on its first axis.

    Raises:
        SpecError: E0408.
    """
    if not isinstance(output, Tensor):
        raise refusal(
            Code.E0408,
            f"the model gives a `{type(output).__name__}`, not a tensor",
            "wrap the model in a module whose `forward` returns the logits alone",
        )
    if output.dim() < 1 or output.shape[0] != batch:
        raise refusal(
            Code.E0408,
            f"the model gives outputs of shape {list(output.shape)} for a batch of {batch}",
            "return the outputs of every example, with the examples on the first axis",
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
