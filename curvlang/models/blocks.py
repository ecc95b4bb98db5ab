"""Blocks of the parameter vector: one for each matrix of a layer, or one for each parameter tensor.

The groups of a grouped convolution are matrices of one shape. They are one `LayerBlock`, whose tensors
have an axis for them in front.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from curvlang.models.bare import runs_at_once
from curvlang.models.layers import Input, Layer
from curvlang.models.layers.layer import Part
from curvlang.models.refusal import refusal
from curvlang.models.routing import picks_rows
from curvlang.models.survey import Bare, CoveredLayer, Survey, check_mode, survey
from curvlang.models.trace import (
    Groups,
    OutsideError,
    Trace,
    Watched,
    check_output,
    input_shapes,
    pull_back,
    trace,
)
from curvlang.models.verify import (
    EXAMPLES,
    Tried,
    check_examples,
    mismatched,
    tolerance,
    tried,
    unrunnable,
)


@dataclass(frozen=True, slots=True, eq=False)
class LayerBlock:
    """One block: entries (o, i), row-major, with the bias as the last i.

    A bare parameter is a block with i = 1: `a` is 1 and `g` its gradient, so that the sum of their
    product is the block's gradient as it is everywhere.

    With `count` > 1 it is that many blocks of one shape, each a matrix of its own: the groups of a
    layer. `a` is [G, B, T, I] then and `g` [G, B, R, T, O].

    Args:
        name: The layer's name, or the parameter's where blocks are parameter tensors; with the first
            and the last group in brackets where there are several.
        layer: The layer's name: its first module's path, `model` for the model itself.
        d_in: I, the bias column included.
        d_out: O.
        positions: T over all uses of the layer, for inputs shaped like the example.
        bias: `joint` (last column of `a` is 1), `none`, or `only` (`a` is 1 and nothing else).
        index: Positions in the parameter vector of the block's entries, [O·I], int64; of several
            blocks one after the other, [G·O·I].
        parameters: Names of the block's parameters.
        modules: Paths of the modules that share these parameters; none for a bare parameter.
        kind: How the layer shows `a` and `g`; None for a bare parameter.
        part: Which of the layer's matrices.
        inside: Whether the product is inside a module that calls no submodule for it.
        constant: Whether the layer's input is the same for every example.
        folds: How many rows of an example may follow each other on the first axis, besides one.
        second: Whether the layer reads examples on the second axis, positions before them.
        at_once: Of a bare parameter, whether the gradients of all examples come at once.
        reason: Why `a` and `g` mean nothing by themselves here; empty where they do.
        plain: Whether the layer's output is [B, T, O] in another order and nothing else.
        shares: The first block with the same input, columns and d_out; empty for that one.
        count: G, how many blocks of one shape these are.
        group: Which of its layer's groups a single block is; None where it is no group.
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
    kind: Layer | None = None
    part: int = 0
    inside: bool = False
    constant: bool = False
    folds: frozenset[int] = frozenset()
    second: bool = False
    at_once: bool = False
    reason: str = ""
    plain: bool = False
    shares: str = ""
    count: int = 1
    group: int | None = None

    @property
    def size(self) -> int:
        """O·I, of all blocks together."""
        return self.count * self.d_in * self.d_out

    @property
    def leaf_elements(self) -> int:
        """Numbers in `a` and one column of `g`, for one example."""
        return self.count * self.positions * (self.d_in + self.d_out)

    @property
    def names(self) -> tuple[str, ...]:
        """The name of every block: with its group in brackets where there are several."""
        if self.count == 1:
            return (self.name,)
        return group_names(self.name.removesuffix(group_range(self.count)), self.count)

    @property
    def places(self) -> Tensor:
        """The index of every block, [G, O·I]."""
        return self.index.reshape(self.count, -1)

    @property
    def factored(self) -> bool:
        """Whether `a` and `g` have a meaning of their own: every stage fits."""
        return not self.reason


