"""What a block is of: the whole model, a layer, a parameter, a head, units, or parameters by name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from curvlang.language.chain import Chain

WORDS = ("layer", "parameter", "neuron")
COUNTED = ("head", "unit")
_COUNTED = re.compile(r"(head|unit)\((\d+)\)")

Groups = tuple[tuple[str, ...], ...]
"""Patterns of names: those of one entry match the parameters of one block."""


@dataclass(frozen=True, slots=True)
class Partition:
    """What a program is read once for.

    Args:
        kind: `model`, `layer`, `parameter`, `head`, `unit`, or `group` of named parameters.
        count: Heads of an attention, or output units of a block.
        groups: Patterns of the parameters of each block, for `group`.
        of: Patterns of the layers that `head` and `unit` cut; all that they can where empty.
    """

    kind: str
    count: int = 0
    groups: Groups = ()
    of: tuple[str, ...] = ()

    MODEL: ClassVar[Partition]
    LAYER: ClassVar[Partition]
    PARAMETER: ClassVar[Partition]

    def __str__(self) -> str:
        """What a block is of, in words: `layer`, `head`, `group of 4 units`."""
        match self.kind, self.count:
            case "unit", 1:
                return "output unit"
            case "unit", count:
                return f"group of {count} output units"
            case "group", _:
                return "named group of parameters"
            case kind, _:
                return kind

    @property
    def plural(self) -> str:
        """Its blocks in words: `layers`, `groups of 4 output units`."""
        first, *rest = str(self).split(" of ")
        return " of ".join([f"{first}s", *rest])

    @property
    def written(self) -> str:
        """As `by = …` has it."""
        match self.kind:
            case "unit" if self.count == 1:
                return "neuron"
            case "head" | "unit":
                return f"{self.kind}({self.count})"
            case "group":
                return _listed(self.groups)
            case kind:
                return kind

    @property
    def stated(self) -> bool:
        """Whether a count that it needs is 1 or more."""
        return self.kind not in COUNTED or self.count >= 1

    @property
    def layers(self) -> bool:
        """Whether its blocks are made of whole layers' inputs and columns, each of them once."""
        return self.kind in ("model", "layer")


Partition.MODEL = Partition("model")
Partition.LAYER = Partition("layer")
Partition.PARAMETER = Partition("parameter")


def partition_of(by: object, of: object = ()) -> Partition:
    """The partition that the arguments of `block_diagonal` state, as their kinds have them.

    Args:
        by: A word, `head(8)`, `unit(4)`, or the groups of patterns.
        of: Patterns of layers.
    """
    if isinstance(by, tuple):
        return Partition("group", groups=by)
    patterns = of if isinstance(of, tuple) else ()
    counted = _COUNTED.fullmatch(str(by))
    if counted is not None:
        return Partition(counted[1], int(counted[2]), of=patterns)
    if by == "neuron":
        return Partition("unit", 1, of=patterns)
    return Partition(str(by))


def partition_of_chain(chain: Chain) -> Partition:
    """What the blocks of a chain's result are of."""
    for stage in chain.stages:
        if stage.name == "block_diagonal":
            return partition_of(stage.arguments["by"], stage.arguments.get("of", ()))
    return Partition.MODEL


def groups_of(value: object) -> Groups | None:
    """Patterns as they are written, `"a.*"`, `["a.*", "b"]` or `[["a", "b"], "c"]`; None for other values."""
    if isinstance(value, str):
        return ((value,),) if value and not value.isidentifier() else None
    if not isinstance(value, tuple) or not value:
        return None
    found = tuple(x if isinstance(x, tuple) else (x,) for x in value)
    fine = all(x and all(isinstance(p, str) and p for p in x) for x in found)
    return found if fine else None


def is_block_word(value: object) -> bool:
    """Whether a value is a word for blocks, or `head(8)` or `unit(4)` with any whole number."""
    return isinstance(value, str) and (value in WORDS or _COUNTED.fullmatch(value) is not None)


def matcher(pattern: str) -> re.Pattern[str]:
    """A pattern of names: `*` is any text, `{*}` a part of a path that tells blocks apart."""
    parts = re.split(r"(\{\*\}|\*)", pattern)
    words = {"*": ".*", "{*}": r"([^.]+)"}
    return re.compile("".join(words.get(part, re.escape(part)) for part in parts))


def _listed(groups: Groups) -> str:
    texts = [[f'"{p}"' for p in group] for group in groups]
    if len(texts) == 1 and len(texts[0]) == 1:
        return texts[0][0]
    return "[" + ", ".join(x[0] if len(x) == 1 else "[" + ", ".join(x) + "]" for x in texts) + "]"
