"""The evidence of Laplace's approximation against the integral of a Gaussian, and its derivatives."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import curvlang as cv
from tests.small import network, task

EXACT = 1e-10


def reference(t, matrix, delta, temperature=1.0, noise=1.0):
    """By the formula, from the dense matrix and a loop over the examples."""
    loss = 0.0
    for x, y in zip(*t.train, strict=True):
        f = t.model(x[None])[0]
        if t.loss.name == "mse":
            normal = torch.distributions.Normal(f, noise)
            loss -= normal.log_prob(y).sum()
        else:
            loss += torch.nn.functional.cross_entropy(
                f.reshape(-1, f.shape[-1]), y.reshape(-1), reduction="sum"
            )
    outputs = t.model(t.train[0][:1]).numel()
    scale = outputs / (2 * noise**2) if t.loss.name == "mse" else 1.0
    theta = torch.cat([p.detach().reshape(-1) for p in t.model.parameters()])
    P = len(theta)
    precision = t.N * scale / temperature * matrix + delta * torch.eye(P, dtype=torch.float64)
    prior = torch.distributions.MultivariateNormal(
        torch.zeros(P, dtype=torch.float64),
        precision_matrix=delta * torch.eye(P, dtype=torch.float64),
    )
    # log p(y|θ) + log p(θ) + log of the Gaussian integral around θ.
    return (
        -loss.detach() / temperature
        + prior.log_prob(theta)
        + P / 2 * math.log(2 * math.pi)
        - torch.linalg.slogdet(precision).logabsdet / 2
    )


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@pytest.mark.parametrize("spec", ["ggn", "block_ggn", "kfac", "ekfac", "diagonal", "identity"])
def test_the_evidence_is_the_gaussian_integral(spec, loss):
    t = task(network([3, 4, 2]), loss, n=7)
    op = cv.fit(spec, t)
    evidence = cv.Evidence(op, t)
    for words in ({}, {"temperature": 2.5}, {"noise": 0.3}, {"noise": 0.3, "temperature": 0.5}):
        if loss != "mse" and "noise" in words:
            continue
        for delta in (0.1, 4.0):
            wanted = float(reference(t, op.dense(), delta, **words))
            found = evidence(delta, **words)
            assert float(found) == pytest.approx(wanted, rel=EXACT)
            assert float(cv.log_marginal_likelihood(op, t, delta, **words)) == float(found)


def test_sequences_and_uneven_batches(monkeypatch):
    t = task(network([3, 4, 2], bias=False), "cross_entropy", n=7, positions=3)
    op = cv.fit("kfac", t)
    whole = float(cv.log_marginal_likelihood(op, t, 0.5))
    assert whole == pytest.approx(float(reference(t, op.dense(), 0.5)), rel=EXACT)
    monkeypatch.setattr("curvlang.applications.evidence.BATCH", 3)
    assert float(cv.log_marginal_likelihood(op, t, 0.5)) == pytest.approx(whole, rel=EXACT)


def test_in_linear_regression_it_is_the_density_of_the_targets():
    """A linear model under a Gaussian noise: Laplace's approximation is exact."""
    g = torch.Generator().manual_seed(0)
    X, y = (torch.randn(6, k, generator=g, dtype=torch.float64) for k in (3, 1))
    delta, noise = 0.7, 0.4
    model = nn.Linear(3, 1, bias=False).double()
    solved = torch.linalg.solve(
        X.T @ X / noise**2 + delta * torch.eye(3, dtype=torch.float64), X.T @ y / noise**2
    )
    model.weight.data = solved.T
    t = cv.Task(model, "mse", (X, y), (X, y))
    spread = X @ X.T / delta + noise**2 * torch.eye(6, dtype=torch.float64)
    wanted = torch.distributions.MultivariateNormal(
        torch.zeros(6, dtype=torch.float64), spread
    ).log_prob(y[:, 0])
    found = cv.log_marginal_likelihood(cv.fit("ggn", t), t, delta, noise=noise)
    assert float(found) == pytest.approx(float(wanted), rel=EXACT)


def test_gradients_flow_to_prior_temperature_and_noise():
    t = task(network([3, 4, 2]), "mse", n=7)
    evidence = cv.Evidence(cv.fit("ekfac", t), t)
    given = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (0.7, 1.3, 0.5)]
    call = lambda delta, heat, noise: evidence(delta, temperature=heat, noise=noise)  # noqa: E731
    assert torch.autograd.gradcheck(call, given)
    many = evidence(torch.tensor([0.1, 0.7, 2.0]))
    assert many.shape == (3,)
    assert float(many[1]) == pytest.approx(float(evidence(0.7)), rel=1e-6)
    assert evidence(torch.ones(2, 1), temperature=torch.ones(3)).shape == (2, 3)


def test_the_best_prior_precision_is_found_by_ascent():
    t = task(network([3, 4, 2]), "cross_entropy", n=9)
    evidence = cv.Evidence(cv.fit("ggn", t), t)
    log_delta = torch.zeros((), requires_grad=True)
    optimizer = torch.optim.Adam([log_delta], lr=0.1)
    for _ in range(150):
        optimizer.zero_grad()
        (-evidence(log_delta.exp())).backward()
        optimizer.step()
    grid = torch.logspace(-4, 4, 400)
    best = float(grid[evidence(grid).argmax()])
    assert float(log_delta.detach().exp()) == pytest.approx(best, rel=0.05)


