"""The table of parameters: stages, data, models, losses, training, solvers, baselines, measures.

Kinds, limits, defaults and a line about every parameter are here, once. Values from a spec, from Python
or from the command line are checked by the table and built from it; editors and documents show it. Pure
data, no torch; the code for a name is in the room that builds it.
"""

from __future__ import annotations

from collections.abc import Mapping

from curvlang.language.registry.data import DATA
from curvlang.language.registry.entry import NONE, Entry, Parameter
from curvlang.language.registry.evaluation import BASELINES, GRID, LDS, MEASURES, SEED, SEEDS
from curvlang.language.registry.losses import LOSSES, METRICS
from curvlang.language.registry.models import ACTIVATIONS, MODELS, POSITIONS
from curvlang.language.registry.solvers import INVERSES, SOLVERS
from curvlang.language.registry.stages import LAYERS, OTHERS, SOURCES, STAGES, WEIGHTS
from curvlang.language.registry.training import CHECKPOINTS, ENSEMBLES, OPTIMISER, OPTIMISERS

PARTS: Mapping[str, Mapping[str, Entry]] = {
    "data": DATA,
    "model": MODELS,
    "loss": LOSSES,
    "train": OPTIMISERS,
}
"""What the lines of a task may name."""

EXTRAS: Mapping[str, Mapping[str, Entry]] = {"checkpoints": CHECKPOINTS, "models": ENSEMBLES}
"""What lines that a task may leave out may name."""

NAMED: Mapping[str, Mapping[str, Entry]] = {
    **PARTS,
    **EXTRAS,
    "baselines": BASELINES,
    "measures": MEASURES,
}
"""What a line of a task or a study may name, by the line's keyword."""

__all__ = [
    "ACTIVATIONS",
    "BASELINES",
    "CHECKPOINTS",
    "DATA",
    "ENSEMBLES",
    "EXTRAS",
    "GRID",
    "INVERSES",
    "LAYERS",
    "LDS",
    "LOSSES",
    "MEASURES",
    "METRICS",
    "MODELS",
    "NAMED",
    "NONE",
    "OPTIMISER",
    "OPTIMISERS",
    "OTHERS",
    "PARTS",
    "POSITIONS",
    "SEED",
    "SEEDS",
    "SOLVERS",
    "SOURCES",
    "STAGES",
    "WEIGHTS",
    "Entry",
    "Parameter",
]
