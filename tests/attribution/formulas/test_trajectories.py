"""Scores along a training and over several models are sums of plain loops of autograd and torch.optim."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import curvlang as cv
from curvlang.diagnostics.codes import Code
from curvlang.ir.interpreter import seeded_normal
from curvlang.language import check_text, loads
from curvlang.runtime import fit as fit_module
from curvlang.testing.score_comparison import gradients_one_by_one
from curvlang.training.orders import Orders, learning_rate
from curvlang.training.subsets import derived_seed
from tests.attribution.formulas.formulas import assert_close, formula
from tests.models.support import assert_refused

TRACIN = "yield s[q,n] = sum[h,p] rate[h] * u[h,q,p] * v[h,n,p]"
ALONG = "u[h,q,p], v[h,n,p], rate[h]"
OPTIMISERS = {
    "sgd": {"lr": 0.1},
    "momentum": {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    "adam": {"optimiser": "adam", "lr": 0.01, "weight_decay": 0.01, "clip": 0.5},
    "adamw": {"optimiser": "adamw", "lr": 0.01, "weight_decay": 0.1, "warmup": 2},
}


def build(seed):
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64) * 0.5)
    return model


def made(recipe=None, trajectory=None, n=11, trained=True):
    g = torch.Generator().manual_seed(0)
    X = torch.randn(n, 3, generator=g, dtype=torch.float64)
    y = torch.randint(0, 2, (n,), generator=g)
    recipe = recipe or cv.Recipe(lr=0.1, batch=4, epochs=3)
    task = cv.Task(
        build(0),
        "cross_entropy",
        (X, y),
        (X[:3], y[:3]),
        recipe=recipe,
        build=build,
        trajectory=trajectory,
    )
    if trained:
        model = trajectory_by_loop(task, 0)[-1][0]
        task = task.with_model(model, cv.Task(model, "cross_entropy", (X, y), (X, y)).origin)
        task = task.replaced(origin=type(task.origin)("trained here", seed=0))
    return task


def trajectory_by_loop(task, seed):
    """Every model of a training with its learning rate, Adam's running means and its state, by `torch.optim`."""
    recipe, model = task.recipe, build(seed)
    parameters = list(model.parameters())
    betas = {"betas": (recipe.beta1, recipe.beta2), "eps": recipe.eps}
    decay = {"weight_decay": recipe.weight_decay}
    optimiser = {
        "sgd": lambda: torch.optim.SGD(
            parameters, 1.0, recipe.momentum, nesterov=recipe.nesterov, **decay
        ),
        "adam": lambda: torch.optim.Adam(parameters, 1.0, **betas, **decay),
        "adamw": lambda: torch.optim.AdamW(parameters, 1.0, **betas, **decay),
    }[recipe.optimiser]()
    orders = Orders(torch.arange(task.N)[None], [derived_seed(seed, 3)], recipe.batch)
    total, found = orders.steps * recipe.epochs, []
    for step in range(total):
        if step % orders.steps == 0:
            drawn = orders.epoch()
        lr = optimiser.param_groups[0]["lr"] = learning_rate(recipe, step, total)
        rows = drawn[step % orders.steps][0]
        optimiser.zero_grad()
        X, y = task.train
        nn.functional.cross_entropy(model(X[rows]), y[rows]).backward()
        if recipe.clip:
            nn.utils.clip_grad_norm_(parameters, recipe.clip)
        optimiser.step()
        copy = build(seed)
        copy.load_state_dict(model.state_dict())
        kept = [
            [optimiser.state[p].get(name) for p in parameters] for name in ("exp_avg", "exp_avg_sq")
        ]
        moments = [
            None if x[0] is None else torch.cat([m.reshape(-1).clone() for m in x]) for x in kept
        ]
        found.append((copy, lr, moments, deepcopy(optimiser.state_dict())))
    return found


def rows_at(task, model):
    other = task.with_model(model)
    return gradients_one_by_one(other, "query"), gradients_one_by_one(other, "train")


