"""Random valid tensor programs, as spec text: what the compiler is compared with its oracle on.

`programs()` draws a file with one curvature `x`: a chain of one to three transforms whose
definitions read each other's tensors, redefine them, or are never read; every one yields. What is
decomposed is fit for it by how it is written (a definite matrix is inverted; eigenvectors are read
through what their signs do not change), so that no program is thrown away.
"""

from __future__ import annotations

from dataclasses import dataclass

from curvlang.ir.expr import Apply, Define, Expr, Index, Negate, Project, Ref, Space, Target, Yield
from curvlang.ir.indices import names, spaces
from curvlang.language.bodies.letters import MODEL_LETTERS
from curvlang.language.notation import expression, indices
from curvlang.testing.expressions import Scope
from curvlang.testing.hypothesis_package import strategies as st
from curvlang.testing.statements import NAMES, State, Statements
from curvlang.testing.yields import COLUMNS, Yields

LAYER_CHAINS = (
    "block_ggn",
    "block_hessian",
    "hessian |> drop_residual(fisher = empirical) |> block_diagonal(by = layer)",
    "ggn |> block_diagonal(by = parameter)",
)
MODEL_CHAINS = ("hessian", "ggn")
_HALF = "max(1, size[{}] / 2)"
"""The length of a part: half of up to four entries, rounded down, divides them."""
_EXTRAS = ("plain", "plain", "rounds", "space", "split", "split", "bases", "bases", "functions")


@dataclass(frozen=True, slots=True)
class _Choice:
    """`when side == left { … } else { … }`: one tensor, defined in both."""

    name: str
    own: tuple[Index, ...]
    left: Expr
    right: Expr

    def lines(self) -> list[str]:
        target = f"{self.name}{indices(self.own)}"
        first, second = (f"  {target} = {expression(x)}" for x in (self.left, self.right))
        return ["when side == left {", first, "} else {", second, "}"]


@dataclass(frozen=True, slots=True)
class _Rounds:
    """`repeat 2 { … }`: definitions that read what the round before left."""

    count: int
    body: tuple[Define, ...]

    def lines(self) -> list[str]:
        return [f"repeat {self.count} {{", *(f"  {x}" for d in self.body for x in _lines(d)), "}"]


_Item = Define | Yield | Space | Project | _Choice | _Rounds


@st.composite
def programs(draw: st.DrawFn, layered: bool | None = None, stages: int = 3) -> str:
    """A spec whose curvature `x` is a chain of random transforms.

    Shrinks to one stage without definitions that yields the identity, after `block_ggn`.

    Args:
        draw: Hypothesis's own.
        layered: Blocks per layer (True), the whole model (False), or either.
        stages: The most transforms of a chain.
    """
    per_layer = draw(st.sampled_from([True, True, True, False])) if layered is None else layered
    start = draw(st.sampled_from(LAYER_CHAINS if per_layer else MODEL_CHAINS))
    leaves = _leaves(start, per_layer)
    statements = Statements(draw, State(Scope(dict(leaves)), dict(leaves)))
    written = []
    for k in range(draw(st.integers(1, stages))):
        if draw(st.sampled_from([False, False, False, True])):
            written.append(_projection(statements, f"projection_{k}"))
        written.append(_stage(statements, per_layer, f"stage_{k}"))
    uses = "".join(f"\n  |> {use}" for _, use in written)
    return "\n\n".join(text for text, _ in written) + f"\n\ncurvature x = {start}{uses}\n"


def _leaves(start: str, layered: bool) -> dict[str, tuple[str, ...]]:
    if not layered:
        return {"J": tuple("ncp"), "L": tuple("ncc"), "H": tuple("pp"), "C": tuple("pp")}
    columns = {"H": tuple("oioi")} if start == "block_hessian" else {"g": tuple("nrto")}
    return {"a": tuple("nti"), **columns, "e": tuple("nto"), "C": tuple("oioi")}


def _stage(statements: Statements, layered: bool, name: str) -> tuple[str, str]:
    """The text of a transform, and its use in the chain."""
    state, draw = statements.state, statements.draw
    before = dict(state.known)
    parameters, use = draw(
        st.sampled_from(
            [
                ("", name),
                ("(tau: float = 0.5)", f"{name}(tau = 0.3)"),
                ("(side: {left, right} = left)", name),
                ("(side: {left, right} = left)", f"{name}(side = right)"),
            ]
        )
    )
    if "tau" in parameters:
        state.scope.scalars.append("tau")
    items: list[_Item] = list(statements.definitions(4))
    match draw(st.sampled_from(_EXTRAS)):
        case "bases":
            items += statements.bases("oi" if layered else "p")
        case "functions":
            items += statements.functions()
        case "rounds":
            items.append(_rounds(statements))
        case "space":
            items += statements.declared()
            items += statements.definitions(2)
        case "split" if layered:
            items += statements.split()
            items += statements.definitions(2)
        case _:
            pass
    if "side" in parameters:
        items.append(_choice(statements))
        items += statements.definitions(2)
    rows = (Index("o"), Index("i")) if layered else (Index("p"),)
    target = Target("C", (*rows, *(COLUMNS[x] for x in rows)))
    items.append(Yield(target, Yields(statements, layered).entries()))
    state.scope.scalars.clear()
    state.scope.splits.clear()
    lines = [f"  {line}" for item in items for line in _lines(item)]
    head = [f"transform {name}{parameters} {{", *_needs(before, items)]
    return "\n".join([*head, *lines, "}"]), use


