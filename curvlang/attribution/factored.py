"""Scores block by block from inputs and output gradients, in the basis where C⁻¹ is diagonal.

With C⁻¹ = (U ⊗ V) diag(S) (U ⊗ V)ᵀ and the gradient of example n in a layer Σ_t e[n,t,o] a[n,t,i],

    score[q,n] = Σ_{m,k} S[m,k] ĝ_q[m,k] ĝ_n[m,k],    ĝ_n[m,k] = Σ_t (Uᵀe)[n,t,m] (Vᵀa)[n,t,k].

Inputs and output gradients are rotated, T (O² + I²) operations, not gradients, O I (O + I). With one
position no gradient of a training example is formed; `score_orders` says in which order products are taken.
With several, preconditioned queries are rotated back where that is less than rotating N training examples.

Several inverses share the passes over the data, and those of one basis what is rotated into it.

Blocks of one shape are one `Scored`: its tensors have an axis for them in front, gradients one behind the
examples, and products sum over it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from curvlang.attribution.blocks import ScoredBlock, largest_gradient, scored_in, whole_blocks
from curvlang.attribution.passes import (
    BatchLoad,
    batch_size,
    cuts_of,
    leaf_batches,
    scored_load,
)
from curvlang.attribution.query_shares import (
    QueryShares,
    factors_of,
    preconditioned,
    query_shares,
    reads_long,
    shares_of,
)
from curvlang.attribution.score_orders import (
    DenseQueries,
    Factors,
    Outer,
    Queries,
    RankQueries,
    formed_gradients,
    one_number,
)
from curvlang.attribution.streams.cut import ScoreCut, score_cut
from curvlang.attribution.streams.gather import Counted, gathered
from curvlang.models.layers import Input, OneHot
from curvlang.models.losses.loss import Loss
from curvlang.models.padding.spans import BatchRows, in_order
from curvlang.models.task import Task
from curvlang.models.task_products import products_of_scores
from curvlang.operators import Operator

PROBED = 4, 32
"""Fewest and most training examples on which the error of a reduced precision is measured."""
PROBED_NUMBERS = 2**23
"""Examples times parameters up to which it is the most."""
PROBED_SHARE = 16
"""Else one of so many, between them."""

Blocks = tuple[ScoredBlock, ...]
"""C⁻¹ by layers."""
_Basis = tuple[str, int, int, bool]
"""A layer, its basis, and whether inputs and output gradients are kept in place of gradients."""


@dataclass(frozen=True, slots=True, eq=False)
class Preconditioner:
    """C⁻¹ by layers, and the queries that it is applied to.

    Args:
        blocks: C⁻¹.
        queries: By layer.
        products: Precision of the factors in their large products; that of all where not given.
    """

    blocks: Blocks
    queries: Mapping[str, Queries]
    products: torch.dtype | None = None

    @property
    def count(self) -> int:
        """Queries, or groups of them."""
        return next(iter(self.queries.values())).count


class QueryGradients:
    """Gradients of the queries in every basis that an inverse has: one pass for all inverses of the same layers.

    Args:
        task: The queries.
        cost: The queries' metric, lower is better.
        inverses: Every C⁻¹ that will be applied to them, once each.
        weights: [G, Q] of the queries in every group; None for the queries themselves.
    """

    def __init__(
        self, task: Task, cost: Loss, inverses: Sequence[Blocks], weights: Tensor | None = None
    ) -> None:
        self.task = task
        self.weights = weights
        self.count = task.Q if weights is None else len(weights)
        self._held: dict[_Basis, Tensor] = {}
        self._leaves: dict[_Basis, list[tuple[slice | Tensor, Tensor, Tensor]]] = {}
        self._hot: set[str] = set()
        self._read_by: dict[_Basis, QueryShares] = {}
        self._uses = Counter(self._basis(x) for blocks in inverses for x in blocks)
        for group in by_layers(inverses).values():
            self._read(cost, [inverses[k] for k in group])

    def _basis(self, x: ScoredBlock) -> _Basis:
        return x.layer.name, id(x.left), id(x.right), self.weights is None and x.by_leaves

    def _read(self, cost: Loss, inverses: Sequence[Blocks]) -> None:
        """One pass over the queries; each basis of a layer is taken once."""
        based = list({self._basis(x): x for blocks in inverses for x in blocks}.items())
        made = torch.empty if self.weights is None else torch.zeros
        for basis, x in based:
            if basis[-1]:
                self._leaves[basis] = []
            else:
                self._held[basis] = made(
                    (self.count, *x.shape), dtype=self.task.precision, device=self.task.device
                )
        layers = [x.layer for x in inverses[0]]
        formed = 0 if self.weights is None else max(map(largest_gradient, inverses))
        load = BatchLoad(formed)
        long = self.weights is None and reads_long([x for _, x in based])
        # The same for any number of processes, some of which may read them together.
        even = (range(self.count), shares_of(self.count)) if long else (None, 1)
        cuts: Sequence[BatchRows] = cuts_of(self.task, layers, "query", load, *even)
        read = None
        if self.weights is None:
            read = query_shares([x for _, x in based], cuts)
        if read is not None:
            cuts = read.own
            self._read_by |= dict.fromkeys((basis for basis, _ in based), read)
        for own, rows in leaf_batches(self.task, cost, layers, "query", load, cuts):
            for basis, x in based:
                if not isinstance(rows[x.layer.name][0], Tensor):
                    self._hot.add(x.layer.name)
                self._add(basis, x, own, *x.rotated(*rows[x.layer.name]))
        for basis in (b for b, _ in based if b[-1] and read is not None):
            self._leaves[basis] = [self._of_all(basis, self._read_by[basis])]

    def _of_all(self, basis: _Basis, read: QueryShares) -> tuple[slice, Tensor, Tensor]:
        """Inputs and output gradients of all queries, where each process has read some."""
        _, inputs, slopes = zip(*self._leaves[basis], strict=True)
        a, e = (
            read.spread(f"{what} of {basis[0]}", torch.cat(parts), self.count)
            for what, parts in (("inputs", inputs), ("slopes", slopes))
        )
        return slice(0, self.count), a, e

    def _add(self, basis: _Basis, x: ScoredBlock, own: slice | Tensor, a: Input, e: Tensor) -> None:
        if basis[-1]:
            assert isinstance(a, Tensor)
            self._leaves[basis].append((own, a[:, 0], e[:, 0]))
        elif self.weights is not None:
            flat = self._held[basis].flatten(1)
            found = x.formed(a, e).flatten(1).to(flat.dtype)
            flat.addmm_(self.weights[:, own].to(flat.dtype), found)
        elif x.operands is not None or isinstance(own, Tensor):
            self._held[basis][own] = x.formed(a, e).to(self._held[basis].dtype)
        elif x.layer.count > 1 or isinstance(a, OneHot):
            self._held[basis][own] = formed_gradients(a, e)
        else:
            torch.bmm(e.mT, a, out=self._held[basis][own])

    def under(self, blocks: Blocks, *, ranked: bool = True) -> Preconditioner:
        """The queries under one of the inverses, as the order of its products wants them.

        Args:
            blocks: C⁻¹.
            ranked: Whether spectra may be factored, to rounding.
        """
        leaves = [x for x in blocks if self._basis(x)[-1]]
        factors = factors_of(leaves, self.task.Q * self.task.N if ranked else 0)
        return Preconditioner(blocks, {x.layer.name: self._under(x, factors) for x in blocks})

    def _under(self, x: ScoredBlock, factors: Mapping[str, Factors | None]) -> Queries:
        # What the last inverse has used is let go block by block: both forms never stand side by side.
        basis = self._basis(x)
        self._uses[basis] -= 1
        last = self._uses[basis] == 0
        if basis[-1]:
            parts = self._leaves[basis]
            rows, inputs, slopes = zip(*parts, strict=True)
            a, e = in_order(rows, inputs), in_order(rows, slopes)
            parts[:] = [(slice(0, len(a)), a, e)]
            if last:
                del self._leaves[basis]
            assert x.spectrum is not None
            known = factors[x.layer.name]
            return Outer(a, e, x.spectrum) if known is None else RankQueries(a, e, known)
        own = self._held.pop(basis) if last else self._held[basis].clone()
        # Back from the basis unless inputs are indices, which only rotate cheaply.
        back = x.layer.name not in self._hot and x.rotates_back(len(own), self.task.N)
        found = preconditioned(x, own, self._read_by.get(basis), back=back)
        return DenseQueries(found, in_basis=not back)


def by_layers(inverses: Sequence[Blocks]) -> dict[tuple[str, ...], list[int]]:
    """Numbers of the inverses of the same layers, which share a pass."""
    found: dict[tuple[str, ...], list[int]] = {}
    for k, blocks in enumerate(inverses):
        found.setdefault(tuple(x.layer.name for x in blocks), []).append(k)
    return found


def block_queries(
    task: Task,
    cost: Loss,
    given: Blocks,
    weights: Tensor | None,
    *,
    ranked: bool = True,
) -> dict[str, Queries]:
    """Preconditioned queries of every block of one inverse; arguments as for `QueryGradients`."""
    found = QueryGradients(task, cost, [given], weights).under(given, ranked=ranked)
    return dict(found.queries)


def whole_queries(inverse: Operator, moved: Tensor, task: Task) -> Preconditioner:
    """Preconditioned queries [Q, P] by layer, for a C⁻¹ that is one matrix.

    No gradient over all parameters is formed of a training example: a score is the sum over layers
    of products with what a layer shows.
    """
    blocks = whole_blocks(inverse, task)
    queries = {
        x.layer.name: DenseQueries(
            moved[:, x.layer.index].to(task.precision).view(-1, *x.shape), in_basis=False
        )
        for x in blocks
    }
    return Preconditioner(blocks, queries)


class TrainingProducts:
    """Preconditioned queries, ready to meet training examples: one pass for all inverses of the same layers.

    Args:
        task: The training examples.
        asked: The inverses with their queries.
        products: Precision of the factors in the large products; as the task says where not given. Sums
            are accumulated in float32 at least.
        apart: Scores of every block by its name, or their sum over all blocks under no name.
    """

    def __init__(
        self,
        task: Task,
        asked: Sequence[Preconditioner],
        products: torch.dtype | None = None,
        *,
        apart: bool = False,
    ) -> None:
        self.task = task
        self.asked = asked
        self.apart = apart
        self.kinds = [one.products or products or scored_in(task) for one in asked]
        self._groups = by_layers([u.blocks for u in asked])
        self._ready = [
            {name: u.ready(kind) for name, u in one.queries.items()}
            for one, kind in zip(asked, self.kinds, strict=True)
        ]

    @property
    def cut(self) -> ScoreCut:
        """The training examples in chunks."""
        most = queries = 1
        for number, group in enumerate(self._groups.values()):
            own = [self.asked[k] for k in group]
            layers = [x.layer for x in own[0].blocks]
            size = batch_size(self.task, layers, _load(self.task, own))
            most = size if number == 0 else min(most, size)
            queries = max(queries, *(u.count for u in own))
        return score_cut(self.task.N, most, queries)

    def over(self, within: range) -> list[dict[str, Tensor]]:
        """Scores [Q, B] of some training examples under every inverse."""
        found = [self._zeros(one, len(within)) for one in self.asked]
        for group in self._groups.values():
            own = [self.asked[k] for k in group]
            for rows, shown in _batches(self.task, own, within):
                for blocks in zip(*(one.blocks for one in own), strict=True):
                    seen = _Rotations(*shown[blocks[0].layer.name])
                    with products_of_scores(self.task):
                        for x, k in zip(blocks, group, strict=True):
                            self._add(found[k], x, seen, k, rows)
        return found

    def _zeros(self, one: Preconditioner, count: int) -> dict[str, Tensor]:
        kinds = {name: x.operator.dtype for x in one.blocks for name in x.layer.names}
        if not self.apart:
            kinds = {"": max(kinds.values(), key=_digits)}
        return {
            name: torch.zeros(one.count, count, dtype=dtype, device=self.task.device)
            for name, dtype in kinds.items()
        }

    def _add(
        self,
        found: dict[str, Tensor],
        x: ScoredBlock,
        seen: _Rotations,
        k: int,
        rows: slice | Tensor,
    ) -> None:
        u, kind = self._ready[k][x.layer.name], self.kinds[k]
        a, e = seen.of(x, u.in_basis)
        if not self.apart:
            found[""][:, rows] += u.against(a, e, kind)
        elif x.layer.count > 1:
            assert isinstance(a, Tensor)
            for name, scores in zip(x.layer.names, u.by_group(a, e, kind), strict=True):
                found[name][:, rows] += scores
        else:
            found[x.layer.name][:, rows] += u.against(a, e, kind)


def scores_together(
    task: Task,
    asked: Sequence[Preconditioner],
    told: Counted | None = None,
    products: torch.dtype | None = None,
) -> list[Tensor]:
    """Scores [Q, N] under every inverse, summed over its blocks; in every process those of all.

    Args:
        task: The training examples.
        asked: The inverses with their queries.
        told: Notified how many examples are scored.
        products: As for `TrainingProducts`.
    """
    source = TrainingProducts(task, asked, products)
    return [x[""] for x in gathered(source.over, source.cut, task.device, told=told)]


class _Rotations:
    """A layer's inputs and output gradients of a batch, brought into each basis once."""

    def __init__(self, a: Input, e: Tensor) -> None:
        self.plain = a, e
        self._known: dict[tuple[int, int, bool], tuple[Input, Tensor]] = {}

    def of(self, x: ScoredBlock, in_basis: bool) -> tuple[Input, Tensor]:
        """As queries of a block want them."""
        key = id(x.left), id(x.right), in_basis
        if key not in self._known:
            self._known[key] = x.seen(*self.plain, in_basis)
        return self._known[key]


