"""Names for the prefixes of a chain: shipped curvatures with the same stages."""

from __future__ import annotations

from curvlang.language.chain import Stage

LABELS: dict[tuple[object, ...], str] = {}
"""Stage keys of every shipped chain to its name; filled by `chains.register_labels`."""


def label_of(stages: tuple[Stage, ...], fallback: str) -> str:
    """The name of the shipped curvature that these stages make, or the last stage's own."""
    if len(stages) > max(map(len, LABELS), default=len(stages)):
        return fallback
    return LABELS.get(tuple(stage.step for stage in stages), fallback)
