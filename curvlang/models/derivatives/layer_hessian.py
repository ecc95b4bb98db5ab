"""The dense Hessian of a model of covered layers, from derivatives by the layers' outputs.

Let δ_u [B,T,O] be added to the output of every use u of a layer. A step dW in the layer's weights
is δ_u = dW a_u, where a_u itself depends on the δ of the uses before u. So, with e_u = ∂ℓ/∂δ_u
and K = ∂²ℓ/∂δ_w∂δ_u,

    H[w,o,i; u,o',i'] = mean_n Σ_tt' (K[t,o; t',o'] a_w[t,i] + e_w[t,o] D[t,i; t',o']) a_u[t',i']

for w after u, where D = ∂a_w/∂δ_u; for w = u the first term alone; H is symmetric. This takes
one tangent per layer output (Σ T·O) where products take one per parameter (Σ O·I).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.func import grad, jvp, vmap

from curvlang.models.data.rows import Pair
from curvlang.models.execution.substitution import functional_call
from curvlang.models.layers import Layer
from curvlang.models.losses.loss import Loss
from curvlang.models.tracing.blocks import LayerBlock, groups, trainable
from curvlang.models.tracing.watching import watching

MEMORY = 2**27
"""Bytes that the intermediate results of a batch may take together."""

Deltas: TypeAlias = list[Tensor]
"""What is added to the output of every use, in the order of the calls."""


def halves_by_layers(
    model: nn.Module,
    loss: Loss,
    data: Pair,
    blocks: Sequence[LayerBlock],
    held: int = MEMORY,
    within: range | None = None,
) -> Tensor:
    """A matrix [P, P] whose symmetric part is half of Σ ∇²ℓ_n: it has each pair of uses once.

    Args:
        model: The model.
        loss: The loss.
        data: Inputs and targets.
        blocks: Its blocks by layer, one for each layer.
        held: Bytes that the intermediate results of a batch may take together: fewer examples are taken at
            once, then fewer tangents of a use.
        within: The examples that are added up; all by default.
    """
    X, y = data
    P = sum(block.size for block in blocks)
    half = next(iter(trainable(model).values())).new_zeros(P, P).detach()
    numbers = held // half.element_size()
    size, share = batch_size(blocks, numbers), min(1.0, numbers / example_elements(blocks))
    own = range(X.shape[0]) if within is None else within
    for k in range(own.start, own.stop, size):
        rows = slice(k, min(k + size, own.stop))
        Xb, yb = X[rows].to(half.device), y[rows].to(half.device)
        batch = _Batch(model, loss, Xb, yb, blocks)
        for u in range(len(batch.calls)):
            _add_use(half, batch, u, share)
    return half


def symmetric_part(matrix: Tensor) -> Tensor:
    """(M + Mᵀ)/2 in place of M: two matrices are held at once, not three."""
    return matrix.add_(matrix.T.clone()).div_(2)


def batch_size(blocks: Sequence[LayerBlock], numbers: int) -> int:
    """Examples at once, such that the intermediate results stay within that many numbers."""
    return max(1, numbers // example_elements(blocks))


def batch_elements(blocks: Sequence[LayerBlock], examples: int, numbers: int) -> int:
    """Numbers that the intermediate results of a batch take, at most so many unless one example has more."""
    return min(examples, batch_size(blocks, numbers)) * example_elements(blocks)


def example_elements(blocks: Sequence[LayerBlock]) -> int:
    """Numbers held for one example: the tangents K and D of a layer, and the largest bracket."""

    def held(k: int) -> int:
        later = blocks[k:]
        tangents = blocks[k].d_out * sum(b.positions * (b.d_in + b.d_out) for b in later)
        bracket = max(b.positions * max(b.d_in, b.d_out) for b in later) * blocks[k].d_in
        return tangents + bracket

    return max(map(held, range(len(blocks))))


@dataclass(frozen=True, slots=True, eq=False)
class _Call:
    """A use of a layer: its block and how its output reads as [B, T, O]."""

    block: LayerBlock
    module: nn.Module
    shape: torch.Size

    @property
    def kind(self) -> Layer:
        """How the layer shows itself."""
        assert self.block.kind is not None
        return self.block.kind

    def rows(self, z: Tensor) -> Tensor:
        """[…, B, *output] to […, B, T, O]."""
        lead = z.shape[: z.dim() - len(self.shape) + 1]
        (rows,) = self.kind.outputs(self.module, z, z.reshape(-1, *self.shape[1:]))
        return rows.reshape(*lead, *rows.shape[1:])

    def unit(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        """One-hot outputs by position and feature: [T, O, *output of an example]."""
        size = self.shape[1:].numel()
        natural = torch.eye(size, dtype=dtype, device=device).reshape(size, *self.shape[1:])
        rows = self.rows(natural)
        order = rows.flatten(1).argmax(1).argsort()
        return natural[order].reshape(*rows.shape[1:], *self.shape[1:])


class _Batch:
    """The model on one batch as a function of what is added to its layers' outputs."""

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        X: Tensor,
        y: Tensor,
        blocks: Sequence[LayerBlock],
    ) -> None:
        self.model = model
        self.loss = loss
        self.X = X
        self.y = y
        self.groups = groups(blocks)
        self.blocks: Mapping[str, LayerBlock] = {block.layer: block for block in blocks}
        self.theta = {name: p.detach() for name, p in model.named_parameters()}
        self.calls: list[_Call] = []
        self._list_calls()

    def _list_calls(self) -> None:
        def note(layer: str, module: nn.Module, given: Tensor, output: Tensor) -> None:
            self.calls.append(_Call(self.blocks[layer], module, output.shape))

        with torch.no_grad(), watching(self.model, self.groups, note):
            self.model(self.X)

    def total(self, later: Deltas, u: int, delta: Tensor) -> tuple[Tensor, Deltas]:
        """Σ ℓ_n and the inputs a_w of the uses w ≥ u, with δ_u = `delta` and `later` after it."""
        added = {u: delta, **{u + 1 + k: value for k, value in enumerate(later)}}
        seen: list[Tensor] = []

        def add(layer: str, module: nn.Module, given: Tensor, output: Tensor) -> Tensor | None:
            block = self.blocks[layer]
            assert block.kind is not None
            (a,) = block.kind.a(module, given, output.shape, block.bias)
            assert isinstance(a, Tensor)
            seen.append(a)
            here = len(seen) - 1
            return output + added[here] if here in added else None

        with watching(self.model, self.groups, add):
            f = functional_call(self.model, self.theta, (self.X,))
        return self.loss.per_example(f, self.y).sum(), seen[u:]

    def slopes(self, u: int) -> Callable[[Tensor], tuple[Deltas, Deltas]]:
        """δ_u to e_w and a_w of the uses w ≥ u."""
        zeros = [self.X.new_zeros(call.shape, dtype=self.dtype) for call in self.calls[u + 1 :]]

        def at(delta: Tensor) -> tuple[Deltas, Deltas]:
            def total(given: tuple[Tensor, Deltas]) -> tuple[Tensor, Deltas]:
                return self.total(given[1], u, given[0])

            (first, rest), seen = grad(total, has_aux=True)((delta, zeros))
            return [first, *rest], seen

        return at

    @property
    def dtype(self) -> torch.dtype:
        """The trained parameters' precision; frozen ones may have another."""
        return next(iter(trainable(self.model).values())).dtype


