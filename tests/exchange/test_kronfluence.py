"""Factors of kronfluence 1.0.1 read, and ours used by it: its own scores on both sides."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import curvlang as cv
from tests.exchange.peers import KINDS, N, Peer, Q, Tokens, quick, task_of
from tests.small import Tied

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*GradScaler:FutureWarning"),
    pytest.mark.usefixtures("quick"),
]
__all__ = ["quick"]
CLOSE = 2e-5
"""Float32, relative to the largest score: both sum a few thousand products of order one."""
DAMPING = 1e-2


def assert_close(found, expected, tolerance=CLOSE):
    difference = float((found.double() - expected.double()).abs().max())
    assert difference <= tolerance * float(expected.abs().max()), difference


@pytest.mark.parametrize("kind", KINDS)
def test_their_factors_give_their_scores_here(kind, tmp_path):
    task = task_of(kind)
    peer = Peer(task, tmp_path)
    op = cv.read_kronfluence(peer.factors(), task)
    assert op.parameters == task.parameters
    assert "ekfac" in op.label
    scores, place = peer.scores("theirs", DAMPING)
    assert_close(cv.influence(op, task, damping=DAMPING), scores["all_modules"])
    assert_close(cv.read_scores(place), scores["all_modules"])
    ours = cv.fit("ekfac_empirical", task)
    assert float(op.distance(ours)) <= 1e-5 * float(ours.frobenius())


@pytest.mark.parametrize("kind", KINDS)
def test_ours_gives_our_scores_there(kind, tmp_path):
    task = task_of(kind)
    op = cv.fit("ekfac", task)  # exact columns, which kronfluence cannot fit itself
    peer = Peer(task, tmp_path)
    cv.write_kronfluence(op, peer.place("ours"), task)
    scores, _ = peer.scores("ours", DAMPING)
    assert_close(scores["all_modules"], cv.influence(op, task, damping=DAMPING))
    again = cv.read_kronfluence(peer.place("ours"), task)
    assert torch.allclose(again.dense(), op.to(again.operator.dtype).dense(), atol=1e-6)


@pytest.mark.parametrize("spec", ["kfac", "diagonal", "identity_blocks"])
def test_other_structures_written_and_used(spec, tmp_path):
    task = task_of("mlp")
    if spec == "identity_blocks":
        op = cv.fit("diagonal", task)
        op = 0.5 * (op + cv.fit("diagonal", task))
    else:
        op = cv.fit(spec, task)
    peer = Peer(task, tmp_path)
    cv.write_kronfluence(op, peer.place("ours"), task)
    scores, _ = peer.scores("ours", DAMPING)
    assert_close(scores["all_modules"], cv.influence(op, task, damping=DAMPING))


@pytest.mark.parametrize("strategy", ["kfac", "diagonal"])
def test_their_other_strategies_are_read(strategy, tmp_path):
    task = task_of("tokens")
    peer = Peer(task, tmp_path)
    op = cv.read_kronfluence(peer.factors(strategy=strategy), task)
    scores, _ = peer.scores("theirs", DAMPING)
    assert_close(cv.influence(op, task, damping=DAMPING), scores["all_modules"])


def test_their_products_on_positions_are_ours_divided_by_their_number(tmp_path):
    task = task_of("tokens")
    op = cv.read_kronfluence(Peer(task, tmp_path).factors(strategy="kfac"), task)
    ours = cv.fit(
        cv.loads(
            "curvature mine = hessian |> drop_residual(fisher = empirical) "
            "|> block_diagonal(by = layer) |> kronecker_factor"
        ),
        task,
    )
    assert float((3 * op).distance(ours)) <= 1e-5 * float(ours.frobenius())


def test_without_a_damping_it_is_theirs(tmp_path):
    task = task_of("mlp")
    peer = Peer(task, tmp_path)
    op = cv.read_kronfluence(peer.factors(), task, dtype=torch.float64)
    scores, _ = peer.scores("theirs", None)
    assert_close(cv.influence(op, task), scores["all_modules"])


def test_some_modules_alone(tmp_path):
    task = task_of("cnn")
    peer = Peer(task, tmp_path, modules=["2", "5"])
    op = cv.read_kronfluence(peer.factors(), task)
    assert op.parameters == ("2.weight", "5.weight", "5.bias")
    scores, place = peer.scores("theirs", DAMPING, compute_per_module_scores=True)
    assert_close(cv.influence(op, task, damping=DAMPING), scores["2"] + scores["5"])
    assert_close(cv.read_scores(place), scores["2"] + scores["5"])
    cv.write_kronfluence(op, peer.place("again"), task)
    again, _ = peer.scores("again", DAMPING)
    assert_close(again["all_modules"], scores["2"] + scores["5"])


def test_what_kronfluence_leaves_out_is_constant_here(tmp_path):
    torch.manual_seed(0)
    X, y = torch.randn(N + Q, 3, 4), torch.randint(0, 5, (N + Q, 3))
    task = cv.Task(Tokens().eval(), "cross_entropy", (X[:N], y[:N]), (X[N:], y[N:]))
    peer = Peer(task, tmp_path)
    op = cv.read_kronfluence(peer.factors(), task)
    assert set(op.blocks) == {"up", "down"}
    scores, _ = peer.scores("theirs", DAMPING)
    assert_close(cv.influence(op, task, damping=DAMPING), scores["all_modules"])
    whole = cv.fit(
        cv.loads(
            "curvature mine = hessian |> drop_residual |> block_diagonal(by = layer) "
            "|> kronecker_factor(others = diagonal) |> eigen_correct(others = diagonal)"
        ),
        task,
    )
    refused("E0925", lambda: cv.write_kronfluence(whole, tmp_path / "x", task), "norm", "leave_out")
    refused("E0563", lambda: cv.write_kronfluence(whole, tmp_path / "x", task, others="drop"))
    cv.write_kronfluence(whole, peer.place("ours"), task, others="leave_out")
    scores, _ = peer.scores("ours", DAMPING)
    layers = cv.influence(whole, task, damping=DAMPING, per_layer=True)
    assert_close(scores["all_modules"], layers["up"] + layers["down"])


class Swapped(nn.Module):
    """A layer of GPT-2, whose weight is transposed, in the place of a Linear."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.head = layer, nn.Linear(6, 5)

    def forward(self, x):
        return self.head(torch.tanh(self.layer(x)))


