"""The letters of index spaces, and the tensors that a model gives with the spaces of each."""

from __future__ import annotations

from collections.abc import Mapping

from curvlang.ir.expr import Target

Scope = dict[str, tuple[str, ...]]
"""Name of each tensor to the letters of its spaces."""

MODEL_LETTERS: Mapping[str, str] = {
    "n": "training example",
    "t": "shared position",
    "i": "input feature",
    "o": "output feature",
    "r": "column of the loss-curvature factor",
    "c": "model output",
    "p": "parameter",
    "l": "layer",
}
MODEL_LEAVES: Scope = {"H": ("p", "p"), "J": ("n", "c", "p"), "L": ("n", "c", "c"), "C": ("p", "p")}
LAYER_LEAVES: Scope = {
    "a": ("n", "t", "i"),
    "e": ("n", "t", "o"),
    "C": ("o", "i", "o", "i"),
    "H": ("o", "i", "o", "i"),
}
COLUMNS: Scope = {"g": ("n", "r", "t", "o")}
MEANING: Mapping[str, str] = {
    "g": "per-layer Gauss–Newton columns",
    "a": "per-layer inputs",
    "e": "per-layer loss gradients",
    "J": "the model's Jacobian",
    "L": "the loss Hessian at the output",
    "H": "the Hessian",
}

PROJECTED = ("i", "o", "p")
"""Letters of parameters, which a projection may replace."""
LEAF_NAMES = ("a", "g", "e", "H", "J", "C")
"""What a projection redefines; every other tensor keeps the spaces it was computed in."""


def letters(target: Target) -> tuple[str, ...]:
    """The spaces of a target's indices."""
    return tuple(x.space for x in target.indices)