def _add_use(half: Tensor, batch: _Batch, u: int, share: float) -> None:
    """Add the columns of use u, below and half on the diagonal, to `half` [P, P], a share of them at once."""
    call = batch.calls[u]
    unit = call.unit(batch.dtype, batch.X.device)
    step = max(1, int(call.block.d_out * share))
    for t in range(unit.shape[0]):
        for o in range(0, call.block.d_out, step):
            found = _tangents(batch, u, unit[t, o : o + step])
            columns = call.block.index.reshape(call.block.d_out, -1)[o : o + step].flatten()
            for w in range(u, len(batch.calls)):
                block = _pair(found, w - u, t)
                half[batch.calls[w].block.index.unsqueeze(1), columns] += block


@dataclass(frozen=True, slots=True, eq=False)
class _Tangents:
    """What tangents c of one use's δ do to the uses from it on.

    Shapes, for every use: K [c, B, T, O], D [c, B, T, I], e [B, T, O], a [B, T, I].
    """

    K: Deltas
    D: Deltas
    e: Deltas
    a: Deltas


def _tangents(batch: _Batch, u: int, directions: Tensor) -> _Tangents:
    """One pass forward over reverse for all directions [c, *output of the use]."""
    call = batch.calls[u]
    delta = batch.X.new_zeros(call.shape, dtype=batch.dtype)
    slopes = batch.slopes(u)

    def tangent(direction: Tensor) -> Any:
        return jvp(slopes, (delta,), (direction.expand_as(delta),))

    out_dims: Any = ((None, None), (0, 0))
    with torch.no_grad():
        (e, a), (K, D) = vmap(tangent, out_dims=out_dims)(directions)
    later = batch.calls[u:]
    return _Tangents(
        [c.rows(z) for c, z in zip(later, K, strict=True)],
        D,
        [c.rows(z) for c, z in zip(later, e, strict=True)],
        a,
    )


def _pair(found: _Tangents, w: int, t: int) -> Tensor:
    """The block [(o,i), (c,i')] of the w-th use from u on, for u's position t.

    Σ_n of K[c,n,t,o] (a[n,t,i] a'[n,i']) and (e[n,t,o] a'[n,i']) D[c,n,t,i]: one product each,
    with the brackets formed once for all tangents.
    """
    K, D, e, a = (part[w].flatten(-3, -2) for part in (found.K, found.D, found.e, found.a))
    T = found.a[w].shape[1]
    first = found.a[0][:, t].repeat_interleave(T, 0)
    block = torch.einsum("cno,nik->oick", K, a.unsqueeze(2) * first.unsqueeze(1))
    if w == 0:
        block = block / 2
    else:
        block += torch.einsum("cni,nok->oick", D, e.unsqueeze(2) * first.unsqueeze(1))
    return block.flatten(2).flatten(0, 1)