def _digits(dtype: torch.dtype) -> int:
    return torch.finfo(dtype).bits


def _load(task: Task, asked: Sequence[Preconditioner]) -> BatchLoad:
    """What training examples meet under inverses of the same layers."""
    return scored_load(task, [x.layer for x in asked[0].blocks], max(u.count for u in asked))


def _batches(
    task: Task, asked: Sequence[Preconditioner], within: range
) -> Iterator[tuple[slice | Tensor, dict[str, tuple[Input, Tensor]]]]:
    """Some training examples, in batches that fit every inverse of the same layers, and their places among them."""
    layers = [x.layer for x in asked[0].blocks]
    for own, rows in leaf_batches(task, task.loss, layers, "train", _load(task, asked), within):
        yield _among(own, within), rows


def _among(own: slice | Tensor, within: range) -> slice | Tensor:
    """The places of examples among some consecutive ones."""
    if isinstance(own, Tensor):
        return own - within.start
    return slice(own.start - within.start, own.stop - within.start)


def probed_count(task: Task) -> int:
    """Training examples on which the error of a reduced precision is measured, fewer of large models."""
    low, high = PROBED
    count = min(task.N, high)
    if count * task.P > PROBED_NUMBERS:
        count = min(count, max(low, task.N // PROBED_SHARE))
    return count


def product_error(
    task: Task, given: Blocks, queries: Mapping[str, Queries], products: torch.dtype
) -> float:
    """Largest difference that the precision of the products makes, of the largest score.

    Measured on the first few training examples, whose inputs and output gradients meet the queries in both.
    """
    asked = [Preconditioner(given, queries, kind) for kind in (task.precision, products)]
    few = range(probed_count(task))
    exact, found = (x[""] for x in TrainingProducts(task, asked).over(few))
    return float((found - exact).abs().max() / exact.abs().max().clamp_min(1e-300))


def block_self_scores(
    task: Task, given: Blocks, part: str, within: range, cost: Loss | None = None
) -> Tensor:
    """Σ over blocks of ∇ᵀ C⁻¹ ∇ of some examples of a part, [B].

    Args:
        task: The examples.
        given: C⁻¹ by layers.
        part: `train` or `query`.
        within: Which examples.
        cost: Of which gradients are taken; the task's loss where not given.
    """
    layers = [x.layer for x in given]
    found: list[Tensor] = []
    places: list[slice | Tensor] = []
    loss = cost or task.loss
    load = BatchLoad(largest_gradient(given))
    for own, rows in leaf_batches(task, loss, layers, part, load, within):
        total = torch.zeros((), dtype=given[0].operator.dtype, device=task.device)
        for x in given:
            a, e = x.rotated(*rows[x.layer.name])
            total = total + _self_scores(x, a, e).to(total.dtype)
        found.append(total)
        places.append(own)
    return in_order(places, found)


def _self_scores(x: ScoredBlock, a: Input, e: Tensor) -> Tensor:
    if x.by_leaves:
        assert x.spectrum is not None
        assert isinstance(a, Tensor)
        if one_number(x.spectrum):
            return e.square().sum((1, 2)) * a.square().sum((1, 2)) * x.spectrum[0, 0]
        return ((e[:, 0].square() @ x.spectrum) * a[:, 0].square()).sum(1)
    gradients = formed_gradients(a, e)
    if x.spectrum is not None:
        return gradients.square_().mul_(x.spectrum).flatten(1).sum(1)
    return (gradients * x.preconditioned(gradients)).flatten(1).sum(1)