def tracin(task, points):
    total = 0
    for model, lr, *_ in points:
        u, v = rows_at(task, model)
        total = total + lr * u @ v.T
    return total


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("every", [{"epochs": 1}, {"steps": 3}])
def test_tracin_is_the_sum_over_the_models_of_a_plain_loop(optimiser, every):
    recipe = cv.Recipe(batch=4, epochs=3, **OPTIMISERS[optimiser])
    given = made(recipe, cv.Trajectory(**every))
    op = cv.fit("identity", given, progress=False)
    step = every.get("steps", 2 * every.get("epochs", 0))
    points = trajectory_by_loop(given, 0)[step - 1 :: step]
    wanted = tracin(given, points)
    found = cv.influence(op, given, score="tracin", progress=False)
    assert_close(found, wanted)
    rows = formula(
        "w[h,n,p] = v[h,n,p] + 0 * abs(v[h,n,p])\n"
        "yield s[q,n] = sum[h] rate[h] * (sum[p] u[h,q,p] * w[h,n,p])",
        ALONG,
    )
    assert_close(cv.influence(op, given, score=rows, progress=False), wanted)


def test_norms_and_the_evaluated_model_mix_with_checkpoints():
    given = made(trajectory=cv.Trajectory(epochs=1))
    op = cv.fit("identity", given, progress=False)
    points = trajectory_by_loop(given, 0)[1::2]
    u, _ = rows_at(given, given.model)
    both = [rows_at(given, model) for model, *_ in points]
    body = (
        "a[h,n] = sum[p] v[h,n,p]^2\n"
        "yield s[q,n] = (mean[h] (sum[p] u[q,p] * v[h,n,p]) / sqrt(a[h,n])) * size[h]"
    )
    wanted = sum(u @ v.T / v.norm(dim=1) for _, v in both)
    found = formula(body, "u[q,p], v[h,n,p]")
    assert_close(cv.influence(op, given, score=found, progress=False), wanted)
    cosine = (
        "a[q] = sum[h,p] u[h,q,p]^2\nb[n] = sum[h,p] v[h,n,p]^2\n"
        "yield s[q,n] = (sum[h,p] u[h,q,p] * v[h,n,p]) / sqrt(a[q]) / sqrt(b[n])"
    )
    U, V = (torch.cat([x[k] for x in both], 1) for k in (0, 1))
    wanted = U @ V.T / U.norm(dim=1)[:, None] / V.norm(dim=1)
    found = formula(cosine, "u[h,q,p], v[h,n,p]")
    assert_close(cv.influence(op, given, score=found, progress=False), wanted)


def test_the_evaluated_model_may_be_solved_beside_checkpoints():
    given = made(trajectory=cv.Trajectory(epochs=1))
    op = cv.fit("ekfac", given, progress=False)
    dense = op.inverse(0.1).dense()
    points = trajectory_by_loop(given, 0)[1::2]
    u, _ = rows_at(given, given.model)
    wanted = sum((u @ dense) @ rows_at(given, model)[1].T for model, *_ in points)
    found = formula(
        "x[q,p] = solve(u)\nyield s[q,n] = sum[h,p] x[q,p] * v[h,n,p]", "u[q,p], v[h,n,p]"
    )
    assert_close(cv.influence(op, given, score=found, damping=0.1, progress=False), wanted)


def test_models_from_other_seeds_are_averaged():
    given = made(trajectory=cv.Trajectory(epochs=1, models=3))
    op = cv.fit("identity", given, progress=False)
    seeds = [0, *(derived_seed(0, 10, k) for k in (1, 2))]
    ends = [trajectory_by_loop(given, seed)[-1][0] for seed in seeds]
    wanted = sum(u @ v.T for u, v in (rows_at(given, x) for x in ends)) / 3
    found = formula("yield s[q,n] = mean[e] sum[p] u[e,q,p] * v[e,n,p]", "u[e,q,p], v[e,n,p]")
    assert_close(cv.influence(op, given, score=found, progress=False), wanted, 1e-7)
    along = [trajectory_by_loop(given, seed)[1::2] for seed in seeds]
    wanted = sum(tracin(given, points) for points in along) / 3
    found = formula(
        "yield s[q,n] = mean[e] sum[h,p] rate[h] * u[e,h,q,p] * v[e,h,n,p]",
        "u[e,h,q,p], v[e,h,n,p], rate[h]",
    )
    assert_close(cv.influence(op, given, score=found, progress=False), wanted)


