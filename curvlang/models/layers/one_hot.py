"""Rows with few entries that are not zero, contracted without ever being formed.

`OneHot` stands for a tensor x[…, i] = Σ_s w[…, s] δ(i, index[…, s]). A contraction over i reads rows
of the other operand; one that keeps i adds into its places.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from string import ascii_letters
from typing import Any, NamedTuple

import torch
from torch import Tensor

from curvlang.models.layers.lazy_factors import StandIn


class OneHot(StandIn):
    """x[…, i] = Σ_s w[…, s] δ(i, index[…, s]), shape [*lead, size].

    Args:
        index: Places, int64, [*lead, S].
        weight: Values, [*lead, S].
        size: Length of the last axis.
    """

    __slots__ = ("index", "size", "weight")

    def __init__(self, index: Tensor, weight: Tensor, size: int) -> None:
        self.index = index
        self.weight = weight
        self.size = size

    @property
    def shape(self) -> torch.Size:
        """Of the tensor that it stands for."""
        return torch.Size((*self.index.shape[:-1], self.size))

    @property
    def ndim(self) -> int:
        """Axes of the tensor that it stands for."""
        return len(self.shape)

    @property
    def dtype(self) -> torch.dtype:
        """Precision."""
        return self.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.weight.device

    def dense(self) -> Tensor:
        """The tensor itself."""
        found = self.weight.new_zeros(self.shape)
        return found.scatter_add_(-1, self.index, self.weight)

    def to(self, *args: Any, **kwargs: Any) -> OneHot:
        """Another precision or device."""
        weight = self.weight.to(*args, **kwargs)
        return OneHot(self.index.to(weight.device), weight, self.size)

    def clone(self) -> OneHot:
        """A copy."""
        return OneHot(self.index.clone(), self.weight.clone(), self.size)

    def element_size(self) -> int:
        """Bytes of a number."""
        return self.weight.element_size()

    def squeeze(self, axis: int) -> OneHot:
        """Without a leading axis of length one."""
        assert axis < self.ndim - 1, "the last axis is never of length one here"
        return OneHot(self.index.squeeze(axis), self.weight.squeeze(axis), self.size)

    def sum(self, axes: int | Sequence[int]) -> OneHot | Tensor:
        """Sums over leading axes join their entries; a sum over the last axis is a tensor."""
        chosen = {axes} if isinstance(axes, int) else set(axes)
        chosen = {axis % self.ndim for axis in chosen}
        if self.ndim - 1 in chosen:
            return self.weight.sum((*(chosen - {self.ndim - 1}), self.ndim - 1))
        kept = [axis for axis in range(self.ndim - 1) if axis not in chosen]
        order = (*kept, *sorted(chosen), self.ndim - 1)
        lead = [self.index.shape[axis] for axis in kept]
        flat = (*lead, -1)
        return OneHot(
            self.index.permute(order).reshape(flat),
            self.weight.permute(order).reshape(flat),
            self.size,
        )

    def __mul__(self, factor: float) -> OneHot:
        return OneHot(self.index, self.weight * factor, self.size)

    __rmul__ = __mul__

    @classmethod
    def by_parts(cls, function: Callable[..., Any], args: Sequence[Any]) -> Any:
        """Products are contracted, joining keeps the entries."""
        if function is torch.einsum:
            return einsum(args[0], *args[1:])
        if function is torch.cat and len(args) > 1 and all(isinstance(x, OneHot) for x in args[0]):
            return joined(args[0], args[1])
        return NotImplemented


def joined(parts: Sequence[OneHot], axis: int) -> OneHot:
    """Concatenation along a leading axis; rows with fewer entries are filled up with zeros."""
    most = max(part.index.shape[-1] for part in parts)

    def filled(x: Tensor) -> Tensor:
        return torch.nn.functional.pad(x, (0, most - x.shape[-1]))

    return OneHot(
        torch.cat([filled(part.index) for part in parts], axis),
        torch.cat([filled(part.weight) for part in parts], axis),
        parts[0].size,
    )


def einsum(equation: str, *operands: Tensor | OneHot) -> Tensor:
    """`torch.einsum` where some operands are one-hot; the result is dense.

    Every one-hot operand x[l…, i] becomes its weights w[l…, s]. Other operands with i are read at
    index[l…, s]; where i is kept, the result is added into the places of the index.
    """
    left, out = equation.replace(" ", "").split("->")
    terms = left.split(",")
    spare = iter(label for label in ascii_letters if label not in equation)
    plain = [(t, x) for t, x in zip(terms, operands, strict=True) if isinstance(x, Tensor)]
    dtype = next(x.dtype for x in operands)
    rows: list[_Row] = []
    for term, operand in zip(terms, operands, strict=True):
        if isinstance(operand, OneHot):
            row = _Row(term[-1], term[:-1] + next(spare), operand.index, operand.size)
            same = [other for other in rows if other.letter == row.letter]
            plain = [x if same else _read(x, row) for x in plain]
            plain.append((row.labels, operand.weight))
            plain += [_equal(row, other, dtype) for other in same]
            rows += [] if same else [row]
    kept = [row for row in rows if row.letter in out]
    return _added(plain, kept, out) if kept else _contracted(plain, out)


class _Row(NamedTuple):
    """A one-hot operand's i, its labels l…s, the places [l…, s], and the length of i."""

    letter: str
    labels: str
    places: Tensor
    size: int


