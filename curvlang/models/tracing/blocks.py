"""Blocks of the parameter vector: one for each matrix of a layer, or one for each parameter tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal
from curvlang.language.partition import Partition
from curvlang.models.partitions.cutting import cut, cuts_of, grouped, memberships, split_layers
from curvlang.models.sources.transfers import waits
from curvlang.models.tracing.facts import Facts as Facts
from curvlang.models.tracing.facts import bare_blocks, made_blocks, without_vocabulary
from curvlang.models.tracing.independence import check_alone, seem_alone
from curvlang.models.tracing.layer_block import LayerBlock as LayerBlock
from curvlang.models.tracing.layer_block import apart as apart
from curvlang.models.tracing.layer_block import bare_at_once as bare_at_once
from curvlang.models.tracing.layer_block import bare_names as bare_names
from curvlang.models.tracing.layer_block import block_columns as block_columns
from curvlang.models.tracing.layer_block import block_inputs as block_inputs
from curvlang.models.tracing.layer_block import column_rows as column_rows
from curvlang.models.tracing.layer_block import gradients_of as gradients_of
from curvlang.models.tracing.layer_block import group_names as group_names
from curvlang.models.tracing.layer_block import group_range as group_range
from curvlang.models.tracing.layer_block import groups as groups
from curvlang.models.tracing.layer_block import offsets as offsets
from curvlang.models.tracing.layer_block import scale_and_shift as scale_and_shift
from curvlang.models.tracing.layer_block import trainable as trainable
from curvlang.models.tracing.routing import seen_run
from curvlang.models.tracing.survey import CoveredLayer, Survey, check_mode, survey
from curvlang.models.tracing.trace import Trace, check_output, input_shapes, trace
from curvlang.models.tracing.untraced import runs_at_once
from curvlang.models.tracing.verify import (
    EXAMPLES,
    LoneGradients,
    check_examples,
    lone_gradients,
    mismatched,
    tolerance,
    unrunnable,
)
from curvlang.models.tracing.watching import Groups, OutsideError, TracedLayer


def blocks(
    model: nn.Module,
    example_input: Tensor,
    by: Partition | str = "layer",
    *,
    facts: Facts | None = None,
    words_apart: bool = False,
) -> tuple[LayerBlock, ...]:
    """The blocks of a model, in the order of their first parameter.

    Every parameter is in one: of a layer where trying has shown that the layer's `a` and `g` give
    autograd's gradient, else in one of its own, with its exact gradients.

    Args:
        model: Any model.
        example_input: Inputs [B, …]; the first few are run through the model, to find the
            positions.
        by: What a block is of; `layer` and `parameter` as words.
        facts: What trying has shown; it is tried on these inputs where not given.
        words_apart: Whether embeddings, and the layer that predicts their rows, are outside any layer's
            weight matrix.

    Raises:
        SpecError: E0403, E0406, E0408, E0410, E0412, E0413, E0417: see `trace` and the checks in
            `verify`; E0427, E0429, E0431, E0433: see `models.partitions`.
    """
    if by not in ("layer", "parameter") and not isinstance(by, Partition):
        raise refusal(Code.E0412, f"`by` is `layer` or `parameter`, not `{by}`", "use `by = layer`")
    check_mode(model)
    X = example_input[:EXAMPLES]
    known = facts_of(model, X) if facts is None else facts
    shown, bare = known.split(survey(model))
    partition = by if isinstance(by, Partition) else Partition(by)
    cuts, members = cuts_of(partition, shown), memberships(partition, [*trainable(model)])
    every = partition == Partition.PARAMETER
    apart = [x.name for x in shown] if every else [*split_layers(shown, cuts, members)]
    made, traced = made_blocks(model, X, known, shown, apart)
    if words_apart:
        made = without_vocabulary(made, model, traced)
    made += bare_blocks(bare, model, known)
    made = grouped(made, members, traced) if members else made
    # A bias that is a block of its own is one for all inputs.
    made = [block if block.bias == "only" else cut(block, cuts.get(block.layer)) for block in made]
    made.sort(key=lambda block: block.where.first)
    names = {block.name for block in made}
    return tuple(b if b.shares in names else replace(b, shares="") for b in made)


def facts_of(
    model: nn.Module, X: Tensor, outside: Mapping[str, str] | None = None, *, alone: bool = False
) -> Facts:
    """Try a model on a few examples: which layers show `a` and `g`, and how.

    Args:
        model: Any model.
        X: The examples, [B, …].
        outside: Layers that are known to be outside, with the reason.
        alone: Whether outputs are known not to depend on the batch: those of a task are tried when it is made.

    Raises:
        SpecError: As for `blocks`.
    """
    found = survey(model)
    if not found.layers and not found.bare:
        raise refusal(
            Code.E0413,
            "the model has no trainable parameter",
            "set `requires_grad_(True)` on the parameters to be studied",
        )
    output, picks = seen_run(model, X)
    check_output(output, len(X))
    if not alone:
        check_examples(model, X, output)
    known = lone_gradients(model, X, output)
    facts = _spreadable(model, X, found, output).without(outside or {})
    layers, _ = facts.split(found)
    traced = trace(model, X, facts.watched(layers, trying=True), trying=True)
    facts = facts.without(traced.outside)
    facts = replace(facts, folds=_folds(traced), second=_second(traced), picks=picks)
    # Whose examples are on the second axis is told beforehand where it is not tried.
    same = None if facts.second else traced
    wrong = _wrong(model, X, found, facts, known, same)
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
    alone = lone_gradients(model, X[rows], found.output[rows].detach())
    direction = torch.zeros_like(found.output)
    direction[rows] = alone.direction
    shown = [block for block in layers if block.kind is not None]

    def rebuilt(columns: Tensor) -> dict[str, Tensor]:
        return {k: v[rows] for k, v in gradients_of(shown, found, columns).items()}

    wrong = mismatched(found, shown, rebuilt, replace(alone, direction=direction))
    if wrong:
        raise OutsideError(dict.fromkeys(sorted(wrong), _USED_OUTSIDE))


@dataclass(slots=True, eq=False)
class BatchChecks:
    """Outputs of two examples of every batch are checked, and gradients of two in the batches 0, 1, 3, 7, ….

    Rows that are picked by value may differ from those of the examples that were tried, and so may what
    the examples of a batch do to each other: a capacity that few of them do not exceed, a rare value.
    A card is not waited for in every batch: what its outputs say is read once, at the end of the loop.

    Args:
        model: A model that picks rows.
        sound: What the outputs say so far, where that has not been read.
    """

    model: nn.Module
    sound: Tensor | None = None

    def see(self, X: Tensor, layers: Sequence[LayerBlock], number: int) -> None:
        """Check a batch.

        Args:
            X: Inputs of the batch.
            layers: The model's blocks.
            number: Of the batch, from 0.

        Raises:
            SpecError: E0410 for outputs that depend on the batch.
            OutsideError: As `check_rows`.
        """
        self.see_outputs(X)
        if number & (number + 1) == 0:
            B = len(X)
            places = [(31 * number + 7) % B, (31 * number + 3 + B // 2) % B]
            check_rows(self.model, X, layers, places)

    def see_outputs(self, X: Tensor) -> None:
        """Check the outputs of a batch alone.

        Raises:
            SpecError: E0410 for outputs that depend on the batch.
        """
        found = seem_alone(self.model, X) if waits(X.device) else None
        if found is None:
            check_alone(self.model, X)
        else:
            self.sound = found if self.sound is None else self.sound & found

    def settle(self, batches: Callable[[], Iterable[Tensor]]) -> None:
        """Read what was put off; where it is not clear, every batch is checked by itself.

        Args:
            batches: Inputs of all batches again.

        Raises:
            SpecError: E0410 for outputs that depend on the batch.
        """
        sound, self.sound = self.sound, None
        if sound is not None and not bool(sound):
            for X in batches():
                check_alone(self.model, X)


_USED_OUTSIDE = "its parameters are also used outside its call, or its rows are not its examples'"


def _at_once(model: nn.Module, X: Tensor, names: Sequence[str], known: LoneGradients) -> bool:
    starts, own = offsets(model), trainable(model)
    rows = {
        name: known.gradients[:, starts[name] : starts[name] + own[name].numel()] for name in names
    }
    columns = known.direction.reshape(len(X), -1, 1)
    return runs_at_once(model, X, names, columns, rows)


def _wrong(
    model: nn.Module,
    X: Tensor,
    found: Survey,
    facts: Facts,
    known: LoneGradients,
    traced: Trace | None = None,
) -> frozenset[str]:
    """Layers whose `a` and `g` do not give the gradients of the examples."""
    layers, _ = facts.split(found)
    made, traced = made_blocks(model, X, facts, layers, traced=traced)
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
            use.folded == "first"
            and use.kind.folds
            and use.input.dim() > 2
            and use.input.shape[0] == use.input.shape[1]
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
    suspects = {x.name: TracedLayer(x.modules, x.kind) for x in layers if not x.inside}
    one = X[:1]
    few, more = (_shapes(model, one, count, suspects) for count in (1, 2))
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
