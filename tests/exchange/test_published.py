"""TracIn, TRAK and DataInf as others publish them: equal to ours where they compute what they say, and by how much not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from dattri.algorithm import tracin, trak
from dattri.algorithm.influence_function import IFAttributorDataInf
from dattri.task import AttributionTask
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import curvlang as cv

N, Q, WIDTH = 24, 5, 6
RATES = (0.1, 0.05)
SINGLE = 2e-6
"""Both sides compute in float32."""


def model(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 3, bias=False), nn.Tanh(), nn.Linear(3, 3, bias=False)).eval()


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(N + Q, 4, generator=generator)
    y = torch.randint(0, 3, (N + Q,), generator=generator)
    return (X[Q:], y[Q:]), (X[:Q], y[:Q])


@pytest.fixture(scope="module")
def states():
    return [model(0).state_dict(), model(1).state_dict()]


@pytest.fixture(scope="module")
def ours(data, states):
    along = cv.Trajectory(files=states, rates=RATES)
    return cv.Task(model(1), "cross_entropy", train=data[0], query=data[1], trajectory=along)


def loaders(data, batch=10):
    return [DataLoader(TensorDataset(*part), batch_size=batch) for part in data]


SHAPE = model(0)


def loss(params, pair):
    x, y = pair
    return cross_entropy(functional_call(SHAPE, params, (x.reshape(-1, 4),)), y.reshape(-1))


def margin(params, pair):
    log_p = -loss(params, pair)
    return log_p - torch.log1p(-log_p.exp())


def probability(params, pair):
    return (-loss(params, pair)).exp()


def gap(found, wanted):
    return float((found.double() - wanted.double()).abs().max() / wanted.abs().max())


@pytest.fixture(autouse=True)
def own_defaults(monkeypatch):
    """Each attributor writes its arguments into one dictionary of the module."""
    for module in (tracin, trak):
        monkeypatch.setattr(
            module, "DEFAULT_PROJECTOR_KWARGS", dict(module.DEFAULT_PROJECTOR_KWARGS)
        )


def test_tracin_of_dattri_is_ours_once_it_does_not_project(data, states, ours):
    op = cv.fit("identity", ours, progress=False)
    wanted = cv.influence(op, ours, score="tracin")
    theirs = tracin.TracInAttributor(
        AttributionTask(loss, model(1), states), torch.tensor(RATES), False, projector_kwargs=None
    )
    projected = theirs.attribute(*loaders(data)).T
    assert theirs.projector_kwargs["proj_dim"] == 512
    assert gap(projected, wanted) > 0.01
    theirs.projector_kwargs = None
    assert gap(theirs.attribute(*loaders(data)).T, wanted) < SINGLE


def projection(count):
    return torch.from_numpy(np.random.default_rng(0).standard_normal((count, WIDTH))).float()


def test_trak_of_dattri_is_ours_with_one_matrix(data, states, ours, monkeypatch):
    R = projection(ours.P)
    monkeypatch.setattr(
        trak, "random_project", lambda rows, count, **given: lambda x, ensemble_id: x @ R
    )
    theirs = trak.TRAKAttributor(AttributionTask(margin, model(1), states[1:]), probability)
    train, query = loaders(data)
    theirs.cache(train)
    op = cv.fit("identity", ours, progress=False)
    wanted = cv.influence(op, ours, score=f"trak(dimension = {WIDTH})")
    assert gap(theirs.attribute(query).T, wanted) < 1e-4


def test_trak_of_its_authors_is_ours_but_for_a_number(data, ours, tmp_path):
    package = pytest.importorskip("trak", reason="`pip install --no-deps traker`")
    projectors = pytest.importorskip("trak.projectors")
    vectorize = pytest.importorskip("trak.utils").vectorize
    R = projection(ours.P)

    class Same(projectors.AbstractProjector):
        """Our random matrix."""

        def __init__(self):
            super().__init__(ours.P, WIDTH, 0, "normal", "cpu")

        def project(self, grads, model_id):
            return vectorize(grads, device="cpu") @ R if isinstance(grads, dict) else grads @ R

    own = model(1)
    theirs = package.TRAKer(
        model=own, task="image_classification", train_set_size=N, save_dir=tmp_path, device="cpu",
        projector=Same(), proj_dim=WIDTH, use_half_precision=False,
    )  # fmt: skip
    theirs.load_checkpoint(own.state_dict(), model_id=0)
    theirs.featurize(batch=data[0], num_samples=N)
    theirs.finalize_features()
    theirs.start_scoring_checkpoint("q", own.state_dict(), model_id=0, num_targets=Q)
    theirs.score(batch=data[1], num_samples=Q)
    found = torch.from_numpy(np.array(theirs.finalize_scores(exp_name="q"))).T.double()
    op = cv.fit("identity", ours, progress=False)
    wanted = cv.influence(op, ours, score=f"trak(dimension = {WIDTH})").double()
    grads = torch.func.vmap(torch.func.grad(margin), (None, 0))(
        dict(own.named_parameters()), data[0]
    )
    rows = torch.cat([x.flatten(1) for x in grads.values()], 1).double() @ R.double() / ours.P**0.5
    number = float(torch.linalg.inv(rows.T @ rows).abs().mean().detach())
    assert gap(found * number, wanted) < 1e-3
    assert gap(found, wanted) > 0.1


def test_datainf_of_dattri_is_ours(data, states, ours):
    spec = cv.loads(
        "curvature c = hessian |> drop_residual(fisher = empirical) |> block_diagonal(by = layer)"
    )
    op = cv.fit(spec, ours, progress=False)
    wanted = cv.influence(op, ours, inverse="datainf(damping = 0.1)")

    theirs = IFAttributorDataInf(AttributionTask(loss, model(1), states[1:]), regularization=0.1)
    train, query = loaders(data)
    theirs.cache(train)
    assert gap(theirs.attribute(train, query).T, wanted) < SINGLE
