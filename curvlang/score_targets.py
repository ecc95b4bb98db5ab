"""Scores written as they are computed: to a zarr store that goes on where a run was stopped, or to an npy file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from curvlang.attribution.formulas.formula_scores import (
    InverseRequest,
    formula_of,
    formula_points,
    is_plain,
    program_of,
)
from curvlang.attribution.formulas.formula_stream import FormulaStream
from curvlang.attribution.inverses import inverted, seen_by
from curvlang.attribution.streams.batch import ScoreBatch, Stream
from curvlang.attribution.streams.relay import relayed
from curvlang.attribution.streams.request import Request
from curvlang.attribution.streams.score_stream import ScoreStream
from curvlang.attribution.streams.self_stream import SelfStream
from curvlang.costs.score_footprint import streamed_phase
from curvlang.diagnostics.diagnostic import Interrupted
from curvlang.language import declared, declared_inverses, default_inverse, score_text
from curvlang.language.chain import Curvature, ScoreFormula, Spec
from curvlang.language.selection import evaluation_of
from curvlang.models.fingerprint import digest
from curvlang.models.losses.loss import show_dtype
from curvlang.models.losses.metric import query_metric_on
from curvlang.models.task import Task
from curvlang.operators import Operator, held_bytes
from curvlang.runtime.fitted import FittedOperator
from curvlang.runtime.limits.disk import Claim, require_space
from curvlang.runtime.processes.distributed import World, world
from curvlang.runtime.progress.listeners import Progress
from curvlang.runtime.setup import Setup
from curvlang.runtime.stored.keys import TaskContent, identity_of_fit
from curvlang.score_report import StoredScores
from curvlang.score_words import Scoring
from curvlang.storage.arrays import npy_parts
from curvlang.storage.score_address import is_remote
from curvlang.storage.score_layout import Chunk, StoreLayout, is_store, layout_of
from curvlang.storage.score_store import (
    TOTAL,
    ScoreStore,
    joined,
    known,
    missing_bytes,
    opened,
)

_WORDS = ("metric", "damping", "inverse", "products", "compress")


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """Where scores go, and what a store keeps with them.

    Args:
        path: A file, a folder, or an address.
        content: What decides the numbers, by name.
        axes: Names of the axes.
        labels: What the positions of an axis are called.
    """

    path: str
    content: Mapping[str, str]
    axes: tuple[str, ...]
    labels: Mapping[str, tuple[object, ...]]


@dataclass(frozen=True, slots=True, eq=False)
class ScoreFile:
    """Scores that lie on the disk.

    Args:
        arrays: By the layer's name, or under `scores`; rows are read when they are asked for.
        found: Chunks that were there before.
        chunks: All chunks.
        predicted: Bytes that scoring held by prediction, beyond the curvature; None for self-influence.
    """

    arrays: Mapping[str, Tensor | StoredScores]
    found: int
    chunks: int
    predicted: int | None = None


def score_content(
    spec: Spec, curvature: Curvature, task: Task, scoring: Scoring, setup: Setup
) -> dict[str, str]:
    """What decides the numbers of scores, in words where they say something, else as a digest.

    Of a model that is yet to be trained: its initialisation and its recipe.

    Raises:
        SpecError: E0840 where a part of the task cannot be recognised by another run.
    """
    content, said = TaskContent(task), evaluation_of(spec, curvature)
    rule = None if said is None else said.inverse
    solver = None if said is None else said.solver
    own = default_inverse().inverse.name if rule is None else rule.span.text
    fitted = identity_of_fit(curvature, content, setup.seed)
    recipe = "" if task.origin.trained else repr(task.recipe)
    mask = () if task.query_mask is None else (task.query_mask,)
    found = {
        "spec": fitted.formula,
        "model": digest(fitted.model, recipe),
        "training data": fitted.data,
        "queries": digest(*task.query, *mask),
        "loss": fitted.objective,
        "seed": str(setup.seed),
        "precision": str(setup.policy),
        "inverse of the spec": " ".join(own.split()),
        "solver": "none" if solver is None else " ".join(solver.span.text.split()),
        "definition of an inverse": digest(declared_inverses(spec)),
        "kind": _kind(scoring),
    }
    found |= {name: str(getattr(scoring, name)) for name in _WORDS}
    formula = None if scoring.own else scored_by_formula(spec, curvature, scoring)
    # Stores of plain influence stay what they are: they say nothing of a formula.
    return found if formula is None else found | {"score": repr(formula)}


def scored_by_formula(spec: Spec, curvature: Curvature, scoring: Scoring) -> ScoreFormula | None:
    """The formula of a scoring, or of the spec's evaluation; None for plain influence."""
    said = evaluation_of(spec, curvature)
    found = None if said is None else said.score
    if scoring.score is not None:
        found = score_text(scoring.score, "<score>", declared(spec))
    return None if found is None or is_plain(program_of(found)) else found


