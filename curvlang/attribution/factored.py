"""Scores block by block from inputs and output gradients, in the basis where C⁻¹ is diagonal.

With C⁻¹ = (U ⊗ V) diag(S) (U ⊗ V)ᵀ and the gradient of example n in a layer Σ_t e[n,t,o] a[n,t,i],

    score[q,n] = Σ_{m,k} S[m,k] ĝ_q[m,k] ĝ_n[m,k],    ĝ_n[m,k] = Σ_t (Uᵀe)[n,t,m] (Vᵀa)[n,t,k].

Inputs and output gradients are rotated, T (O² + I²) operations, not gradients, O I (O + I). With one
position no gradient of a training example is formed; `score_orders` says in which order products are taken.
With several, preconditioned queries are rotated back where that is less than rotating N training examples.

Blocks of one shape are one `Scored`: its tensors have an axis for them in front, gradients one behind the
examples, and products sum over it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from curvlang.attribution.layer_forms import block_shape, form_of, layers_for, split, splits
from curvlang.attribution.score_orders import (
    Held,
    Queries,
    by_leaves,
    formed_gradients,
    one_number,
    rotates_back,
)
from curvlang.models.layers import Input, OneHot
from curvlang.models.losses.finite import in_part
from curvlang.models.losses.loss import Loss
from curvlang.models.task import Task
from curvlang.models.tracing.blocks import LayerBlock, check_batch
from curvlang.models.tracing.half_precision import exact_leaves
from curvlang.models.tracing.leaves import LeafRequest
from curvlang.operators import Operator
from curvlang.runtime.alignment import varying
from curvlang.runtime.limits.memory import available

HELD = 2**27
"""Bytes that the largest intermediate result of a batch may take."""
PROBED = 32
"""Training examples on which the error of a reduced precision is measured."""
QUERIES_SHARE = 4
"""Preconditioned queries may take a quarter of the free memory; others wait for their turn."""
MOST = 1024
"""Examples that go through the model at once."""

Told = Callable[[int], None]
"""Told how many examples more are scored."""


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """A block of C⁻¹ with the layer that it belongs to.

    Args:
        layer: The layer's block.
        left: U over outputs; None for the identity.
        right: V over inputs; None for the identity.
        spectrum: S [O, I], or [G, O, I]; None where C⁻¹ has another structure.
        operator: C⁻¹ of the block.
    """

    layer: LayerBlock
    left: Tensor | None
    right: Tensor | None
    spectrum: Tensor | None
    operator: Operator

    @property
    def by_leaves(self) -> bool:
        """Whether inputs and output gradients are less than the gradient, and scores follow from them."""
        return self.spectrum is not None and self.layer.positions == self.layer.count == 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a gradient: [O, I], or [G, O, I]."""
        return block_shape(self.layer)

    def seen(self, a: Input, e: Tensor, in_basis: bool) -> tuple[Input, Tensor]:
        """Inputs and output gradients as queries want them."""
        if in_basis:
            return self.rotated(a, e)
        return a, e

    def rotated(self, a: Input, e: Tensor) -> tuple[Input, Tensor]:
        """Inputs [B, T, I] and output gradients [B, T, O] in the basis."""
        if self.layer.count > 1:
            assert isinstance(a, Tensor)
            a = a if self.right is None else a @ self.right.unsqueeze(1)
            return a, e if self.left is None else e @ self.left.unsqueeze(1)
        if self.right is not None:
            a = torch.einsum("nti,ik->ntk", a, self.right)
        # With one position inputs and output gradients are kept as they are, and indices written out.
        if isinstance(a, OneHot) and self.layer.positions == 1:
            a = a.dense()
        return a, e if self.left is None else e @ self.left

    def rotates_back(self, queries: int, examples: int) -> bool:
        """Whether queries leave the basis, by `score_orders.rotates_back`."""
        if self.left is None or self.right is None:
            return False
        sizes = self.left.shape[-1], self.right.shape[-1]
        return rotates_back(queries, examples, self.layer.positions, *sizes)

    def back(self, gradients: Tensor) -> Tensor:
        """Gradients [Q, *shape] of the basis as the layer has them, in their place."""
        assert self.left is not None
        assert self.right is not None
        for g in gradients:
            g.copy_(self.left @ g @ self.right.mT)
        return gradients

    def preconditioned(self, gradients: Tensor) -> Tensor:
        """C⁻¹ in the basis applied to gradients [Q, *shape]; in their place where it is diagonal."""
        if self.spectrum is not None:
            return gradients.mul_(self.spectrum)
        flat = gradients.flatten(1).to(self.operator.dtype)
        return (self.operator @ flat.T).T.reshape(gradients.shape).to(gradients.dtype)