def test_a_loss_of_one_s_own_is_read_as_it_is():
    """Its name does not make it a mean over outputs."""

    def mse(f, y):
        return (f - y).square().sum()

    t = task(network([3, 4, 2]), "mse", n=7)
    own = cv.Task(t.model, mse, train=t.train, query=t.query)
    op = cv.fit("ggn", own)
    with pytest.raises(cv.SpecError, match="E0924"):
        cv.log_marginal_likelihood(op, own, noise=0.1)
    theirs = cv.log_marginal_likelihood(cv.fit("ggn", t), t, 0.7, noise=math.sqrt(0.5))
    constant = 7 * 2 * math.log(math.sqrt(0.5) * math.sqrt(2 * math.pi))
    found = cv.log_marginal_likelihood(op, own, 0.7)
    assert float(found) - constant == pytest.approx(float(theirs), rel=EXACT)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_lower_precision(kind):
    t = task(network([3, 4, 2]), "cross_entropy", n=7)
    low = t.to(dtype=kind)
    exact = float(cv.log_marginal_likelihood(cv.fit("ekfac", t), t))
    found = cv.log_marginal_likelihood(cv.fit("ekfac", low), low)
    assert found.dtype == torch.float64
    assert float(found) == pytest.approx(exact, rel=1e-5 if kind == torch.float32 else 0.02)


def test_what_has_no_evidence_is_refused():
    t = task(network([3, 4, 2]), "cross_entropy")
    op = cv.fit("ggn", t)
    indefinite = -1.0 * op
    for act, code, repair in (
        (
            lambda: cv.log_marginal_likelihood(op, t.replaced(weight_decay=0.1)),
            "E0924",
            "prior_precision=0.7",
        ),
        (lambda: cv.log_marginal_likelihood(op, t, noise=0.1), "E0924", "temperature"),
        (lambda: cv.log_marginal_likelihood(indefinite, t, 1e-3), "E0924", "larger"),
        (
            lambda: cv.log_marginal_likelihood(op, task(network([3, 5, 2]), "cross_entropy")),
            "E0923",
            "architecture",
        ),
        (lambda: cv.log_marginal_likelihood(op, t, 0.0), "E0563", "prior_precision=1.0"),
        (
            lambda: cv.log_marginal_likelihood(op, t, torch.tensor([1.0, -1.0])),
            "E0563",
            "prior_precision",
        ),
        (lambda: cv.log_marginal_likelihood(op, t, torch.ones(0)), "E0563", "prior_precision"),
        (lambda: cv.log_marginal_likelihood(op, t, temperature=float("inf")), "E0563", "finite"),
        (lambda: cv.log_marginal_likelihood(op, t.model), "E0563", "cv.Task"),
        (lambda: cv.log_marginal_likelihood(op.operator, t), "E0563", "cv.fit"),
    ):
        with pytest.raises(cv.SpecError, match=code) as caught:
            act()
        assert repair in str(caught.value)


@pytest.fixture
def double():
    """laplace-torch holds its own numbers in torch's default precision."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("loss", "likelihood"), [("cross_entropy", "classification"), ("mse", "regression")]
)
@pytest.mark.parametrize("structure", ["full", "diag", "kron"])
def test_evidence_and_posterior_are_laplace_torch_s(structure, loss, likelihood, double):
    laplace = pytest.importorskip("laplace", reason="laplace-torch is not installed")
    from laplace.curvature import CurvlinopsGGN
    from torch.utils.data import DataLoader, TensorDataset

    t = task(network([3, 4, 3]), loss, n=9)
    theirs = laplace.Laplace(
        t.model,
        likelihood,
        subset_of_weights="all",
        hessian_structure=structure,
        backend=CurvlinopsGGN,
    )
    theirs.fit(DataLoader(TensorDataset(*t.train), batch_size=9))
    by_tensor = cv.loads(
        "curvature mine = hessian |> drop_residual |> block_diagonal(by = parameter) |> kronecker_factor"
    )
    op = cv.fit({"full": "ggn", "diag": "diagonal", "kron": by_tensor}[structure], t)
    evidence = cv.Evidence(op, t)
    for delta in (0.7, 3.0):
        wanted = theirs.log_marginal_likelihood(torch.tensor(delta, dtype=torch.float64))
        assert float(evidence(delta)) == pytest.approx(float(wanted), rel=1e-9)
    # Their mean loss of a regression is ½ of squares summed over 3 outputs, ours a mean of squares.
    scale = 1.0 if loss == "cross_entropy" else 3 / 2
    P = op.shape[0]
    precision = theirs.posterior_precision
    precision = {
        "full": lambda: precision,
        "diag": lambda: torch.diag(precision),
        "kron": lambda: precision.to_matrix(),
    }[structure]()
    count = t.N * scale
    ours = op.inverse(damping=3.0 / count).dense() / count
    assert torch.allclose(ours @ precision, torch.eye(P, dtype=torch.float64), atol=1e-9)
