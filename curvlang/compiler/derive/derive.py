"""From typed chains to tensor programs: stages become statements in single-assignment form.

In: typed chains (`language.chain`). Out: one `Program` per partition, in which statements that
several chains share stand once, and a `Result` for every prefix of every chain.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from curvlang.compiler.derive.body import write_stage
from curvlang.compiler.derive.builder import (
    I2,
    LAYER_BLOCK,
    MODEL_BLOCK,
    O2,
    P2,
    I,
    N,
    O,
    P,
    R,
    State,
    T,
    Unit,
    Units,
)
from curvlang.compiler.derive.dead_code import needed
from curvlang.compiler.derive.program import Fisher, Key, Leaf, Partition, Program, Result
from curvlang.ir import expr as ir
from curvlang.ir.indices import names, spaces
from curvlang.language.chain import Chain, Stage, Value
from curvlang.language.partition import partition_of
from curvlang.language.registry import SOURCES, STAGES


def derive(
    chains: Sequence[Chain], *, last: bool = False, beside: Sequence[Chain] | None = None
) -> tuple[tuple[Program, ...], tuple[tuple[Result, ...], ...]]:
    """Programs shared by the chains, and for each chain the result after each of its stages.

    Args:
        chains: Typed chains.
        last: The result after the last stage alone: what only earlier ones need is left out.
        beside: For each chain the one for other parameters, where a model has any: its k-th stage,
            or its last, stands beside the main one's.
    """
    units = Units()
    every = tuple(_derive_chain(chain, units) for chain in chains)
    if beside is not None:
        every = tuple(
            tuple(_with_beside(found, other, units))
            for found, other in zip(every, beside, strict=True)
        )
    results = tuple(found[-1:] for found in every) if last else every
    flat = [r for rs in results for r in rs]
    flat += [r.beside for r in flat if r.beside is not None]
    programs = tuple(
        _program(unit, tuple(dict.fromkeys(r.value for r in flat if r.key == key)))
        for key, unit in units.items()
    )
    return tuple(p for p in programs if p.results), results


def _with_beside(results: Sequence[Result], other: Chain, units: Units) -> Iterator[Result]:
    """Every result of blocks with the one that other parameters have there."""
    found = _derive_chain(other, units, others=True)
    for k, result in enumerate(results):
        beside = found[min(k, len(found) - 1)]
        yield result if result.partition == Partition.MODEL else replace(result, beside=beside)


def _program(unit: Unit, results: tuple[ir.Yield, ...]) -> Program:
    """The statements and the leaves that the results need; nothing else is computed."""
    definitions = needed(unit.definitions, results)
    read = {x for result in results for x in names(result.value)}
    read |= {x for d in definitions if isinstance(d, ir.Define) for x in names(d.value)}
    leaves = {name: leaf for name, leaf in unit.leaves.items() if name in read}
    inlined = frozenset(unit.inlined)
    return Program(unit.partition, unit.fisher, leaves, definitions, results, inlined, unit.others)


def _derive_chain(chain: Chain, units: Units, others: bool = False) -> tuple[Result, ...]:
    state = State(others=others)
    results = []
    told: dict[Key, set[ir.Define | ir.Space]] = {}
    for label, stage in zip(chain.labels, chain.stages, strict=True):
        _apply(stage, state, units)
        assert state.value is not None
        key = state.key
        introduced = _introduced(units[key], state.value, told.setdefault(key, set()))
        results.append(
            Result(
                label,
                describe_stage(stage),
                state.partition,
                state.fisher,
                state.value,
                stage.span,
                introduced,
                stage.doc or _builtin_doc(stage),
                stage.builtin,
                state.key[2],
            )
        )
    return tuple(results)


def _introduced(
    unit: Unit, value: ir.Yield, told: set[ir.Define | ir.Space]
) -> tuple[ir.Define | ir.Space, ...]:
    """Definitions that a yield needs and that no stage before it has told; now they are told."""
    wanted = set(names(value.value)) | {b.name for b in value.lift if b is not None}
    letters = set(spaces(value.value))
    found: list[ir.Define | ir.Space] = []
    for statement in reversed(unit.definitions):
        match statement:
            case ir.Define(targets=targets, value=right) if wanted & {t.name for t in targets}:
                wanted |= names(right)
                letters |= spaces(right) | {x.space for t in targets for x in t.indices}
            case ir.Space(letter=letter) if letter in letters:
                pass
            case _:
                continue
        if statement not in told:
            found.append(statement)
    told.update(found)
    return tuple(reversed(found))


def _builtin_doc(stage: Stage) -> str:
    entry = {**SOURCES, **STAGES}.get(stage.name)
    return "" if entry is None else entry.doc


def describe_stage(stage: Stage) -> str:
    """The stage as a person would write it: `drop_residual(fisher = mc, samples = 10)`."""
    if not stage.arguments and stage.others is None:
        return stage.name
    if stage.span.text.startswith(stage.name):
        return " ".join(stage.span.text.split())
    inside = ", ".join(f"{name} = {describe_value(v)}" for name, v in stage.arguments.items())
    return f"{stage.name}({inside})"


def describe_value(value: Value) -> str:
    """A parameter's value as the language writes it."""
    match value:
        case bool():
            return "true" if value else "false"
        case tuple():
            return "[" + ", ".join(map(describe_value, value)) + "]"
        case float():
            return f"{value:g}"
        case _:
            return str(value)