def test_checkpoints_may_be_files_or_tensors(tmp_path):
    plain = made()
    points = trajectory_by_loop(plain, 0)[::2]
    states = [model.state_dict() for model, *_ in points]
    paths = []
    for k, state in enumerate(states):
        paths.append(tmp_path / f"{k}.safetensors")
        save_file(state, paths[-1])
    rates = tuple(lr for _, lr, *_ in points)
    for files in (states, paths):
        given = plain.replaced(trajectory=cv.Trajectory(files=files, rates=rates))
        op = cv.fit("identity", given, progress=False)
        assert_close(cv.influence(op, given, score="tracin", progress=False), tracin(plain, points))


SPEC = """task short {
  data        random(examples = 9, inputs = 3, outputs = 2, seed = 0)
  model       mlp(hidden = [4])
  loss        mse
  train       sgd(lr = 0.1, batch = 3, epochs = 4, schedule = constant)
  checkpoints every(epochs = 2)
  models      trained(count = 2)
}
curvature mine = identity
evaluate tracin of mine on short
"""


def test_a_task_of_a_spec_states_its_checkpoints():
    spec = loads(SPEC)
    task = cv.task(spec.evaluations[0].task, train=True)
    assert task.trajectory == cv.Trajectory(epochs=2, models=2)
    assert task.to(dtype=torch.float64).trajectory == task.trajectory
    wide = task.to(dtype=torch.float64)
    op = cv.fit(spec, wide, progress=False)
    scores = cv.influence(op, wide, progress=False)
    assert scores.shape == (wide.Q, wide.N)
    report = cv.evaluate(spec, task, protocol=cv.LDS(subsets=3, retrains=1), progress=False)
    assert "tracin" in str(report)


def test_the_evaluation_is_refused_before_anything_is_trained():
    text = SPEC.replace("  checkpoints every(epochs = 2)\n", "")
    spec = loads(text)
    task = cv.task(spec.evaluations[0].task)
    assert_refused(Code.E0428, lambda: cv.evaluate(spec, task, progress=False), "checkpoints every")
    assert_refused(Code.E0428, lambda: cv.score_request(spec, task))


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"trajectory": None}, Code.E0428),
        ({"trajectory": cv.Trajectory(models=2)}, Code.E0428),
        ({"trajectory": cv.Trajectory(epochs=4)}, Code.E0428),
        ({"recipe": None}, Code.E0503),
        ({"build": None}, Code.E0503),
    ],
)
def test_what_a_task_does_not_have_is_refused(change, code):
    given = made(trajectory=cv.Trajectory(epochs=1)).replaced(**change)
    op = cv.fit("identity", given, progress=False)
    assert_refused(code, lambda: cv.influence(op, given, score="tracin", progress=False))


def test_a_model_that_was_trained_elsewhere_has_no_known_checkpoints():
    given = made(trajectory=cv.Trajectory(epochs=1))
    given = given.replaced(origin=type(given.origin)("read from a file"))
    op = cv.fit("identity", given, progress=False)
    assert_refused(Code.E0509, lambda: cv.influence(op, given, score="tracin", progress=False))


BY_POINT = {
    "products": "sum[{i},p] u[{i},q,p] * z[{i},n,p]",
    "rows": "sum[{i},p] (u[{i},q,p] + 0 * abs(u[{i},q,p])) * z[{i},n,p]",
    "norms": "sum[{i}] (sum[p] u[{i},q,p] * z[{i},n,p]) / sqrt(sum[p] v[{i},n,p] * z[{i},n,p])",
}