def scored_blocks(operator: Operator, task: Task) -> tuple[Scored, ...] | None:
    """The blocks of C⁻¹ with their layers; None where C⁻¹ is no direct sum over layers or parameters."""
    for by in ("layer", "parameter") if splits(operator) else ():
        layers = layers_for(operator, task.blocks(by))
        parts = None if layers is None else split(operator, layers)
        if layers is not None and parts is not None:
            pairs = zip(layers, parts, strict=True)
            return tuple(_scored(layer, part, task.precision) for layer, part in pairs)
    return None


def _scored(layer: LayerBlock, part: Operator, dtype: torch.dtype) -> Scored:
    found = form_of(part, block_shape(layer))
    if found is None:
        return Scored(layer, None, None, None, part)
    found = found.to(dtype)
    return Scored(layer, found.left, found.right, found.spectrum, part)


def whole_queries(
    inverse: Operator, moved: Tensor, task: Task
) -> tuple[tuple[Scored, ...], dict[str, Queries]]:
    """Preconditioned queries [Q, P] by layer, for a C⁻¹ that is one matrix.

    No gradient over all parameters is formed of a training example: a score is the sum over layers
    of products with what a layer shows.
    """
    given = tuple(Scored(b, None, None, None, inverse) for b in task.blocks())
    queries: dict[str, Queries] = {
        x.layer.name: Held(
            moved[:, x.layer.index].to(task.precision).view(-1, *x.shape), in_basis=False
        )
        for x in given
    }
    return given, queries


def block_queries(
    task: Task,
    cost: Loss,
    given: Sequence[Scored],
    weights: Tensor | None,
    *,
    ranked: bool = True,
) -> dict[str, Queries]:
    """Preconditioned queries of every block in its basis, as the order of its products wants them.

    Args:
        task: The queries.
        cost: What is asked of them.
        given: The blocks.
        weights: [G, Q] of the queries in every group; None for the queries themselves.
        ranked: Whether spectra may be factored, to rounding.
    """
    unformed = {x.layer.name: weights is None and x.by_leaves for x in given}
    count, made = (task.Q, torch.empty) if weights is None else (len(weights), torch.zeros)
    dtype, device = task.precision, task.device
    held = {
        x.layer.name: made((count, *x.shape), dtype=dtype, device=device)
        for x in given
        if not unformed[x.layer.name]
    }
    parts: dict[str, list[tuple[Tensor, Tensor]]] = {x.layer.name: [] for x in given}
    hot: set[str] = set()
    done = 0
    formed = largest_gradient(given) if weights is not None else 0
    for size, rows in leaf_batches(task, cost, given, "query", formed):
        own = slice(done, done + size)
        for x in given:
            name = x.layer.name
            if not isinstance(rows[name][0], Tensor):
                hot.add(name)
            a, e = x.rotated(*rows[name])
            if unformed[name]:
                assert isinstance(a, Tensor)
                parts[name].append((a[:, 0], e[:, 0]))
            elif weights is not None:
                flat = held[name].flatten(1)
                flat.addmm_(weights[:, own].to(flat.dtype), formed_gradients(a, e).flatten(1))
            elif x.layer.count > 1 or isinstance(a, OneHot):
                held[name][own] = formed_gradients(a, e)
            else:
                torch.bmm(e.mT, a, out=held[name][own])
        done += size
    pairs = task.Q * task.N if ranked else 0
    # Inputs and output gradients are let go block by block: both forms never stand side by side.
    return {
        x.layer.name: _from_leaves(x, parts.pop(x.layer.name), pairs)
        if unformed[x.layer.name]
        else _from_gradients(x, held[x.layer.name], task.N, x.layer.name in hot)
        for x in given
    }


def _from_leaves(x: Scored, parts: list[tuple[Tensor, Tensor]], pairs: int) -> Queries:
    a, e = (torch.cat(column) for column in zip(*parts, strict=True))
    parts.clear()
    assert x.spectrum is not None
    return by_leaves(a, e, x.spectrum, pairs)


def _from_gradients(x: Scored, gradients: Tensor, examples: int, hot: bool) -> Queries:
    """Held queries; back from the basis unless inputs are indices, which only rotate cheaply."""
    found = x.preconditioned(gradients)
    if hot or not x.rotates_back(len(found), examples):
        return Held(found)
    return Held(x.back(found), in_basis=False)