def group_range(count: int) -> str:
    """How the name of all groups ends."""
    return f"[0…{count - 1}]"


def group_names(name: str, count: int) -> tuple[str, ...]:
    """The names of groups: `conv[0]`, `conv[1]` and so on."""
    return tuple(f"{name}[{k}]" for k in range(count))


def apart(block: LayerBlock) -> tuple[LayerBlock, ...]:
    """Every block by itself."""
    if block.count == 1:
        return (block,)
    named = zip(block.names, block.places, strict=True)
    return tuple(
        replace(block, name=name, index=index, count=1, group=k)
        for k, (name, index) in enumerate(named)
    )


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of the problem: trainable ones, in the order of `named_parameters()`."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def offsets(model: nn.Module) -> dict[str, int]:
    """Where every parameter begins in the vector of all of them."""
    found, start = {}, 0
    for name, p in trainable(model).items():
        found[name] = start
        start += p.numel()
    return found


@dataclass(frozen=True, slots=True)
class Facts:
    """What trying a model on a few examples has shown of its layers.

    Args:
        outside: Layers whose `a` and `g` do not give the gradient, with the reason: their parameters
            are outside any layer's weight matrix.
        constant: Layers whose input is the same for every example.
        folds: Of layers whose examples and positions stand on the first axis together, how many
            rows an example has.
        second: Layers that read positions on the first axis and examples on the second.
        at_once: Whether gradients of parameters outside any layer come from all examples of a batch
            at once; else from one example after the other.
        picks: Whether the model picks rows by their values, so that other examples may be read in
            another way: some batches are then checked as these examples were.
    """

    outside: Mapping[str, str] = field(default_factory=dict)
    constant: frozenset[str] = frozenset()
    folds: Mapping[str, frozenset[int]] = field(default_factory=dict)
    second: frozenset[str] = frozenset()
    at_once: bool = False
    picks: bool = False

    def without(self, outside: Mapping[str, str]) -> Facts:
        """The same with further layers outside."""
        return replace(self, outside={**self.outside, **outside})

    def split(self, found: Survey) -> tuple[list[CoveredLayer], list[Bare]]:
        """The layers that show `a` and `g`, and all parameters outside them."""
        shown = [layer for layer in found.layers if layer.name not in self.outside]
        bare = list(found.bare)
        for layer in found.layers:
            why = self.outside.get(layer.name)
            if why is not None:
                kind = type(layer.module).__name__
                names = [name for name in (layer.weight, layer.bias) if name]
                bare += [Bare(name, layer.name, kind, why) for name in names]
        return shown, bare

    def watched(self, layers: Sequence[CoveredLayer], *, trying: bool = False) -> Groups:
        """The layers to watch; with any fold while they are tried."""
        return {
            x.name: Watched(
                x.modules,
                x.kind,
                x.inside,
                x.name in self.constant,
                None if trying else self.folds.get(x.name, frozenset()),
                None if trying else x.name in self.second,
            )
            for x in layers
        }


def blocks(
    model: nn.Module, example_input: Tensor, by: str = "layer", *, facts: Facts | None = None
) -> tuple[LayerBlock, ...]:
    """The blocks of a model, in the order of their first parameter.

    Every parameter is in one: of a layer where trying has shown that the layer's `a` and `g` give
    autograd's gradient, else in one of its own, with its exact gradients.

    Args:
        model: Any model.
        example_input: Inputs [B, …]; the first few are run through the model, to find the
            positions.
        by: `layer` (weight and bias are one block) or `parameter`.
        facts: What trying has shown; it is tried on these inputs where not given.

    Raises:
        SpecError: E0403, E0406, E0408, E0410, E0412, E0413, E0417: see `trace` and the checks in
            `verify`.
    """
    if by not in ("layer", "parameter"):
        raise refusal("E0412", f"`by` is `layer` or `parameter`, not `{by}`", "use `by = layer`")
    check_mode(model)
    X = example_input[:EXAMPLES]
    known = facts_of(model, X) if facts is None else facts
    shown, bare = known.split(survey(model))
    made, _ = _made(model, X, by, known, shown)
    made += _bare_blocks(bare, model, known)
    made.sort(key=lambda block: int(block.index[0]))
    return tuple(made)


