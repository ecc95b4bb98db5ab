"""Every inverse on every structure against the dense eigendecomposition, float64."""

from __future__ import annotations

import math

import pytest
import torch
from curvlinops import KFACInverseLinearOperator, KFACLinearOperator
from curvlinops.kfac import FisherType, KFACType
from torch import Tensor

import curvlang as cv
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.render import render
from curvlang.language import default_inverse, inverse_text, loads
from curvlang.language.chain import InverseUse
from curvlang.operators import (
    BlockDiagonal,
    Dense,
    Diagonal,
    EigenBasis,
    Identity,
    Kronecker,
    LowRank,
    MatrixFree,
    Operator,
    Scaled,
    Sum,
)
from curvlang.runtime.inverse import invert
from tests.operators.zoo import MATRIX_FREE, NAMES, spd, zoo
from tests.small import network, task

TOLERANCE = 1e-9  # float64; zoo conditions up to 1e3, damping 0.05 and more
KNOWN = [name for name in NAMES if name != MATRIX_FREE]


def written(declaration: str) -> InverseUse:
    """An inverse declared in a file and used without arguments."""
    (evaluation,) = loads(f"{declaration}\nevaluate kfac with mine on digits").evaluations
    assert evaluation.inverse is not None
    return evaluation.inverse


DAMPED = "if s < -0.037 then 0.3 else 1 / (s + 0.1)"
MINE = {
    "branches": f"inverse mine: s -> {DAMPED}",
    "functions": "inverse mine(c = 2): s -> exp(-c * abs(s)) + sqrt(1 + max(s, 0)) - min(s, 1) ^ 2",
    "reductions": "inverse mine(d = max(s)): s -> s / (d + mean(abs(s)) - min(s) + s ^ 2)",
    "bindings": "inverse mine: s -> 1 / (t + u) where t = abs(s), u = 0.1 + mean(t)",
    "log": "inverse mine: s -> log(1 + s ^ 2)",
    "constant": "inverse mine: s -> 2",
}
USES = {
    "tikhonov": lambda: inverse_text("tikhonov(damping = 3)", "x"),
    "relative to the whole": lambda: inverse_text("tikhonov(damping = 5 * max(s))", "x"),
    "absolute": lambda: inverse_text("absolute(damping = 0.05)", "x"),
    "pseudo": lambda: inverse_text("pseudo(rtol = 0.03)", "x"),
    "truncated": lambda: inverse_text("truncated_training(lr = 0.1, steps = 20)", "x"),
    **{name: (lambda text=text: written(text)) for name, text in MINE.items()},
}


def formulas(name: str, s: Tensor) -> Tensor:
    """The same functions, written by hand on the whole spectrum."""
    safe = torch.where(s == 0, 1.0, s)
    match name:
        case "tikhonov":
            return 1 / (s + 3)
        case "relative to the whole":
            return 1 / (s + 5 * s.max())
        case "absolute":
            return 1 / (s.abs() + 0.05)
        case "pseudo":
            return torch.where(s.abs() > 0.03 * s.abs().max(), 1 / safe, 0.0)
        case "truncated":
            return torch.where(s == 0, 2.0, -torch.expm1(-2 * safe) / safe)
        case "branches":
            return torch.where(s < -0.037, 0.3, 1 / (s + 0.1))
        case "functions":
            return torch.exp(-2 * s.abs()) + (1 + s.clamp(min=0)).sqrt() - s.clamp(max=1) ** 2
        case "reductions":
            return s / (s.max() + s.abs().mean() - s.min() + s**2)
        case "bindings":
            return 1 / (s.abs() + 0.1 + s.abs().mean())
        case "log":
            return torch.log(1 + s**2)
        case _:
            return torch.full_like(s, 2.0)


def dense(op: Operator) -> Tensor:
    return op.apply(torch.eye(op.size, dtype=torch.float64))


def by_eigh(matrix: Tensor, name: str) -> Tensor:
    s, q = torch.linalg.eigh((matrix + matrix.T) / 2)
    s = torch.where(s.abs() < 1e-13 * s.abs().max(), 0.0, s)
    return (q * formulas(name, s)) @ q.T


def assert_close(found: Tensor, wanted: Tensor, tolerance: float = TOLERANCE) -> None:
    assert float((found - wanted).abs().max()) <= tolerance * max(1.0, float(wanted.abs().max()))