def _kind(scoring: Scoring) -> str:
    if scoring.own:
        return "self-influence"
    parts = [
        "by layer" * scoring.per_layer,
        "by position" * scoring.per_position,
        "by token" * scoring.per_token,
        "" if scoring.group is None else f"queries by {scoring.group}, {scoring.reduce}",
    ]
    return ", ".join(filter(None, parts)) or "plain"


def finished_scores(path: str, content: Mapping[str, str]) -> ScoreStore | None:
    """The store at a path, if all of these scores are in it; the first process looks."""
    processes = world()
    with processes.run():
        whole = ""
        if processes.first:
            there = known(path)
            same = there is not None and there["content"] == dict(content)
            if there is not None and same and not missing_bytes(path):
                store = joined(path, layout_of(there), writes=False)
                whole = "1" if store.finished() == set(store.layout.all) else ""
        if not processes.exchange("all scores are there", whole)[0]:
            return None
    record = known(path)
    assert record is not None
    return joined(path, layout_of(record), writes=False)


def stored_arrays(store: ScoreStore) -> dict[str, Tensor | StoredScores]:
    """The arrays of a store, by the layer's name or under `scores`."""
    return {name: StoredScores(store, name) for name in store.layout.names or (TOTAL,)}


def written(
    target: Target, scoring: Scoring, op: FittedOperator, task: Task, progress: Progress | None
) -> ScoreFile:
    """Compute scores and write each chunk as soon as it is there.

    Args:
        target: Where.
        scoring: Which scores.
        op: The curvature.
        task: Queries and training examples.
        progress: Notified of what is done.

    Raises:
        SpecError: E0585, E0881 to E0884 where they cannot be written.
        MachineError: E0802 where the disk is full.
        Interrupted: Where chunks are kept that another run goes on with.
    """
    seen = seen_by(op, task)
    plan = _plan(target)
    formula = None if scoring.own else formula_of(op, scoring.score)
    if formula is not None:
        return _by_formula(formula, target, scoring, op, seen, progress)
    ready = inverted(
        op, seen, damping=scoring.damping, inverse=scoring.inverse, progress=progress
    ).operator

    def stream() -> Stream:
        if scoring.own:
            return SelfStream(ready, seen, size=plan.get("chunk"))
        labels = scoring.groups(task)
        request = Request(
            scoring.per_layer,
            scoring.per_position,
            scoring.per_token,
            None if labels is None else labels[0],
            scoring.reduce,
            products=scoring.kind(task.policy),
            compress=scoring.compress,
        )
        cost = query_metric_on(scoring.metric, seen).cost
        sizes = {"turn": plan.get("turn"), "size": plan.get("chunk")}
        return ScoreStream(ready, seen, cost, request, **sizes)

    def write() -> ScoreFile:
        made = stream()
        to = _to_store if is_store(target.path) else _to_npy
        return replace(to(target, made, progress), predicted=_predicted(op.operator, made))

    return seen.retried(write)


def _by_formula(
    formula: ScoreFormula,
    target: Target,
    scoring: Scoring,
    op: FittedOperator,
    task: Task,
    progress: Progress | None,
) -> ScoreFile:
    """The same of the scores of a formula."""
    plan, program = _plan(target), program_of(formula)
    labels = scoring.groups(task)
    groups = None if labels is None else labels[0]
    request = Request(groups=groups, reduce=scoring.reduce, progress=progress)
    cost = query_metric_on(scoring.metric, task).cost
    asked = InverseRequest(scoring.damping, scoring.inverse, None, progress)
    points = formula_points(formula, op, task, asked)
    to = _to_store if is_store(target.path) else _to_npy

    def write() -> ScoreFile:
        turn, size = plan.get("turn"), plan.get("chunk")
        return to(
            target, FormulaStream(program, points, cost, request, turn=turn, size=size), progress
        )

    return task.retried(write)


def _predicted(operator: Operator, stream: Stream) -> int | None:
    if not isinstance(stream, ScoreStream):
        return None
    return streamed_phase(operator, stream).bytes - held_bytes(operator, stream.inverse)


def _plan(target: Target) -> dict[str, int]:
    """Turns of queries and chunks of a store that another run has begun, as the first process reads them."""
    processes = world()
    with processes.run():
        there = known(target.path) if processes.first and is_store(target.path) else None
        text = json.dumps({} if there is None else there["plan"])
        found: dict[str, int] = json.loads(processes.exchange("plan", text)[0])
    return found


