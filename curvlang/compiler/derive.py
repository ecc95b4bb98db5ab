"""From typed chains to tensor programs: stages become statements in single-assignment form.

In: typed chains (`language.chain`). Out: one `Program` per partition, in which statements that
several chains share stand once, and a `Result` for every prefix of every chain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import assert_never

from curvlang.compiler.identifiers import identifier
from curvlang.compiler.inline import inline
from curvlang.compiler.needed import needed
from curvlang.compiler.program import Fisher, Leaf, Partition, Program, Result
from curvlang.ir.expr import (
    Apply,
    Binary,
    BinaryOperator,
    BodyStatement,
    Call,
    Define,
    Delta,
    Expr,
    Index,
    Negate,
    Number,
    Project,
    Reduce,
    ReductionKind,
    Ref,
    Size,
    Space,
    Target,
    Yield,
)
from curvlang.ir.indices import fresh, names, rename_names, rename_spaces, spaces
from curvlang.language.chain import Chain, Stage, Value
from curvlang.language.registry import SOURCES, STAGES
from curvlang.language.tensors import LEAF_NAMES, MODEL_LETTERS

N, T, R, I, O, P, C = (Index(letter) for letter in "ntriopc")
I2, O2, P2, C2 = (Index(letter, 1) for letter in "iopc")

MODEL_BLOCK = Target("C", (P, P2))
LAYER_BLOCK = Target("C", (O, I, O2, I2))


_MARK = "\0"
"""Stands in front of names that must not meet others until they have their final ones."""


@dataclass(slots=True)
class _Unit:
    """A program under construction: statements interned by meaning."""

    partition: Partition
    fisher: Fisher | None
    leaves: dict[str, Leaf] = field(default_factory=dict)
    definitions: list[Define | Space] = field(default_factory=list)
    known: dict[tuple[object, ...], tuple[Target, ...]] = field(default_factory=dict)
    lengths: dict[tuple[str, Expr], str] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)
    letters: set[str] = field(default_factory=lambda: set("ntriopcl"))
    indices: dict[str, tuple[Index, ...]] = field(default_factory=dict)
    inlined: set[str] = field(default_factory=set)

    def leaf(self, leaf: Leaf) -> str:
        for name, other in self.leaves.items():
            if other == leaf:
                return name
        name = self.unused(leaf.kind)
        self.leaves[name] = leaf
        self.indices[name] = leaf.indices
        return name

    def unused(self, wish: str) -> str:
        plain = identifier(wish)
        name, number = plain, 1
        while name in self.taken:
            number += 1
            name = f"{plain}_{number}"
        self.taken.add(name)
        return name

    def letter(self, wish: str) -> str:
        """A name for a new space: the letter, with a number where it is taken."""
        name, number = wish, 1
        while name in self.letters:
            number += 1
            name = f"{wish}{number}"
        self.letters.add(name)
        return name

    def space(self, wish: str, length: Expr, statement: Space) -> str:
        """Intern a declared space."""
        if (wish, length) not in self.lengths:
            name = self.letter(wish)
            self.lengths[wish, length] = name
            self.definitions.append(replace(statement, letter=name, length=length))
        return self.lengths[wish, length]

    def define(self, statement: Define, made: frozenset[str] = frozenset()) -> tuple[Target, ...]:
        """Intern a statement; return its targets in single-assignment form.

        `made` holds letters on the left that are new here: the function makes their spaces.
        """
        pattern = tuple(
            (t.name == "_", tuple((x, x.space in made) for x in t.indices))
            for t in statement.targets
        )
        key = (pattern, statement.value)
        if key not in self.known:
            renamed = {x: self.letter(x.removeprefix(_MARK)) for x in sorted(made)}
            targets = tuple(
                replace(
                    t,
                    name=t.name if t.name == "_" else self.unused(t.name),
                    indices=_respaced(t.indices, renamed),
                )
                for t in statement.targets
            )
            self.definitions.append(replace(statement, targets=targets))
            self.indices.update({t.name: t.indices for t in targets})
            self.known[key] = targets
        return self.known[key]


def _respaced(indices: tuple[Index, ...], spaces: Mapping[str, str]) -> tuple[Index, ...]:
    return tuple(replace(x, space=spaces.get(x.space, x.space)) for x in indices)


@dataclass(slots=True)
class _State:
    """What flows left to right along a chain."""

    partition: Partition = Partition.MODEL
    fisher: Fisher | None = None
    names: dict[str, str] = field(default_factory=dict)
    value: Yield | None = None
    spaces: dict[str, str] = field(default_factory=dict)
    bases: dict[str, Ref] = field(default_factory=dict)


def derive(
    chains: Sequence[Chain], *, last: bool = False
) -> tuple[tuple[Program, ...], tuple[tuple[Result, ...], ...]]:
    """Programs shared by the chains, and for each chain the result after each of its stages.

    With `last`, the result after the last stage alone: what only earlier ones need is left out.
    """
    units = _Units()
    every = tuple(_derive_chain(chain, units) for chain in chains)
    results = tuple(found[-1:] for found in every) if last else every
    flat = [r for rs in results for r in rs]
    programs = tuple(
        _program(unit, tuple(dict.fromkeys(r.value for r in flat if r.key == key)))
        for key, unit in units.items()
    )
    return tuple(p for p in programs if p.results), results


def _program(unit: _Unit, results: tuple[Yield, ...]) -> Program:
    """The statements and the leaves that the results need; nothing else is computed."""
    definitions = needed(unit.definitions, results)
    read = {x for result in results for x in names(result.value)}
    read |= {x for d in definitions if isinstance(d, Define) for x in names(d.value)}
    leaves = {name: leaf for name, leaf in unit.leaves.items() if name in read}
    inlined = frozenset(unit.inlined)
    return Program(unit.partition, unit.fisher, leaves, definitions, results, inlined)


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
    told: dict[tuple[Partition, Fisher | None], set[Define | Space]] = {}
    for label, stage in zip(chain.labels, chain.stages, strict=True):
        _apply(stage, state, units)
        assert state.value is not None
        key = (state.partition, state.fisher)
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
            )
        )
    return tuple(results)


def _introduced(unit: _Unit, value: Yield, told: set[Define | Space]) -> tuple[Define | Space, ...]:
    """Definitions that a yield needs and that no stage before it has told; now they are told."""
    wanted = set(names(value.value)) | {b.name for b in value.lift if b is not None}
    letters = set(spaces(value.value))
    found: list[Define | Space] = []
    for statement in reversed(unit.definitions):
        match statement:
            case Define(targets=targets, value=right) if wanted & {t.name for t in targets}:
                wanted |= names(right)
                letters |= spaces(right) | {x.space for t in targets for x in t.indices}
            case Space(letter=letter) if letter in letters:
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
    body = _Body(stage, state, unit)
    for statement in stage.body:
        body.read(statement)
    for projection in body.projections:
        project(projection, state, unit, body.spaces)


class _Body:
    """One stage's statements, with the names and the spaces that it sees.

    Letters of a stage are its own: a need binds them to the spaces of the tensor that it names,
    `space` and the tensor functions make new ones.
    """

    def __init__(self, stage: Stage, state: _State, unit: _Unit) -> None:
        self.state = state
        self.unit = unit
        self.spaces = dict(state.spaces)
        self.written = {t.name: t.indices for t in stage.needs}
        self.projections: list[Project] = []
        for target in stage.needs:
            if target.name in state.names:
                found = unit.indices[state.names[target.name]]
                self._bind(target.indices, found)

    def _bind(self, written: tuple[Index, ...], found: tuple[Index, ...]) -> None:
        for index, other in zip(written, found, strict=True):
            if index.space not in MODEL_LETTERS:
                self.spaces.setdefault(index.space, other.space)

    def read(self, statement: BodyStatement) -> None:
        """Take one statement into the program."""
        state, unit = self.state, self.unit
        match statement:
            case Space(letter=letter, length=length):
                made = unit.space(letter, rename_spaces(length, self.spaces), statement)
                self.spaces[letter] = made
            case Project():
                self.projections.append(statement)
            case Define():
                self._define(statement)
            case Yield(target=target):
                value, _ = self._value(statement.value)
                assert state.value is not None
                moved = replace(target, indices=_respaced(target.indices, self.spaces))
                state.value = replace(state.value, target=moved, value=value, span=statement.span)
                state.names.pop("C", None)
            case _:
                assert_never(statement)

    def _define(self, statement: Define) -> None:
        value, inlined = self._value(statement.value)
        used = {x.space for t in statement.targets for x in t.indices}
        made = frozenset(x for x in used if x not in self.spaces and x not in MODEL_LETTERS)
        # A letter that is new here waits behind a mark: a space of that name may be another's.
        spaces = self.spaces | {x: _MARK + x for x in made}
        made = frozenset(_MARK + x for x in made)
        targets = tuple(replace(t, indices=_respaced(t.indices, spaces)) for t in statement.targets)
        found = self.unit.define(replace(statement, targets=targets, value=value), made)
        if inlined:
            self.unit.inlined.add(found[0].name)
        for target, single in zip(statement.targets, found, strict=True):
            self._bind(target.indices, single.indices)
            if target.name != "_":
                self.state.names[target.name] = single.name
                self.written[target.name] = target.indices

    def _value(self, expr: Expr) -> tuple[Expr, bool]:
        """A right side over single-assignment names; whether it contracts the curvature unformed."""
        state, unit = self.state, self.unit
        placed = self._regrouped(rename_spaces(expr, self.spaces))
        value = state.value
        assert value is not None
        inlined = placed
        if "C" not in state.names and "C" in names(placed):
            # The curvature's own names are in place already, so they wait behind a mark.
            inlined = inline(placed, "C", value.target.indices, _marked(value.value))
        local = {x for x in names(inlined) if not x.startswith(_MARK)}
        renamed = {x: _name(x, state, unit) for x in sorted(local)}
        renamed |= {x: x.removeprefix(_MARK) for x in names(inlined) if x.startswith(_MARK)}
        return _made_tensors(rename_names(inlined, renamed), unit), inlined != placed

    def _regrouped(self, expr: Expr) -> Expr:
        """Row and column indices of a function's argument, named as the tensor's definition does."""
        match expr:
            case Call(arguments=(Ref(name=name, cut=cut) as tensor, *rest)) if cut:
                written = _respaced(self.written[name], self.spaces)
                own = self.unit.indices[_name(name, self.state, self.unit)]
                order = tuple(own[written.index(x)] for x in tensor.indices)
                return replace(expr, arguments=(replace(tensor, indices=order), *rest))
            case Negate(operand=operand):
                return replace(expr, operand=self._regrouped(operand))
            case Binary(left=left, right=right):
                return replace(expr, left=self._regrouped(left), right=self._regrouped(right))
            case Reduce(body=inner):
                return replace(expr, body=self._regrouped(inner))
            case Apply(arguments=arguments):
                return replace(expr, arguments=tuple(map(self._regrouped, arguments)))
            case Number() | Ref() | Delta() | Size() | Call():
                return expr
            case _:
                assert_never(expr)


def _marked(expr: Expr) -> Expr:
    return rename_names(expr, {x: _MARK + x for x in names(expr)})


def _made_tensors(expr: Expr, unit: _Unit) -> Expr:
    """Random tensors inside an expression become definitions: drawn once, not in every batch."""
    go = lambda x: _made_tensors(x, unit)  # noqa: E731
    match expr:
        case Call(indices=indices) if indices:
            plain: list[Index] = []
            for index in indices:
                plain.append(fresh(index.space, frozenset(plain)))
            target = Target("drawn", tuple(plain))
            (made,) = unit.define(Define((target,), replace(expr, indices=tuple(plain))))
            return Ref(made.name, indices, expr.span)
        case Number() | Ref() | Delta() | Size() | Call():
            return expr
        case Negate(operand=operand):
            return replace(expr, operand=go(operand))
        case Binary(left=left, right=right):
            return replace(expr, left=go(left), right=go(right))
        case Reduce(body=body):
            return replace(expr, body=go(body))
        case Apply(arguments=arguments):
            return replace(expr, arguments=tuple(map(go, arguments)))
        case _:
            assert_never(expr)


def project(projection: Project, state: _State, unit: _Unit, spaces: Mapping[str, str]) -> None:
    """Compress the curvature and the leaves to the columns of a basis; keep the basis for lifting.

    C becomes Pᵀ C P over the new space; later yields are lifted by P, or by the product of the
    bases where the space was projected before.
    """
    letter = projection.old
    old, new = spaces.get(letter, letter), spaces[projection.new]
    basis = state.names[projection.basis.name]
    move = _Move(old, new, basis)
    assert state.value is not None
    value = state.value
    indices = _respaced(value.target.indices, {old: new})
    state.value = replace(
        value,
        target=replace(value.target, indices=indices),
        value=_compress(value.value, value.target.indices, move),
        span=projection.span,
    )
    for name in LEAF_NAMES:
        if name in state.names and name != "C":
            state.names[name] = _moved_leaf(name, state.names[name], move, unit)
    state.names.pop("C", None)
    if letter in state.bases:
        first = state.bases[letter]
        row, middle = first.indices
        product = Binary(BinaryOperator.MULTIPLY, first, Ref(basis, (middle, Index(new))))
        value_ = Reduce(ReductionKind.SUM, (middle,), product)
        (both,) = unit.define(Define((Target("basis", (row, Index(new))),), value_))
        state.bases[letter] = Ref(both.name, both.indices)
    else:
        state.bases[letter] = Ref(basis, (Index(old), Index(new)))
    state.spaces[letter] = new
    rows = ("p",) if state.partition is Partition.MODEL else ("o", "i")
    state.value = replace(state.value, lift=tuple(state.bases.get(x) for x in rows))


@dataclass(frozen=True, slots=True)
class _Move:
    """From one space to another by a basis."""

    old: str
    new: str
    basis: str


def _compress(value: Expr, indices: tuple[Index, ...], move: _Move) -> Expr:
    """Σ P[i,k] P[i',k'] … value[…,i,…,i',…] for every index of the old space."""
    expr: Expr = Ref("C", indices)
    moved = tuple(x for x in indices if x.space == move.old)
    for index in moved:
        factor = Ref(move.basis, (index, replace(index, space=move.new)))
        expr = Binary(BinaryOperator.MULTIPLY, factor, expr)
    return inline(Reduce(ReductionKind.SUM, moved, expr), "C", indices, value)


def _moved_leaf(wish: str, name: str, move: _Move, unit: _Unit) -> str:
    """A leaf over the new space: a[n,t,k] = Σ_i a[n,t,i] P[i,k]."""
    indices = unit.indices[name]
    if not any(x.space == move.old for x in indices):
        return name
    value = _compress(Ref(name, indices), indices, move)
    (made,) = unit.define(Define((Target(wish, _respaced(indices, {move.old: move.new})),), value))
    return made.name


def _name(name: str, state: _State, unit: _Unit) -> str:
    if name in state.names:
        return state.names[name]
    if name == "C":
        # The curvature so far, read as a tensor: it is formed, since the formula asks for it.
        assert state.value is not None
        (made,) = unit.define(Define((state.value.target,), state.value.value))
        state.names["C"] = made.name
        return made.name
    indices = LEAVES[unit.partition][name]
    fisher = state.fisher if name == "g" else None
    found = unit.leaf(Leaf(name, indices, fisher))
    for letter, basis in state.bases.items():
        found = _moved_leaf(name, found, _Move(letter, basis.indices[1].space, basis.name), unit)
    return found