@pytest.mark.parametrize("form", BY_POINT)
@pytest.mark.parametrize("curvature", ["ekfac", "ggn"])
def test_rows_of_a_checkpoint_are_solved_by_the_curvature_there(form, curvature):
    """C at every checkpoint is that of a task about its model; C of the evaluated model gives other scores."""
    given = made(trajectory=cv.Trajectory(epochs=1))
    op = cv.fit(curvature, given, progress=False)
    body = "z[h,n,p] = solve(v)\nyield s[q,n] = " + BY_POINT[form].format(i="h")
    found = formula(body, "u[h,q,p], v[h,n,p]")
    models = [model for model, *_ in trajectory_by_loop(given, 0)[1::2]]
    wanted = solved_at(given, curvature, models, form == "norms")
    scores = cv.influence(op, given, score=found, damping=0.1, progress=False)
    assert_close(scores, wanted)
    one = op.inverse(0.1).dense()
    other = sum(u @ one @ v.T for u, v in (rows_at(given, model) for model in models))
    assert (scores - other).abs().max() > 1e-3 * other.abs().max()


def solved_at(task, curvature, models, norms=False, damping=0.1):
    """The sum over models of u C⁻¹ v, C fitted at each; by vᵀC⁻¹v where asked for."""
    total = 0
    for model in models:
        inverse = cv.fit(curvature, task.with_model(model), progress=False).inverse(damping).dense()
        u, v = rows_at(task, model)
        own = torch.einsum("np,pr,nr->n", v, inverse, v).sqrt() if norms else 1
        total = total + u @ inverse @ v.T / own
    return total


def test_influence_is_averaged_over_models_each_with_its_curvature():
    given = made(trajectory=cv.Trajectory(epochs=1, models=3))
    op = cv.fit("ekfac", given, progress=False)
    seeds = [0, *(derived_seed(0, 10, k) for k in (1, 2))]
    ends = [trajectory_by_loop(given, seed)[-1][0] for seed in seeds]
    wanted = solved_at(given, "ekfac", ends) / 3
    found = formula(
        "z[e,n,p] = solve(v)\nyield s[q,n] = mean[e] sum[p] u[e,q,p] * z[e,n,p]",
        "u[e,q,p], v[e,n,p]",
    )
    scores = cv.influence(op, given, score=found, damping=0.1, progress=False)
    assert_close(scores, wanted, 1e-6)
    along = [model for seed in seeds for model, *_ in trajectory_by_loop(given, seed)[1::2]]
    wanted = solved_at(given, "ekfac", along) / 3
    found = formula(
        "z[e,h,n,p] = solve(v)\nyield s[q,n] = mean[e] sum[h,p] u[e,h,q,p] * z[e,h,n,p]",
        "u[e,h,q,p], v[e,h,n,p]",
    )
    assert_close(cv.influence(op, given, score=found, damping=0.1, progress=False), wanted)


def test_an_evaluation_solves_at_every_checkpoint_under_every_inverse():
    """Every step of a path, at every λ: the scores are those that the curvature alone gives."""
    spec = loads(
        "score along { needs u[h,q,p], v[h,n,p] z[h,n,p] = solve(v)"
        " yield s[q,n] = sum[h,p] u[h,q,p] * z[h,n,p] }\n"
        "curvature mine = kfac |> eigen_correct\nevaluate along of mine"
    )
    given = made(trajectory=cv.Trajectory(epochs=1))
    report = cv.evaluate(spec, given, damping=[0.1, 1.0], progress=False)
    models = [model for model, *_ in trajectory_by_loop(given, 0)[1::2]]
    for label, curvature in (("mine", "ekfac"), ("kfac", "kfac"), ("ggn", "ggn")):
        wanted = solved_at(given, curvature, models)
        assert_close(torch.from_numpy(report.run.step_scores[label]), wanted)


def test_an_operator_that_does_not_say_what_fitted_it_is_refused(tmp_path):
    given = made(trajectory=cv.Trajectory(epochs=1))
    op = cv.fit("ekfac", given, progress=False)
    op.save(tmp_path / "op.safetensors")
    read = cv.load_operator(tmp_path / "op.safetensors")
    found = formula(
        "z[h,n,p] = solve(v)\nyield s[q,n] = sum[h,p] u[h,q,p] * z[h,n,p]", "u[h,q,p], v[h,n,p]"
    )
    for other in (read, op.operator):
        assert_refused(
            Code.E0434,
            lambda other=other: cv.influence(
                other, given, score=found, damping=0.1, progress=False
            ),
        )


