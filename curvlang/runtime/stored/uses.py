"""What a store is opened for, and what its manifest says of the operator when the fit is done."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import label_at, refusal
from curvlang.language.chain import Chain, Curvature, Spec
from curvlang.language.selection import chains_of
from curvlang.language.sums import DECAY, states_decay, weighted_chains
from curvlang.models.task import Task
from curvlang.operators import save
from curvlang.runtime.fitted import FittedOperator
from curvlang.runtime.others import without_ignored
from curvlang.runtime.processes.distributed import world
from curvlang.runtime.stored.operator import operator_notes
from curvlang.runtime.stored.session import Session, Use
from curvlang.storage.fits.store import PRECONDITIONER
from curvlang.version import VERSION


def use_of(
    spec: Spec, curvature: Curvature, task: Task, seed: int, chains: Sequence[Chain] | None = None
) -> Use:
    """What a store is opened for.

    Args:
        spec: The spec.
        curvature: What the store is of.
        task: In the precision of the passes.
        seed: Of sampled columns.
        chains: All that is going to be fitted; those of the curvature where not given.
    """
    alone = chains is None
    chains = chains_of(curvature) if chains is None else tuple(chains)
    about = {
        "curvlang": VERSION,
        "torch": torch.__version__,
        "device": task.device.type,
        "spec": spec.source.text,
    }
    return Use(curvature, chains, task, [without_ignored(chains, task)], seed, about, alone)


def keep_operator(
    session: Session, op: FittedOperator, curvature: Curvature, task: Task, seed: int
) -> None:
    """Say in the manifest what the fitted operator is made of: from then on the store can be read alone.

    Of several processes the first one says it.

    Raises:
        SpecError: E0840 for a curvature that is known by its products alone.
    """
    if not world().first:
        return
    values = {DECAY: task.weight_decay}
    seen = without_ignored(chains_of(curvature), task)
    terms = []
    for weight, chain in weighted_chains(curvature):
        key = session.key(chain, seen, seed)
        if session.store.result(key).record() is None:
            raise _by_products(curvature)
        terms.append((weight.value(values), key))
    decay = 0.0 if states_decay(curvature) else task.weight_decay
    solver = op.solver
    if solver is not None and solver.preconditioner is not None:
        folder = session.store.path / PRECONDITIONER
        if not folder.is_dir():
            save(solver.preconditioner, f"{folder}/")
    session.store.note({"operator": operator_notes(op, terms, decay)})


def _by_products(curvature: Curvature) -> Exception:
    return refusal(
        Code.E0840,
        f"`{curvature.name}` cannot be kept: it is known by its products alone, which run the model",
        "fit it without `store`, or keep a structured curvature",
        labels=label_at(curvature.span),
    )
