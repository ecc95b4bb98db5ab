"""Every verb of every structure against its dense matrix, float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from curvlang.diagnostics.diagnostic import SpecError
from curvlang.operators import (
    ConjugateGradients,
    Dense,
    EigenBasis,
    Identity,
    Kronecker,
    MatrixFree,
    Operator,
    Scaled,
    estimate_trace,
    load_operator,
    save,
)
from tests.operators.zoo import MATRIX_FREE, NAMES, spd, zoo

TOLERANCE = 1e-9  # float64 with condition numbers up to 1e3 in the zoo
WITH_SPECTRUM = [name for name in NAMES if name != MATRIX_FREE]

shapes = st.tuples(st.integers(0, 1000), st.integers(1, 4), st.integers(1, 5))


def assert_close(found: Tensor, wanted: Tensor, tolerance: float = TOLERANCE) -> None:
    scale = max(1.0, float(wanted.abs().max())) if wanted.numel() else 1.0
    assert float((found - wanted).abs().max()) <= tolerance * scale


def by_columns(op: Operator) -> Tensor:
    """The matrix column by column: the oracle that only uses products with single vectors."""
    eye = torch.eye(op.size, dtype=op.dtype)
    return torch.stack([op @ eye[:, k] for k in range(op.size)], dim=1)


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=8)
@given(shapes)
def test_products_and_entries(name: str, shape: tuple[int, int, int]) -> None:
    op = zoo(*shape)[name]
    matrix = by_columns(op)
    assert_close(matrix, matrix.T)
    v = torch.randn(op.size, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert_close(op @ v, matrix @ v)
    assert_close(op.dense(), matrix)
    assert op.shape == (op.size, op.size)


@pytest.mark.parametrize("name", WITH_SPECTRUM)
@settings(deadline=None, max_examples=8)
@given(shapes)
def test_scalars_equal_the_dense_ones(name: str, shape: tuple[int, int, int]) -> None:
    op = zoo(*shape)[name]
    matrix = by_columns(op)
    spectrum = torch.linalg.eigvalsh((matrix + matrix.T) / 2)
    assert_close(op.trace(), matrix.trace())
    assert_close(op.diagonal(), matrix.diagonal())
    assert_close(op.eigenvalues().sort().values, spectrum)
    assert_close(op.frobenius(), matrix.norm())
    damping = 1.0 - float(spectrum.min().clamp(max=0))
    shifted = matrix + damping * torch.eye(op.size, dtype=torch.float64)
    assert_close(op.logdet(damping), torch.linalg.slogdet(shifted).logabsdet)


@pytest.mark.parametrize("name", WITH_SPECTRUM)
@pytest.mark.parametrize("damping", [1e-3, 1.0, 30.0])
@settings(deadline=None, max_examples=5)
@given(shapes)
def test_inverse_inverts_with_damping_added_exactly(
    name: str, damping: float, shape: tuple[int, int, int]
) -> None:
    op = zoo(*shape)[name]
    matrix = by_columns(op)
    shifted = matrix + damping * torch.eye(op.size, dtype=torch.float64)
    condition = float(torch.linalg.cond(shifted))
    v = torch.randn(op.size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for form in (op, op.spectral_form()):
        assert_close(form.inverse(damping) @ (shifted @ v), v, TOLERANCE * max(1.0, condition))


@pytest.mark.parametrize("name", WITH_SPECTRUM)
def test_spectral_functions_act_on_eigenvalues(name: str) -> None:
    op = zoo(5)[name]
    matrix = by_columns(op)
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    function = lambda s: torch.exp(-s) + s.square()  # noqa: E731
    assert_close(op.spectral(function).dense(), (vectors * function(values)) @ vectors.T)


@pytest.mark.parametrize("name", WITH_SPECTRUM)
def test_calling_twice_changes_nothing(name: str) -> None:
    op = zoo(7)[name]
    before = [t.clone() for t in op.tensors()]
    first = op.inverse(2.0).dense()
    op.trace(), op.diagonal(), op.eigenvalues(), op.spectral_form()
    assert torch.equal(op.inverse(2.0).dense(), first)
    assert all(torch.equal(a, b) for a, b in zip(before, op.tensors(), strict=True))


@pytest.mark.parametrize("first", WITH_SPECTRUM)
@pytest.mark.parametrize(
    "second", ["Dense", "Kronecker", "EigenBasis", "PerOutput", "BlockDiagonal"]
)
def test_distance_of_every_pair(first: str, second: str) -> None:
    a, b = zoo(1)[first], zoo(2)[second]
    assert_close(a.distance(b), (by_columns(a) - by_columns(b)).norm())
    assert float(a.distance(a)) <= TOLERANCE


def test_distance_of_close_kronecker_pairs_survives_float32() -> None:
    generator = torch.Generator().manual_seed(0)
    g, a = (spd(n, generator).float() * 100 for n in (30, 40))
    bumped = a + 1e-4 * spd(40, generator).float()
    found = Kronecker(g, a).distance(Kronecker(g, bumped))
    exact = Kronecker(g.double(), a.double()).distance(Kronecker(g.double(), bumped.double()))
    naive = (g.norm() * a.norm()) ** 2 + (g.norm() * bumped.norm()) ** 2
    naive -= 2 * (g * g).sum() * (a * bumped).sum()
    assert abs(float(found) / float(exact) - 1) < 1e-3
    assert abs(float(naive) - float(exact) ** 2) > float(exact) ** 2, "expansion should lose it"


@pytest.mark.parametrize("condition", [1e6, 1e12])
def test_ill_conditioned_factors(condition: float) -> None:
    op = zoo(3, 3, 4, condition)["Kronecker"]
    v = torch.ones(op.size, dtype=torch.float64)
    damped = by_columns(op) + 1e-6 * torch.eye(op.size, dtype=torch.float64)
    assert_close(op.inverse(1e-6) @ (damped @ v), v, 1e-7)


def test_singular_and_indefinite_are_refused() -> None:
    with pytest.raises(SpecError, match="E0601"):
        Identity(torch.tensor(-0.5), 3).inverse(0.5)
    with pytest.raises(SpecError, match="E0602"):
        Dense(-torch.eye(2)).logdet(0.5)
    with pytest.raises(SpecError, match="E0606"):
        _ = Dense(torch.eye(2)) @ torch.ones(3)


@pytest.mark.parametrize("verb", ["diagonal", "eigenvalues", "frobenius", "spectral_form"])
def test_matrix_free_refuses_what_it_cannot_know(verb: str) -> None:
    op = zoo(0)[MATRIX_FREE]
    with pytest.raises(SpecError, match="E0603"):
        getattr(op, verb)()


def test_conjugate_gradients_solve_and_say_when_they_cannot() -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = spd(40, generator)
    free = MatrixFree(lambda v: matrix @ v, 40, torch.float64, torch.device("cpu"))
    v = torch.randn(40, 3, generator=generator, dtype=torch.float64)
    wanted = torch.linalg.solve(matrix + 0.01 * torch.eye(40, dtype=torch.float64), v)
    assert_close(free.inverse(0.01) @ v, wanted, 1e-4)
    exact = Dense(matrix).inverse(0.01)
    assert_close(ConjugateGradients(free, 0.01, exact, iterations=3) @ v, wanted, 1e-4)
    with pytest.raises(SpecError, match="stopped after"):
        _ = ConjugateGradients(free, 0.0, iterations=2) @ v
    negative = MatrixFree(lambda x: -x, 40, torch.float64, torch.device("cpu"))
    with pytest.raises(SpecError, match="negative curvature"):
        _ = negative.inverse(0.5) @ v


def test_estimated_trace_is_within_its_error() -> None:
    op = zoo(0)["Kronecker"]
    estimate, error = estimate_trace(op, torch.Generator().manual_seed(0), 2000)
    assert error > 0
    assert abs(estimate - float(op.trace())) < 5 * error


def test_scipy_view() -> None:
    op = zoo(0)["EigenBasis"]
    v = torch.randn(op.size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert_close(torch.as_tensor(op.to_scipy() @ v.numpy()), op @ v)


def test_memory_counts_shared_tensors_once() -> None:
    matrix = torch.eye(10, dtype=torch.float64)
    assert Kronecker(matrix, matrix).memory() == 800
    assert Scaled(2.0, Dense(matrix)).memory() == 800


@pytest.mark.parametrize("name", WITH_SPECTRUM)
def test_files_keep_the_operator(name: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    op = zoo(4)[name]
    save(op, tmp_path / "x.safetensors", {"label": "here"})
    again, notes, _ = load_operator(tmp_path / "x.safetensors")
    assert notes["label"] == "here"
    assert torch.equal(again.dense(), op.dense())
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


def test_damaged_files_are_named(tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "x.safetensors"
    save(Dense(torch.eye(4)), path)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(SpecError, match="E0605"):
        load_operator(path)
    with pytest.raises(SpecError, match="no operator file"):
        load_operator(tmp_path / "missing")
    with pytest.raises(SpecError, match="E0603"):
        save(zoo(0)[MATRIX_FREE], path)


@pytest.mark.parametrize("bases", ["both", "left", "neither"])
def test_the_distance_of_a_rotated_diagonal_and_a_kronecker_product(bases):
    """Against the entries, where the two are far apart and where they nearly agree."""
    g = torch.Generator().manual_seed(1)
    draw = lambda n: (lambda m: m @ m.T)(torch.randn(n, n, generator=g, dtype=torch.float64))  # noqa: E731
    A, B = draw(3), draw(4)
    (a, U), (b, V) = torch.linalg.eigh(A), torch.linalg.eigh(B)
    left, right = (U if bases != "neither" else None), (V if bases == "both" else None)
    for spread in (1.0, 1e-9):
        noise = spread * torch.randn(3, 4, generator=g, dtype=torch.float64)
        one, other = EigenBasis(left, right, torch.outer(a, b) + noise), Kronecker(A, B)
        wanted = float((one.dense() - other.dense()).norm())
        for found in (one.distance(other), other.distance(one)):
            assert float(found) == pytest.approx(wanted, rel=1e-5 if wanted < 1e-6 else 1e-12)
