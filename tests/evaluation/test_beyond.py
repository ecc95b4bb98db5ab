"""Ground truths and baselines beyond random subsets: each against what it must be by hand."""

from __future__ import annotations

import io

import pytest
import torch
from rich.console import Console
from torch import nn

import curvlang as cv
from curvlang.attribution.curvature_free import Setting, representation_cosine
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.evaluation.fidelity import Setting as InverseSetting
from curvlang.evaluation.ground_truth import ground_truth
from curvlang.evaluation.measures.brittleness import flip_share, flipped, without_supporters
from curvlang.evaluation.measures.grid import MeasureInput
from curvlang.evaluation.measures.mislabelled import auc, mislabel
from curvlang.evaluation.measures.proximal import proximal_losses, proximal_response
from curvlang.evaluation.protocol import LDS
from curvlang.evaluation.question import Run
from curvlang.evaluation.statistics.spearman import spearman
from curvlang.evaluation.study.execution import run_missing
from curvlang.evaluation.study.files import CellFolder
from curvlang.evaluation.study.run import gather, work_of
from curvlang.facade import chains_of, chosen
from curvlang.language import inverse_text, loads
from curvlang.models.builtin import task_from
from curvlang.reporting.study.page import study_html
from curvlang.reporting.study.terminal import show_study
from curvlang.runtime.fit import fit_chains
from curvlang.storage.cache import Cache
from curvlang.training.subsets import leave_class_out, leave_one_out
from tests.evaluation.study.test_study import SPEC

EXACT = 1e-10


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double().eval()
    g = torch.Generator().manual_seed(0)
    X = torch.randn(60, 4, generator=g, dtype=torch.float64)
    y = torch.randint(0, 3, (60,), generator=g)
    task = cv.Task(model, "cross_entropy", (X[:50], y[:50]), (X[50:], y[50:]))
    return Setting(task, task.Q, 0)


def test_one_example_or_one_class_is_left_out(tmp_path):
    kept = leave_one_out(20, 6, 0)
    assert kept.shape == (6, 20)
    assert bool((kept.sum(1) == 19).all())
    assert len({int((~row).nonzero()) for row in kept}) == 6
    assert torch.equal(leave_one_out(20, 3, 0), kept[:3])
    y = torch.tensor([2, 0, 2, 1])
    assert leave_class_out(y).tolist() == [
        [True, False, True, True], [True, True, True, False], [False, True, False, True]
    ]  # fmt: skip
    with pytest.raises(SpecError, match="E0508"):
        leave_class_out(torch.zeros(3, 2))


def test_the_engine_retrains_on_them(tmp_path):
    text = SPEC.replace("study tiny_depth", "study x").replace("depth in [1, 2]", "depth in [1]")
    cell = loads(text).studies["x"].cells[0]
    task = task_from(cell.task)
    cache = Cache(tmp_path)
    found = {
        groups: ground_truth(
            task, LDS(subsets=4, retrains=2, groups=groups, keep=0.5), 0, cache=cache
        )
        for groups in ("random", "one", "class")
    }
    assert [len(f.kept) for f in found.values()] == [4, 4, 3]
    assert found["class"].outcome.shape == (3, 2, task.Q)
    assert all(f.reused == 0 for f in found.values())


def test_cosines_are_cosines(small):
    hidden = torch.tanh(small.task.model[0](small.task.train[0])).detach()
    ask = torch.tanh(small.task.model[0](small.task.query[0])).detach()
    wanted = nn.functional.cosine_similarity(ask[:, None], hidden[None], dim=-1)
    assert float((representation_cosine(small) - wanted).abs().max()) <= EXACT


def test_changed_labels_are_other_labels(small):
    wrong, changed = mislabel(small.task, 0.2, 0)
    assert int(wrong.sum()) == 10
    same = changed.train[1] == small.task.train[1]
    assert torch.equal(~same, wrong)


def test_the_area_under_the_curve():
    assert auc(torch.tensor([3.0, 4.0]), torch.tensor([1.0, 2.0])).estimate == 1
    assert auc(torch.tensor([1.0]), torch.tensor([1.0, 1.0])).estimate == 0.5
    found = auc(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([2.0, 4.0]))
    assert abs(found.estimate - 0.5) < EXACT
    assert found.low <= found.estimate <= found.high