def _apply(stage: Stage, state: State, units: Units) -> None:
    if not stage.builtin:
        write_stage(stage, state, units[state.key])
        return
    match stage.name:
        case "hessian":
            name = units[state.key].leaf(Leaf("H", (P, P2)))
            state.value = ir.Yield(MODEL_BLOCK, ir.Ref(name, (P, P2)), stage.span)
        case "drop_residual":
            fisher = Fisher(str(stage.arguments["fisher"]), int(stage.arguments["samples"]))  # type: ignore[arg-type]
            state.fisher = fisher if fisher.kind == "mc" else Fisher(fisher.kind)
            name = units[state.key].leaf(Leaf("j", (N, R, P), state.fisher))
            state.value = ir.Yield(
                MODEL_BLOCK, _mean_outer(ir.Ref(name, (N, R, P)), P, P2), stage.span
            )
        case "block_diagonal":
            _block_diagonal(stage, state, units)
        case _:
            raise AssertionError(f"no built-in stage `{stage.name}`")


def _mean_outer(column: ir.Ref, row: ir.Index, row2: ir.Index) -> ir.Expr:
    second = replace(column, indices=tuple(row2 if x == row else x for x in column.indices))
    body = ir.Binary(ir.BinaryOperator.MULTIPLY, column, second)
    return ir.Reduce(ir.ReductionKind.MEAN, (N,), ir.Reduce(ir.ReductionKind.SUM, (R,), body))


def _block_diagonal(stage: Stage, state: State, units: Units) -> None:
    state.partition = partition_of(stage.arguments["by"], stage.arguments.get("of", ()))
    unit = units[state.key]
    state.names = {}
    if state.fisher is None:
        name = unit.leaf(Leaf("H", LAYER_BLOCK.indices))
        state.value = ir.Yield(LAYER_BLOCK, ir.Ref(name, LAYER_BLOCK.indices), stage.span)
        return
    g = unit.leaf(Leaf("g", (N, R, T, O), state.fisher))
    a = unit.leaf(Leaf("a", (N, T, I)))

    def gradient(o: ir.Index, i: ir.Index) -> ir.Expr:
        product = ir.Binary(
            ir.BinaryOperator.MULTIPLY, ir.Ref(g, (N, R, T, o)), ir.Ref(a, (N, T, i))
        )
        return ir.Reduce(ir.ReductionKind.SUM, (T,), product)

    outer = ir.Binary(ir.BinaryOperator.MULTIPLY, gradient(O, I), gradient(O2, I2))
    body = ir.Reduce(ir.ReductionKind.SUM, (R,), outer)
    state.value = ir.Yield(LAYER_BLOCK, ir.Reduce(ir.ReductionKind.MEAN, (N,), body), stage.span)
