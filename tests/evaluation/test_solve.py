"""What an evaluation inverts with: sweeps, named inverses, solvers."""

from __future__ import annotations

import re

import pytest
import torch

import curvlang as cv
from curvlang.compiler.planning.plan import Limits
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.evaluation.fidelity import settings
from curvlang.evaluation.result_file import dumps
from curvlang.evaluation.result_file import loads as read
from curvlang.language import inverse_text, loads, solver_text
from curvlang.operators import MatrixFree
from curvlang.runtime.combine import fit_solver
from curvlang.runtime.fit import fit_chains
from tests.small import network, task

SWEEP = (1e-2, 1.0)
TOLERANCE = 1e-5  # relative, of solutions with a relative residual of 1e-8


def small(seed=0):
    return task(network([3, 4, 3], seed=seed), "cross_entropy", n=20, seed=seed)


def spec(text):
    return loads(text)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (None, [1e-2, 1.0]),
        ("tikhonov", [1e-2, 1.0]),
        ("tikhonov(damping = 1e-3)", [None]),
        ("tikhonov(damping = 0.1 * mean(s))", [None]),
        ("tikhonov_per_block", [None]),
        ("absolute", [1e-2, 1.0]),
        ("absolute(damping = 1e-2)", [None]),
        ("factored", [1e-2, 1.0]),
        ("pseudo", [None]),
        ("truncated_training(lr = 0.1, steps = 10)", [None]),
    ],
)
def test_what_sweeps(text, wanted):
    chosen = settings(None if text is None else inverse_text(text, "x"), SWEEP)
    assert [s.damping for s in chosen] == wanted


def test_a_swept_inverse_is_the_named_one_at_every_damping():
    some = small()
    swept = cv.evaluate(spec("evaluate kfac with absolute on digits"), some, damping=SWEEP)
    assert swept.sweep == SWEEP
    for k, damping in enumerate(SWEEP):
        text = f"evaluate kfac with absolute(damping = {damping}) on digits"
        one = cv.evaluate(spec(text), some)
        assert one.sweep == ()
        for step, other in zip(swept.steps, one.steps, strict=True):
            assert step.points[k].inverse == pytest.approx(other.points[0].inverse, rel=1e-9)
    default = cv.evaluate("kfac", some, damping=SWEEP)
    named = cv.evaluate(spec("evaluate kfac with tikhonov on digits"), some, damping=SWEEP)
    assert [s.points for s in default.steps] == [s.points for s in named.steps]


