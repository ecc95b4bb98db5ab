"""What a definition says about itself: its text in quotes, or the comment above it."""

from __future__ import annotations

import re

from curvlang.diagnostics.source import Source
from curvlang.language.syntax.nodes import (
    CurvatureDef,
    InverseDef,
    ScoreDef,
    TaskDef,
    TransformDef,
)


def doc_of(definition: CurvatureDef | TransformDef | ScoreDef | InverseDef | TaskDef) -> str:
    """One line: the quoted text, else the comment lines that stand directly above."""
    quoted = "" if isinstance(definition, InverseDef) else definition.doc
    return quoted or comment_above(definition.span.source, definition.span.start)


def comment_above(source: Source, start: int) -> str:
    r"""The comment lines directly above a definition, as one line.

    >>> comment_above(Source("x.cv", "# a\n\n# b\n# c\ncurvature x = ggn\n"), 12)
    'b c'
    """
    lines = re.split(r"\r\n|\n|\r", source.text[:start])[:-1]
    found: list[str] = []
    while lines and lines[-1].lstrip().startswith("#"):
        found.append(lines.pop().lstrip().lstrip("#").strip())
    return " ".join(x for x in reversed(found) if x)
