"""Queries prepared by all processes together: each reads some, brings them back, and factors some spectra.

All is done inside a part that all processes go through in step; elsewhere, and in one process, each does
all of it itself. What a process finds is the same to the last bit either way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from curvlang.attribution.blocks import ScoredBlock
from curvlang.attribution.score_orders import Factors, rank_of, searched
from curvlang.models.layers.embedding import Embedding
from curvlang.models.padding.spans import BatchRows
from curvlang.runtime.processes.in_step import Steps, in_step, steps

WIDE = 384
"""Outputs and inputs together from which on bringing a query back takes longer than sending it."""
MOST = 8
"""Equal shares at most that queries are cut into, each of this many at least:"""
FEWEST = 16
LARGE = 2**16
"""Numbers of a spectrum from which on its factors take longer to find than to send."""


def worth_sharing(
    given: Sequence[ScoredBlock], queries: int, examples: int, *, ranked: bool = True
) -> bool:
    """Whether processes share what queries are prepared with, under one inverse.

    Args:
        given: C⁻¹ by layers.
        queries: How many.
        examples: Training examples.
        ranked: Whether spectra may be factored.
    """
    pairs = queries * examples if ranked else 0
    alone = any(_searches(x, pairs) or _returns(x, queries, examples) for x in given)
    return alone or reads_long(given)


def reads_long(given: Sequence[ScoredBlock]) -> bool:
    """Whether reading a query takes longer than sending what is kept of it.

    Of each number of a gradient with T positions: 4 T operations backward and 2 T forward, 2 T to form it, and
    about as many for its changes of basis. Rows of a table are picked, not multiplied.
    """
    work = numbers = 0
    for x in given:
        if not isinstance(x.layer.kind, Embedding):
            work += 12 * x.layer.positions * x.layer.size
        numbers += x.layer.leaf_elements if x.by_leaves else x.layer.size
    return work >= 2 * WIDE * numbers


def shares_of(queries: int) -> int:
    """Into how many equal shares queries that take long to read are cut: a power of two up to eight."""
    return 1 << max(0, min(MOST, queries // FEWEST).bit_length() - 1)


@dataclass(frozen=True, slots=True, eq=False)
class QueryShares:
    """Which queries each process has read: some of the batches that one process would read all of.

    Args:
        step: The part of the run that all are in.
        batches: Of every process.
    """

    step: Steps
    batches: tuple[tuple[BatchRows, ...], ...]

    @property
    def own(self) -> tuple[BatchRows, ...]:
        """The batches of this process."""
        return self.batches[self.step.processes.rank]

    def rows(self, rank: int) -> slice | Tensor:
        """The numbers of a process's queries."""
        found = [x.rows for x in self.batches[rank]]
        if all(isinstance(x, slice) for x in found):
            return slice(found[0].start, found[-1].stop)  # type: ignore[union-attr]
        return torch.cat([x for x in found if isinstance(x, Tensor)])

    def spread(self, what: str, own: Tensor, count: int) -> Tensor:
        """All `count` rows, from the rows that each process has, in the order of its batches."""
        whole = own.new_empty(count, *own.shape[1:])
        whole[self.rows(self.step.processes.rank)] = own
        return self.complete(what, whole)

    def complete(self, what: str, x: Tensor) -> Tensor:
        """Fill in the rows that other processes have, in the place of `x` [Q, …].

        Args:
            what: It is, for the run.
            x: The rows of this process are known.
        """
        key, processes = self.step.next(what), self.step.processes
        for rank in range(processes.size):
            rows = self.rows(rank)
            if not any(map(len, self.batches[rank])):
                continue
            mine = {"": x[rows]} if rank == processes.rank else None
            shared = processes.share(f"{key} {rank}", mine, rank, x.device)
            if mine is None:
                x[rows] = shared[""]
        return x


def query_shares(given: Sequence[ScoredBlock], cuts: Sequence[BatchRows]) -> QueryShares | None:
    """Who reads which queries; None where every process reads all of them.

    Args:
        given: C⁻¹ by layers.
        cuts: The batches of all queries.
    """
    step = steps()
    if step is None or not reads_long(given):
        return None
    processes = step.processes
    key = step.next(f"reading by {len(given)} layers")
    # Batches follow from the memory that is free, where that is little.
    sizes = processes.exchange(key, ",".join(str(len(x)) for x in cuts))
    if len({*sizes}) > 1 or len(cuts) < processes.size:
        return None
    owned = (processes.owned(len(cuts), rank) for rank in range(processes.size))
    return QueryShares(step, tuple(tuple(cuts[k] for k in own) for own in owned))