@pytest.mark.parametrize("structure", KNOWN)
@pytest.mark.parametrize("name", USES)
def test_every_inverse_on_every_structure(structure: str, name: str) -> None:
    op = zoo(11)[structure]
    if name == "relative to the whole" and float(op.eigenvalues().max()) <= 0:
        with pytest.raises(SpecError, match="E0330"):
            invert(op, USES[name]())
        return
    wanted = by_eigh(dense(op), name)
    for form in (op, op.spectral_form()):
        assert_close(dense(invert(form, USES[name]())), wanted)


@pytest.mark.parametrize("structure", KNOWN)
def test_per_block_uses_each_blocks_own_spectrum(structure: str) -> None:
    use = written("inverse mine(d = 0.5 * max(abs(s))) per block: s -> 1 / (abs(s) + d)")
    op = zoo(11)[structure]
    form = op.spectral_form()
    blocks = form.blocks if isinstance(form, BlockDiagonal) else (form,)
    index = form.index if isinstance(form, BlockDiagonal) else (torch.arange(op.size),)
    wanted = torch.zeros(op.size, op.size, dtype=torch.float64)
    matrix = dense(op)
    for block, at in zip(blocks, index, strict=True):
        s, q = torch.linalg.eigh(matrix[at][:, at])
        part = (q / (s.abs() + 0.5 * s.abs().max())) @ q.T
        wanted[at[:, None], at] = part
        assert block.size == len(at)
    assert_close(dense(invert(op, use)), wanted)


