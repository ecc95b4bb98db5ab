"""SOURCE as it ships, a formula, against the exact derivative, the influence function and matrix exponentials by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import curvlang as cv
from curvlang.attribution.curvature_free import check_baselines
from curvlang.attribution.metagradient import metagradient_scores
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.language import loads
from curvlang.models.origin import Origin
from curvlang.training.baseline import train_baseline
from curvlang.training.orders import Orders, learning_rate
from curvlang.training.subsets import derived_seed
from tests.small import gradients

EXACT = 1e-9


def regression(lr=0.1, epochs=20, count=12, **recipe):
    """Least squares in three parameters, by full batches: the Gauss–Newton matrix is constant."""
    g = torch.Generator().manual_seed(0)
    X = torch.randn(count + 4, 3, generator=g, dtype=torch.float64)
    y = X @ torch.randn(3, 1, generator=g, dtype=torch.float64)
    y = y + 0.5 * torch.randn(count + 4, 1, generator=g, dtype=torch.float64)

    def build(seed):
        model = nn.Linear(3, 1, bias=False).double()
        own = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            model.weight.copy_(torch.randn(1, 3, generator=own, dtype=torch.float64))
        return model

    given = {"schedule": "constant", "batch": count} | recipe
    return cv.Task(
        build(0), "mse", (X[:count], y[:count]), (X[count:], y[count:]),
        recipe=cv.Recipe(lr=lr, epochs=epochs, **given), build=build,
    )  # fmt: skip


def untrained(**recipe):
    """The same where it is trained before it is studied."""
    return network(**recipe).replaced(origin=Origin("initialised", trained=False))


def network(**recipe):
    """A small network for three classes, by minibatches."""
    g = torch.Generator().manual_seed(1)
    X = torch.randn(27, 4, generator=g, dtype=torch.float64)
    y = torch.randint(0, 3, (27,), generator=g)

    def build(seed):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3)).double()

    given = {"lr": 0.2, "batch": 7, "epochs": 5, "momentum": 0.6, "weight_decay": 0.02}
    return cv.Task(
        build(0), "cross_entropy", (X[:23], y[:23]), (X[23:], y[23:]),
        recipe=cv.Recipe(**given | recipe), build=build,
    )  # fmt: skip


def segmented(task, cuts=(1, 1)):
    """The trained task with its training in segments, each of some models."""
    along = cv.Trajectory(segments=cuts[0], per_segment=cuts[1])
    found = train_baseline(task, 0)
    return found.replaced(trajectory=along, origin=Origin("trained here", seed=0))


def scores(task, curvature="ggn", cuts=(1, 1)):
    given = segmented(task, cuts)
    op = cv.fit(curvature, given, progress=False)
    return cv.influence(op, given, score="source", progress=False)


def distance(found, wanted):
    return float((found - wanted).norm() / wanted.norm())


def test_small_steps_of_least_squares_approach_the_exact_derivative():
    """With a segment for each step all that is left is e^{−ηH} for I − ηH, half at half the rate."""
    errors = []
    for halvings in (1, 2, 4):
        task = regression(0.02 / halvings, 8 * halvings)
        exact = metagradient_scores(task, torch.arange(task.Q), 0)
        errors.append(distance(scores(task, cuts=(8 * halvings, 1)), exact))
    assert 0.002 < errors[0] < 0.03
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.05)
    assert errors[1] / errors[2] == pytest.approx(2, rel=0.05)


def test_more_segments_of_least_squares_are_nearer_to_the_exact_derivative():
    task = regression(0.005, 240)
    exact = metagradient_scores(task, torch.arange(task.Q), 0)
    errors = [distance(scores(task, cuts=cuts), exact) for cuts in ((1, 1), (4, 1), (16, 1))]
    assert errors[0] > 4 * errors[1] > 16 * errors[2]
    wrong = distance(scores(task, "identity", (16, 1)), exact)
    assert wrong > 5 * errors[2]


@pytest.mark.parametrize("recipe", [{}, {"momentum": 0.8, "lr": 0.02}, {"weight_decay": 0.05}])
def test_one_segment_to_convergence_is_the_influence_function(recipe):
    task = train_baseline(regression(epochs=700, **recipe), 0)
    influence = cv.influence(cv.fit("ggn", task), task, damping=0.0)
    assert distance(scores(task), influence) < EXACT
    short = regression(epochs=20, **recipe)
    assert distance(scores(short), influence) > 0.02


def test_one_short_step_is_the_dot_product_of_gradients():
    task = regression(lr=1e-9, epochs=1)
    start = task.with_model(task.build(0))
    dot = gradients(start, "query") @ gradients(start, "train").T
    assert distance(scores(task), 1e-9 * dot) < 1e-6


def plain_training(task):
    """Parameter vectors before every step and at the end, and learning rates: a loop of its own."""
    recipe = task.recipe
    model = task.build(0)
    own = list(model.parameters())
    speed = [torch.zeros_like(p) for p in own]
    orders = Orders(torch.arange(task.N)[None], [derived_seed(0, 3)], recipe.batch)
    total = orders.steps * recipe.epochs
    visited, lrs = [nn.utils.parameters_to_vector(own).detach().clone()], []
    for _ in range(recipe.epochs):
        for rows in orders.epoch()[:, 0]:
            loss = task.loss.per_example(model(task.train[0][rows]), task.train[1][rows]).mean()
            slopes = torch.autograd.grad(loss, own)
            lrs.append(learning_rate(recipe, len(lrs), total))
            with torch.no_grad():
                for k, p in enumerate(own):
                    speed[k] = recipe.momentum * speed[k] + slopes[k] + recipe.l2 * p
                    p -= lrs[-1] * speed[k]
            visited.append(nn.utils.parameters_to_vector(own).detach().clone())
    return visited, lrs


def slopes_at(task, theta, pair):
    """Gradients of losses, and the Gauss–Newton matrix of their mean, by automatic derivatives."""
    model = task.build(0)
    nn.utils.vector_to_parameters(theta, model.parameters())
    rows, matrix = [], torch.zeros(len(theta), len(theta), dtype=torch.float64)
    for x, y in zip(*pair, strict=True):
        f = model(x)
        columns = [torch.autograd.grad(f[c], list(model.parameters()), retain_graph=True) for c in range(3)]  # fmt: skip
        J = torch.stack([torch.cat([p.reshape(-1) for p in c]) for c in columns])
        p = f.detach().softmax(-1)
        rows.append(J.T @ (p - nn.functional.one_hot(y, 3)))
        matrix += J.T @ (p.diag() - torch.outer(p, p)) @ J / len(pair[0])
    return torch.stack(rows), matrix


def by_hand(task, mean_of, bounds, swap=False, still=False):
    """The formula with matrix exponentials; its integral from that of a block matrix.

    Args:
        mean_of: Steps that the models of each segment stand before.
        bounds: First steps of the segments, and the number of all.
        swap: Whether the segments' propagations change places (wrong).
        still: Whether nothing is propagated (wrong).
    """
    visited, lrs = plain_training(task)
    ask = slopes_at(task, visited[-1], task.query)[0]
    eye = torch.eye(task.P, dtype=torch.float64)
    total, behind = torch.zeros(task.Q, task.N, dtype=torch.float64), eye
    for numbers, start, stop in reversed(list(zip(mean_of, bounds, bounds[1:], strict=False))):
        found = [slopes_at(task, visited[k], task.train) for k in numbers]
        g = torch.stack([f[0] for f in found]).mean(0)
        H = torch.stack([f[1] for f in found]).mean(0) + task.weight_decay * eye
        time = sum(lrs[start:stop]) / (1 - task.recipe.momentum)
        block = torch.zeros(2 * task.P, 2 * task.P, dtype=torch.float64)
        block[: task.P] = torch.cat([-time * H, time * eye], dim=1)
        S = torch.linalg.matrix_exp(block)[: task.P, task.P :]
        total += ask @ behind @ S @ g.T
        own = torch.linalg.matrix_exp(-time * H)
        behind = eye if still else own @ behind if swap else behind @ own
    return total


def test_it_is_the_formula_with_matrix_exponentials():
    task = network()  # 15 steps: three segments of five, each with models before its steps 1 and 3
    mean_of, bounds = [(1, 3), (6, 8), (11, 13)], (0, 5, 10, 15)
    found = scores(task, cuts=(3, 2))
    assert distance(found, by_hand(task, mean_of, bounds)) < EXACT
    # Its negative twins: what is wrong is told apart.
    assert distance(found, by_hand(task, mean_of, bounds, swap=True)) > 1e-4
    assert distance(found, by_hand(task, mean_of, bounds, still=True)) > 0.05
    assert distance(found, by_hand(task, mean_of[::-1], bounds)) > 0.05


def test_some_parameters_alone():
    """What is constant in the analysis moves with the training all the same."""
    task = network()
    given = segmented(task, (3, 2))
    few = given.restricted(["2.weight"])
    visited, lrs = plain_training(task)
    own = slice(task.P - 12, task.P - 3)
    ask = slopes_at(task, visited[-1], task.query)[0][:, own]
    wanted, behind = 0, torch.eye(9, dtype=torch.float64)
    for numbers, start in (((11, 13), 10), ((6, 8), 5), ((1, 3), 0)):
        found = [slopes_at(task, visited[k], task.train) for k in numbers]
        g = torch.stack([f[0] for f in found]).mean(0)[:, own]
        H = torch.stack([f[1] for f in found]).mean(0)[own, own] + task.weight_decay * torch.eye(9)
        time = sum(lrs[start : start + 5]) / (1 - task.recipe.momentum)
        propagated = torch.linalg.matrix_exp(-time * H)
        wanted = wanted + ask @ behind @ torch.linalg.solve(H, torch.eye(9) - propagated) @ g.T
        behind = behind @ propagated
    found = cv.influence(cv.fit("ggn", few, progress=False), few, score="source", progress=False)
    assert distance(found, wanted) < EXACT


def test_one_example_and_one_step():
    task = regression(epochs=1, count=1)
    assert scores(task).shape == (task.Q, 1)
    assert bool(torch.isfinite(scores(task)).all())


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        (cv.Recipe(optimiser="adam", lr=0.01), "not plain SGD"),
        (cv.Recipe(momentum=0.9, nesterov=True), "not plain SGD"),
        (cv.Recipe(clip=1.0), "not plain SGD"),
        (cv.Recipe(batch=23, epochs=5), "ends after 5 steps, and 3 × 2 models were asked for"),
    ],
)
def test_trainings_that_are_refused(recipe, said):
    task = network()
    task.recipe = replace(recipe, weight_decay=0.02)
    with pytest.raises(SpecError) as caught:
        scores(task, cuts=(3, 2))
    assert caught.value.diagnostics[0].code in ("E0509", "E0428")
    assert said in str(caught.value)


@pytest.mark.parametrize("name", ["source of ggn", "metagradient"])
def test_they_are_refused_before_anything_is_trained(name):
    text = f"study s {{ task digits(epochs = 1) curvatures ggn baselines gradient_cosine, {name} }}"
    parts = loads(text).studies["s"].baselines
    along = cv.Trajectory(segments=3, per_segment=2)
    check_baselines(parts, untrained().replaced(trajectory=along))
    adam = untrained().replaced(trajectory=along)
    adam.recipe = cv.Recipe(optimiser="adam")
    with pytest.raises(SpecError, match="E0509"):
        check_baselines(parts, adam)
    with pytest.raises(SpecError, match="E0509") as caught:
        check_baselines(parts, network().replaced(trajectory=along))
    assert caught.value.diagnostics[0].labels
    assert "`weights`" not in str(caught.value)
    assert "train=True" in str(caught.value)
    check_baselines(parts[:1], network())
    if name.startswith("source"):
        with pytest.raises(SpecError, match="E0428"):
            check_baselines(parts, untrained(batch=23).replaced(trajectory=along))
        with pytest.raises(SpecError, match="E0428"):
            check_baselines(parts, untrained())


def test_what_a_model_from_elsewhere_would_be_trained_by_is_said(tmp_path):
    """The repair names the line that brought the parameters; a model that is trained is taken."""
    parts = loads("study s { task digits curvatures ggn baselines metagradient }").studies["s"]
    small = "random(examples = 9, inputs = 3, outputs = 3)"
    spec = f"task own {{ data {small} model mlp(hidden = [2]WEIGHTS) loss cross_entropy train sgd(epochs = 1) }}\nevaluate kfac on own"
    own = cv.task(loads(spec.replace("WEIGHTS", "")).evaluations[0].task, train=True)
    check_baselines(parts.baselines, own)
    save_file(own.model.state_dict(), tmp_path / "w.safetensors")
    text = spec.replace("WEIGHTS", f', weights = "{tmp_path / "w.safetensors"}"')
    given = cv.task(loads(text).evaluations[0].task)
    with pytest.raises(SpecError, match="E0509") as caught:
        check_baselines(parts.baselines, given)
    assert "leave out `weights`" in str(caught.value)


def test_a_curvature_whose_spectrum_grows_without_bound_is_refused():
    steep = loads("curvature steep = ggn - 1e4 * identity")
    with pytest.raises(SpecError, match="E0322"):
        scores(network(), steep)
