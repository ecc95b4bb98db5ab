"""Cells of a study, run by an executor: their models retrained first, then each cell as one unit of work."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import torch

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import Interrupted
from curvlang.diagnostics.refusal import refusal
from curvlang.evaluation.ground_truth import ground_truth
from curvlang.evaluation.question import Run, Wording, reworded
from curvlang.evaluation.study.cell import check_cell, run_cell
from curvlang.evaluation.study.files import Values, packed_cell, unpacked_cell
from curvlang.evaluation.study.run import Work, quick, work_of
from curvlang.evaluation.study.study_result import Cell
from curvlang.language import loads
from curvlang.runtime.limits.memory import limited
from curvlang.runtime.setup import Setup
from curvlang.storage.cache import Cache
from curvlang.workers.executor import Description, Execution, InTurn, PortableWork

WorkProgress = Callable[[int, int, Work, Cell | None], None]
"""Called before each piece of work that is done here (no cell yet), and with the result of every piece."""


class Store(Protocol):
    """Where finished cells are kept by name, each written whole or not at all."""

    def get(self, key: str) -> tuple[Cell, Values] | None:
        """A finished cell, or None."""

    def put(self, key: str, cell: Cell, values: Values, more: int = 0) -> None:
        """Keep a cell; as many `more` of its size are to come."""


@dataclass(frozen=True, slots=True, eq=False)
class StudySource:
    """The text of a study, which other machines read.

    Args:
        text: Of the spec.
        path: Its file: paths in it start at the file's folder.
        study: Which study of it.
        small: A small protocol and one model a cell.
        words: What the language has no words for.
    """

    text: str
    path: str
    study: str
    small: bool
    words: Wording


@dataclass(slots=True, eq=False)
class CellWork:
    """Cells of a study as units of work, by their keys."""

    pieces: dict[str, Work]
    run: Run
    source: StudySource | None
    told: WorkProgress | None
    done: int = 0

    def do(self, unit: str) -> bytes:
        """A cell, run here."""
        item = self.pieces[unit]
        if self.told is not None:
            self.told(self.done, len(self.pieces), item, None)
        return packed_cell(*run_cell(item.question, item.cell, item.run(self.run)))

    def portable(self) -> PortableWork:
        """As `workers.executor.Work.portable`."""
        assert self.source is not None
        words: dict[str, Any] = dict(self.source.words)
        if not all(_plain(word) for word in words.values()):
            raise refusal(
                Code.E0845,
                "workers cannot run this study: its metric is a function of Python",
                "name one: `loss`, `margin`, `logit`",
                "or run it without workers",
                notes=("a worker gets a text that describes the work, never code or objects",),
            )
        setup = self.run.setup
        told = {
            **asdict(self.source),
            "path": str(Path(self.source.path).absolute()),
            "precision": str(setup.policy),
            "device": setup.device.type,
            "memory": setup.memory,
            "allow_python": self.run.allow_python,
            "cache": str((self.run.cache or Cache()).root.absolute()),
        }
        return PortableWork(evaluated_cell, Description(json.dumps(told)))


def _plain(word: object) -> bool:
    several = word if isinstance(word, list | tuple) else [word]
    return all(x is None or isinstance(x, str) for x in several)


def evaluated_cell(about: Description, unit: str) -> bytes:
    """A cell of a study that a text describes.

    Args:
        about: What `CellWork.portable` has made.
        unit: The key of the cell.

    Raises:
        SpecError: E0846 where the study has no such cell here, and as `run_cell`.
    """
    pieces, run = _study_of(about.text)
    if unit not in pieces:
        raise refusal(
            Code.E0846,
            "a worker has another study than this process: its data or its code differ",
            "give workers the same files and modules, and restart those that have loaded older ones",
        )
    item = pieces[unit]
    with limited(run.setup.memory):
        return packed_cell(*run_cell(item.question, item.cell, item.run(run)))


@lru_cache(maxsize=1)
def _study_of(text: str) -> tuple[dict[str, Work], Run]:
    told = json.loads(text)
    spec = loads(told["text"], told["path"])
    study = spec.studies[told["study"]]
    setup = Setup(torch.device(told["device"]), None, told["memory"], precision=told["precision"])
    # Workers of other machines may have no such folder: they train again what they need.
    place = Path(told["cache"])
    cache = Cache(place) if place.is_dir() else Cache()
    run = Run(setup, None, cache, None, told["allow_python"])
    small, words = told["small"], told["words"]
    changes = reworded(spec, words) if words else {}
    work = work_of(quick(study) if small else study, run, small=small, **changes)
    return {item.key: item for item in work}, run


def run_missing(
    work: Sequence[Work],
    store: Store,
    run: Run,
    *,
    told: WorkProgress | None = None,
    source: StudySource | None = None,
) -> int:
    """Run what the store does not hold; every finished cell is kept at once.

    All that can be refused is refused before the first model is trained.

    Args:
        work: Cells of a study.
        store: Where finished cells are.
        run: How cells are run; each has its own seed and protocol.
        told: Notified before each cell and after it.
        source: The text of the study, for workers.

    Returns:
        How many cells were run.

    Raises:
        Interrupted: On Ctrl-C, with what is kept.
    """
    execution = Execution(run.executor, run.progress)
    wanted = set(execution.agreed([w.key for w in work if store.get(w.key) is None]))
    missing = [w for w in work if w.key in wanted]
    for item in {w.place: w for w in reversed(missing)}.values():
        check_cell(item.question, item.cell, item.run(run))
    alone = replace(run, executor=InTurn())
    cells = CellWork({w.key: w for w in missing}, alone, source, told)
    try:
        trained = {} if isinstance(run.executor, InTurn) else _retrained(missing, run)
        with closing(execution.run(cells, list(cells.pieces))) as results:
            for key, content in results:
                cell, values = unpacked_cell(content)
                item = cells.pieces[key]
                counts = trained.pop(item.truth, None)
                if counts is not None:
                    cell = replace(cell, trained=counts[0], reused=counts[1])
                cells.done += 1
                store.put(key, cell, values, len(missing) - cells.done)
                if told is not None:
                    told(cells.done - 1, len(missing), item, cell)
    except KeyboardInterrupt as error:
        kept = len(work) - len(missing) + cells.done
        raise Interrupted(f"{kept} of {len(work)} cells of the study are kept") from error
    return len(missing)


def _retrained(work: Sequence[Work], run: Run) -> dict[str, tuple[int, int]]:
    """Retrain the models of all cells in stacks, which are smaller units than cells; models trained and kept.

    A cell reads them from the cache, or trains them again where it is run on a machine with another one.
    """
    found = {}
    for item in {w.truth: w for w in reversed(work)}.values():
        if item.protocol is not None:
            how = item.run(run)
            truth = ground_truth(
                how.fresh(item.cell.task),
                item.protocol,
                item.seed,
                metric=item.question.metric,
                cache=run.cache,
                execution=Execution(run.executor, run.progress),
            )
            found[item.truth] = truth.trained, truth.reused
    return found