_Operand = tuple[str, Tensor]


def _contracted(operands: Sequence[_Operand], out: str) -> Tensor:
    equation = ",".join(labels for labels, _ in operands) + "->" + out
    found: Tensor = torch.einsum(equation, *(x for _, x in operands))
    return found


def _read(operand: _Operand, row: _Row) -> _Operand:
    """An operand with i, read at index[l…, s]: i gives way to the labels l…, s."""
    own, x = operand
    if row.letter not in own:
        return operand
    shared = [label for label in row.labels[:-1] if label in own]
    rest = [label for label in own if label != row.letter and label not in shared]
    x = x.permute([own.index(label) for label in (*shared, row.letter, *rest)])
    steps = (
        _spread(_steps(row.places.shape[row.labels.index(label)], x), label, row.labels)
        for label in shared
    )
    return row.labels + "".join(rest), x[(*steps, row.places)]


def _equal(row: _Row, other: _Row, dtype: torch.dtype) -> _Operand:
    """δ(index, other index) over the labels of both."""
    together = row.labels + "".join(x for x in other.labels if x not in row.labels)
    match = _spread(row.places, row.labels, together) == _spread(
        other.places, other.labels, together
    )
    return together, match.to(dtype)


def _added(plain: Sequence[_Operand], kept: Sequence[_Row], out: str) -> Tensor:
    """Σ over entries, added into the places of every kept index."""
    entries = "".join(dict.fromkeys("".join(row.labels for row in kept)))
    letters = "".join(row.letter for row in kept)
    own = "".join(label for label in entries if label in out)
    rest = "".join(x for x in out if x not in letters and x not in own)
    values = _contracted(plain, entries + rest)
    lengths = dict(zip(entries + rest, values.shape, strict=True))
    lengths |= {row.letter: row.size for row in kept}
    order = own + letters + rest
    result = values.new_zeros([lengths[x] for x in order])
    places = [_spread(_steps(lengths[x], values), x, entries) for x in own]
    places += [_spread(row.places, row.labels, entries) for row in kept]
    result.index_put_(tuple(places), values, accumulate=True)
    return result.permute([order.index(x) for x in out])


def _steps(length: int, like: Tensor) -> Tensor:
    return torch.arange(length, device=like.device)


def _spread(x: Tensor, own: str, together: str) -> Tensor:
    """The axes of x in the order of `together`, of length one where it has none."""
    order = [own.index(label) for label in together if label in own]
    shape = [x.shape[own.index(label)] if label in own else 1 for label in together]
    return x.permute(order).reshape(shape)