def test_reductions_run_over_the_whole_matrix_unless_per_block_is_said() -> None:
    one = torch.ones(2, dtype=torch.float64)
    op = BlockDiagonal(
        ("x", "y"),
        (Diagonal(one), Diagonal(100 * one)),
        (torch.tensor([0, 1]), torch.tensor([2, 3])),
    )
    body = "s -> if s > 0.5 * max(s) then 1 / s else 0"
    whole = invert(op, written(f"inverse mine: {body}")).diagonal()
    own = invert(op, written(f"inverse mine per block: {body}")).diagonal()
    assert whole.tolist() == [0, 0, 0.01, 0.01]
    assert own.tolist() == [1, 1, 0.01, 0.01]
    relative = invert(op, inverse_text("tikhonov_per_block(relative = 0.5)", "x")).diagonal()
    assert_close(relative, 1 / (1.5 * torch.tensor([1.0, 1.0, 100.0, 100.0]).double()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_truncated_training_is_defined_at_zero_and_below(dtype: torch.dtype) -> None:
    use = inverse_text("truncated_training(lr = 0.03, steps = 5000)", "x")
    tiny = torch.finfo(dtype).tiny
    s = torch.tensor([0.0, -0.0, tiny / 4, tiny, 1e-12, -1e-12, 1.0, -0.01], dtype=dtype)
    found = invert(Diagonal(s), use).diagonal()
    assert_close(found[:6], torch.full((6,), 150.0, dtype=dtype), 1e-6)
    assert abs(float(found[6]) - 1.0) < 1e-6
    assert abs(float(found[7]) / (math.expm1(1.5) / 0.01) - 1) < 1e-5


def test_truncated_training_refuses_what_overflows() -> None:
    use = inverse_text("truncated_training(lr = 1, steps = 5000)", "x")
    with pytest.raises(SpecError, match=r"E0322.*eigenvalue -0\.5"):
        invert(Diagonal(torch.tensor([-0.5, 1.0]).double()), use)


def test_pseudo_keeps_negative_eigenvalues() -> None:
    s = torch.tensor([2.0, -1.0, 1e-9, 0.0], dtype=torch.float64)
    found = invert(Diagonal(s), inverse_text("pseudo", "x")).diagonal()
    assert found.tolist() == [0.5, -1.0, 0.0, 0.0]


def test_poles_are_refused_wherever_they_are() -> None:
    two = torch.tensor([1.0, -0.25], dtype=torch.float64)
    for damping, code in ((0.25, "E0322"), (0.25 * (1 + 1e-16), "E0322"), (0.25 - 2e-16, "E0601")):
        with pytest.raises(SpecError, match=code):
            invert(Diagonal(two), inverse_text(f"tikhonov(damping = {damping!r})", "x"))
    with pytest.raises(SpecError, match="E0322"):
        invert(Diagonal(two * 0), written("inverse mine: s -> 1 / s"))
    with pytest.raises(SpecError, match="E0322"):
        # From the left −1, from the right 1: no limit at zero.
        invert(Diagonal(two * 0), written("inverse mine: s -> s / abs(s)"))
    invert(Diagonal(two), inverse_text("tikhonov(damping = 0.2501)", "x"))


def test_parameters_that_make_no_sense_on_a_spectrum_are_refused() -> None:
    negative = Diagonal(torch.tensor([-3.0, 1.0], dtype=torch.float64))
    with pytest.raises(SpecError, match=r"`damping` of the inverse `tikhonov` evaluates to -0\.1"):
        invert(negative, inverse_text("tikhonov", "x"))
    with pytest.raises(SpecError, match="E0330"):
        invert(negative, inverse_text("tikhonov(damping = 1 / 0)", "x"))


# Two factors --------------------------------------------------------------------------------


def kronecker(seed: int = 0) -> Kronecker:
    g = torch.Generator().manual_seed(seed)
    return Kronecker(3 * spd(3, g), spd(4, g))


def by_factors(op: Kronecker, damping: float) -> Tensor:
    """(G + √λ/π I)⁻¹ ⊗ (A + π √λ I)⁻¹ from dense inverses."""
    o, i = len(op.left), len(op.right)
    pi = ((op.right.trace() / i) / (op.left.trace() / o)).sqrt()
    g = op.left + damping**0.5 / pi * torch.eye(o, dtype=torch.float64)
    a = op.right + damping**0.5 * pi * torch.eye(i, dtype=torch.float64)
    return torch.kron(torch.linalg.inv(g), torch.linalg.inv(a))


@pytest.mark.parametrize("damping", [1e-3, 0.1, 10.0])
def test_factored_damping_equals_dense_factors(damping: float) -> None:
    use = inverse_text(f"factored(damping = {damping})", "x")
    op = kronecker()
    assert_close(dense(invert(op, use)), by_factors(op, damping))
    scaled = Kronecker(0.3 * op.left, op.right)
    assert_close(dense(invert(Scaled(0.3, op), use)), by_factors(scaled, damping))
    # How a constant is shared between the factors does not matter.
    other = Kronecker(7 * op.left, op.right / 7)
    assert_close(dense(invert(other, use)), by_factors(op, damping))
    # Damping both factors is not damping the matrix.
    exact = dense(op.inverse(damping))
    assert float((by_factors(op, damping) - exact).norm() / exact.norm()) > 0.05


def test_every_block_has_its_own_factors() -> None:
    use = inverse_text("factored", "x")
    first, second = kronecker(1), kronecker(2)
    index = (torch.arange(12), torch.arange(12, 24))
    found = invert(BlockDiagonal(("x", "y"), (first, second), index), use).dense()
    assert_close(found[:12, :12], by_factors(first, 1e-3))
    assert_close(found[12:, 12:], by_factors(second, 1e-3))
    assert float(found[:12, 12:].abs().max()) == 0


def test_a_function_of_two_factors_may_be_any() -> None:
    op = kronecker()
    use = written("inverse mine: x, y -> x * y + max(x) * mean(y)")
    g, a = torch.linalg.eigvalsh(op.left), torch.linalg.eigvalsh(op.right)
    wanted = dense(op) + g.max() * a.mean() * torch.eye(12, dtype=torch.float64)
    assert_close(dense(invert(op, use)), wanted)


@pytest.mark.parametrize("structure", [n for n in NAMES if not n.startswith("Kronecker")])
def test_factored_is_refused_by_name_elsewhere(structure: str) -> None:
    op = zoo(3)[structure]
    if structure == "Scaled":
        op = Sum((op, Identity(torch.tensor(0.1, dtype=torch.float64), op.size)))
    with pytest.raises(SpecError, match=r"E0791.*two Kronecker factors"):
        invert(op, inverse_text("factored", "x"))


def test_the_refusal_says_where_and_why() -> None:
    op = cv.fit("ekfac", task(network([3, 4, 2]), "mse"))
    with pytest.raises(SpecError) as refused:
        invert(op.operator, inverse_text("factored(damping = 1e-2)", "<inverse>"))
    assert render(refused.value.diagnostics) == (
        "error[E0791]: `factored` needs two Kronecker factors, and `0` is EigenBasis: "
        "its spectrum is not a product of two\n"
        "  --> <inverse>:1:1\n"
        "   |\n"
        " 1 | factored(damping = 1e-2)\n"
        "   | ^^^^^^^^^^^^^^^^^^^^^^^^\n"
        "   |\n"
        "   = help: use `tikhonov(damping = …)`, which adds λ to the matrix whatever its structure"
    )


@pytest.mark.parametrize("damping", [1e-3, 0.3])
def test_factored_equals_curvlinops(damping: float) -> None:
    small = task(network([3, 4, 2], bias=False), "cross_entropy", n=9)
    op = cv.fit("kfac", small)
    params = list(small.model.parameters())
    peer = KFACLinearOperator(
        small.model,
        torch.nn.CrossEntropyLoss(reduction="mean"),
        params,
        [small.train],
        fisher_type=FisherType.TYPE2,
        kfac_approx=KFACType.EXPAND,
        separate_weight_and_bias=False,
        check_deterministic=False,
    )
    eye = torch.eye(small.P, dtype=torch.float64)
    heuristic = KFACInverseLinearOperator(peer, damping=damping, use_heuristic_damping=True) @ eye
    found = invert(op.operator, inverse_text(f"factored(damping = {damping})", "x"))
    assert_close(found.dense(), heuristic)
    both = KFACInverseLinearOperator(peer, damping=damping) @ eye
    exact = KFACInverseLinearOperator(peer, damping=damping, use_exact_damping=True) @ eye
    assert_close(op.inverse(damping).dense(), exact)
    for other in (both, exact):
        assert float((found.dense() - other).norm() / found.dense().norm()) > 1e-2
    # λ on both factors is a function of the factors' eigenvalues of its own.
    mine = written(f"inverse mine(d = {damping}): g, a -> 1 / ((g + d) * (a + d))")
    assert_close(invert(op.operator, mine).dense(), both)


# Products alone -------------------------------------------------------------------------------


def test_products_alone_are_solved_for_shifts_and_refused_else() -> None:
    op = zoo(3)[MATRIX_FREE]
    v = torch.randn(op.size, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mine = written("inverse mine(c = 0.1): s -> 1 / (c + s)")
    for use in (inverse_text("tikhonov(damping = 0.1)", "x"), mine):
        found = invert(op, use) @ v
        assert_close(found, dense(Kronecker.inverse(zoo(3)["Kronecker"], 0.1)) @ v, 1e-4)
    for text in ("tikhonov", "tikhonov(damping = mean(s))", "pseudo", "absolute", "truncated_training(lr = 1, steps = 1)"):  # fmt: skip
        with pytest.raises(SpecError, match="E0790"):
            invert(op, inverse_text(text, "x"))


def test_blocks_and_sums_of_products_are_solved_too() -> None:
    g = torch.Generator().manual_seed(0)
    matrix, factors = spd(5, g), kronecker()
    free = MatrixFree(lambda v: matrix @ v, 5, torch.float64, torch.device("cpu"))
    shift = Identity(torch.tensor(0.2, dtype=torch.float64), 5)
    index = (torch.arange(12), torch.arange(12, 17))
    op = BlockDiagonal(("x", "y"), (factors, Sum((Scaled(2.0, free), shift))), index)
    assert not op.spectrum_known
    assert not Sum((free, shift)).spectrum_known
    found = invert(op, inverse_text("tikhonov(damping = 0.1)", "x"))
    v = torch.randn(17, 2, generator=g, dtype=torch.float64)
    assert isinstance(found, BlockDiagonal)
    assert isinstance(found.blocks[0], EigenBasis)
    eye = torch.eye(5, dtype=torch.float64)
    wanted = torch.linalg.inv(2 * matrix + 0.3 * eye) @ v[12:]
    assert_close((found @ v)[12:], wanted, 1e-4)
    assert_close((found @ v)[:12], factors.inverse(0.1) @ v[:12])


def test_a_low_rank_matrix_keeps_its_complement() -> None:
    op = zoo(3)["LowRank"]
    assert isinstance(op, LowRank)
    assert isinstance(invert(op, inverse_text("tikhonov(damping = 9)", "x")), LowRank)


@pytest.mark.parametrize(("damping", "structure"), [(0.5, "CholeskyInverse"), (0.1, "Eigen")])
def test_cholesky_where_it_exists_and_eigenvalues_where_not(damping, structure):
    """Eigenvalues −0.2, 1, 2: with λ = 0.1 the matrix is indefinite, and its inverse the same formula."""
    basis = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    matrix = basis @ torch.diag(torch.tensor([-0.2, 1.0, 2.0], dtype=torch.float64)) @ basis.T
    found = invert(Dense((matrix + matrix.T) / 2), default_inverse(damping))
    assert found.structure == structure
    expected = torch.linalg.inv(matrix + damping * torch.eye(3, dtype=torch.float64))
    assert float((found.dense() - expected).abs().max()) < 1e-12


def test_dense_blocks_are_factored_and_others_are_not():
    """A definite block, a multiple of it with c I, a Kronecker block, and one that is indefinite."""
    generator = torch.Generator().manual_seed(3)
    definite = spd(4, generator)
    shift = Identity(torch.tensor(0.25, dtype=torch.float64), 4)
    indefinite = Dense(torch.diag(torch.tensor([-1.0, 2.0], dtype=torch.float64)))
    parts = (
        Dense(definite),
        Sum((Scaled(0.5, Dense(definite)), shift)),
        Kronecker(spd(2, generator), spd(3, generator)),
        indefinite,
    )
    places = torch.arange(16).split([4, 4, 6, 2])
    op = BlockDiagonal(("a", "b", "c", "d"), parts, places)
    found = invert(op, default_inverse(0.1))
    assert isinstance(found, BlockDiagonal)
    structures = [block.structure for block in found.blocks]
    assert structures == ["CholeskyInverse", "CholeskyInverse", "EigenBasis", "Eigen"]
    wanted = torch.linalg.inv(op.dense() + 0.1 * torch.eye(16, dtype=torch.float64))
    assert_close(found.dense(), wanted)
    assert_close(parts[1].dense(), 0.5 * definite + 0.25 * torch.eye(4, dtype=torch.float64))


def test_a_regularised_dense_matrix_is_factored():
    made = task(network([3, 4, 2], "tanh"), "cross_entropy", n=12, d_in=3)
    given = cv.Task(made.model, "cross_entropy", made.train, made.query, weight_decay=0.3)
    op = cv.fit("ggn", given)
    found = op.inverse(0.05)
    assert found.operator.structure == "CholeskyInverse"
    wanted = torch.linalg.inv(op.operator.dense() + 0.05 * torch.eye(given.P, dtype=torch.float64))
    assert_close(found.operator.dense(), wanted)


@pytest.mark.parametrize(
    "text", ["tikhonov", "tikhonov(damping = 2 * mean(s) + 0.1)", "tikhonov_per_block"]
)
def test_a_damping_from_the_mean_eigenvalue_needs_no_eigenvalues(text):
    """The trace gives it, of all blocks or of each."""
    generator = torch.Generator().manual_seed(4)
    parts = (Dense(spd(4, generator)), Kronecker(spd(2, generator), 3 * spd(3, generator)))
    op = BlockDiagonal(("a", "b"), parts, torch.arange(10).split([4, 6]))
    found = invert(op, inverse_text(text, "x"))
    assert isinstance(found, BlockDiagonal)
    assert [block.structure for block in found.blocks] == ["CholeskyInverse", "EigenBasis"]
    mean = float(op.eigenvalues().mean())
    factor, more = (2.0, 0.1) if "2" in text else (0.1, 0.0)
    for block, inverted in zip(parts, found.blocks, strict=True):
        own = float(block.eigenvalues().mean()) if "per_block" in text else mean
        damped = block.dense() + (factor * own + more) * torch.eye(block.size, dtype=torch.float64)
        assert_close(inverted.dense(), torch.linalg.inv(damped))


@pytest.mark.parametrize("text", ["tikhonov(damping = max(s))", "tikhonov(damping = mean(s * s))"])
def test_other_reductions_over_the_spectrum_need_it(text):
    matrix = spd(4, torch.Generator().manual_seed(5))
    found = invert(Dense(matrix), inverse_text(text, "x"))
    assert found.structure == "Eigen"
    s = torch.linalg.eigvalsh(matrix)
    damping = float(s.max() if "max" in text else s.square().mean())
    assert_close(
        found.dense(), torch.linalg.inv(matrix + damping * torch.eye(4, dtype=torch.float64))
    )