def queries_at_once(task: Task, given: Sequence[Scored]) -> int:
    """Queries whose preconditioned gradients take a share of what is available; one at least."""
    size = torch.empty((), dtype=task.precision).element_size()
    each = size * sum(x.layer.size for x in given if not x.by_leaves)
    return max(1, available(task.device) // QUERIES_SHARE // each) if each else max(1, task.Q)


def block_scores(
    task: Task,
    given: Sequence[Scored],
    queries: Mapping[str, Queries],
    told: Told | None = None,
    products: torch.dtype | None = None,
    *,
    apart: bool = True,
) -> dict[str, Tensor]:
    """Scores [Q, N] of every block against the training examples, in the operators' precision.

    Args:
        task: The training examples.
        given: The blocks.
        queries: Preconditioned queries of each.
        told: Told how many examples are scored.
        products: Precision of the factors in the large products; the task's where not given. Sums
            are accumulated in float32 at least.
        apart: Scores by the block's name, or their sum over all blocks under no name.
    """
    count = next(iter(queries.values())).count
    kind = products or task.precision
    ready = {name: u.ready(kind) for name, u in queries.items()}
    exact = max((x.operator.dtype for x in given), key=lambda d: torch.finfo(d).bits)
    kinds = {x.layer.name: x.operator.dtype for x in given} if apart else {"": exact}
    groups = {x.layer.name: x.layer.count for x in given} if apart else {"": 1}
    N, device = task.N, task.device
    found = {
        name: torch.zeros(groups[name], count, N, dtype=dtype, device=device)
        for name, dtype in kinds.items()
    }
    formed = scored_elements([x.layer for x in given], count)
    done = 0
    for size, rows in leaf_batches(task, task.loss, given, "train", formed):
        for x in given:
            name = x.layer.name
            a, e = x.seen(*rows[name], ready[name].in_basis)
            whole = found[name if apart else ""]
            if apart and x.layer.count > 1:
                assert isinstance(a, Tensor)
                whole[..., done : done + size] += ready[name].by_group(a, e, kind)
            else:
                whole[0, :, done : done + size] += ready[name].against(a, e, kind)
        done += size
        if told is not None:
            told(size)
    if not apart:
        return {"": found[""][0]}
    named = (zip(x.layer.names, found[x.layer.name], strict=True) for x in given)
    return {name: scores for pairs in named for name, scores in pairs}


def product_error(
    task: Task, given: Sequence[Scored], queries: Mapping[str, Queries], products: torch.dtype
) -> float:
    """Largest difference that the precision of the products makes, of the largest score.

    Measured on the first `PROBED` training examples.
    """
    few = task.examples(slice(PROBED))
    exact = block_scores(few, given, queries, apart=False)[""]
    found = block_scores(few, given, queries, products=products, apart=False)[""]
    return float((found - exact).abs().max() / exact.abs().max().clamp_min(1e-300))


def block_self_scores(
    task: Task, given: Sequence[Scored], part: str, told: Told | None = None
) -> Tensor:
    """Σ over blocks of ∇ᵀ C⁻¹ ∇ of every example of a part, [N]."""
    found: list[Tensor] = []
    for size, rows in leaf_batches(task, task.loss, given, part, largest_gradient(given)):
        total = torch.zeros((), dtype=given[0].operator.dtype, device=task.device)
        for x in given:
            a, e = x.rotated(*rows[x.layer.name])
            total = total + _self_scores(x, a, e).to(total.dtype)
        found.append(total)
        if told is not None:
            told(size)
    return torch.cat(found)


def _self_scores(x: Scored, a: Input, e: Tensor) -> Tensor:
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


def leaf_batches(
    task: Task, loss: Loss, given: Sequence[Scored], part: str, formed: int
) -> Iterator[tuple[int, dict[str, tuple[Input, Tensor]]]]:
    """Inputs and output gradients of every block, batch by batch.

    Args:
        task: Model and data.
        loss: Of which gradients are taken.
        given: The blocks.
        part: `train` or `query`.
        formed: Numbers for every example that the caller forms at once of a block.
    """
    layers = [x.layer for x in given]
    done = 0
    batches = task.batches(batch_size(layers, task.precision, formed), part)
    for number, (X, y) in enumerate(batches):
        with in_part(task.model, X, part, done):
            if task.facts.picks:
                check_batch(task.model, X, layers, number)
            found = exact_leaves(task.model, loss, X, y, layers, LeafRequest({"a", "e"}))
        done += len(X)
        for b in layers:
            if b.positions == 1 != found[b.name]["a"].shape[-2]:
                raise varying(b.layer)
        yield len(X), {b.name: (found[b.name]["a"], found[b.name]["e"]) for b in layers}


def largest_gradient(given: Sequence[Scored]) -> int:
    """Numbers in the largest gradient of the blocks whose gradients are formed."""
    return max((x.layer.size for x in given if not x.by_leaves), default=0)


def scored_elements(layers: Sequence[LayerBlock], queries: int) -> int:
    """Numbers for every training example: its gradient with several positions, else its scores.

    With one position `score_orders` bounds what is made of the queries by itself.
    """
    return max(b.size if b.positions > 1 or b.count > 1 else queries for b in layers)


def batch_size(layers: Sequence[LayerBlock], dtype: torch.dtype, formed: int) -> int:
    """Examples such that leaves and the largest intermediate result stay within `HELD`."""
    size = torch.empty((), dtype=dtype).element_size()
    held = sum(b.leaf_elements for b in layers)
    return max(1, min(MOST, HELD // (size * max(held, formed))))