def test_a_transposed_weight_is_that_of_the_linear_that_stands_for_it(tmp_path):
    from transformers.pytorch_utils import Conv1D

    torch.manual_seed(0)
    X, y = torch.randn(N + Q, 3, 4), torch.randint(0, 5, (N + Q, 3))
    model = Swapped(Conv1D(6, 4)).eval()
    nn.init.normal_(model.layer.bias)
    linear = Swapped(nn.Linear(4, 6)).eval()
    state = dict(model.state_dict())
    linear.load_state_dict(state | {"layer.weight": state["layer.weight"].T})
    task = cv.Task(model, "cross_entropy", (X[:N], y[:N]), (X[N:], y[N:]))
    peer = Peer(task, tmp_path, model=linear)
    op = cv.read_kronfluence(peer.factors(), task)
    scores, _ = peer.scores("theirs", DAMPING)
    assert_close(cv.influence(op, task, damping=DAMPING), scores["all_modules"])
    exact = cv.fit("ekfac", task)
    cv.write_kronfluence(exact, peer.place("ours"), task)
    scores, _ = peer.scores("ours", DAMPING)
    assert_close(scores["all_modules"], cv.influence(exact, task, damping=DAMPING))


def refused(code, act, *repairs):
    with pytest.raises(cv.SpecError, match=code) as caught:
        act()
    for repair in repairs:
        assert repair in str(caught.value)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x):
        return self.head(torch.tanh(self.layer(torch.tanh(self.layer(x)))))


def special(model, *shape):
    torch.manual_seed(0)
    X, y = torch.randn(N, *shape), torch.randint(0, 5, (N,))
    return cv.Task(model.eval(), "cross_entropy", (X, y), (X[:Q], y[:Q]))


def grouped():
    return nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.Flatten(), nn.Linear(24, 5))


@pytest.mark.parametrize(
    ("model", "shape", "layer"),
    [
        (grouped, (4, 4, 4), "0"),
        (Twice, (6,), "layer"),
        (lambda: nn.Sequential(nn.Conv1d(2, 3, 2), nn.Flatten(), nn.Linear(9, 5)), (2, 4), "0"),
        (
            lambda: nn.Sequential(
                nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"),
                nn.Flatten(),
                nn.Linear(48, 5),
            ),
            (2, 4, 4),
            "0",
        ),
    ],
)
def test_layers_that_it_does_not_hold_are_named(model, shape, layer, tmp_path):
    torch.manual_seed(0)
    task = special(model(), *shape)
    op = cv.fit("ekfac", task)
    refused("E0925", lambda: cv.write_kronfluence(op, tmp_path / "x", task), f"`{layer}")
    assert not (tmp_path / "x").exists()
    if layer == "0" and len(shape) == 2:
        return
    folder = Peer(task, tmp_path).factors()
    refused("E0925", lambda: cv.read_kronfluence(folder, task), f"`{layer}`")