def test_a_store_keeps_the_curvature_of_every_checkpoint(tmp_path, monkeypatch):
    given = made(trajectory=cv.Trajectory(epochs=1))
    found = formula(
        "z[h,n,p] = solve(v)\nyield s[q,n] = sum[h,p] u[h,q,p] * z[h,n,p]", "u[h,q,p], v[h,n,p]"
    )
    wanted = cv.influence(
        cv.fit("ekfac", given, progress=False), given, score=found, damping=0.1, progress=False
    )
    op = cv.fit("ekfac", given, store=tmp_path / "store", progress=False)
    first = cv.influence(op, given, score=found, damping=0.1, progress=False)
    monkeypatch.setattr(fit_module, "_run", None)
    again = cv.influence(op, given, score=found, damping=0.1, progress=False)
    assert torch.equal(first, again)
    assert_close(again, wanted)


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"epochs": 1, "steps": 1}, Code.E0432),
        ({"files": ["a"], "rates": (1.0, 2.0)}, Code.E0432),
        ({"epochs": -1}, Code.E0563),
        ({"models": 0}, Code.E0563),
    ],
)
def test_a_trajectory_that_says_nothing_clear_is_refused(options, code):
    assert_refused(code, lambda: cv.Trajectory(**options))


@pytest.mark.parametrize(
    "line",
    ["checkpoints every()", "checkpoints every(epochs = 1, steps = 2)"],
)
def test_a_line_that_says_nothing_clear_is_refused(line):
    spec = loads(SPEC.replace("checkpoints every(epochs = 2)", line))
    assert_refused(Code.E0432, lambda: cv.task(spec.evaluations[0].task))


@pytest.mark.parametrize("needs", ["u[q,h,p]", "v[h,e,n,p]", "u[h,h,q,p]", "rate", "rate[h,e]"])
def test_models_and_checkpoints_stand_in_front(needs):
    text = f"score mine {{\n  needs v[n,p], {needs}\n  yield s[n] = sum[p] v[n,p]^2\n}}"
    assert Code.E0353 in [d.code for d in check_text(text)]


def doubts(task, model, part):
    X, y = task.part(part)
    with torch.no_grad():
        return 1 - torch.softmax(model(X), 1)[torch.arange(len(y)), y]


@pytest.mark.parametrize("models", [1, 2])
def test_trak_is_what_its_paper_says(models):
    given = made(trajectory=cv.Trajectory(models=models) if models > 1 else None, n=23)
    op = cv.fit("identity", given, progress=False)
    R = torch.from_numpy(seeded_normal((given.P, 4), 3))
    seeds = [0, derived_seed(0, 10, 1)][:models]
    ends = [trajectory_by_loop(given, seed)[-1][0] for seed in seeds]
    kernel = weight = 0
    for model in ends:
        u, v = rows_at(given, model)
        asked, phi = (
            x @ R / doubts(given, model, part)[:, None] for x, part in ((u, "query"), (v, "train"))
        )
        kernel = kernel + asked @ torch.linalg.inv(phi.T @ phi) @ phi.T / models
        weight = weight + doubts(given, model, "train") / models
    found = cv.influence(op, given, score="trak(dimension = 4, seed = 3)", progress=False)
    assert_close(found, kernel * weight, 1e-7)


def test_trak_with_more_dimensions_than_examples_is_refused():
    """The second moments of N rows have no inverse in more than N dimensions."""
    given = made(n=9)
    op = cv.fit("identity", given, progress=False)
    score = "trak(dimension = 12)"
    assert_refused(Code.E0344, lambda: cv.influence(op, given, score=score, progress=False))


@pytest.mark.parametrize("where", ["trained", "files"])
def test_less_is_what_its_paper_says(where):
    recipe = cv.Recipe(optimiser="adam", lr=0.01, batch=4, epochs=3)
    given = made(recipe, cv.Trajectory(epochs=1))
    points = trajectory_by_loop(given, 0)[1::2]
    if where == "files":
        states = [x[3] for x in points]
        rates = tuple(x[1] for x in points)
        files = [x[0].state_dict() for x in points]
        given = given.replaced(
            trajectory=cv.Trajectory(files=files, rates=rates, states=states), recipe=None
        )
    wanted = 0
    for model, lr, (first, second), _ in points:
        u, v = rows_at(given, model)
        step = (0.9 * first + 0.1 * v) / (0.999 * second + 0.001 * v.square() + 1e-8).sqrt()
        wanted = wanted + lr * u @ step.T / u.norm(dim=1)[:, None] / step.norm(dim=1)
    op = cv.fit("identity", given, progress=False)
    assert_close(cv.influence(op, given, score="less", progress=False), wanted)


