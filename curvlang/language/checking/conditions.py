"""The small tasks that a law is about: what may be drawn, narrowed by the law's conditions.

A condition takes values away before anything is drawn, so that no draw is ever thrown away. No
torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from curvlang.language.chain import Counts, Space, Words
from curvlang.language.registry import ACTIVATIONS, LOSSES, POSITIONS

MOST: Mapping[str, int] = {
    "examples": 64,
    "positions": 16,
    "inputs": 64,
    "outputs": 32,
    "layers": 8,
}
"""What a law can speak of, and the largest number that is ever drawn."""
USUAL: Mapping[str, int] = {"examples": 5, "positions": 3, "inputs": 3, "outputs": 3, "layers": 3}
"""The largest number that is drawn where no condition asks for more."""
WIDTHS: Counts = (1, 2, 3)
"""Units of a hidden layer."""
SPREAD = 4
"""Values above the usual ones that are drawn where a condition asks for them."""

_SIMPLE_FIRST = ("identity", "relu", "tanh")
NETWORKS: Mapping[str, Words] = {
    "linear": ("identity",),
    "piecewise_linear": ("identity", "relu"),
    "smooth": tuple(x for x in ACTIVATIONS if x not in ("identity", "relu", "elu")),
}
"""Kinds of networks by their activations; ELU has no second derivative at 0."""


def everything() -> Space:
    """All that conditions can ask for."""
    rest = tuple(x for x in ACTIVATIONS if x not in _SIMPLE_FIRST)
    examples, positions, inputs, outputs, layers = (
        tuple(range(1, MOST[name] + 1))
        for name in ("examples", "positions", "inputs", "outputs", "layers")
    )
    return Space(
        examples,
        positions,
        inputs,
        outputs,
        layers,
        (*_SIMPLE_FIRST, *rest),
        ("mse", *(x for x in LOSSES if x != "mse")),
        (False, True),
        POSITIONS,
    )


def drawn(space: Space) -> Space:
    """The values that are drawn: the usual ones that are left, else the first few above them."""

    def usual(name: str) -> Counts:
        left: Counts = getattr(space, name)
        return tuple(x for x in left if x <= USUAL[name]) or left[:SPREAD]

    return replace(
        space,
        examples=usual("examples"),
        positions=usual("positions"),
        inputs=usual("inputs"),
        outputs=usual("outputs"),
        layers=usual("layers"),
    )


_COMPARE: Mapping[str, Callable[[int, int], bool]] = {
    "==": lambda x, y: x == y,
    "!=": lambda x, y: x != y,
    "<": lambda x, y: x < y,
    ">": lambda x, y: x > y,
    "<=": lambda x, y: x <= y,
    ">=": lambda x, y: x >= y,
}


def count(space: Space, name: str, sign: str, number: int) -> Space:
    """`examples > 1`: keep the numbers that satisfy it."""
    kept = tuple(x for x in getattr(space, name) if _COMPARE[sign](x, number))
    return replace(space, **{name: kept})


WORDS: Mapping[str, Words] = {
    "network": tuple(NETWORKS),
    "loss": tuple(LOSSES),
    "bias": ("true", "false"),
    "positions": POSITIONS,
    "columns": ("exact", "empirical"),
}
"""What `SUBJECT is WORD` may say; `columns` is about the chain, not about the task."""


def word(space: Space, name: str, value: str, negated: bool) -> Space:
    """`loss is mse`, `network is not linear`: keep what it is, or all but that."""

    def keep(values: Words, wanted: Words) -> Words:
        return tuple(x for x in values if (x in wanted) is not negated)

    match name:
        case "network":
            # Without a hidden layer every network is linear, whatever its activation.
            layers = tuple(x for x in space.layers if x > 1)
            curved = negated if value != "smooth" else not negated
            return replace(
                space,
                activations=keep(space.activations, NETWORKS[value]),
                layers=layers if curved else space.layers,
            )
        case "loss":
            return replace(space, losses=keep(space.losses, (value,)))
        case "bias":
            wanted = (value == "true") is not negated
            return replace(space, biases=tuple(x for x in space.biases if x is wanted))
        case _:
            return replace(space, pooling=keep(space.pooling, (value,)))