def test_a_fitted_operator_inverts_by_the_rule_of_its_spec():
    some = small()
    op = cv.fit(spec("evaluate kfac with factored(damping = 0.1) on digits"), some)
    other = cv.fit("kfac", some)
    v = torch.randn(some.P, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(cv.influence(op, some), cv.influence(other, some, inverse="factored(damping = 0.1)"))  # fmt: skip
    assert float((op.inverse() @ v - other.inverse(0.1) @ v).norm()) > 0.1
    mean = float(other.trace()) / some.P
    assert torch.allclose(other.inverse() @ v, other.inverse(0.1 * mean) @ v)


@pytest.mark.parametrize("name", ["ggn", "block_ggn", "kfac"])
@pytest.mark.parametrize(
    "solve", ["cg(preconditioner = ekfac, tolerance = 1e-8)", "neumann(preconditioner = ekfac, lr = 0.3, steps = 3000)"]
)  # fmt: skip
def test_solvers_agree_with_closed_forms(name, solve):
    some = small()
    op = cv.fit(name, some)
    wanted = cv.influence(op, some, damping=0.1)
    found = cv.influence(op, some, inverse="tikhonov(damping = 0.1)", solve=solve)
    assert float((found - wanted).abs().max() / wanted.abs().max()) < TOLERANCE
    if name == "kfac":
        # A structured curvature has a closed form, and the solver leaves it alone.
        assert torch.equal(found, wanted)


def test_one_neumann_step_gives_the_scores_of_the_preconditioner():
    some = small()
    one = cv.influence(
        cv.fit("ggn", some),
        some,
        inverse="tikhonov(damping = 0.1)",
        solve="neumann(preconditioner = ekfac, steps = 1)",
    )
    ekfac = cv.influence(cv.fit("ekfac", some), some, damping=0.1)
    assert torch.allclose(one, ekfac, rtol=1e-10, atol=1e-12)
    other = cv.influence(
        cv.fit("ggn", some),
        some,
        inverse="tikhonov(damping = 0.1)",
        solve="neumann(preconditioner = ekfac, preconditioner_damping = 1, steps = 1)",
    )
    assert torch.allclose(other, cv.influence(cv.fit("ekfac", some), some, damping=1.0))


def test_the_evaluation_reports_what_the_solver_took():
    text = """evaluate ggn with tikhonov on digits {
  solve cg(preconditioner = ekfac)
}"""
    result = cv.evaluate(spec(text), small(), damping=(0.5, 1.0))
    closed = cv.evaluate("ggn", small(), damping=(0.5, 1.0))
    assert "solved by cg(preconditioner = ekfac)" in result.inverse
    for step, other in zip(result.steps, closed.steps, strict=True):
        for point, plain in zip(step.points, other.points, strict=True):
            assert point.solve is not None
            assert point.solve.method == "cg"
            assert 0 < point.solve.iterations < 100
            assert point.solve.products > point.solve.iterations
            assert point.solve.residual <= 1e-5
            assert plain.solve is None
            assert point.inverse == pytest.approx(plain.inverse, rel=1e-4)
    assert read(dumps(result.to_json()), "x") == result


def test_a_solver_that_cannot_keeps_the_exact_reference():
    text = "evaluate ggn with tikhonov(damping = 1e-3) on digits {\n  solve cg\n}"
    some = small(3)
    lowest = float(cv.fit("hessian", some).eigenvalues().min())
    assert lowest < -1e-3
    hessian, ggn = cv.evaluate(spec(text), some).steps
    assert "negative curvature" in hessian.points[0].note
    exact = cv.evaluate(spec(text.replace("solve cg", "")), some).steps[1]
    assert ggn.points[0].influence == pytest.approx(exact.points[0].influence, abs=1e-9)


def products(some, name):
    """The chain's last stage known by its products alone, and its fitted parts."""
    (stages,) = fit_chains([cv.load(name).curvatures[name]], some, limits=Limits(dense=1))
    return stages[-1]


@pytest.mark.parametrize("name", ["ggn", "hessian", "block_ggn"])
@pytest.mark.parametrize("decay", [0.0, 0.2])
def test_minibatches_average_to_the_whole(name, decay):
    base = small()
    some = cv.Task(base.model, base.loss, base.train, base.query, weight_decay=decay)
    stage = products(some, name)
    assert stage.by_example is not None
    eye = torch.eye(some.P, dtype=torch.float64)
    whole = stage.operator.apply(eye)
    parts = [stage.by_example.of(rows).apply(eye) for rows in torch.arange(20).split(5)]
    assert torch.allclose(sum(parts) / 4, whole, atol=1e-12)
    assert not torch.allclose(parts[0], whole, atol=1e-3)
    assert torch.allclose(cv.fit(name, some).dense(), whole, atol=1e-10)


@pytest.mark.parametrize("name", ["ggn", "block_ggn"])
def test_products_alone_are_solved_with_and_without_a_solver(name):
    some = small()
    stage = products(some, name)
    assert not stage.operator.spectrum_known
    free = cv.FittedOperator(stage.operator, some.parameters, by_example=stage.by_example)
    wanted = cv.influence(cv.fit(name, some), some, damping=0.1)
    for solve in (None, "cg(preconditioner = kfac)"):
        found = cv.influence(free, some, inverse="tikhonov(damping = 0.1)", solve=solve)
        assert float((found - wanted).abs().max() / wanted.abs().max()) < 1e-4
    text = "neumann(preconditioner = ekfac, lr = 0.1, steps = 200, batch = 10)"
    noisy = cv.influence(free, some, inverse="tikhonov(damping = 0.1)", solve=text)
    assert torch.equal(noisy, cv.influence(free, some, inverse="tikhonov(damping = 0.1)", solve=text))  # fmt: skip
    assert 1e-4 < float((noisy - wanted).norm() / wanted.norm()) < 0.5
    with pytest.raises(SpecError, match="E0790"):
        free.inverse()


def test_a_preconditioner_must_be_positive_definite():
    some = small(3)
    op = cv.fit("ggn", some)
    with pytest.raises(SpecError, match="E0621") as refused:
        cv.influence(op, some, damping=None, inverse="tikhonov(damping = 1e-3)", solve="cg(preconditioner = hessian)")  # fmt: skip
    named = re.search(r"preconditioner_damping = (\S+)`", refused.value.diagnostics[0].help[0])
    assert named is not None
    text = f"cg(preconditioner = hessian, preconditioner_damping = {named.group(1)})"
    found = cv.influence(op, some, inverse="tikhonov(damping = 1e-3)", solve=text)
    wanted = cv.influence(op, some, damping=1e-3)
    assert float((found - wanted).norm() / wanted.norm()) < 1e-3


def test_solvers_refuse_what_they_cannot():
    some = small()
    op = cv.fit("ggn", some)
    with pytest.raises(SpecError, match="E0735"):
        cv.influence(op, some, inverse="pseudo", solve="cg")
    plain = cv.FittedOperator(op.operator, op.parameters)
    with pytest.raises(SpecError, match="E0622"):
        cv.influence(plain, some, inverse="tikhonov(damping = 1)", solve="neumann(batch = 2)")
    free = MatrixFree(lambda v: v, some.P, torch.float64, torch.device("cpu"))
    solver = fit_solver(solver_text("cg", "x"), some)
    assert solver is not None
    assert solver.inverse(free, 1.0).structure == "ConjugateGradients"


def test_minibatches_of_an_operator_from_a_file_are_refused_for_that_reason(tmp_path):
    some, line = small(), "neumann(batch = 2)"
    cv.fit("ggn", some).save(tmp_path / "op.safetensors")
    op = cv.load_operator(tmp_path / "op.safetensors")
    with pytest.raises(SpecError, match="read from a file") as refused:
        cv.influence(op, some, inverse="tikhonov(damping = 1)", solve=line)
    (found,) = refused.value.diagnostics
    assert found.labels[0].span.source.text == line


def test_a_spec_with_a_solver_fits_its_preconditioner():
    text = """evaluate ggn with tikhonov(damping = 1e-1) on digits {
  solve cg(preconditioner = mine)
}
curvature mine = block_ggn |> diagonal"""
    some = small()
    op = cv.fit(spec(text), some)
    assert (op.label, op.structure) == ("ggn", "Dense")
    assert op.solver is not None
    assert op.solver.preconditioner is not None
    assert op.solver.preconditioner.size == some.P
    wanted = cv.influence(cv.fit("ggn", some), some, damping=0.1)
    assert float((cv.influence(op, some) - wanted).norm() / wanted.norm()) < 1e-4
    assert cv.evaluate(spec(text), some).name == "ggn"
    assert cv.fit(spec(text), some, curvature="mine").structure == "BlockDiagonal"


def test_long_solves_are_run_only_where_the_spec_asks(monkeypatch):
    """The limits are made small: every stage is known by products, and too long."""
    from curvlang.evaluation.inverses import effort
    from curvlang.runtime import combine
    from curvlang.runtime.limits import planned

    some = small()
    fit, prepare = combine.fit_chains, planned.prepare
    monkeypatch.setattr(
        combine, "fit_chains", lambda *a, **k: fit(*a, **{**k, "limits": Limits(dense=1)})
    )
    monkeypatch.setattr(
        planned, "prepare", lambda *a, **k: prepare(*a, **{**k, "limits": Limits(dense=1)})
    )
    monkeypatch.setattr(effort, "UNASKED", 1.0)
    with pytest.raises(SpecError, match=r"E0506.*`ggn`.*ask for it by a line `solve cg`"):
        cv.evaluate("ggn", some)
    asked = "evaluate ggn with tikhonov(damping = 1) on digits {\n  solve cg\n}"
    result = cv.evaluate(spec(asked), some)
    assert all(s.points[0].solve is not None for s in result.steps)
    assert all(s.forward is not None for s in result.steps)
    assert any("averaged over at most 20 gradients" in note for note in result.notes)
    structured = cv.evaluate("kfac", some, damping=(1.0,))
    assert structured.steps[-1].points[0].inverse is not None
    assert structured.steps[-1].forward_standard_error > 0
    monkeypatch.setattr(effort, "ESTIMATED", 1.0)
    structured = cv.evaluate("kfac", some, damping=(1.0,))
    hessian, _, _, kfac = structured.steps
    assert "not inverted" in hessian.points[0].note
    assert kfac.points[0].inverse is None
    assert hessian.forward == 0
    assert "the reference is known by products alone" in kfac.note
    assert f"{some.P} rows are not formed" in structured.steps[1].note
    assert "no reference: not inverted" in kfac.points[0].note
    monkeypatch.setattr(effort, "UNASKED", 1e13)
    for step in cv.evaluate("ggn", some, damping=(1.0,)).steps:
        assert step.points[0].solve is not None
        assert step.points[0].solve.residual <= 1e-6