def test_tied_weights_are_named(tmp_path):
    torch.manual_seed(0)
    task = special(Tied(6), 6)
    op = cv.fit("block_ggn", task)
    refused("E0925", lambda: cv.write_kronfluence(op, tmp_path / "x", task), "first")
    folder = Peer(task, tmp_path).factors()
    refused("E0925", lambda: cv.read_kronfluence(folder, task), "first")


def test_a_layer_called_twice_is_read_where_its_uses_are_added_up(tmp_path):
    torch.manual_seed(0)
    task = special(Twice(), 6)
    op = cv.read_kronfluence(Peer(task, tmp_path).factors(has_shared_parameters=True), task)
    ours = cv.fit("ekfac_empirical", task)
    assert float(op.trace()) == pytest.approx(float(ours.trace()), rel=1e-5)


@pytest.mark.parametrize("spec", ["ggn", "block_ggn", "per_output"])
def test_other_structures_are_refused_by_name(spec, tmp_path):
    task = task_of("mlp")
    op = cv.fit(spec, task)
    refused("E0925", lambda: cv.write_kronfluence(op, tmp_path / "x", task), "Kronecker")


def test_a_block_for_each_tensor_is_not_a_module(tmp_path):
    task = task_of("mlp")
    op = cv.fit(
        cv.loads(
            "curvature mine = hessian |> drop_residual |> block_diagonal(by = parameter) |> kronecker_factor"
        ),
        task,
    )
    refused("E0925", lambda: cv.write_kronfluence(op, tmp_path / "x", task), "by = layer")


def test_files_that_cannot_be_read(tmp_path):
    task, other = task_of("mlp"), task_of("regression")
    op = cv.fit("ekfac", task)
    good = tmp_path / "factors_good"
    cv.write_kronfluence(op, good, task)
    cv.write_kronfluence(op, good, task)  # its own factors are replaced

    def changed(name):
        folder = tmp_path / f"factors_{name}"
        shutil.copytree(good, folder)
        return folder

    lost, torn, partial, strategy, odd = map(
        changed, ("lost", "torn", "partial", "strategy", "odd")
    )
    (lost / "lambda_matrix.safetensors").unlink()
    (torn / "lambda_matrix.safetensors").write_bytes(b"x" * 40)
    (partial / "lambda_matrix.safetensors").rename(
        partial / "lambda_matrix_data_partition0_module_partition0.safetensors"
    )
    (strategy / "factor_arguments.json").write_text(json.dumps({"strategy": "identity"}))
    (odd / "factor_arguments.json").write_text("[1")
    for folder, words in (
        (lost, "fit_all_factors"),
        (torn, "lambda_matrix"),
        (partial, "partitions"),
        (strategy, "identity"),
        (odd, "factor_arguments.json"),
        (tmp_path, "factors_NAME"),
        (tmp_path / "nowhere", "factors_NAME"),
    ):
        refused("E0926", lambda folder=folder: cv.read_kronfluence(folder, task), words)
    for name, file in (("nan", "lambda_matrix"), ("none", "num_lambda_processed")):
        folder = changed(name)
        tensors = load_file(folder / f"{file}.safetensors")
        tensors["2"] = torch.full_like(tensors["2"], float("nan") if name == "nan" else 0)
        save_file(tensors, folder / f"{file}.safetensors")
        refused(
            "E0926", lambda folder=folder: cv.read_kronfluence(folder, task), f"`{file}` of `2`"
        )
    refused("E0926", lambda: cv.read_kronfluence(good, other), "shape")
    refused("E0926", lambda: cv.read_kronfluence(good, special(Twice(), 6)), "does not have")
    refused("E0563", lambda: cv.read_kronfluence(3, task), "path")
    refused("E0923", lambda: cv.write_kronfluence(op, tmp_path / "y", other), "fitted on")
    refused("E0563", lambda: cv.write_kronfluence(op.operator, tmp_path / "y", task), "cv.fit")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("x")
    refused("E0928", lambda: cv.write_kronfluence(op, tmp_path / "mine", task), "new folder")
    assert (tmp_path / "mine" / "notes.txt").read_text() == "x"
