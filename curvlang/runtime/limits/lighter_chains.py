"""Chains that need less memory in place of a chain: labels drawn, words apart, the diagonal alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from curvlang.compiler.planning.fits import first_unfit
from curvlang.language import curvature_named, shipped
from curvlang.language.chain import Chain, Stage, Value

DROP, EXACT = "drop_residual", "exact"
BLOCKS, VOCABULARY, APART = "block_diagonal", "vocabulary", "apart"
DRAWN: Mapping[str, Value] = {"fisher": "mc", "samples": 1}


def candidates(chains: Sequence[Chain]) -> Iterator[tuple[list[Chain], str]]:
    """Chains in place of some chains, those that change least first, each with what to write."""
    label = "one drawn label in place of exact columns"
    words = "factors of embeddings, and of the layer that predicts words, have a row for every word"
    clause = f"`{BLOCKS}(by = layer, {VOCABULARY} = {APART})` and `others = diagonal`"
    if any(is_exact(stage) for chain in chains for stage in chain.stages):
        yield [*map(drawn, chains)], f"write `{DROP}(fisher = mc)`: {label}"
    yield [*map(apart, chains)], f"write {clause}: {words}"
    both = [drawn(apart(chain)) for chain in chains]
    yield both, f"write {clause}, and `{DROP}(fisher = mc)`: {words}, and exact columns are many"
    alone = [_diagonal(drawn(chain)) for chain in chains]
    yield alone, "write `diagonal` after `block_diagonal`: it forms no matrices"


def named(chains: Sequence[Chain], text: str) -> str:
    """What to write, and the name under which a chain ships."""
    found = ships(chains[-1])
    return f"{text} (`{found}` does so)" if found else text


def ships(chain: Chain) -> str:
    """The name of the curvature that ships and is this chain; empty where none is."""
    own = [stage.key for stage in chain.stages]
    for name in (x.name for x in shipped() if x.kind == "curvature"):
        other = curvature_named(name)
        if isinstance(other, Chain) and [stage.key for stage in other.stages] == own:
            return name
    return ""


def drawn(chain: Chain) -> Chain:
    """The chain with one drawn label in place of exact columns, or of several drawn ones."""
    return _with(chain, DROP, DRAWN, lambda stage: stage.arguments["fisher"] in (EXACT, "mc"))


def apart(chain: Chain) -> Chain:
    """The chain with embeddings, and the layer that predicts their rows, under the diagonal."""
    found = _with(chain, BLOCKS, {VOCABULARY: APART}, by_layer)
    number = first_unfit(chain)
    if found is chain or number is None or chain.stages[number].others is not None:
        return found
    stages = [*found.stages]
    stages[number] = replace(stages[number], others=(_diagonal_stage(),))
    return replace(found, stages=tuple(stages))


def _diagonal(chain: Chain) -> Chain:
    """The diagonal in place of everything after the blocks."""
    for number, stage in enumerate(chain.stages):
        if by_layer(stage):
            plain = _with(chain, BLOCKS, {VOCABULARY: "layers"}, by_layer)
            stages = (*plain.stages[: number + 1], _diagonal_stage())
            return replace(plain, stages=stages, labels=(*plain.labels[: number + 1], "diagonal"))
    return chain


def _diagonal_stage() -> Stage:
    chain = curvature_named("diagonal")
    assert isinstance(chain, Chain)
    return chain.stages[-1]


def is_exact(stage: Stage) -> bool:
    """Whether a stage takes exact columns."""
    return stage.name == DROP and stage.arguments.get("fisher") == EXACT


def by_layer(stage: Stage) -> bool:
    """Whether a stage cuts by layers."""
    return stage.name == BLOCKS and stage.arguments.get("by") == "layer"


def _with(
    chain: Chain, name: str, arguments: Mapping[str, Value], where: Callable[[Stage], bool]
) -> Chain:
    """The chain with arguments of some of its stages replaced."""
    stages = tuple(
        replace(stage, arguments={**stage.arguments, **arguments})
        if stage.name == name and where(stage)
        else stage
        for stage in chain.stages
    )
    return chain if stages == chain.stages else replace(chain, stages=stages)
