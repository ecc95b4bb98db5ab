"""Where the house breaks its own laws today, by law. This list may only shrink."""

from __future__ import annotations

BREACHES: dict[str, set[str]] = {
    "at most 6 parameters": {
        "curvlang.compiler.planning.planner._blocks",
        "curvlang.compiler.planning.planner.plan",
        "curvlang.runtime.combine.fit_combination",
        "curvlang.runtime.fit._one_pass",
        "curvlang.runtime.fit.fit_chains",
        "curvlang.runtime.prepare.prepare",
    },
}
