"""Refusals of what other tools write, and of what they cannot hold."""

from __future__ import annotations

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import refusal


def unreadable(headline: str, *repairs: str) -> SpecError:
    """Files of another tool that cannot be read."""
    return refusal(Code.E0926, headline, *repairs)


def not_held(name: str, why: str, factors: str, *repairs: str) -> SpecError:
    """A layer that kronfluence does not hold as we do.

    Args:
        name: The layer.
        why: What it is.
        factors: What follows for kronfluence's factors, as the end of a sentence.
        repairs: What to do here, before what to do there.
    """
    return refusal(
        Code.E0925,
        f"kronfluence's factors of `{name}` {factors}: {why}",
        *repairs,
        "leave the module out there, by `Task.get_influence_tracked_modules`",
    )