def test_running_means_of_the_evaluated_model_are_those_of_the_last_step():
    recipe = cv.Recipe(optimiser="adamw", lr=0.01, batch=4, epochs=2)
    given = made(recipe, cv.Trajectory(models=2))
    op = cv.fit("identity", given, progress=False)
    _, _, (_, second), _ = trajectory_by_loop(given, 0)[-1]
    u, v = rows_at(given, given.model)
    found = formula(
        "yield s[q,n] = sum[p] u[q,p] * v[n,p] / (sqrt(second[p]) + 1e-3)",
        "u[q,p], v[n,p], second[p]",
    )
    wanted = (u / (second.sqrt() + 1e-3)) @ v.T
    assert_close(cv.influence(op, given, score=found, progress=False), wanted)
    both = [
        (*rows_at(given, model), moments[1])
        for model, _, moments, _ in (
            trajectory_by_loop(given, seed)[-1] for seed in (0, derived_seed(0, 10, 1))
        )
    ]
    wanted = sum((u / (w.sqrt() + 1e-3)) @ v.T for u, v, w in both) / 2
    found = formula(
        "yield s[q,n] = mean[e] sum[p] u[e,q,p] * v[e,n,p] / (sqrt(second[e,p]) + 1e-3)",
        "u[e,q,p], v[e,n,p], second[e,p]",
    )
    assert_close(cv.influence(op, given, score=found, progress=False), wanted, 1e-7)


def test_what_the_optimiser_or_the_loss_does_not_have_is_refused():
    given = made(trajectory=cv.Trajectory(epochs=1))
    op = cv.fit("identity", given, progress=False)
    assert_refused(Code.E0436, lambda: cv.influence(op, given, score="less", progress=False))
    X, y = given.train
    other = given.replaced(
        loss="mse", train=(X, torch.zeros(len(y), 2).double()), query=(X, X[:, :2])
    )
    op = cv.fit("identity", other, progress=False)
    assert_refused(Code.E0508, lambda: cv.influence(op, other, score="trak", progress=False))
    state = torch.optim.SGD(given.model.parameters(), 0.1).state_dict()
    kept = cv.Trajectory(files=[given.model.state_dict()], states=[state])
    other = given.replaced(trajectory=kept)
    assert_refused(Code.E0432, lambda: cv.influence(op, other, score="less", progress=False))


def test_functions_of_matrices_are_taken_at_each_model():
    given = made(trajectory=cv.Trajectory(epochs=1))
    op = cv.fit("identity", given, progress=False)
    body = (
        "space k = 3\nR[p,k] = random_normal[p,k](1)\n"
        "g[h,n,k] = sum[p] R[p,k] * v[h,n,p]\nf[h,q,k] = sum[p] R[p,k] * u[h,q,p]\n"
        "K[h,k,k'] = sum[n] g[h,n,k] * g[h,n,k']\nV[h,k,m], s[h,m] = eigh(K)\n"
        "yield s[q,n] = sum[h,k,k',m] f[h,q,k] * V[h,k,m] / (0.1 + s[h,m]) * V[h,k',m] * g[h,n,k']"
    )
    R = torch.from_numpy(seeded_normal((given.P, 3), 1))
    wanted = 0
    for model, *_ in trajectory_by_loop(given, 0)[1::2]:
        u, v = (x @ R for x in rows_at(given, model))
        wanted = wanted + u @ torch.linalg.inv(v.T @ v + 0.1 * torch.eye(3).double()) @ v.T
    found = formula(body, "u[h,q,p], v[h,n,p]")
    assert_close(cv.influence(op, given, score=found, progress=False), wanted)
