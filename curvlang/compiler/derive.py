"""From typed chains to tensor programs: stages become statements in single-assignment form.

In: typed chains (`language.chain`). Out: one `Program` per partition, in which statements that
several chains share stand once, and a `Result` for every prefix of every chain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from curvlang.compiler.program import Fisher, Leaf, Partition, Program, Result
from curvlang.ir.expr import (
    Binary,
    BinaryOperator,
    Define,
    Expr,
    Index,
    Reduce,
    ReductionKind,
    Ref,
    Target,
    Yield,
)
from curvlang.ir.indices import rename_names, walk
from curvlang.language.chain import Chain, Stage, Value

N, T, R, I, O, P, C = (Index(letter) for letter in "ntriopc")
I2, O2, P2, C2 = (Index(letter, 1) for letter in "iopc")

MODEL_BLOCK = Target("C", (P, P2))
LAYER_BLOCK = Target("C", (O, I, O2, I2))


@dataclass(slots=True)
class _Unit:
    """A program under construction: statements interned by meaning."""

    partition: Partition
    fisher: Fisher | None
    leaves: dict[str, Leaf] = field(default_factory=dict)
    definitions: list[Define] = field(default_factory=list)
    known: dict[tuple[object, ...], tuple[str, ...]] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)

    def leaf(self, leaf: Leaf) -> str:
        for name, other in self.leaves.items():
            if other == leaf:
                return name
        name = self.unused(leaf.kind)
        self.leaves[name] = leaf
        return name

    def unused(self, wish: str) -> str:
        name, number = wish, 1
        while name in self.taken:
            number += 1
            name = f"{wish}_{number}"
        self.taken.add(name)
        return name

    def define(self, statement: Define) -> tuple[str, ...]:
        """Intern a statement; return the single-assignment names of its targets."""
        shape = tuple((t.name == "_", t.indices) for t in statement.targets)
        key = (shape, statement.value)
        if key not in self.known:
            names = tuple(
                self.unused("discarded" if t.name == "_" else t.name) for t in statement.targets
            )
            targets = tuple(
                replace(t, name=n) for t, n in zip(statement.targets, names, strict=True)
            )
            self.definitions.append(replace(statement, targets=targets))
            self.known[key] = names
        return self.known[key]


@dataclass(slots=True)
class _State:
    """What flows left to right along a chain."""

    partition: Partition = Partition.MODEL
    fisher: Fisher | None = None
    names: dict[str, str] = field(default_factory=dict)
    value: Yield | None = None


def derive(chains: Sequence[Chain]) -> tuple[tuple[Program, ...], tuple[tuple[Result, ...], ...]]:
    """Programs shared by the chains, and for each chain the result after each of its stages."""
    units = _Units()
    results = tuple(_derive_chain(chain, units) for chain in chains)
    flat = [r for rs in results for r in rs]
    programs = tuple(
        Program(
            unit.partition,
            unit.fisher,
            dict(unit.leaves),
            tuple(unit.definitions),
            tuple(dict.fromkeys(r.value for r in flat if r.key == key)),
        )
        for key, unit in units.items()
    )
    return tuple(p for p in programs if p.results), results


class _Units(dict[tuple[Partition, Fisher | None], _Unit]):
    """Programs under construction, made when first asked for.

    Columns of different kinds have different numbers, so every kind has a program of its own.
    """

    def __missing__(self, key: tuple[Partition, Fisher | None]) -> _Unit:
        self[key] = _Unit(*key)
        return self[key]


def _derive_chain(chain: Chain, units: _Units) -> tuple[Result, ...]:
    state = _State()
    results = []
    for label, stage in zip(chain.labels, chain.stages, strict=True):
        _apply(stage, state, units)
        assert state.value is not None
        results.append(
            Result(
                label,
                describe_stage(stage),
                state.partition,
                state.fisher,
                state.value,
                stage.span,
            )
        )
    return tuple(results)


def describe_stage(stage: Stage) -> str:
    """The stage as a person would write it: `drop_residual(fisher = mc, samples = 10)`."""
    if not stage.arguments:
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


def _apply(stage: Stage, state: _State, units: _Units) -> None:
    if not stage.builtin:
        _written(stage, state, units[state.partition, state.fisher])
        return
    match stage.name:
        case "hessian":
            name = units[Partition.MODEL, None].leaf(Leaf("H", (P, P2)))
            state.value = Yield(MODEL_BLOCK, Ref(name, (P, P2)), stage.span)
        case "drop_residual":
            fisher = Fisher(str(stage.arguments["fisher"]), int(stage.arguments["samples"]))  # type: ignore[arg-type]
            state.fisher = fisher if fisher.kind == "mc" else Fisher(fisher.kind)
            name = units[Partition.MODEL, state.fisher].leaf(Leaf("j", (N, R, P), state.fisher))
            state.value = Yield(MODEL_BLOCK, _mean_outer(Ref(name, (N, R, P)), P, P2), stage.span)
        case "block_diagonal":
            _block_diagonal(stage, state, units)
        case _:
            raise AssertionError(f"no built-in stage `{stage.name}`")


def _mean_outer(column: Ref, row: Index, row2: Index) -> Expr:
    second = replace(column, indices=tuple(row2 if x == row else x for x in column.indices))
    body = Binary(BinaryOperator.MULTIPLY, column, second)
    return Reduce(ReductionKind.MEAN, (N,), Reduce(ReductionKind.SUM, (R,), body))


def _block_diagonal(stage: Stage, state: _State, units: _Units) -> None:
    state.partition = Partition(str(stage.arguments["by"]))
    unit = units[state.partition, state.fisher]
    state.names = {}
    if state.fisher is None:
        name = unit.leaf(Leaf("H", LAYER_BLOCK.indices))
        state.value = Yield(LAYER_BLOCK, Ref(name, LAYER_BLOCK.indices), stage.span)
        return
    g = unit.leaf(Leaf("g", (N, R, T, O), state.fisher))
    a = unit.leaf(Leaf("a", (N, T, I)))

    def gradient(o: Index, i: Index) -> Expr:
        product = Binary(BinaryOperator.MULTIPLY, Ref(g, (N, R, T, o)), Ref(a, (N, T, i)))
        return Reduce(ReductionKind.SUM, (T,), product)

    outer = Binary(BinaryOperator.MULTIPLY, gradient(O, I), gradient(O2, I2))
    body = Reduce(ReductionKind.SUM, (R,), outer)
    state.value = Yield(LAYER_BLOCK, Reduce(ReductionKind.MEAN, (N,), body), stage.span)


LEAVES: dict[Partition, dict[str, tuple[Index, ...]]] = {
    Partition.MODEL: {"H": (P, P2), "J": (N, C, P), "L": (N, C, C2)},
    Partition.LAYER: {
        "a": (N, T, I),
        "g": (N, R, T, O),
        "e": (N, T, O),
        "H": LAYER_BLOCK.indices,
    },
}
LEAVES[Partition.PARAMETER] = LEAVES[Partition.LAYER]


def _written(stage: Stage, state: _State, unit: _Unit) -> None:
    """A stage written in the language: rename to single assignment, intern, keep the yield."""
    assert state.value is not None
    for statement in stage.body:
        value = _resolve(statement.value, state, unit)
        match statement:
            case Define(targets=targets):
                defined = unit.define(replace(statement, value=value))
                for target, name in zip(targets, defined, strict=True):
                    if target.name != "_":
                        state.names[target.name] = name
            case Yield():
                state.value = replace(statement, value=value)
                state.names.pop("C", None)


def _resolve(expr: Expr, state: _State, unit: _Unit) -> Expr:
    renamed = {
        node.name: _name(node.name, state, unit) for node in walk(expr) if isinstance(node, Ref)
    }
    return rename_names(expr, renamed)


def _name(name: str, state: _State, unit: _Unit) -> str:
    if name in state.names:
        return state.names[name]
    if name == "C":
        # The curvature so far, read as a tensor: it is formed, since the formula asks for it.
        assert state.value is not None
        (made,) = unit.define(Define((state.value.target,), state.value.value))
        state.names["C"] = made
        return made
    indices = LEAVES[unit.partition][name]
    fisher = state.fisher if name == "g" else None
    return unit.leaf(Leaf(name, indices, fisher))
