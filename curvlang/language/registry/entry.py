"""What one line of the table says: a thing that ships, and its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from curvlang.language.chain import Value
from curvlang.language.registry.kinds import Kind

NONE = "none"
"""The word for none: no file, no column, no curvature, no inverse."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter.

    Args:
        kind: What its value may be.
        default: Its value where none is given; None where one must be.
        doc: One line.
        needs: Another parameter that must not be 0 where this one is true.
        note: What a refusal of a value adds.
    """

    kind: Kind
    default: Value | None = None
    doc: str = ""
    needs: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """Something that ships, with its parameters.

    Args:
        doc: One line.
        parameters: By name.
        first: The parameter that a text in front, without a name, is the value of.
        open: Whether other parameters are passed on as they are.
        runs_code: Whether it calls a function that the spec names.
    """

    doc: str
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    first: str = ""
    open: bool = False
    runs_code: bool = False

    @property
    def defaults(self) -> dict[str, Value]:
        """The defaults of the parameters that have one."""
        return {k: p.default for k, p in self.parameters.items() if p.default is not None}
