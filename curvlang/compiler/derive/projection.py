"""Projections: the curvature and the leaves over a narrower space, and the basis to lift by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from curvlang.compiler.derive.builder import State, Unit, leaves_of, respaced
from curvlang.compiler.derive.inline import inline
from curvlang.compiler.derive.program import Leaf, Partition
from curvlang.ir import expr as ir
from curvlang.language.bodies.letters import LEAF_NAMES


def project(projection: ir.Project, state: State, unit: Unit, spaces: Mapping[str, str]) -> None:
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
    indices = respaced(value.target.indices, {old: new})
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
        product = ir.Binary(
            ir.BinaryOperator.MULTIPLY, first, ir.Ref(basis, (middle, ir.Index(new)))
        )
        value_ = ir.Reduce(ir.ReductionKind.SUM, (middle,), product)
        (both,) = unit.define(ir.Define((ir.Target("basis", (row, ir.Index(new))),), value_))
        state.bases[letter] = ir.Ref(both.name, both.indices)
    else:
        state.bases[letter] = ir.Ref(basis, (ir.Index(old), ir.Index(new)))
    state.spaces[letter] = new
    rows = ("p",) if state.partition == Partition.MODEL else ("o", "i")
    state.value = replace(state.value, lift=tuple(state.bases.get(x) for x in rows))


@dataclass(frozen=True, slots=True)
class _Move:
    """From one space to another by a basis."""

    old: str
    new: str
    basis: str


def _compress(value: ir.Expr, indices: tuple[ir.Index, ...], move: _Move) -> ir.Expr:
    """Σ P[i,k] P[i',k'] … value[…,i,…,i',…] for every index of the old space."""
    expr: ir.Expr = ir.Ref("C", indices)
    moved = tuple(x for x in indices if x.space == move.old)
    for index in moved:
        factor = ir.Ref(move.basis, (index, replace(index, space=move.new)))
        expr = ir.Binary(ir.BinaryOperator.MULTIPLY, factor, expr)
    return inline(ir.Reduce(ir.ReductionKind.SUM, moved, expr), "C", indices, value)


def _moved_leaf(wish: str, name: str, move: _Move, unit: Unit) -> str:
    """A leaf over the new space: a[n,t,k] = Σ_i a[n,t,i] P[i,k]."""
    indices = unit.indices[name]
    if not any(x.space == move.old for x in indices):
        return name
    value = _compress(ir.Ref(name, indices), indices, move)
    (made,) = unit.define(
        ir.Define((ir.Target(wish, respaced(indices, {move.old: move.new})),), value)
    )
    return made.name


def single_name(name: str, state: State, unit: Unit) -> str:
    """The single-assignment name that a name has here; leaves are taken into the program."""
    if name in state.names:
        return state.names[name]
    if name == "C":
        # The curvature so far, read as a tensor: it is formed, since the formula asks for it.
        assert state.value is not None
        (made,) = unit.define(ir.Define((state.value.target,), state.value.value))
        state.names["C"] = made.name
        return made.name
    indices = leaves_of(unit.partition)[name]
    fisher = state.fisher if name == "g" else None
    found = unit.leaf(Leaf(name, indices, fisher))
    for letter, basis in state.bases.items():
        found = _moved_leaf(name, found, _Move(letter, basis.indices[1].space, basis.name), unit)
    return found
