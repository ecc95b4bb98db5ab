"""The name that a misspelt one was meant to be, as the help of a diagnostic."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from difflib import get_close_matches
from functools import lru_cache

from curvlang.diagnostics.record import Repair

LONGEST_NAME = 60
"""Characters of a name for which a near one is searched."""
_COMPARED = 40
"""Names that a misspelt one is compared with letter by letter."""


Known = Mapping[str, object] | tuple[str, ...]
"""The names that may stand in a place."""


def suggestion(name: str, known: Known) -> tuple[str, ...]:
    """The nearest known name as a repair, or the list of names where there are few."""
    near = get_close_matches(name, _candidates(name, tuple(known)), 1, 0.6)
    if near:
        return (Repair(f"did you mean `{near[0]}`?", near[0], old=name),)
    names = list(dict.fromkeys(known))
    return (f"known: {', '.join(f'`{x}`' for x in names[:12])}",) if names else ()


def _candidates(name: str, known: tuple[str, ...]) -> list[str]:
    """The names that share most pairs of letters with one: few, however many there are."""
    if len(name) > LONGEST_NAME:
        # Comparing two long names takes time that grows with their product; a name of that length was not mistyped.
        return []
    if len(known) <= _COMPARED:
        return [x for x in known if len(x) <= LONGEST_NAME]
    index = _pairs_of(known)
    shared = Counter(x for pair in _pairs(name) for x in index.get(pair, ()))
    return [x for x, _ in shared.most_common(_COMPARED)]


@lru_cache(maxsize=16)
def _pairs_of(known: tuple[str, ...]) -> dict[str, list[str]]:
    """Names by the pairs of letters that they have."""
    found: dict[str, list[str]] = {}
    for name in known:
        for pair in _pairs(name) if len(name) <= LONGEST_NAME else ():
            found.setdefault(pair, []).append(name)
    return found


def _pairs(name: str) -> set[str]:
    padded = f" {name} "
    return {padded[k : k + 2] for k in range(len(padded) - 1)}
