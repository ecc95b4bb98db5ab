"""The statements of a stage written in the language, in single-assignment form."""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from curvlang.compiler.derive.builder import MARK, State, Unit, respaced
from curvlang.compiler.derive.inline import inline
from curvlang.compiler.derive.projection import project, single_name
from curvlang.ir import expr as ir
from curvlang.ir.indices import fresh, names, rename_names, rename_spaces, with_children
from curvlang.ir.places import is_places, is_split
from curvlang.language.bodies.letters import MODEL_LETTERS
from curvlang.language.chain import Stage


def write_stage(stage: Stage, state: State, unit: Unit) -> None:
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

    def __init__(self, stage: Stage, state: State, unit: Unit) -> None:
        self.state = state
        self.unit = unit
        self.spaces = dict(state.spaces)
        self.written = {t.name: t.indices for t in stage.needs}
        self.projections: list[ir.Project] = []
        for target in stage.needs:
            if target.name in state.names:
                found = unit.indices[state.names[target.name]]
                self._bind(target.indices, found)

    def _bind(self, written: tuple[ir.Index, ...], found: tuple[ir.Index, ...]) -> None:
        for index, other in zip(written, found, strict=True):
            if index.space not in MODEL_LETTERS:
                self.spaces.setdefault(index.space, other.space)

    def read(self, statement: ir.BodyStatement) -> None:
        """Take one statement into the program."""
        state, unit = self.state, self.unit
        match statement:
            case ir.Space(letter=letter, length=length):
                spaces = {x: y for x, y in self.spaces.items() if x != letter}
                parts = tuple(spaces.get(x, x) for x in statement.parts)
                length = rename_spaces(length, self.spaces)
                self.spaces[letter] = unit.space(replace(statement, length=length, parts=parts))
            case ir.Project():
                self.projections.append(statement)
            case ir.Define():
                self._define(statement)
            case ir.Yield(target=target):
                value, _ = self._value(statement.value)
                assert state.value is not None
                moved = replace(target, indices=respaced(target.indices, self.spaces))
                state.value = replace(state.value, target=moved, value=value, span=statement.span)
                state.names.pop("C", None)
            case _:
                assert_never(statement)

    def _define(self, statement: ir.Define) -> None:
        value, inlined = self._value(statement.value)
        used = {x.space for t in statement.targets for x in t.indices}
        made = frozenset(x for x in used if x not in self.spaces and x not in MODEL_LETTERS)
        # A letter that is new here waits behind a mark: a space of that name may be another's.
        spaces = self.spaces | {x: MARK + x for x in made}
        made = frozenset(MARK + x for x in made)
        targets = tuple(replace(t, indices=respaced(t.indices, spaces)) for t in statement.targets)
        found = self.unit.define(replace(statement, targets=targets, value=value), made)
        if inlined:
            self.unit.inlined.add(found[0].name)
        for target, single in zip(statement.targets, found, strict=True):
            self._bind(target.indices, single.indices)
            if target.name != "_":
                self.state.names[target.name] = single.name
                self.written[target.name] = target.indices

    def _value(self, expr: ir.Expr) -> tuple[ir.Expr, bool]:
        """A right side over single-assignment names; whether it contracts the curvature unformed."""
        state, unit = self.state, self.unit
        placed = self._regrouped(rename_spaces(expr, self.spaces))
        value = state.value
        assert value is not None
        inlined = placed
        if "C" not in state.names and "C" in names(placed):
            # The curvature's own names are in place already, so they wait behind a mark.
            inlined = inline(placed, "C", value.target.indices, _marked(value.value))
        local = {x for x in names(inlined) if not x.startswith(MARK)}
        renamed = {x: single_name(x, state, unit) for x in sorted(local)}
        renamed |= {x: x.removeprefix(MARK) for x in names(inlined) if x.startswith(MARK)}
        return _made_tensors(rename_names(inlined, renamed), unit), inlined != placed

    def _regrouped(self, expr: ir.Expr) -> ir.Expr:
        """Row and column indices of a function's argument, named as the tensor's definition does."""
        match expr:
            case ir.Call(arguments=(ir.Ref(name=name, cut=cut) as tensor, *rest)) if cut:
                written = respaced(self.written[name], self.spaces)
                own = self.unit.indices[single_name(name, self.state, self.unit)]
                order = tuple(own[written.index(x)] for x in tensor.indices)
                return replace(expr, arguments=(replace(tensor, indices=order), *rest))
            case ir.Call():
                return expr
            case _:
                return with_children(expr, self._regrouped)


def _marked(expr: ir.Expr) -> ir.Expr:
    return rename_names(expr, {x: MARK + x for x in names(expr)})


def _made_tensors(expr: ir.Expr, unit: Unit) -> ir.Expr:
    """Random tensors and masks inside an expression become definitions: drawn once, not in every batch."""
    match expr:
        case ir.Call(indices=indices) if indices and not is_split(expr):
            plain: list[ir.Index] = []
            for index in indices:
                plain.append(fresh(index.space, frozenset(plain)))
            name = "mask" if is_places(expr) else "drawn"
            target = ir.Target(name, tuple(plain))
            (made,) = unit.define(
                ir.Define((target,), replace(expr, indices=tuple(plain)), expr.span)
            )
            return ir.Ref(made.name, indices, expr.span)
        case ir.Call():
            return expr
        case _:
            return with_children(expr, lambda x: _made_tensors(x, unit))