def _to_npy(target: Target, stream: Stream, progress: Progress | None) -> ScoreFile:
    """Written by the first process; the others send it their chunks."""
    processes, path = world(), Path(target.path)
    chunks = len(stream.units)
    with processes.run():
        if processes.first:
            with npy_parts(path, stream.shape, _dtype(stream)) as file:
                for number, batch in enumerate(relayed(stream, processes), 1):
                    (scores,) = batch.scores.values()
                    file.write(batch.place, scores.cpu().numpy())
                    _tell(progress, number, chunks)
        else:
            for _ in relayed(stream, processes):
                raise AssertionError("the first process has the batches")
    if not processes.first:
        return ScoreFile({}, 0, chunks)
    return ScoreFile(
        {TOTAL: torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False))}, 0, chunks
    )


def _to_store(target: Target, stream: Stream, progress: Progress | None) -> ScoreFile:
    """Every process writes the chunks that it computes: no other writes them."""
    processes, layout = world(), _layout(target, stream)
    with processes.run():
        if not processes.first:
            missing = [tuple(chunk) for chunk in json.loads(processes.wait("missing", 0))]
            store = joined(target.path, layout)
            _fill(store, stream, _Shares(missing, processes), _silent)
            processes.exchange("written", "")
            return ScoreFile(stored_arrays(store), 0, len(layout.all))
        with opened(target.path, layout) as store:
            store.note({}, target.labels)
            if isinstance(stream, ScoreStream) and stream.tokens is not None:
                store.keep_offsets(stream.tokens.tokens.offsets.numpy())
            found = store.finished()
            missing = [chunk for chunk in layout.all if chunk not in found]
            if not is_remote(target.path):
                there = layout.bytes * len(found) // len(layout.all)
                require_space(Claim(Path(target.path), layout.bytes, there=there))
            processes.tell("missing", json.dumps(missing))
            shares = _Shares(missing, processes)

            def told(done: int) -> None:
                whole = len(found) + done * len(missing) // max(1, len(shares.own))
                _tell(progress, whole, len(layout.all))

            _fill(store, stream, shares, told)
            processes.exchange("written", "")
        return ScoreFile(stored_arrays(store), len(found), len(layout.all))


@dataclass(frozen=True, slots=True, eq=False)
class _Shares:
    """The chunks that are still to be computed, each by one of the processes.

    Args:
        missing: All of them.
        processes: Whose.
    """

    missing: Sequence[Chunk]
    processes: World

    @property
    def own(self) -> Sequence[Chunk]:
        """Those of this process."""
        own = self.processes.owned(len(self.missing))
        return self.missing[own.start : own.stop]

    @property
    def turns(self) -> set[int]:
        """Turns of the queries in which any process has a chunk."""
        return {_unit(chunk)[0] for chunk in self.missing}


def _unit(chunk: Chunk) -> tuple[int, int]:
    return (0, chunk[0]) if len(chunk) == 1 else (chunk[0], chunk[1])


def _silent(done: int) -> None:
    """The first process says what is done."""


def _fill(store: ScoreStore, stream: Stream, shares: _Shares, told: Callable[[int], None]) -> None:
    """Compute the chunks of this process, and write each when it is there."""
    chunks, done = shares.own, 0
    try:
        for batch in stream.batches([_unit(chunk) for chunk in chunks], shares.turns):
            store.write(chunks[done], _named(batch))
            done += 1
            told(done)
    except KeyboardInterrupt as error:
        whole = len(store.claimed())
        raise Interrupted(
            f"{whole} of {len(store.layout.all)} chunks of scores are in `{store.address}`"
        ) from error


def _named(batch: ScoreBatch) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float64]]]:
    return {name or TOTAL: scores.cpu().numpy() for name, scores in batch.scores.items()}


def _layout(target: Target, stream: Stream) -> StoreLayout:
    """What a store of a stream holds: a chunk for every turn of the queries and chunk of the examples."""
    turn = stream.turn
    first = (turn,) if stream.of_pairs else ()
    behind = stream.shape[len(first) + 1 :]
    return StoreLayout(
        stream.names,
        stream.shape,
        (*first, stream.cut.size, *behind),
        target.axes,
        _dtype(stream),
        target.content,
        {"turn": turn, "chunk": stream.cut.size},
    )


def _dtype(stream: Stream) -> str:
    return show_dtype(stream.inverse.dtype)


def _tell(progress: Progress | None, done: int, total: int) -> None:
    if progress is not None:
        progress("scores", done, total)
