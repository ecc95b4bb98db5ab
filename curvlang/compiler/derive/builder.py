"""Programs under construction: statements interned by meaning, and what flows along a chain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from curvlang.compiler.derive.program import Fisher, Key, Leaf, Partition
from curvlang.ir import expr as ir

N, T, R, I, O, P, C = (ir.Index(letter) for letter in "ntriopc")
I2, O2, P2, C2 = (ir.Index(letter, 1) for letter in "iopc")

JOINT, OWN = "position_weight", "own_position_weight"
"""Weights of positions where some are padding: in a mean over all of them, and over an example's."""

MODEL_BLOCK = ir.Target("C", (P, P2))
LAYER_BLOCK = ir.Target("C", (O, I, O2, I2))
MARK = "\0"
"""Prefix of names that must not collide with others until they have their final ones."""


@dataclass(slots=True)
class Unit:
    """A program under construction: statements interned by meaning."""

    partition: Partition
    fisher: Fisher | None
    others: bool = False
    leaves: dict[str, Leaf] = field(default_factory=dict)
    definitions: list[ir.Define | ir.Space] = field(default_factory=list)
    known: dict[tuple[object, ...], tuple[ir.Target, ...]] = field(default_factory=dict)
    lengths: dict[ir.Space, str] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)
    letters: set[str] = field(default_factory=lambda: set("ntriopcl"))
    indices: dict[str, tuple[ir.Index, ...]] = field(default_factory=dict)
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
        return _numbered(f"{wish}_", wish, self.taken)

    def letter(self, wish: str) -> str:
        """A name for a new space: the letter, with a number where it is taken."""
        return _numbered(wish, wish, self.letters)

    def space(self, statement: ir.Space) -> str:
        """Intern a declared space."""
        if statement not in self.lengths:
            wish = statement.letter
            name = self.letter(wish)
            self.lengths[statement] = name
            parts = tuple(name if x == wish else x for x in statement.parts)
            self.definitions.append(replace(statement, letter=name, parts=parts))
        return self.lengths[statement]

    def define(
        self, statement: ir.Define, made: frozenset[str] = frozenset()
    ) -> tuple[ir.Target, ...]:
        """Intern a statement; return its targets in single-assignment form.

        `made` holds letters on the left that are new here: the function makes their spaces.
        """
        pattern = tuple(
            (t.name == "_", tuple((x, x.space in made) for x in t.indices))
            for t in statement.targets
        )
        key = (pattern, statement.value)
        if key not in self.known:
            renamed = {x: self.letter(x.removeprefix(MARK)) for x in sorted(made)}
            targets = tuple(
                replace(
                    t,
                    name=t.name if t.name == "_" else self.unused(t.name),
                    indices=respaced(t.indices, renamed),
                )
                for t in statement.targets
            )
            self.definitions.append(replace(statement, targets=targets))
            self.indices.update({t.name: t.indices for t in targets})
            self.known[key] = targets
        return self.known[key]


def respaced(indices: tuple[ir.Index, ...], spaces: Mapping[str, str]) -> tuple[ir.Index, ...]:
    """The indices with their spaces renamed; primes stay."""
    return tuple(replace(x, space=spaces.get(x.space, x.space)) for x in indices)


@dataclass(slots=True)
class State:
    """What flows left to right along a chain."""

    partition: Partition = Partition.MODEL
    fisher: Fisher | None = None
    names: dict[str, str] = field(default_factory=dict)
    value: ir.Yield | None = None
    spaces: dict[str, str] = field(default_factory=dict)
    bases: dict[str, ir.Ref] = field(default_factory=dict)
    others: bool = False

    @property
    def key(self) -> Key:
        """Which program the next statement belongs to."""
        return self.partition, self.fisher, self.others and self.partition != Partition.MODEL


class Units(dict[Key, Unit]):
    """Programs under construction, made when first asked for.

    Columns of different kinds have different numbers, so every kind has a program of its own.
    """

    def __missing__(self, key: Key) -> Unit:
        self[key] = Unit(*key)
        return self[key]


def _numbered(mark: str, wish: str, taken: set[str]) -> str:
    """The name that is asked for, now taken; where it was, `mark` with the first free number from 2 on."""
    name, number = wish, 1
    while name in taken:
        number += 1
        name = f"{mark}{number}"
    taken.add(name)
    return name


_MODEL_LEAVES: dict[str, tuple[ir.Index, ...]] = {
    "H": (P, P2),
    "J": (N, C, P),
    "L": (N, C, C2),
}
_BLOCK_LEAVES: dict[str, tuple[ir.Index, ...]] = {
    "a": (N, T, I),
    "g": (N, R, T, O),
    "e": (N, T, O),
    JOINT: (N, T),
    OWN: (N, T),
    "H": LAYER_BLOCK.indices,
}


def leaves_of(partition: Partition) -> dict[str, tuple[ir.Index, ...]]:
    """The tensors that a model gives to what a program is read for."""
    return _MODEL_LEAVES if partition == Partition.MODEL else _BLOCK_LEAVES
