"""In which order products of queries with training examples are taken: the cheapest for each layer.

With one position the gradient of an example is an outer product, ĝ_n = ê_n â_nᵀ, and a score is

    Σ_{m,k} S[m,k] ê_q[m] â_q[k] ê_n[m] â_n[k].

Of each query ê_q and â_q are kept, O + I numbers, never S ∘ ĝ_q with its O I. Two orders:

* `Outer`: S ∘ ĝ_q of a few queries at a time, against all examples of a batch: 2 O I operations for
  every pair.
* `Ranked`: where S = Σ_j L_j R_jᵀ to rounding, the score is Σ_j (Σ_m L_jm ê_q[m] ê_n[m])
  (Σ_k R_jk â_q[k] â_n[k]): 2 r (O + I) operations for every pair. A damped spectrum is smooth, and
  its rank is often a few dozen.

Other layers keep C⁻¹ ĝ_q (`Held`): with several positions a gradient has no lower rank.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from curvlang.models.layers import Input, OneHot
from curvlang.runtime.limits.memory import allowance

AT_ONCE = 2**25
"""Bytes of the intermediate results of the queries that are multiplied at once."""
SHARE = 8
"""They may take an eighth of the user's limit."""
FIRST = 8
"""Rank that is tried first; it is doubled while it does not suffice."""
ROUNDING = 16
"""Units of rounding by which entries of a factored spectrum may be off."""
PAYS = 64
"""Pairs for every rank that may be tried, from which on the search for it costs little."""


def at_once() -> int:
    """Bytes of intermediate results, under the user's limit."""
    return allowance(AT_ONCE, SHARE)


@dataclass(frozen=True, slots=True, eq=False)
class Factors:
    """S ≈ Σ_j left[j] right[j]ᵀ.

    Args:
        left: [r, O].
        right: [r, I].
        error: Largest |S − Σ_j L_j R_jᵀ| / S of an entry, measured on all of them.
    """

    left: Tensor
    right: Tensor
    error: float


def rounding(dtype: torch.dtype) -> float:
    """The error of an entry, relative to it, that is no more than rounding."""
    return ROUNDING * torch.finfo(dtype).eps


def largest_rank(O: int, I: int) -> int:
    """Up to this rank two thin products take at most half the operations of a thick one."""
    return O * I // (2 * (O + I))


def factored_spectrum(spectrum: Tensor, tolerance: float, most: int) -> Factors | None:
    """Factors of S [O, I] without zeros whose entries are off by at most `tolerance` of each.

    The range of S is found from products with random vectors (Halko, Martinsson, Tropp 2011), and
    what is left of S is measured entry by entry: the error is known, not estimated.

    Args:
        spectrum: S.
        tolerance: Of each entry.
        most: Largest rank.

    Returns:
        None where no rank up to `most` suffices.
    """
    S = spectrum.double()
    # Drawn on the host, so that every device finds the same factors.
    generator = torch.Generator().manual_seed(0)
    rank = min(FIRST, most)
    while rank:
        random = torch.randn(S.shape[1], rank, generator=generator, dtype=S.dtype)
        basis = torch.linalg.qr(S @ random.to(S.device)).Q
        turn, sizes, rows = torch.linalg.svd(basis.T @ S, full_matrices=False)
        found = _rounded((turn.T * sizes[:, None]) @ basis.T, rows, S, spectrum.dtype)
        if found.error <= tolerance:
            return _trimmed(found, S, tolerance)
        rank = min(2 * rank, most) if rank < most else 0
    return None


def _rounded(left: Tensor, right: Tensor, S: Tensor, dtype: torch.dtype) -> Factors:
    """Factors in the precision in which they are used, with what they leave of S."""
    left, right = left.to(dtype), right.to(dtype)
    rest = torch.addmm(S, left.T.double(), right.double(), alpha=-1)
    return Factors(left, right, float(rest.div_(S).abs_().max()))


def _trimmed(factors: Factors, S: Tensor, tolerance: float) -> Factors:
    """The fewest leading factors that suffice, found by halving."""
    low, high = 1, len(factors.left)
    while low < high:
        middle = (low + high) // 2
        fewer = _rounded(factors.left[:middle], factors.right[:middle], S, factors.left.dtype)
        if fewer.error <= tolerance:
            factors, high = fewer, middle
        else:
            low = middle + 1
    # Without gaps, as another process receives them: the layout decides how products are rounded.
    return replace(factors, left=factors.left.clone(), right=factors.right.clone())