@contextmanager
def prepared_together(given: Sequence[ScoredBlock], queries: int, examples: int) -> Iterator[None]:
    """A part that all processes go through in step, where they share something in it."""
    if not worth_sharing(given, queries, examples):
        yield
        return
    with in_step():
        yield


def factors_of(given: Sequence[ScoredBlock], pairs: int) -> dict[str, Factors | None]:
    """What `rank_of` finds for every block with one position, by the layer's name.

    Args:
        given: C⁻¹ by layers.
        pairs: Queries times training examples; 0 where no spectrum is factored.
    """
    spectra = {x.layer.name: x.spectrum for x in given if x.by_leaves and x.spectrum is not None}
    names = [x.layer.name for x in given if _searches(x, pairs)]
    step = steps()
    if step is None or not names:
        return {name: rank_of(s, pairs) for name, s in spectra.items()}
    found = _shared_factors(step, {name: spectra[name] for name in names}, pairs)
    return {
        name: found[name] if name in found else rank_of(s, pairs) for name, s in spectra.items()
    }


def _searches(x: ScoredBlock, pairs: int) -> bool:
    if not x.by_leaves or x.spectrum is None:
        return False
    return x.spectrum.numel() >= LARGE and searched(x.spectrum, pairs)


def _shared_factors(
    step: Steps, spectra: dict[str, Tensor], pairs: int
) -> dict[str, Factors | None]:
    """Of every spectrum, found by one process: the largest first, each by who has least."""
    key = step.next(f"factors of {len(spectra)}")
    owners, taken = {}, [0] * step.processes.size
    for name, s in sorted(spectra.items(), key=lambda x: -x[1].numel()):
        owners[name] = taken.index(min(taken))
        taken[owners[name]] += s.numel()
    own = {
        name: rank_of(spectra[name], pairs)
        for name, rank in owners.items()
        if rank == step.processes.rank
    }
    device = next(iter(spectra.values())).device
    found = dict(own)
    for rank in sorted({*owners.values()}):
        mine = _tensors(own) if rank == step.processes.rank else None
        shared = step.processes.share(f"{key} {rank}", mine, rank, device)
        for name in (n for n, r in owners.items() if r == rank and mine is None):
            found[name] = _factors(name, shared)
    return found


def _tensors(found: dict[str, Factors | None]) -> dict[str, Tensor]:
    """Factors as tensors by name; a spectrum without factors has none."""
    tensors: dict[str, Tensor] = {}
    for name, factors in found.items():
        if factors is not None:
            error = torch.tensor([factors.error], dtype=torch.float64)
            parts = {"left": factors.left, "right": factors.right, "error": error}
            tensors |= {f"{part} {name}": x for part, x in parts.items()}
    return tensors


def _factors(name: str, shared: dict[str, Tensor]) -> Factors | None:
    if f"left {name}" not in shared:
        return None
    error = float(shared[f"error {name}"])
    return Factors(shared[f"left {name}"], shared[f"right {name}"], error)


def preconditioned(
    x: ScoredBlock, gradients: Tensor, read: QueryShares | None, *, back: bool
) -> Tensor:
    """C⁻¹ applied to gradients [Q, *shape] of its basis, in their place where it is diagonal.

    Args:
        x: The block.
        gradients: In its basis; the rows that this process has read.
        read: Who has read which of them; None where each process has read all.
        back: Whether they are brought back from the basis.
    """
    shared = read or (_by_rows(x, len(gradients)) if back else None)
    if shared is None:
        found = x.preconditioned(gradients)
        return x.back(found) if back else found
    what = f"{len(gradients)} queries of {x.layer.name}"
    if x.spectrum is None:
        # A product with more columns is rounded otherwise.
        found = x.preconditioned(gradients if read is None else read.complete(what, gradients))
        return x.back(found) if back else found
    rows = shared.rows(shared.step.processes.rank)
    own = x.preconditioned(gradients[rows])
    if back:
        own = x.back(own)
    if isinstance(rows, Tensor):
        gradients[rows] = own
    return shared.complete(what, gradients)


def _by_rows(x: ScoredBlock, queries: int) -> QueryShares | None:
    """Who brings which queries back, where all have read them and it takes longer than sending them."""
    step = steps() if _wide(x) else None
    if step is None:
        return None
    owned = (step.processes.owned(queries, rank) for rank in range(step.processes.size))
    return QueryShares(step, tuple((BatchRows(slice(r.start, r.stop)),) for r in owned))


def _wide(x: ScoredBlock) -> bool:
    """Whether what is computed for a number of a query is more than the time to send it."""
    return x.spectrum is not None and sum(x.shape[-2:]) >= WIDE


def _returns(x: ScoredBlock, queries: int, examples: int) -> bool:
    return _wide(x) and x.rotates_back(queries, examples)