def facts_of(model: nn.Module, X: Tensor) -> Facts:
    """Try a model on a few examples: which layers show `a` and `g`, and how.

    Args:
        model: Any model.
        X: The examples, [B, …].

    Raises:
        SpecError: As for `blocks`.
    """
    found = survey(model)
    if not found.layers and not found.bare:
        raise refusal(
            "E0413",
            "the model has no trainable parameter",
            "set `requires_grad_(True)` on the parameters to be studied",
        )
    with torch.no_grad():
        output = model(X)
    check_output(output, len(X))
    check_examples(model, X, output)
    known = tried(model, X, output)
    facts = _spreadable(model, X, found, output)
    layers, _ = facts.split(found)
    traced = trace(model, X, facts.watched(layers, trying=True), trying=True)
    facts = facts.without(traced.outside)
    facts = replace(facts, folds=_folds(traced), second=_second(traced), picks=picks_rows(model, X))
    wrong = _wrong(model, X, found, facts, known)
    other = replace(facts, second=facts.second | _beside(traced, wrong))
    if other != facts:
        # As many positions as examples: which axis has which shows in the gradients alone.
        still = _wrong(model, X, found, other, known)
        wrong, facts = still, replace(other, second=other.second - still)
    facts = facts.without(dict.fromkeys(sorted(wrong), _USED_OUTSIDE))
    _, bare = facts.split(found)
    names = [item.parameter for item in bare]
    return replace(facts, at_once=bool(names) and _at_once(model, X, names, known))


def check_rows(
    model: nn.Module, X: Tensor, layers: Sequence[LayerBlock], places: Sequence[int]
) -> None:
    """The layers' `a` and `g` give the gradients of some examples of a batch too.

    Args:
        model: The model.
        X: Inputs of the batch, [B, …].
        layers: Its blocks.
        places: The examples' places in the batch.

    Raises:
        OutsideError: For layers that do not.
    """
    found = trace(model, X, groups(layers))
    rows = torch.tensor(sorted(set(places)), device=X.device)
    alone = tried(model, X[rows], found.output[rows].detach())
    direction = torch.zeros_like(found.output)
    direction[rows] = alone.direction
    shown = [block for block in layers if block.kind is not None]

    def rebuilt(columns: Tensor) -> dict[str, Tensor]:
        return {k: v[rows] for k, v in gradients_of(shown, found, columns).items()}

    wrong = mismatched(found, shown, rebuilt, replace(alone, direction=direction))
    if wrong:
        raise OutsideError(dict.fromkeys(sorted(wrong), _USED_OUTSIDE))


