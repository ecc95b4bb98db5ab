"""Random definitions of a transform's body, and what is known of the matrices they define.

A definition draws from what is in scope and puts its own name there. Matrices are sorted by what
may be asked of them: `symmetric` ones are shifted, `definite` ones are inverted, `generic` ones
(no two equal eigenvalues) have their eigenvectors read, up to their signs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from curvlang.ir import expr as ir
from curvlang.ir.places import SPLIT
from curvlang.testing.expressions import Expressions, Scope, plus, raised, times
from curvlang.testing.hypothesis_package import strategies as st

NAMES = (
    *("A", "G", "B", "M", "w", "u", "A_2", "bias", "σ", "gamma"),
    *(
        "lambda",
        "x1",
        "mean_1",
        "C_1",
        "torch",
        "discarded_mass",
        "y0_1",
        "eye",
        "gram",
        "None",
        "ﬁx",
    ),
)
"""Names a person may give; the second row means something in Python or in generated code."""
LETTERS = "kmqsuvwxyzαβγδεζηθκμνξ"
"""Letters for spaces that `eigh` and `svd` make."""


@dataclass(frozen=True, slots=True)
class Basis:
    """Eigenvectors `vectors[space,letter]` of a generic matrix."""

    vectors: str
    space: str
    letter: str

    def at(self, index: ir.Index) -> ir.Ref:
        """The vectors at a row."""
        return ir.Ref(self.vectors, (index, ir.Index(self.letter)))


@dataclass(slots=True)
class State:
    """What flows along a chain.

    Args:
        scope: Tensors that any expression may read.
        known: Spaces of every tensor, the bases' among them.
    """

    scope: Scope
    known: dict[str, tuple[str, ...]] = field(default_factory=dict)
    symmetric: list[str] = field(default_factory=list)
    definite: list[str] = field(default_factory=list)
    generic: list[str] = field(default_factory=list)
    bases: list[Basis] = field(default_factory=list)

    def forget(self, spaces: frozenset[str], leaves: str) -> None:
        """Leave every tensor over some spaces behind, but for leaves."""
        for name, own in list(self.known.items()):
            if spaces & set(own) and name not in leaves:
                self.bind(name, ())
                del self.known[name]
        self.scope.scalars.clear()
        self.scope.splits.clear()

    def bind(self, name: str, own: tuple[ir.Index, ...], *, readable: bool = True) -> None:
        """Give a name its meaning; the one it had before is gone."""
        for kind in (self.symmetric, self.definite, self.generic, self.scope.scalars):
            if name in kind:
                kind.remove(name)
        self.scope.tensors.pop(name, None)
        self.bases = [b for b in self.bases if b.vectors != name]
        spaces = tuple(x.space for x in own)
        self.known[name] = spaces
        if own and readable:
            self.scope.tensors[name] = spaces
        elif not own:
            self.scope.scalars.append(name)


class Statements:
    """Draws the definitions of one body after another, over one state."""

    def __init__(self, draw: st.DrawFn, state: State) -> None:
        self.draw = draw
        self.state = state
        self.make = Expressions(draw, state.scope)
        self.letters: Iterator[str] = iter(LETTERS)

    def draw_order(self, factors: list[ir.Expr]) -> list[ir.Expr]:
        """The factors in any order; shrinks to the one given."""
        return self.draw(st.permutations(factors))

    def definitions(self, most: int) -> list[ir.Define]:
        """Up to `most` definitions, in order; shrinks to none."""
        return [self.definition() for _ in range(self.draw(st.integers(0, most)))]

    def definition(self) -> ir.Define:
        """One definition of a kind that is possible here; shrinks to a tensor."""
        kinds: list[Callable[[], ir.Define]] = [
            *(self.tensor, self.per_example, self.scalar, self.moment),
            *([self.definite, self.generic] if self.state.symmetric else []),
            *([self.eigh, self.eigh] if self.state.generic else []),
            *([self.function] if self.state.definite else []),
            *([self.in_basis, self.squares] if self.state.bases else []),
            *([self.svd] if self.rectangular() else []),
            *([self.input] if "a" in self.state.scope.tensors else []),
            self.drawn,
        ]
        return self.make.one_of(kinds)()

    def name(self) -> str:
        """A name, taken or not: one that is taken gets another meaning."""
        leaves = [x for x in "agejHJLC" if x in self.state.known]
        return self.make.one_of([x for x in NAMES if x not in leaves])

    def indices(self, least: int, most: int) -> tuple[ir.Index, ...]:
        """Indices of a tensor without examples, primed where a space comes again."""
        open_ = [x for x in self.state.scope.spaces if x != "n"]
        letters = self.draw(st.lists(st.sampled_from(open_), min_size=least, max_size=most))
        return tuple(ir.Index(x, letters[:k].count(x)) for k, x in enumerate(letters))

    def bases(self, letters: str) -> list[ir.Define]:
        """For every letter a moment, a matrix without equal eigenvalues, and its eigenvectors."""
        found = []
        for letter in letters:
            moment = self.moment(letter)
            generic = self.generic(moment.targets[0].name)
            found += [moment, generic, self.eigh(generic.targets[0].name)]
        return found

    def functions(self) -> list[ir.Define]:
        """A moment, a definite matrix, and a function of it."""
        moment = self.moment()
        definite = self.definite(moment.targets[0].name)
        return [moment, definite, self.function(definite.targets[0].name)]

    def pair(self, letter: str | None = None) -> tuple[ir.Index, ir.Index]:
        """Row and column of a square matrix."""
        if letter is None:
            letter = self.make.one_of([x for x in self.state.scope.spaces if x not in "ntr"])
        return ir.Index(letter), ir.Index(letter, 1)

    def define(
        self, own: tuple[ir.Index, ...], value: ir.Expr, name: str | None = None
    ) -> ir.Define:
        """`name[own] = value`."""
        name = self.name() if name is None else name
        self.state.bind(name, own)
        return ir.Define((ir.Target(name, own),), value)

    def tensor(self) -> ir.Define:
        own = self.indices(1, 3)
        return self.define(own, self.make.expression(own, 2))

    def per_example(self) -> ir.Define:
        own = (ir.Index("n"), *self.indices(0, 2))
        return self.define(own, self.make.expression(own, 2))

    def scalar(self) -> ir.Define:
        return self.define((), self.make.number(2))

    def input(self) -> ir.Define:
        """The layer's input again, shifted: what a centring or a projection does."""
        own = tuple(ir.Index(x) for x in "nti")
        shift = self.make.expression(self.make.subset(own[1:]), 1)
        return self.define(own, ir.Binary(ir.BinaryOperator.SUBTRACT, ir.Ref("a", own), shift), "a")

    def drawn(self) -> ir.Define:
        """A random tensor over known spaces."""
        own = self.indices(1, 2)
        seed = ir.Number(float(self.draw(st.integers(0, 3))))
        which = self.make.one_of(["random_normal", "random_sign"])
        return self.define(own, ir.Call(which, (seed,), own))

    def declared(self) -> tuple[ir.Space, ir.Define, ir.Define]:
        """A short space, and orthonormal columns over it: `P[i,k] = orthonormal(X)`."""
        row = ir.Index(self.make.one_of([x for x in self.state.scope.spaces if x in "oip"]))
        column = ir.Index(next(self.letters))
        length = ir.Apply("min", (ir.Number(float(self.draw(st.integers(1, 3)))), ir.Size(row)))
        seed = ir.Number(float(self.draw(st.integers(0, 3))))
        own = (row, column)
        start = self.define(own, ir.Call("random_normal", (seed,), own))
        basis = self.define(own, ir.Call("orthonormal", (ir.Ref(start.targets[0].name),)))
        return ir.Space(column.space, length), start, basis

    def split(self) -> tuple[ir.Space, ir.Define]:
        """An index in two parts, and a tensor that is read over them."""
        old = ir.Index(self.make.one_of([x for x in self.state.scope.spaces if x in "oit"]))
        first, second = (ir.Index(next(self.letters)) for _ in range(2))
        rest = ir.Binary(ir.BinaryOperator.DIVIDE, ir.Size(old), ir.Size(first))
        letters = (old.space, first.space, second.space)
        space = ir.Space(second.space, rest, parts=letters)
        self.state.scope.splits.append(letters)
        read = times(
            self.make.expression((old,), 1), ir.Call(SPLIT, (), tuple(map(ir.Index, letters)))
        )
        own = (first, second)
        return space, self.define(own, ir.Reduce(ir.ReductionKind.SUM, (old,), read))

    def moment(self, letter: str | None = None) -> ir.Define:
        own = self.pair(letter)
        found = self.define(own, self.make.gram(own[0], 1))
        self.state.symmetric.append(found.targets[0].name)
        return found

    def matrix(self, known: list[str], name: str | None) -> tuple[str, tuple[ir.Index, ir.Index]]:
        """A square matrix, one of the known where none is named, and its indices."""
        name = self.make.one_of(known) if name is None else name
        letter = self.state.known[name][0]
        return name, (ir.Index(letter), ir.Index(letter, 1))

    def bounded(self, name: str, own: tuple[ir.Index, ir.Index]) -> ir.Expr:
        """A matrix over its norm, so that what is added to it counts."""
        size = plus(ir.Call("norm", (ir.Ref(name),)), ir.Number(1.0))
        return ir.Binary(ir.BinaryOperator.DIVIDE, ir.Ref(name, own), size)

    def definite(self, name: str | None = None) -> ir.Define:
        """A semidefinite matrix and a multiple of the identity."""
        name, own = self.matrix(self.state.symmetric, name)
        shift = times(ir.Number(self.make.one_of([0.5, 1.0])), ir.Delta(*own))
        found = self.define(own, plus(self.bounded(name, own), shift))
        self.state.definite.append(found.targets[0].name)
        self.state.symmetric.append(found.targets[0].name)
        return found

    def generic(self, name: str | None = None) -> ir.Define:
        """A matrix without two equal eigenvalues: random numbers along its diagonal."""
        name, own = self.matrix(self.state.symmetric, name)
        seed = ir.Number(float(self.draw(st.integers(0, 3))))
        noise = raised(ir.Call("random_normal", (seed,), (own[0],)), 2.0)
        found = self.define(own, plus(self.bounded(name, own), times(ir.Delta(*own), noise)))
        self.state.generic.append(found.targets[0].name)
        self.state.symmetric.append(found.targets[0].name)
        return found

    def eigh(self, name: str | None = None) -> ir.Define:
        """One or two results; the eigenvalues may be thrown away."""
        name, own = self.matrix(self.state.generic, name)
        letter = next(self.letters)
        vectors, values = self.draw(
            st.lists(st.sampled_from(NAMES), min_size=2, max_size=2, unique=True)
        )
        targets = [ir.Target(vectors, (own[0], ir.Index(letter)))]
        match self.make.one_of(["both", "thrown away", "one"]):
            case "both":
                targets.append(ir.Target(values, (ir.Index(letter),)))
                self.state.bind(values, (ir.Index(letter),))
            case "thrown away":
                targets.append(ir.Target("_", (ir.Index(letter),)))
            case _:
                pass
        self.state.bind(vectors, targets[0].indices, readable=False)
        self.state.bases.append(Basis(vectors, own[0].space, letter))
        return ir.Define(tuple(targets), ir.Call("eigh", (ir.Ref(name),)))

    def in_basis(self) -> ir.Define:
        """`Σ_k V[i,k] f[k] V[i',k]`: neither signs nor the order of equal values show."""
        basis = self.make.one_of(self.state.bases)
        own = ir.Index(basis.space), ir.Index(basis.space, 1)
        k = ir.Index(basis.letter)
        readable = [t for t, s in self.state.scope.tensors.items() if s == (basis.letter,)]
        middle = self.make.positive((k,), 1) if readable else ir.Number(2.0)
        body = times(basis.at(own[0]), middle, basis.at(own[1]))
        found = self.define(own, ir.Reduce(ir.ReductionKind.SUM, (k,), body))
        self.state.symmetric.append(found.targets[0].name)
        return found

    def squares(self) -> ir.Define:
        """What the signs of eigenvectors do not change: `V[i,k]^2`, `|x·v_k|`."""
        basis = self.make.one_of(self.state.bases)
        row, k = ir.Index(basis.space), ir.Index(basis.letter)
        if self.make.flip():
            return self.define((row, k), raised(basis.at(row), 2.0))
        inner = times(self.make.expression((row,), 1), basis.at(row))
        rotated = ir.Reduce(ir.ReductionKind.SUM, (row,), inner)
        square = self.make.one_of([raised(rotated, 2.0), ir.Apply("abs", (rotated,))])
        return self.define((k,), square)

    def function(self, name: str | None = None) -> ir.Define:
        """`inv`, `power`, `cholesky` of a definite matrix."""
        name, own = self.matrix(self.state.definite, name)
        exponent = self.make.one_of(_EXPONENTS)
        which = self.make.one_of(["inv", "power", "cholesky"])
        arguments = (ir.Ref(name), exponent) if which == "power" else (ir.Ref(name),)
        found = self.define(own, ir.Call(which, arguments))
        if which != "cholesky":
            self.state.symmetric.append(found.targets[0].name)
        return found

    def rectangular(self) -> list[str]:
        """Tensors that `svd` takes."""
        tensors: Mapping[str, tuple[str, ...]] = self.state.scope.tensors
        return [t for t, s in tensors.items() if len(s) == 2 and "n" not in s]

    def svd(self) -> ir.Define:
        """Singular values, which nothing leaves open; the vectors are thrown away."""
        name = self.make.one_of(self.rectangular())
        first, second = self.state.known[name]
        k = ir.Index(next(self.letters))
        values = self.name()
        targets = [ir.Target("_", (ir.Index(first), k)), ir.Target(values, (k,))]
        if self.make.flip():
            targets.append(ir.Target("_", (ir.Index(second), k)))
        self.state.bind(values, (k,))
        return ir.Define(tuple(targets), ir.Call("svd", (ir.Ref(name),)))


_EXPONENTS: tuple[ir.Expr, ...] = (
    ir.Number(0.5),
    ir.Number(2.0),
    ir.Negate(ir.Binary(ir.BinaryOperator.DIVIDE, ir.Number(1.0), ir.Number(2.0))),
    ir.Binary(
        ir.BinaryOperator.SUBTRACT,
        ir.Number(1.0),
        ir.Binary(ir.BinaryOperator.DIVIDE, ir.Number(1.0), ir.Number(3.0)),
    ),
)

__all__ = ["LETTERS", "NAMES", "Basis", "State", "Statements"]