@dataclass(frozen=True, slots=True, eq=False)
class DenseQueries:
    """Preconditioned gradients.

    Args:
        gradients: [Q, O, I]; of G blocks of one shape [Q, G, O, I].
        in_basis: Whether they, and what they meet, are in the basis of C⁻¹, or as the layer has them.
    """

    gradients: Tensor
    in_basis: bool = True

    @property
    def count(self) -> int:
        """Queries, or groups of them."""
        return len(self.gradients)

    def ready(self, kind: torch.dtype) -> DenseQueries:
        """With what goes into the large products in their precision."""
        return DenseQueries(self.gradients.to(kind), self.in_basis)

    def against(self, a: Input, e: Tensor, kind: torch.dtype) -> Tensor:
        """Scores [Q, B] for inputs [B, T, I] and output gradients [B, T, O]; products in `kind`.

        With one position, and where inputs are fewer indices than numbers, no more than `AT_ONCE`
        bytes of intermediate results at a time.
        """
        if isinstance(a, OneHot) and a.index[0].numel() < a.size:
            each = a.index.numel() * e.shape[2] * e.element_size()
            pieces = self.gradients.split(max(1, at_once() // each))
            return stacked((_read(u, a, e) for u in pieces), self.count)
        if isinstance(a, OneHot) or a.ndim > 3 or a.shape[1] > 1:
            formed = formed_gradients(*_narrow(a, e, kind)).flatten(1).to(kind)
            return (self.gradients.flatten(1) @ formed.T).to(e.dtype)
        each = len(a) * min(self.gradients.shape[1:]) * a.element_size()
        pieces = self.gradients.split(max(1, at_once() // each))
        return stacked((_held(u, a[:, 0], e[:, 0]) for u in pieces), self.count)

    def by_group(self, a: Tensor, e: Tensor, kind: torch.dtype) -> Tensor:
        """Scores [G, Q, B] of every block of one shape."""
        a, e = _narrow(a, e, kind)
        return self.gradients.transpose(0, 1).flatten(2) @ (e.mT @ a).flatten(2).to(kind).mT


def _narrow(a: Any, e: Tensor, kind: torch.dtype) -> tuple[Any, Tensor]:
    """Inputs and output gradients in the precision of the products, where that is less than theirs."""
    if kind.itemsize >= e.dtype.itemsize or isinstance(a, OneHot):
        return a, e
    return a.to(kind), e.to(kind)


def _read(u: Tensor, a: OneHot, e: Tensor) -> Tensor:
    """Σ_{t,s} w[n,t,s] Σ_o u[q,o,index[n,t,s]] e[n,t,o], [Q, B]: no gradient is formed."""
    seen = a.weight.unsqueeze(3) * e.unsqueeze(2)
    found: Tensor = torch.einsum("qonts,ntso->qn", u[:, :, a.index], seen.to(u.dtype))
    return found


def formed_gradients(a: Input, e: Tensor) -> Tensor:
    """Σ_t e[n,t,o] a[n,t,i], [B, O, I]; of G blocks of one shape [B, G, O, I]."""
    found: Tensor
    if isinstance(a, OneHot):
        found = torch.einsum("nto,nti->noi", e, a)
        return found
    found = e.mT @ a
    return found if found.ndim == 3 else found.transpose(0, 1)


def _held(u: Tensor, a: Tensor, e: Tensor) -> Tensor:
    Q, O, I = u.shape
    if O <= I:
        moved = (a.to(u.dtype) @ u.reshape(Q * O, I).T).view(len(a), Q, O)
        return _inner(moved, e)
    return _inner((e.to(u.dtype) @ u).transpose(0, 1), a)


@dataclass(frozen=True, slots=True, eq=False)
class _Leaves:
    """Inputs [Q, I] and output gradients [Q, O] of the queries."""

    a: Tensor
    e: Tensor

    @property
    def count(self) -> int:
        """Queries."""
        return len(self.a)

    def by_group(self, a: Tensor, e: Tensor, kind: torch.dtype) -> Tensor:
        """Blocks of one shape form their gradients."""
        raise AssertionError("one block has no groups")

    @property
    def in_basis(self) -> bool:
        """They meet rotated inputs and output gradients: the spectrum is in their basis."""
        return True

    def ready(self, kind: torch.dtype) -> Self:
        """Itself: what goes into the large products is made when they are taken."""
        return self

    def pieces(self, each: int) -> Iterator[tuple[Tensor, Tensor]]:
        """A few queries at a time: of each `each` bytes are made, of all at most `AT_ONCE`."""
        size = max(1, at_once() // each)
        return zip(self.a.split(size), self.e.split(size), strict=True)


@dataclass(frozen=True, slots=True, eq=False)
class Outer(_Leaves):
    """Inputs [Q, I] and output gradients [Q, O] of the queries, with S [O, I]."""

    spectrum: Tensor

    def against(self, a: Input, e: Tensor, kind: torch.dtype) -> Tensor:
        """Scores [Q, B]; no more than `AT_ONCE` bytes of preconditioned gradients at a time."""
        assert isinstance(a, Tensor)
        O, I = self.spectrum.shape
        pairs = self.pieces(max(O * I, len(a) * min(O, I)) * a.element_size())
        return stacked((self._some(x, d, a[:, 0], e[:, 0], kind) for x, d in pairs), self.count)

    def _some(self, x: Tensor, d: Tensor, a: Tensor, e: Tensor, kind: torch.dtype) -> Tensor:
        O, I = self.spectrum.shape
        B, c = len(a), len(x)
        if O <= I:
            u = (self.spectrum * x[:, None]).mul_(d[:, :, None]).to(kind)
            return _inner((a.to(kind) @ u.view(c * O, I).T).view(B, c, O), e)
        # Made with queries behind outputs, so that one product takes all of them.
        u = (self.spectrum[:, None] * x).mul_(d.T[:, :, None]).to(kind)
        return _inner((e.to(kind) @ u.view(O, c * I)).view(B, c, I), a)


@dataclass(frozen=True, slots=True, eq=False)
class RankQueries(_Leaves):
    """Inputs [Q, I] and output gradients [Q, O] of the queries, with factors of S."""

    factors: Factors

    def against(self, a: Input, e: Tensor, kind: torch.dtype) -> Tensor:
        """Scores [Q, B]; no more than `AT_ONCE` bytes of intermediate results at a time."""
        assert isinstance(a, Tensor)
        rank, O = self.factors.left.shape
        pairs = self.pieces(rank * (O + self.a.shape[1] + 2 * len(a)) * a.element_size())
        train = a[:, 0].to(kind), e[:, 0].to(kind)
        return stacked((self._some(x, d, *train) for x, d in pairs), self.count)

    def _some(self, x: Tensor, d: Tensor, a: Tensor, e: Tensor) -> Tensor:
        parts = []
        for queries, factor, train in ((x, self.factors.right, a), (d, self.factors.left, e)):
            scaled = (factor[:, None] * queries).to(train.dtype).flatten(0, 1)
            parts.append((scaled @ train.T).to(queries.dtype).view(len(factor), len(x), -1))
        return parts[0].mul_(parts[1]).sum(0)


@dataclass(frozen=True, slots=True, eq=False)
class SharedQueries:
    """Queries that are combinations `weights` [Q, r] of r rows."""

    weights: Tensor
    rows: DenseQueries

    @property
    def count(self) -> int:
        """Queries."""
        return len(self.weights)

    @property
    def in_basis(self) -> bool:
        """As their rows are."""
        return self.rows.in_basis

    def ready(self, kind: torch.dtype) -> SharedQueries:
        """With the rows in the precision of the large products."""
        return SharedQueries(self.weights, self.rows.ready(kind))

    def against(self, a: Input, e: Tensor, kind: torch.dtype) -> Tensor:
        """Scores [Q, B] from the products of the rows."""
        return self.weights @ self.rows.against(a, e, kind).to(self.weights.dtype)

    def by_group(self, a: Tensor, e: Tensor, kind: torch.dtype) -> Tensor:
        """Scores [G, Q, B] of every block of one shape."""
        return self.weights @ self.rows.by_group(a, e, kind).to(self.weights.dtype)


Queries = DenseQueries | Outer | RankQueries | SharedQueries


def stacked(pieces: Iterator[Tensor], count: int) -> Tensor:
    """Pieces of rows, put into one tensor one by one.

    A list of small results between large ones that are freed would keep the C library from using
    the place of these again.

    Args:
        pieces: [c, B] each.
        count: Rows of all.
    """
    first = next(pieces)
    if len(first) == count:
        return first
    found = first.new_empty(count, *first.shape[1:])
    found[: len(first)] = first
    done = len(first)
    del first
    for piece in pieces:
        found[done : done + len(piece)] = piece
        done += len(piece)
        del piece
    return found


def _inner(moved: Tensor, v: Tensor) -> Tensor:
    """Σ_k moved[b,q,k] v[b,k], [Q, B], added up in the precision of v."""
    return (moved.to(v.dtype) @ v.unsqueeze(2)).squeeze(2).T


def rotates_back(queries: int, examples: int, positions: int, O: int, I: int) -> bool:
    """Whether bringing preconditioned queries back from the basis is less than rotating examples.

    O I (O + I) operations for a query, T (O² + I²) for a training example.
    """
    if positions == 1:
        return False
    return queries * O * I * (O + I) < examples * positions * (O * O + I * I)


def one_number(x: Tensor) -> bool:
    """Whether a tensor is one number that is shown at every place, and holds no other."""
    return all(n == 1 or step == 0 for n, step in zip(x.shape, x.stride(), strict=True))


def rank_of(spectrum: Tensor, pairs: int) -> Factors | None:
    """Factors of S to rounding, where the products that they save are worth the search.

    One number for all entries has rank one, without a search.

    Args:
        spectrum: S [O, I].
        pairs: Queries times training examples.
    """
    if one_number(spectrum):
        return Factors(spectrum[:, :1].T.clone(), torch.ones_like(spectrum[:1]), 0.0)
    if not searched(spectrum, pairs):
        return None
    most = largest_rank(*spectrum.shape)
    return factored_spectrum(spectrum, rounding(spectrum.dtype), most)


def searched(spectrum: Tensor, pairs: int) -> bool:
    """Whether the rank of S [O, I] is searched for: not of one number, nor where it saves little."""
    return not one_number(spectrum) and pairs >= PAYS * largest_rank(*spectrum.shape)
