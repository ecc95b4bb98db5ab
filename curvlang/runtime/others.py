"""Parameters outside any layer's weight matrix: what the chains of a run do with them, or a refusal."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from curvlang.compiler.derive.derive import describe_stage
from curvlang.compiler.planning.fits import Unfit, first_unfit, unfit
from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import Diagnostic, SpecError
from curvlang.diagnostics.refusal import label_at, refusal
from curvlang.language.chain import Chain
from curvlang.language.partition import Partition, partition_of_chain
from curvlang.models.task import Task
from curvlang.models.tracing.blocks import LayerBlock
from curvlang.runtime.limits.columns import MANY, many_columns
from curvlang.runtime.limits.lighter_chains import (
    APART,
    BLOCKS,
    DROP,
    VOCABULARY,
    apart,
    by_layer,
    drawn,
    is_exact,
    ships,
)


def without_ignored(chains: Sequence[Chain], task: Task) -> Task:
    """The task as a run sees it: what a chain sets apart is apart, and what it ignores constant, for all.

    Args:
        chains: All chains of the run, those that others are compared with included.
        task: The task.
    """
    task = words_apart(chains, task)
    if not ignoring(chains):
        return task
    taken = {partition_of_chain(chain) for chain in chains if ignoring([chain])}
    others = list({b.name: b for by in taken for b in _others_of(task, by)}.values())
    left = {name for block in others for name in block.parameters}
    if not left:
        return task
    if left == set(task.parameters):
        raise refusal(
            Code.E0401,
            "`others = ignore` leaves no parameter: no stage that reads `a` or `g` fits any",
            "use `others = diagonal`, or a curvature of gradients alone (`ggn`)",
            notes=_notes(others),
        )
    return task.restricted([name for name in task.parameters if name not in left])


def words_apart(chains: Sequence[Chain], task: Task) -> Task:
    """The task with embeddings, and the layer that predicts their rows, apart where a chain takes them out."""
    out = any(map(_words_apart, chains)) and not task.words_apart
    return task.replaced(words_apart=True) if out else task


def _words_apart(chain: Chain) -> bool:
    """Whether a chain takes embeddings, and the layer that predicts their rows, out of the layers."""
    return any(stage.arguments.get(VOCABULARY) == APART for stage in chain.stages)


def ignoring(chains: Sequence[Chain]) -> bool:
    """Whether a chain takes the parameters that it does not fit out of the problem."""
    clauses = [c for c in chains if any(stage.others == "ignore" for stage in c.stages)]
    return any(u.ignored for u in map(unfit, clauses) if u is not None)


def misfits(chains: Sequence[Chain], task: Task) -> list[Diagnostic]:
    """Every stage that does not fit parameters of the task, as it would be refused in a run."""
    found: dict[Diagnostic, None] = {}
    for chain in chains:
        others = _others_of(task, partition_of_chain(chain))
        odd = unfit(chain) if others else None
        wrong = None if odd is None or odd.ignored else _problem(odd, others, task)
        found |= dict.fromkeys(wrong.diagnostics if wrong else ())
    return [*found]


def besides(chains: Sequence[Chain], task: Task) -> tuple[Chain, ...] | None:
    """For each chain the one for the other parameters; None where there are none.

    Raises:
        SpecError: E0401 where a stage fits none of them and no clause says what to do, E0415 where
            the stage that a clause names does not fit them either.
    """
    partitions = [partition_of_chain(chain) for chain in chains]
    others = {by: _others_of(task, by) for by in partitions}
    if not any(others.values()):
        return None
    pairs = zip(chains, partitions, strict=True)
    return tuple(_beside(chain, others[by], task) if others[by] else chain for chain, by in pairs)


def _others_of(task: Task, by: Partition) -> tuple[LayerBlock, ...]:
    """The blocks of a model whose `a` and `g` mean nothing by themselves."""
    found = task.blocks(Partition.LAYER if by.layers else by)
    return tuple(block for block in found if not block.factored)


def _beside(chain: Chain, others: Sequence[LayerBlock], task: Task) -> Chain:
    found = unfit(chain)
    if found is None:
        return chain
    wrong = _problem(found, others, task)
    if wrong is not None:
        raise wrong
    assert found.beside is not None
    return found.beside


def _problem(found: Unfit, others: Sequence[LayerBlock], task: Task) -> SpecError | None:
    """What is wrong with a stage that does not fit; nothing where its clause helps."""
    if found.beside is None:
        return _fits_none(found, others, task)
    return None if first_unfit(found.beside) is None else _unfit_either(found, others)


def _named(others: Sequence[LayerBlock]) -> str:
    return ", ".join(f"`{block.name}`" for block in others)


def _notes(others: Sequence[LayerBlock]) -> tuple[str, ...]:
    return tuple(
        f"{', '.join(f'`{name}`' for name in block.parameters)}: {block.reason}" for block in others
    )


def _fits_none(found: Unfit, others: Sequence[LayerBlock], task: Task) -> SpecError:
    stage = found.chain.stages[found.number]
    return refusal(
        Code.E0401,
        f"`{stage.name}` does not fit {_named(others)}",
        "say what becomes of them: `others = diagonal` (or another stage that fits), "
        "`others = keep` (as they are before this stage), or `others = ignore` (constants)",
        _example(found, task),
        labels=label_at(stage.span, "needs the inputs and outputs of a layer"),
        notes=_notes(others),
    )


def _example(found: Unfit, task: Task) -> str:
    """The whole chain with the clause, and with drawn labels where exact columns are too many."""
    stages = found.chain.stages
    written = [describe_stage(x) for x in stages]
    written[found.number] = _with_clause(written[found.number], "diagonal")
    words = any(isinstance(x, nn.Embedding) for x in task.model.modules())
    exact = [k for k, stage in enumerate(stages) if is_exact(stage)]
    why, meant = "", apart(found.chain)
    y = task.train[1]
    by_word = words and y.ndim > 1 and not y.is_floating_point()
    if exact and (columns := many_columns(task, 0 if by_word else MANY)):
        written[exact[0]] = f"{DROP}(fisher = mc)"
        meant = drawn(meant)
        why = f"; labels are drawn in it, since this loss has {columns}"
    name = ships(meant)
    if words or why or name:
        # Without embeddings the two are the same: the one that ships has a name.
        for k in filter(lambda k: by_layer(stages[k]), range(len(stages))):
            written[k] = f"{BLOCKS}(by = layer, {VOCABULARY} = {APART})"
    known = f", which ships as `{name}`" if name else ""
    return f"for example `curvature mine = {' |> '.join(written)}`{known}{why}"


def _with_clause(stage: str, word: str) -> str:
    if stage.endswith(")"):
        return f"{stage[:-1]}, others = {word})"
    return f"{stage}(others = {word})"


def _unfit_either(found: Unfit, others: Sequence[LayerBlock]) -> SpecError:
    stage = found.chain.stages[found.number]
    clause = stage.others
    name = clause[0].name if isinstance(clause, tuple) else str(clause)
    return refusal(
        Code.E0415,
        f"`{name}` does not fit {_named(others)} either",
        "use a stage that takes a block's entries as one index, as `diagonal` does, or `keep`",
        labels=label_at(stage.span, "named in this clause"),
        notes=_notes(others),
    )