def test_the_damped_gauss_newton_inverse_predicts_the_proximal_response(small):
    damping = 0.1
    rows = torch.arange(12)
    response = proximal_losses(small.task, rows, damping, 50)

    def first_order(name):
        scores = cv.influence(cv.fit(name, small.task), small.task, damping=damping)
        return scores[:, rows], float(spearman(scores[:, rows], response).mean())

    scores, right = first_order("ggn")
    _, none = first_order("identity")
    assert right > 0.99
    assert right > none
    # Not the ranks alone: the response is the score over N, up to second order.
    error = (response - scores / small.task.N).norm() / response.norm()
    assert float(error) < 0.2  # N = 50


@pytest.mark.parametrize(
    ("inverse", "reason"),
    [
        ("tikhonov(damping = 0.1)", ""),
        ("halved(damping = 0.1)", ""),
        ("tikhonov(damping = 0)", "at λ = 0"),
        ("tikhonov(damping = mean(s))", "takes λ from the spectrum"),
        ("pseudo(rtol = 1e-3)", "another function of C"),
    ],
)
def test_the_proximal_response_takes_the_lambda_that_the_inverse_states(small, inverse, reason):
    halved = "inverse halved(damping): s -> 1 / (s + damping / 2)"
    use = inverse_text(inverse, "x", halved)
    ((stage,),) = fit_chains(chains_of(chosen(cv.load("ggn"))), small.task, last=True)
    given = MeasureInput(
        small.task, small.task, [stage], lambda _: [stage], [InverseSetting(use)], 0
    )
    grid = proximal_response(given, examples=8, steps=50, seed=0)
    assert reason in grid.reasons[0][0]
    assert bool(grid.reasons[0][0]) == bool(reason)
    if reason:
        assert grid.values[0][0] is None
    else:
        assert grid.values[0][0].estimate > 0.99


def test_the_supporters_are_left_out():
    scores = torch.tensor([[3.0, 1.0, 2.0, 0.0], [0.0, 5.0, -1.0, 4.0]])
    assert without_supporters(scores, 0.5).tolist() == [
        [False, True, False, True], [True, False, True, False]
    ]  # fmt: skip


def test_predictions_flip_without_their_own_class():
    """Three clusters: a query is mistaken without its own class, and not without another."""
    g = torch.Generator().manual_seed(0)
    # All on one side of 0: training on two of them lowers the third class where it stands.
    centres = 1 + 3 * torch.eye(3)
    y = torch.arange(60) % 3
    X = centres[y] + 0.3 * torch.randn(60, 3, generator=g)

    def build(seed):
        model = nn.Linear(3, 3)
        g = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for p in model.parameters():
                p.copy_(0.01 * torch.randn(p.shape, generator=g))
        return model

    recipe = cv.Recipe(lr=0.1, batch=10, epochs=20)
    task = cv.Task(
        build(0), "cross_entropy", (X[:54], y[:54]), (X[54:], y[54:]), recipe=recipe, build=build
    )
    rows = torch.arange(6)
    own = torch.stack([y[:54] != c for c in y[54:]])
    other = torch.stack([y[:54] != (c + 1) % 3 for c in y[54:]])
    mistaken, kept = flipped(task, rows, [own, other], 3, 0)
    assert bool((mistaken == 1).all())
    assert bool((kept == 0).all())
    assert flip_share(mistaken, 0).estimate == 1


def test_a_study_with_baselines_and_measures(tmp_path):
    text = (
        SPEC.replace("depth in [1, 2]", "depth in [1]")
        .replace("seeds      2", "seeds 1")
        .replace(
            "protocol ",
            "baselines gradient_cosine, relatif of kfac, trak(dimension = 8)\n"
            "  measures mislabelled, proximal_response(examples = 3, steps = 5), "
            "brittleness(queries = 3, retrains = 1)\n  protocol ",
        )
    )
    study = loads(text).studies["tiny_depth"]
    machine = Run(cache=Cache(tmp_path / "cache"))
    store, work = CellFolder(tmp_path), work_of(study, machine)
    run_missing(work, store, machine)
    result = gather(study, work, CellFolder(tmp_path))
    group = result.groups[0]
    assert [r.label for r in group.rows][-3:] == ["gradient_cosine", "relatif of kfac", "trak"]
    base = group.rows[-1]
    assert base.structure == "baseline"
    assert base.spots[0].lds == base.spots[1].lds
    assert len(group.best_pairs) == 28
    assert [m.name for m in group.measures] == [
        "brittleness", "mislabelled", "proximal_response"
    ]  # fmt: skip
    assert all(0 <= x.estimate <= 1 for row in group.measures[1].values for x in row if x)
    file = io.StringIO()
    show_study(result, Console(file=file, width=100, color_system=None))
    shown = file.getvalue()
    assert "proximal response" in shown
    assert "gradient_cosine" in shown
    assert "mislabelled" in study_html(result, (), text)
