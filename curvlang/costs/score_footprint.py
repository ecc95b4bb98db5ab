"""Predicted memory of an inverse and of scores: the tensors that live at the same time, as in `footprint`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from curvlang.attribution.blocks import ScoredBlock, largest_gradient, whole_blocks
from curvlang.attribution.gradients import batch_size as gradient_batch
from curvlang.attribution.passes import BatchLoad, batch_size, model_bytes, scored_load
from curvlang.attribution.score_orders import at_once, one_number, rank_of
from curvlang.attribution.streams.cut import score_cut
from curvlang.attribution.streams.fitting import queries_at_once, query_bytes
from curvlang.attribution.streams.score_stream import ScoreStream
from curvlang.models.task import Task
from curvlang.operators import CholeskyInverse, Operator, held_bytes
from curvlang.runtime.limits.activations import reading_bytes
from curvlang.runtime.limits.footprint import Phase
from curvlang.runtime.passes.entries import BATCH_BYTES

_EXACT = 8
"""Bytes of a number of an operator and of a score."""
_VECTORS, _COPIES = 5, 4
"""Of all queries in a product with an inverse by its entries, and of a batch of gradients in its passes."""
_WORK = 2
"""Matrices that a decomposition works in besides its argument and its eigenvectors."""


def inverse_phase(
    operator: Operator, inverse: Operator, matrices: Iterable[tuple[int, bool]]
) -> Phase:
    """Memory while an inverse is made.

    Args:
        operator: C.
        inverse: C⁻¹.
        matrices: Rows of every matrix, and whether it is decomposed; a Cholesky factor needs a copy.
    """
    held = held_bytes(operator)
    work = max((rows**2 * (_WORK if decomposed else 1) for rows, decomposed in matrices), default=0)
    parts = {"curvature": held, "inverse": held_bytes(operator, inverse) - held}
    # Eigenvalues of all blocks in one vector, and in theirs.
    spectrum = 0 if isinstance(inverse, CholeskyInverse) else 2 * operator.size
    return Phase("inverse", {**parts, "work": _EXACT * max(work, spectrum)})


def scores_phase(
    operator: Operator, inverse: Operator, given: Sequence[ScoredBlock] | None, task: Task
) -> Phase:
    """Memory while all queries are scored against all training examples, the sum over blocks.

    Args:
        operator: C, which stays.
        inverse: C⁻¹.
        given: Its blocks; None where it has none.
        task: Queries and training examples.
    """
    own = task.precision.itemsize
    held = {"operators": held_bytes(operator, inverse)}
    if given is not None:
        rows = min(task.Q, queries_at_once(task, query_bytes(task, given)))
        queries = rows * query_bytes(task, given)
        return Phase("scores", {**held, "queries": queries, **_batch(given, task, rows)})
    whole = whole_blocks(inverse, task)
    cast = _EXACT if own != _EXACT else 0
    rest = _batch(whole, task, task.Q)
    # While queries are preconditioned they stand in two or three precisions, and no batch is there yet.
    making = task.Q * task.P * (cast + own + _EXACT)
    queries = max(task.Q * task.P * own, making - sum(rest.values()))
    return Phase("scores", {**held, "queries": queries, **rest})


def with_passes(phase: Phase, task: Task) -> Phase:
    """Scores under an inverse by its entries: vectors of all queries on the way, and a few copies of a batch of gradients.

    Args:
        phase: Scores without them.
        task: Queries and training examples.
    """
    batch = min(
        max(BATCH_BYTES, task.P * task.precision.itemsize),
        task.N * task.P * task.precision.itemsize,
    )
    passes = _VECTORS * _EXACT * task.Q * task.P + _COPIES * batch
    return Phase(phase.name, {**phase.parts, "passes": passes})


def streamed_phase(operator: Operator, stream: ScoreStream) -> Phase:
    """Memory while scores go by in chunks, each held until it is written.

    Args:
        operator: C, which stays.
        stream: The scores.
    """
    task, rows, inverse = stream.task, stream.turn, stream.inverse
    own = torch.empty((), dtype=task.precision).element_size()
    held = {"operators": held_bytes(operator, inverse)}
    chunk = _EXACT * rows * stream.cut.size * max(1, len(stream.names)) * stream.positions
    # One that is being written, and one that is added to.
    scores = {"scores": 2 * chunk}
    if stream.given is None and (stream.request.per_layer or stream.request.per_position):
        each = min(stream.cut.size, gradient_batch(task, stream.positions))
        # Of each layer, put together, and as the blocks of C⁻¹ take them.
        gradients = 3 * own * each * task.P * stream.positions
        queries = _EXACT * rows * task.P
        return Phase("scores", {**held, "queries": queries, "gradients": gradients, **scores})
    given = stream.given
    each = task.P * own if given is None else query_bytes(task, given)
    rest = _batch(given or whole_blocks(inverse, task), task, rows)
    return Phase("scores", {**held, "queries": rows * each, **rest, **scores})


def _batch(given: Sequence[ScoredBlock], task: Task, rows: int) -> dict[str, int]:
    """What is held while a batch of training examples meets some queries."""
    own = torch.empty((), dtype=task.precision).element_size()
    layers = [x.layer for x in given]
    most = batch_size(task, layers, scored_load(task, layers, rows))
    cut = score_cut(task.N, most, rows)
    batch = min(cut.size, most)
    together = max(batch, min(rows, batch_size(task, layers, BatchLoad(0))))
    leaves = sum(b.leaf_elements for b in layers)
    rotated = max(b.leaf_elements for b in layers)
    flat = [b for b in layers if b.positions == b.count == 1]
    formed = largest_gradient(given) if len(flat) < len(layers) else 0
    pairs = task.Q * task.N
    piece = max((_piece(x, rows, batch, own, pairs) for x in given if x.layer in flat), default=0)
    formed_bytes = own * together * (leaves + rotated)
    return {
        "bases": sum(_cast(x, own) for x in given),
        "leaves": formed_bytes,
        "model": max(0, together * model_bytes(task, layers) - formed_bytes),
        **({"data": together * reading} if (reading := reading_bytes(task)) else {}),
        "products": max(own * batch * formed, piece) + _EXACT * rows * batch,
        "scores": _EXACT * (task.Q * task.N + (rows * cut.size if cut.count > 1 else 0)),
    }


def _cast(x: ScoredBlock, size: int) -> int:
    """Bytes of a block's basis and spectrum in the precision of the passes, where it is another one."""
    if size == _EXACT:
        return 0
    parts = [t for t in (x.left, x.right, x.spectrum) if t is not None]
    return size * sum(1 if one_number(t) else t.numel() for t in parts)


def _piece(x: ScoredBlock, rows: int, batch: int, size: int, pairs: int) -> int:
    """Bytes that are made of a few queries at a time, with one position."""
    O, I = x.layer.d_out, x.layer.d_in
    factors = None
    if x.by_leaves:
        assert x.spectrum is not None
        factors = rank_of(x.spectrum, pairs)
    if factors is not None:
        # Both sides are scaled one after the other, and meet the batch each.
        rank, widest = len(factors.left), O + I + 2 * batch
        count = min(rows, max(1, at_once() // (size * rank * widest)))
        return size * count * rank * (max(O, I) + 2 * batch)
    made = x.layer.size if x.by_leaves else 0
    moved = batch * min(O, I)
    count = min(rows, max(1, at_once() // (size * max(made, moved))))
    return size * count * (made + moved + batch)
