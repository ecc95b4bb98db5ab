"""How far an operator is from a law, as one number that is 0 where the law holds exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from curvlang.diagnostics.diagnostic import SpecError
from curvlang.operators import BlockDiagonal, Dense, Identity, Operator, Scaled, Sum

DAMPINGS = (1e-3, 0.1, 10.0)
"""λ relative to the largest eigenvalue, added above what makes C + λI positive definite."""


@dataclass(frozen=True, slots=True)
class Gap:
    """A distance from a law, and in words where it is largest.

    `undetermined` says that rounding alone moves the curvature that far on this task (the basis
    of a repeated eigenvalue is anyone's choice), so that the law cannot be judged on it.
    """

    size: float
    where: str = ""
    undetermined: bool = False

    @staticmethod
    def worst(gaps: list[Gap]) -> Gap:
        """The largest; one that is not a number is larger than any."""
        return max(gaps, key=lambda g: g.size if g.size == g.size else float("inf"))


NOISE = 1e-6
"""Of the magnitude: what is smaller than that is judged by it, since its terms have cancelled."""


def magnitude(op: Operator) -> float:
    """The norms of the parts that an operator adds up, together; its own where it adds nothing."""
    match op:
        case Sum(terms=terms):
            return sum(magnitude(term) for term in terms)
        case Scaled(factor=factor, operator=inner):
            return abs(factor) * magnitude(inner)
        case BlockDiagonal(blocks=parts):
            return sum(magnitude(part) ** 2 for part in parts) ** 0.5
        case _:
            return float(op.frobenius())


def relative(found: Tensor, wanted: Tensor, floor: float = 0.0) -> float:
    """‖x − y‖ / max(‖x‖, ‖y‖), and 0 where both are 0."""
    scale = max(float(found.norm()), float(wanted.norm()), floor)
    gap = float((found - wanted).norm())
    return gap / scale if scale > 0 else gap


def asymmetry(matrix: Tensor, floor: float = 0.0) -> Gap:
    """‖C − Cᵀ‖ / ‖C‖."""
    return Gap(relative(matrix, matrix.T, floor), _largest(matrix - matrix.T))


def negativity(matrix: Tensor, floor: float = 0.0) -> Gap:
    """Minus the smallest eigenvalue of the symmetric part, relative to the largest by size."""
    values = torch.linalg.eigvalsh((matrix + matrix.T) / 2)
    scale = max(float(values.abs().max()), floor)
    size = max(0.0, -float(values.min())) / scale if scale > 0 else 0.0
    return Gap(
        size, f"smallest eigenvalue {float(values.min()):.3g}, largest {float(values.max()):.3g}"
    )


def unsolved(op: Operator) -> Gap:
    """‖(C + λI)⁻¹ (C + λI) v − v‖ / ‖v‖ at every λ of `DAMPINGS`."""
    matrix = op.dense()
    v = _vectors(op)
    gaps = []
    for damping in _dampings(matrix):
        product = matrix @ v + damping * v
        gaps.append(Gap(relative(op.inverse(damping) @ product, v), f"at damping {damping:.3g}"))
    return Gap.worst(gaps)


def _dampings(matrix: Tensor) -> Iterator[float]:
    values = torch.linalg.eigvalsh((matrix + matrix.T) / 2)
    scale = float(values.abs().max()) or 1.0
    for part in DAMPINGS:
        yield part * scale + max(0.0, -2 * float(values.min()))


def disagreement(op: Operator) -> Gap:
    """The largest relative difference of a verb from the same verb of the dense matrix.

    A verb that the structure refuses by a diagnostic is not a disagreement.
    """
    gaps = []
    floor = NOISE * magnitude(op)
    for name, (structured, plain) in _verbs(op).items():
        try:
            found = structured()
        except SpecError:
            continue
        gaps.append(Gap(relative(found, plain(), floor), f"`{name}`"))
    return Gap.worst(gaps)


Verb = tuple[Callable[[], Tensor], Callable[[], Tensor]]


def _verbs(op: Operator) -> Mapping[str, Verb]:
    matrix = op.dense()
    symmetric = (matrix + matrix.T) / 2
    v, eye = _vectors(op), torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    *_, damping = _dampings(matrix)
    shifted = symmetric + damping * eye
    values, Q = torch.linalg.eigh(symmetric)
    other = Dense(Q @ torch.diag(values.flip(0).tanh()) @ Q.T)
    unit = Identity(torch.ones((), dtype=matrix.dtype, device=matrix.device), len(matrix))
    return {
        "C @ v": (lambda: op @ v, lambda: matrix @ v),
        "C @ v of one vector": (lambda: op @ v[:, 0], lambda: matrix @ v[:, 0]),
        "trace": (op.trace, matrix.trace),
        "diagonal": (op.diagonal, matrix.diagonal),
        "eigenvalues": (lambda: op.eigenvalues().sort().values, lambda: values),
        "frobenius": (op.frobenius, matrix.norm),
        "logdet": (lambda: op.logdet(damping), lambda: torch.logdet(shifted)),
        "inverse": (lambda: op.inverse(damping).dense(), lambda: torch.linalg.inv(shifted)),
        "inverse of the inverse": (
            lambda: op.inverse(damping).inverse(0.0).dense(),
            lambda: shifted,
        ),
        "spectral": (
            lambda: op.inverse(spectral=torch.tanh).dense(),
            lambda: Q @ torch.diag(values.tanh()) @ Q.T,
        ),
        "distance": (lambda: op.distance(other), lambda: (matrix - other.dense()).norm()),
        "distance to the identity": (lambda: op.distance(unit), lambda: (matrix - eye).norm()),
        "distance to the inverse": (
            lambda: op.distance(op.inverse(damping)),
            lambda: (matrix - torch.linalg.inv(shifted)).norm(),
        ),
    }


def changed_by_use(op: Operator) -> Gap:
    """How much the entries change while the operator is used."""
    before = op.dense().clone()
    for verb in (op.trace, op.diagonal, op.eigenvalues, op.frobenius, op.spectral_form):
        try:
            verb()
        except SpecError:
            continue
    unsolved(op)
    return Gap(relative(op.dense(), before), "after its verbs were used")


def block_gap(left: Tensor, right: Tensor, index: Mapping[str, Tensor]) -> Gap:
    """The largest relative difference of a layer's own block."""
    # Blocks that are rounding beside the others have no relative difference of their own.
    floor = NOISE * max(float(left.norm()), float(right.norm()))
    gaps = []
    for name, place in index.items():
        a, b = left[place][:, place], right[place][:, place]
        gaps.append(Gap(relative(a, b, floor), f"in block `{name}`, {_largest(a - b, a, b)}"))
    return Gap.worst(gaps)


def plain_gap(left: Tensor, right: Tensor, floor: float = 0.0) -> Gap:
    """The relative difference of two numbers, vectors or matrices."""
    if left.ndim == 0:
        return Gap(relative(left, right, floor), f"{float(left):.6g} and {float(right):.6g}")
    return Gap(relative(left, right, floor), _largest(left - right, left, right))


def _largest(difference: Tensor, left: Tensor | None = None, right: Tensor | None = None) -> str:
    """`entry (1, 3): 0.25 and 0.31`."""
    if not difference.numel():
        return ""
    flat = difference.abs().reshape(-1).nan_to_num(float("inf")).argmax()
    place = tuple(int(x) for x in torch.unravel_index(flat, difference.shape))
    shown = f"entry {place[0] if len(place) == 1 else place}"
    if left is None or right is None:
        return f"{shown}: {float(difference[place]):.3g}"
    return f"{shown}: {float(left[place]):.6g} and {float(right[place]):.6g}"


def _vectors(op: Operator) -> Tensor:
    generator = torch.Generator().manual_seed(op.size)
    drawn = torch.randn(op.size, 3, generator=generator, dtype=torch.float64)
    return drawn.to(device=op.device, dtype=op.dtype)
