"""A curvature in a store with what is kept of the training examples: queries are scored against it without their gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from curvlang.attribution.formulas.points import Point, Points
from curvlang.attribution.formulas.surroundings import (
    ALONE,
    OtherModel,
    Surroundings,
    at_parameters,
)
from curvlang.attribution.indexed.contents import (
    GRADIENTS,
    PARAMETER,
    Contents,
    KeptChunks,
    contents_of,
    key_of,
    names_at,
)
from curvlang.attribution.indexed.kept_parts import of_gradients
from curvlang.attribution.indexed.projections import projection_of
from curvlang.attribution.streams.request import Request
from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.notebook import one_line
from curvlang.diagnostics.refusal import refusal
from curvlang.ir.score_program import ScoreProgram
from curvlang.language.chain import ScoreFormula
from curvlang.models.fingerprint import digest
from curvlang.models.task import Task
from curvlang.runtime.stored.keys import TaskContent, fitted_in
from curvlang.runtime.stored.operator import StoredOperator
from curvlang.storage.fits.identity import check_identity
from curvlang.storage.fits.store import identity_of


class GradientIndex(StoredOperator):
    """A curvature in a store, with what is kept of the training examples.

    It is asked as a fitted curvature is: `cv.influence(index, task)`, `cv.top_examples(index, task)`. The task
    has the model and the training examples that the index is of, and queries of its own.

    Args:
        path: The store.

    Raises:
        SpecError: E0763 for a store without an index, E0836 to E0838 for one that cannot be read.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        if not self.written:
            raise no_index(self.store.path)

    @property
    def written(self) -> list[Contents]:
        """What there is: of gradients, of scores."""
        found = [contents_of(self.store, key) for key in self.store.indexes()]
        return [x for x in found if x is not None]

    def __repr__(self) -> str:
        """What is kept; nothing of the curvature is read for it."""
        kept = (f"{x.words}, of {x.total} training examples, in {x.stored}" for x in self.written)
        return f"<{one_line(f'index of {self.label}: ' + '; '.join(kept))}>"

    def check(self, task: Task) -> None:
        """Refuse a task with another model, other training examples, or another loss.

        Raises:
            SpecError: E0835.
        """
        manifest = self.store.manifest()
        assert manifest is not None
        kept, content = identity_of(manifest, self.store.path), TaskContent(task)
        wanted: dict[str, Any] = {
            "model": content.model,
            "data": content.data,
            "objective": digest(content.loss, repr(task.weight_decay)),
            "task": repr(task),
            "dtype": fitted_in(task),
        }
        check_identity(self.store.path, kept, replace(kept, **wanted))

    def chunks(
        self, formula: ScoreFormula, program: ScoreProgram, device: torch.device
    ) -> KeptChunks:
        """What is kept for a score.

        Raises:
            SpecError: E0763 where the index is of other scores.
        """
        for key in (GRADIENTS, key_of(formula)):
            contents = contents_of(self.store, key)
            fits = key != GRADIENTS or (contents and of_gradients(program, whole=contents.whole))
            if contents is not None and fits:
                return KeptChunks(self.store.index(key), contents, device)
        raise other_scores(self.store.path, formula, self.written)

    def around(self, kept: KeptChunks, task: Task) -> Surroundings:
        """The other models that a score reads, from their files."""
        ends, along = kept.contents.models
        if not ends and not along:
            return ALONE
        count = max(ends, 1)
        models = [self._model(kept, f"model-{e}", task) for e in range(ends)]
        rows = [
            [
                tuple(self._model(kept, x, task) for x in names_at(e, h, kept.contents.each))
                for h in range(along)
            ]
            for e in range(count if along else 0)
        ]
        rates, times = (
            None if x is None else torch.tensor(x, dtype=torch.float64, device=task.device)
            for x in (kept.contents.rates, kept.contents.times)
        )
        moments = models[0].moments if models else {}
        return Surroundings(rows, models, rates, times, moments)

    def _model(self, kept: KeptChunks, name: str, task: Task) -> OtherModel:
        found = kept.file(name)
        own = {k.removeprefix(PARAMETER): x for k, x in found.items() if k.startswith(PARAMETER)}
        moments = {k: x.to(task.device) for k, x in found.items() if not k.startswith(PARAMETER)}
        return OtherModel(at_parameters(task, own), moments)

    def points(self, points: Points, kept: KeptChunks) -> Points:
        """Points of a score with what is kept, in the coordinates of C⁻¹ where it is kept in these.

        Raises:
            SpecError: E0762 for an inverse that is not zero outside the coordinates.
        """
        if kept.contents.key != GRADIENTS:
            return replace(points, kept=kept)
        final = points.final
        found = projection_of(final.inverse, final.task)
        if found is None:
            raise outside_coordinates()
        return Points(Point(final.task, found.inverse, coordinates=found), kept=kept)


def no_index(path: Path) -> SpecError:
    """The refusal of a store without a finished index."""
    return refusal(
        Code.E0763,
        f"there is no finished index in the store `{path}`",
        f"write one: `curvlang index SPEC --store {path}`, or `cv.index(spec, task, store=…)`",
    )


def other_scores(path: Path, formula: ScoreFormula, written: Sequence[Contents]) -> SpecError:
    """The refusal of a score that an index holds nothing of."""
    there = " and ".join(x.words for x in written)
    return refusal(
        Code.E0763,
        f"the index in `{path}` is of {there}, and `{formula.name}` needs something else of the training "
        "examples",
        f"write it too: `curvlang index SPEC --score {formula.name} --store {path}`",
    )


def outside_coordinates() -> SpecError:
    """The refusal of an inverse that needs more of gradients than their coordinates."""
    return refusal(
        Code.E0762,
        "C⁻¹ is not zero outside the curvature's coordinates, and the index holds gradients in these alone",
        "take an inverse that is zero where C is: `restricted(damping = 0.01)`, or `pseudo`",
    )


def check_kept(request: Request) -> None:
    """Refuse options that need more of training examples than an index keeps.

    Raises:
        SpecError: E0764.
    """
    for option in ("per_layer", "per_position", "per_token", "products", "compress"):
        if getattr(request, option) not in (False, None):
            raise no_part(option)


def no_part(option: str) -> SpecError:
    """The refusal of an option that scores from an index do not have."""
    return refusal(
        Code.E0764,
        f"scores from an index have no `{option}`: what it needs of a training example is not kept",
        f"leave `{option}` out; or score without the index: `cv.influence(cv.load_operator(DIR), task)`",
    )
