"""Where the house breaks its own laws today, by law. This list may only shrink."""

from __future__ import annotations

BREACHES: dict[str, set[str]] = {}