def check_batch(model: nn.Module, X: Tensor, layers: Sequence[LayerBlock], number: int) -> None:
    """Two examples of the batches 0, 1, 3, 7, … are checked: rows that are picked by value may differ.

    Args:
        model: A model that picks rows.
        X: Inputs of the batch.
        layers: Its blocks.
        number: Of the batch, from 0.

    Raises:
        OutsideError: As `check_rows`.
    """
    if number & (number + 1) == 0:
        B = len(X)
        check_rows(model, X, layers, [(31 * number + 7) % B, (31 * number + 3 + B // 2) % B])


_USED_OUTSIDE = "its parameters are also used outside its call, or its rows are not its examples'"


def _at_once(model: nn.Module, X: Tensor, names: Sequence[str], known: Tried) -> bool:
    starts, own = offsets(model), trainable(model)
    rows = {
        name: known.gradients[:, starts[name] : starts[name] + own[name].numel()] for name in names
    }
    columns = known.direction.reshape(len(X), -1, 1)
    return runs_at_once(model, X, names, columns, rows)


def _wrong(
    model: nn.Module, X: Tensor, found: Survey, facts: Facts, known: Tried
) -> frozenset[str]:
    """Layers whose `a` and `g` do not give the gradients of the examples."""
    layers, _ = facts.split(found)
    made, traced = _made(model, X, "layer", facts, layers)
    return frozenset(
        mismatched(traced, made, lambda columns: gradients_of(made, traced, columns), known)
    )


def _second(found: Trace) -> frozenset[str]:
    """Layers whose inputs have the examples on the second axis; those inside an attention have their own way."""
    return frozenset(
        layer
        for layer, uses in found.uses.items()
        if any(use.folded == "second" and use.kind.folds for use in uses)
    )


def _beside(found: Trace, layers: Set[str]) -> frozenset[str]:
    """Layers whose inputs could have the examples on either of the first two axes."""
    return frozenset(
        layer
        for layer in layers
        if all(
            use.kind.folds and use.input.dim() > 2 and use.input.shape[0] == use.input.shape[1]
            for use in found.uses[layer]
        )
    )


def _folds(found: Trace) -> dict[str, frozenset[int]]:
    """Rows of an example in the layers where they stand on the first axis."""
    folds = {
        layer: frozenset(use.fold for use in uses if use.folded == "rows")
        for layer, uses in found.uses.items()
    }
    return {layer: counts for layer, counts in folds.items() if counts}


def _spreadable(model: nn.Module, X: Tensor, found: Survey, output: Tensor) -> Facts:
    """Which layers have inputs that are the same for every example.

    Such a layer is shown where the model runs alike on the layer's output given once for each
    example, which broadcasting takes; elsewhere it is outside.
    """
    suspects = _constant(model, X, found.layers)
    constant: set[str] = set()
    outside: dict[str, str] = {}
    for group in (suspects, *({name} for name in sorted(suspects))):
        if not group:
            break
        if _runs_spread(model, X, found, constant | group, output):
            constant |= group
            if group == suspects:
                break
        elif len(group) == 1:
            outside[min(group)] = _NOT_SPREAD
    return Facts(outside, frozenset(constant))


_NOT_SPREAD = (
    "its input is the same for every example, and its output is not read example by example"
)


def _runs_spread(
    model: nn.Module, X: Tensor, found: Survey, constant: Set[str], output: Tensor
) -> bool:
    facts = Facts(constant=frozenset(constant))
    layers = [layer for layer in found.layers if layer.name in constant]
    try:
        spread = trace(model, X, facts.watched(layers), graph=False, trying=True).output
    except Exception:  # shapes that the model cannot go on with, in its own words
        return False
    return spread.shape == output.shape and torch.allclose(
        spread, output, rtol=tolerance(output.dtype), atol=tolerance(output.dtype)
    )


def _constant(model: nn.Module, X: Tensor, layers: Sequence[CoveredLayer]) -> frozenset[str]:
    """Layers whose inputs have one shape, whatever the number of examples: places, not examples."""
    suspects = {x.name: Watched(x.modules, x.kind) for x in layers if not x.inside}
    one = X[:1]
    few, more = (_shapes(model, one, count, suspects) for count in (2, 3))
    return frozenset(name for name in suspects if few[name] and few[name] == more[name])


def _shapes(
    model: nn.Module, one: Tensor, count: int, suspects: Groups
) -> dict[str, tuple[torch.Size, ...]]:
    """What the layers are given for some examples.

    Raises:
        SpecError: E0410 where the model takes batches of one size alone.
    """
    try:
        return input_shapes(model, one.expand(count, *one.shape[1:]).contiguous(), suspects)
    except Exception as error:
        raise unrunnable(count, error) from error


def _made(
    model: nn.Module, X: Tensor, by: str, facts: Facts, layers: Sequence[CoveredLayer]
) -> tuple[list[LayerBlock], Trace]:
    """The blocks of the layers that are shown, and the trace that they are read from."""
    traced = trace(model, X, facts.watched(layers))
    starts = offsets(model)
    made = [block for layer in layers for block in _layer_blocks(layer, traced, starts, by, facts)]
    made.sort(key=lambda block: int(block.index[0]))
    return _sharing(made, traced), traced


def _sharing(made: Sequence[LayerBlock], found: Trace) -> list[LayerBlock]:
    """The blocks, each with the name of the first one that has its input and its sizes."""
    first: dict[object, str] = {}
    result = []
    for block in made:
        same = _input_key(block, found)
        name = block.name if same is None else first.setdefault((same, block.d_out), block.name)
        result.append(block if name == block.name else replace(block, shares=name))
    return result


def _input_key(block: LayerBlock, found: Trace) -> object:
    """What tells the inputs of a block's uses from others', in memory; None where `a` is more."""
    if block.kind is None or not (block.plain and block.kind.rows):
        return None
    inputs = [use.input for use in found.uses[block.layer]]
    return block.bias, *((x.data_ptr(), x.shape, x.stride(), x.dtype) for x in inputs)


def groups(blocks: Sequence[LayerBlock]) -> Groups:
    """The modules to watch for these blocks, by layer."""
    return {
        block.layer: Watched(
            block.modules, block.kind, block.inside, block.constant, block.folds, block.second
        )
        for block in blocks
        if block.kind is not None
    }


def block_inputs(blocks: Sequence[LayerBlock], found: Trace) -> dict[str, Input]:
    """a_nti of every block, [B, T, I]; one tensor for layers with one input."""
    known: dict[tuple[str, str], list[tuple[Input, ...]]] = {}
    result: dict[str, Input] = {}
    same: dict[object, str] = {}
    for block in blocks:
        if block.kind is None:
            result[block.name] = found.output.new_ones(
                len(found.output), 1, 1, dtype=found.dtype
            ).detach()
            continue
        first = same.setdefault(_input_key(block, found) or block.name, block.name)
        if first != block.name:
            result[block.name] = result[first]
            continue
        key = (block.layer, block.bias)
        if key not in known:
            known[key] = [use.a_nti(block.bias) for use in found.uses[block.layer]]
        parts = [_grouped(use[block.part], block) for use in known[key]]
        result[block.name] = parts[0] if len(parts) == 1 else torch.cat(parts, -2)
    return result


def block_columns(
    blocks: Sequence[LayerBlock],
    found: Trace,
    pulled: Mapping[str, Sequence[Tensor]],
    bare: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """g_nrto of every block, [B, R, T, O].

    Args:
        blocks: The blocks.
        found: The trace.
        pulled: Cotangents of every use of the layers.
        bare: [B, R, size] of every bare parameter.
    """
    known: dict[tuple[str, str], list[tuple[Tensor, ...]]] = {}
    result: dict[str, Tensor] = {}
    for block in blocks:
        if block.kind is None:
            result[block.name] = bare[block.parameters[0]].unsqueeze(2)
            continue
        key = (block.layer, block.bias)
        if key not in known:
            uses = zip(found.uses[block.layer], pulled[block.layer], strict=True)
            known[key] = [use.g_nrto(grad, block.bias) for use, grad in uses]
        parts = [_grouped(use[block.part], block) for use in known[key]]
        result[block.name] = parts[0] if len(parts) == 1 else torch.cat(parts, -2)
    return result


def _grouped(part: Any, block: LayerBlock) -> Any:
    """What is a block's own: one group, or all of them."""
    return part if block.group is None else part[block.group]


def bare_names(blocks: Sequence[LayerBlock]) -> list[str]:
    """Parameters whose gradients autograd has to give."""
    return [block.parameters[0] for block in blocks if block.kind is None]


def bare_at_once(blocks: Sequence[LayerBlock]) -> bool:
    """Whether it gives them for all examples of a batch at once."""
    return all(block.at_once for block in blocks if block.kind is None)


def _layer_blocks(
    layer: CoveredLayer, found: Trace, starts: Mapping[str, int], by: str, facts: Facts
) -> Iterator[LayerBlock]:
    """The layer's blocks, one for each part of it; or its weight's and its bias's."""
    together = [name for name in (layer.weight, layer.bias) if name]
    chosen = [tuple(together)] if by == "layer" else [(name,) for name in together]
    parts = layer.kind.parts(layer.module)
    constant = layer.name in facts.constant
    folds = facts.folds.get(layer.name, frozenset())
    second = layer.name in facts.second
    whole = not (layer.inside or constant or folds or second)
    plain = layer.kind.dense_rows(layer.module) and whole
    for names in chosen:
        name = layer.name if by == "layer" else names[0]
        bias = _columns(layer, names)
        seen = [use.a_nti(bias) for use in found.uses[layer.name]]
        for k, part in enumerate(parts):
            index = _index(layer, names, part, starts)
            count = len(index) if index.dim() == 3 else 1
            yield LayerBlock(
                name if count == 1 else name + group_range(count),
                layer.name,
                index.shape[-1],
                index.shape[-2],
                sum(int(use[k].shape[-2]) for use in seen),
                bias,
                index.reshape(-1),
                names,
                layer.modules,
                layer.kind,
                k,
                layer.inside,
                constant,
                folds,
                second,
                reason="" if layer.kind.factored else scale_and_shift(layer.module),
                plain=plain,
                count=count,
            )


def _columns(layer: CoveredLayer, parameters: tuple[str, ...]) -> str:
    """Which columns of `a` the block of some of a layer's parameters has."""
    if layer.weight not in parameters:
        return "only"
    return "joint" if layer.bias in parameters else "none"


def _index(
    layer: CoveredLayer, parameters: tuple[str, ...], part: Part, starts: Mapping[str, int]
) -> Tensor:
    """Places of a part's entries in the parameter vector, [O, I] or [G, O, I]."""
    columns = []
    if layer.weight in parameters:
        columns.append(part.weight + starts[layer.weight])
    if layer.bias in parameters:
        columns.append(part.bias.unsqueeze(-1) + starts[layer.bias])
    return torch.cat(columns, -1)


def scale_and_shift(module: nn.Module) -> str:
    """Why the parameters of a normalisation are no matrix of a layer."""
    return f"{type(module).__name__} has a scale and a shift, not a matrix"


def _bare_blocks(items: Sequence[Bare], model: nn.Module, facts: Facts) -> Iterator[LayerBlock]:
    """A block for every parameter outside the layers; one without entries has none."""
    own, starts = trainable(model), offsets(model)
    for item in items:
        p, name = own[item.parameter], item.parameter
        if p.numel():
            index = torch.arange(p.numel(), device=p.device) + starts[name]
            yield LayerBlock(
                name,
                name,
                1,
                p.numel(),
                1,
                "none",
                index,
                (name,),
                (),
                at_once=facts.at_once,
                reason=item.reason,
            )


def gradients_of(blocks: Sequence[LayerBlock], found: Trace, columns: Tensor) -> dict[str, Tensor]:
    """Σ_t g a of every layer's blocks for one column, by parameter places: [B, size]."""
    shown = [block for block in blocks if block.kind is not None]
    pulled = pull_back(found, columns)
    g = block_columns(shown, found, pulled, {})
    a = block_inputs(shown, found)
    return {b.name: column_rows(b, a[b.name], g[b.name])[:, 0] for b in shown}


def column_rows(block: LayerBlock, a: Input, g: Tensor) -> Tensor:
    """Σ_t g[n,r,t,o] a[n,t,i], the columns on the block's entries: [B, R, size]."""
    lead = "" if block.count == 1 else "b"
    return torch.einsum(f"{lead}nrto,{lead}nti->nr{lead}oi", g, a).flatten(2)
