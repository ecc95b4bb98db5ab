"""Where structured operators are easy to get wrong: zeros, singular factors, near-equal pairs, misuse."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
import torch
from scipy.sparse.linalg import aslinearoperator

from curvlang.diagnostics.diagnostic import SpecError
from curvlang.operators import (
    ConjugateGradients,
    Dense,
    Diagonal,
    EigenBasis,
    Gram,
    Identity,
    Kronecker,
    MatrixFree,
    Operator,
    PerOutput,
    Scaled,
    load_operator,
    low_rank,
    save,
)
from tests.operators.test_verbs import TOLERANCE, WITH_SPECTRUM, assert_close, by_columns
from tests.operators.zoo import NAMES, spd, zoo

SINGLE = 2e-5  # float32: a hundred roundings of numbers of order ten
CPU = torch.device("cpu")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def singular(o: int, i: int) -> dict[str, Operator]:
    """Rank-deficient or zero: what one datum, a dead unit or an empty batch leaves behind."""
    u, v = (torch.randn(n, 1, generator=generator(n), dtype=torch.float64) for n in (o, i))
    zeros = lambda *shape: torch.zeros(*shape, dtype=torch.float64)  # noqa: E731
    return {
        "zero Dense": Dense(zeros(o * i, o * i)),
        "zero Diagonal": Diagonal(zeros(o * i)),
        "zero Kronecker": Kronecker(zeros(o, o), zeros(i, i)),
        "half zero Kronecker": Kronecker(zeros(o, o), v @ v.T),
        "rank one Kronecker": Kronecker(u @ u.T, v @ v.T),
        "zero EigenBasis": EigenBasis(None, None, zeros(o, i)),
        "zero PerOutput": PerOutput(zeros(o, i, i)),
        "rank one PerOutput": PerOutput((v @ v.T).expand(o, i, i).clone()),
        "zero Gram": Gram(zeros(o * i, 2)),
        "zero LowRank": low_rank(zeros(o * i, 1), zeros(1)),
        "zero Scaled": Scaled(0.0, Kronecker(u @ u.T, v @ v.T)),
        "zero Identity": Identity(torch.zeros((), dtype=torch.float64), o * i),
    }


@pytest.mark.parametrize("name", singular(2, 3))
@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (4, 1)])
def test_singular_operators_know_every_verb(name: str, shape: tuple[int, int]) -> None:
    op = singular(*shape)[name]
    matrix = by_columns(op)
    eye = torch.eye(op.size, dtype=torch.float64)
    assert_close(op.dense(), matrix)
    assert_close(op.trace(), matrix.trace())
    assert_close(op.diagonal(), matrix.diagonal())
    assert_close(op.frobenius(), matrix.norm())
    assert_close(op.eigenvalues().sort().values, torch.linalg.eigvalsh(matrix))
    assert_close(op.logdet(0.5), torch.linalg.slogdet(matrix + 0.5 * eye).logabsdet)
    assert_close(op.inverse(1e-3).dense(), torch.linalg.inv(matrix + 1e-3 * eye), 1e-7)
    assert float(op.distance(op)) == 0
    if float(torch.linalg.eigvalsh(matrix).min()) < TOLERANCE:
        with pytest.raises(SpecError, match="E0601"):
            op.inverse(0.0)
    if "zero" in name:
        with pytest.raises(SpecError, match="E0602"):
            op.logdet(0.0)


@pytest.mark.parametrize("condition", [1e6, 1e12])
@pytest.mark.parametrize("name", WITH_SPECTRUM)
def test_ill_conditioned_structures_are_inverted(name: str, condition: float) -> None:
    op = zoo(11, 3, 4, condition)[name]
    matrix = by_columns(op)
    spectrum = torch.linalg.eigvalsh((matrix + matrix.T) / 2)
    damping = 1e-4 - float(spectrum.min().clamp(max=0)) * 1.5
    shifted = matrix + damping * torch.eye(op.size, dtype=torch.float64)
    v = torch.ones(op.size, dtype=torch.float64)
    assert_close(op.inverse(damping) @ (shifted @ v), v, 1e-7)


def test_distance_of_every_pair_of_structures() -> None:
    first, second = zoo(1), zoo(2)
    dense = {k: (by_columns(first[k]), by_columns(second[k])) for k in WITH_SPECTRUM}
    for a in WITH_SPECTRUM:
        for b in WITH_SPECTRUM:
            wanted = (dense[a][0] - dense[b][1]).norm()
            assert_close(first[a].distance(second[b]), wanted)
            assert_close(second[b].distance(first[a]), wanted)


def single(value: Any) -> Any:
    """An operator in float32, whatever it is made of."""
    match value:
        case torch.Tensor():
            return value.float() if value.is_floating_point() else value
        case Operator():
            held = {f.name: single(getattr(value, f.name)) for f in fields(value)}  # type: ignore[arg-type]
            return type(value)(**held)
        case tuple():
            return tuple(single(part) for part in value)
        case _:
            return value


@pytest.mark.parametrize("name", WITH_SPECTRUM)
def test_float32_agrees_with_float64(name: str) -> None:
    op = zoo(6)[name]
    lower = single(op)
    assert lower.dtype == torch.float32
    assert_close(lower.dense().double(), op.dense(), SINGLE)
    assert_close(lower.trace().double(), op.trace(), SINGLE)
    assert_close(lower.frobenius().double(), op.frobenius(), SINGLE)
    damping = 1.0 - 2 * float(op.eigenvalues().min().clamp(max=0))
    assert_close(lower.inverse(damping).dense().double(), op.inverse(damping).dense(), SINGLE)
    assert_close(lower.logdet(damping).double(), op.logdet(damping), SINGLE)


def close_pair(name: str, step: float) -> tuple[Operator, Operator]:
    """Two operators of a structure that differ by `step`, relative, in a few directions."""
    g = generator(4)
    left, right = (spd(n, g) * 10 for n in (12, 15))
    bump = step * spd(15, g)
    u, v = (
        torch.linalg.qr(torch.randn(n, n, generator=g, dtype=torch.float64)).Q for n in (12, 15)
    )
    spectrum = torch.rand(12, 15, generator=g, dtype=torch.float64) * 100
    match name:
        case "Kronecker":
            return Kronecker(left, right), Kronecker(left, right + bump)
        case "both factors":
            more = step * spd(12, g)
            return Kronecker(left, right), Kronecker(left + more, right + bump)
        case "moved factor":
            return Kronecker(3 * left, right), Kronecker(left, 3 * (right + bump))
        case "opposite factors":
            return Kronecker(left, right), Kronecker((1 + step) * left, right / (1 + step) + bump)
        case "EigenBasis":
            return EigenBasis(u, v, spectrum), EigenBasis(u, v, spectrum + step)
        case "PerOutput":
            blocks = torch.stack([right] * 12)
            return PerOutput(blocks), PerOutput(blocks + bump)
        case _:
            return Diagonal(spectrum.reshape(-1)), Diagonal(spectrum.reshape(-1) + step)


PAIRS = [
    "Kronecker",
    "both factors",
    "moved factor",
    "opposite factors",
    "EigenBasis",
    "PerOutput",
    "Diagonal",
]


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("step", [1.0, 1e-2, 1e-4])
def test_distance_of_close_pairs_in_float32(name: str, step: float) -> None:
    a, b = close_pair(name, step)
    exact = float((a.dense() - b.dense()).norm())
    # The operands themselves are rounded: no formula can know the distance better than that.
    known = 4e-7 * float(a.frobenius())
    low_a, low_b = single(a), single(b)
    if name == "EigenBasis":
        assert isinstance(low_a, EigenBasis)
        assert isinstance(low_b, EigenBasis)
        low_b = EigenBasis(low_a.left, low_a.right, low_b.spectrum)
    assert abs(float(low_a.distance(low_b)) - exact) <= known + 1e-4 * exact
    assert abs(float(low_b.distance(low_a)) - exact) <= known + 1e-4 * exact


def test_equal_products_of_unequal_factors_have_no_distance() -> None:
    a, b = (spd(n, generator()).float() for n in (12, 15))
    one, other = Kronecker(2 * a, b), Kronecker(a, 2 * b)
    assert float(one.distance(other)) <= 1e-6 * float(one.frobenius())
    zero = Kronecker(torch.zeros(12, 12), b)
    assert_close(one.distance(zero), one.frobenius(), 1e-6)
    assert_close(zero.distance(one), one.frobenius(), 1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_vectors_that_do_not_fit_are_refused(name: str) -> None:
    op = zoo(0)[name]
    good = torch.ones(op.size, dtype=torch.float64)
    wrong = (
        good[:-1],
        torch.cat([good, good]),
        good[None],
        torch.ones((), dtype=torch.float64),
        torch.ones(op.size, 2, 2, dtype=torch.float64),
        torch.ones(0, dtype=torch.float64),
        good.float(),
        good.to(torch.int64),
    )
    for v in wrong:
        with pytest.raises(SpecError, match="E0606"):
            _ = op @ v
    assert (op @ good).shape == (op.size,)
    assert (op @ good[:, None]).shape == (op.size, 1)
    assert (op @ torch.ones(op.size, 0, dtype=torch.float64)).shape == (op.size, 0)
    assert (op @ good).dtype == torch.float64


def test_operators_of_other_sizes_are_not_compared() -> None:
    with pytest.raises(SpecError, match="E0606"):
        Dense(torch.eye(3)).distance(Dense(torch.eye(4)))


@pytest.mark.parametrize("name", NAMES)
def test_scipy_views_multiply_vectors_and_matrices(name: str) -> None:
    op = zoo(3)[name]
    view = aslinearoperator(op.to_scipy())
    v = torch.randn(op.size, 3, dtype=torch.float64, generator=generator())
    assert view.shape == op.shape
    assert_close(torch.as_tensor(view @ v.numpy()), op @ v)
    assert_close(torch.as_tensor(view @ v[:, 0].numpy()), op @ v[:, 0])
    assert_close(torch.as_tensor(view.T @ v.numpy()), op @ v)


@pytest.mark.parametrize("name", WITH_SPECTRUM)
def test_files_keep_every_verb(name: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    op = zoo(4)[name]
    for form in (op, op.spectral_form(), op.inverse(1.0 + 2 * float(op.eigenvalues().abs().max()))):
        save(form, tmp_path / "x.safetensors")
        again, _, _ = load_operator(tmp_path / "x.safetensors")
        assert type(again) is type(form)
        assert float(again.distance(form)) <= TOLERANCE * max(1.0, float(form.frobenius()))
        assert_close(again.eigenvalues().sort().values, form.eigenvalues().sort().values)


def free(matrix: torch.Tensor) -> MatrixFree:
    return MatrixFree(lambda v: matrix @ v, len(matrix), matrix.dtype, CPU)


def test_a_zero_column_does_not_hide_an_unfinished_one() -> None:
    matrix = torch.diag(torch.logspace(0, -6, 50, dtype=torch.float64))
    v = torch.zeros(50, 2, dtype=torch.float64)
    assert float((free(matrix).inverse(0.1) @ v).abs().max()) == 0
    v[:, 0] = 1
    with pytest.raises(SpecError, match="stopped after 3 products"):
        _ = ConjugateGradients(free(matrix), 0.0, iterations=3) @ v
    wanted = torch.linalg.solve(matrix + 0.01 * torch.eye(50, dtype=torch.float64), v)
    assert_close(free(matrix).inverse(0.01) @ v, wanted, 1e-4)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_conjugate_gradients_refuse_what_is_not_finite(bad: float) -> None:
    matrix = torch.eye(4, dtype=torch.float64)
    v = torch.ones(4, dtype=torch.float64)
    with pytest.raises(SpecError, match="not finite"):
        _ = free(matrix * bad).inverse(0.1) @ v
    with pytest.raises(SpecError, match="not finite"):
        _ = free(matrix).inverse(0.1) @ (v * bad)


def test_negative_curvature_names_a_damping_that_helps() -> None:
    matrix = torch.diag(torch.tensor([1.0, 2.0, -0.5], dtype=torch.float64))
    v = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    with pytest.raises(SpecError, match=r"lowest eigenvalue is about -0\.5") as refused:
        _ = free(matrix).inverse(0.1) @ v
    assert "a damping of 0.57 or more" in refused.value.diagnostics[0].help[0]
    assert_close(free(matrix).inverse(0.57) @ v, v / 0.07, 1e-6)