def _projection(statements: Statements, name: str) -> tuple[str, str]:
    """A transform that projects: what was computed over the space stays behind."""
    space, start, basis = statements.declared()
    target = basis.targets[0]
    row, column = target.indices
    project = Project(row.space, column.space, Ref(target.name, target.indices))
    items: list[_Item] = [space, start, basis, project]
    statements.state.forget(frozenset((row.space, column.space)), "ageHJLC")
    lines = [f"  {line}" for item in items for line in _lines(item)]
    return "\n".join([f"transform {name} {{", *lines, "}"]), name


def _rounds(statements: Statements) -> _Rounds:
    """One or two tensors, each over the spaces that it has already, if it has any."""
    state = statements.state
    plain = [n for n, s in state.scope.tensors.items() if n not in "agejHJLC" and "n" not in s]
    found: list[Define] = []
    for _ in range(statements.draw(st.integers(1, 2))):
        unused = [n for n in NAMES if n not in state.known and n not in state.scope.scalars]
        name = statements.make.one_of([*unused, *plain])
        own = statements.indices(1, 2)
        if name in state.known:
            letters = state.known[name]
            own = tuple(Index(x, letters[:k].count(x)) for k, x in enumerate(letters))
        value = Apply("exp", (Negate(Apply("abs", (statements.make.expression(own, 1),))),))
        found.append(statements.define(own, value, name))
        plain = [n for n in plain if n != name]
    return _Rounds(statements.draw(st.integers(1, 3)), tuple(found))


def _choice(statements: Statements) -> _Choice:
    own = statements.indices(1, 2)
    left, right = (statements.make.expression(own, 1) for _ in range(2))
    name = statements.name()
    statements.state.bind(name, own)
    return _Choice(name, own, left, right)


def _lines(item: _Item) -> list[str]:
    match item:
        case Define(targets=targets, value=value):
            left = ", ".join(f"{t.name}{indices(t.indices)}" for t in targets)
            return [f"{left} = {expression(value)}"]
        case Yield(target=target, value=value):
            return [f"yield {target.name}{indices(target.indices)} = {expression(value)}"]
        case Space(parts=(old, *parts)):
            return [f"split {old} = ({','.join(parts)}) with {parts[0]} = {_HALF.format(old)}"]
        case Space(letter=letter, length=length):
            return [f"space {letter} = {expression(length)}"]
        case Project(old=old, new=new, basis=basis):
            return [f"project {old} -> {new} with {expression(basis)}"]
        case _Choice() | _Rounds():
            return item.lines()


def _needs(before: dict[str, tuple[str, ...]], items: list[_Item]) -> list[str]:
    """What is read of what stood in scope before the body."""
    read: dict[str, None] = {}
    defined: set[str] = set()
    for item in items:
        for made, values in _steps(item):
            read |= dict.fromkeys(x for v in values for x in sorted(names(v)) if x not in defined)
            defined |= made
    read |= dict.fromkeys(_naming(before, items))
    wanted = [f"{x}[{_written(before[x])}]" for x in read if before.get(x)]
    return [f"  needs {', '.join(wanted)}"] if wanted else []


def _naming(before: dict[str, tuple[str, ...]], items: list[_Item]) -> list[str]:
    """A tensor of each made space that the body uses: the letter has its meaning from there."""
    found = []
    values = [v for item in items for _, own in _steps(item) for v in own]
    for letter in dict.fromkeys(x for v in values for x in sorted(spaces(v))):
        owners = [name for name, own in before.items() if letter in own]
        if owners and letter not in MODEL_LETTERS:
            found.append(owners[0])
    return found


def _steps(item: _Item) -> list[tuple[set[str], tuple[Expr, ...]]]:
    """What an item defines and reads, in order."""
    match item:
        case Define(targets=targets, value=value):
            return [({t.name for t in targets}, (value,))]
        case Yield(value=value):
            return [(set(), (value,))]
        case Space(length=length):
            return [(set(), (length,))]
        case Project():
            return []
        case _Choice(name=name, left=left, right=right):
            return [({name}, (left, right))]
        case _Rounds(body=body):
            return [step for define in body for step in _steps(define)]


def _written(spaces: tuple[str, ...]) -> str:
    return ",".join(str(Index(x, spaces[:k].count(x))) for k, x in enumerate(spaces))


__all__ = ["programs"]
