from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, TensorDataset

from curvlang.language.partition import Partition
from curvlang.models.losses.losses import CrossEntropy
from curvlang.models.recipe import Recipe
from curvlang.models.task import Task
from tests.models.support import assert_refused

GENERATOR = torch.Generator().manual_seed(0)
X, Y = torch.randn(7, 4, generator=GENERATOR), torch.tensor([0, 1, 2, 0, 1, 2, 0])
XQ, YQ = torch.randn(3, 4, generator=GENERATOR), torch.tensor([2, 1, 0])


def model() -> nn.Module:
    made = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3, bias=False))
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(torch.linspace(-1, 1, p.numel()).reshape(p.shape))
    return made


def task(**changes) -> Task:
    given = {"train": (X, Y), "query": (XQ, YQ), **changes}
    return Task(given.pop("model", None) or model(), given.pop("loss", "cross_entropy"), **given)


def test_what_a_task_says_of_itself() -> None:
    made = task(name="mine", weight_decay=0.1)
    assert (made.N, made.Q, made.P) == (7, 3, 40)
    assert made.parameters == ("0.weight", "0.bias", "2.weight")
    assert (made.dtype, made.device.type) == (torch.float32, "cpu")
    assert "mine" in repr(made)
    assert made.weight_decay == 0.1


@pytest.mark.parametrize("size", [1, 3, 7, 100])
@pytest.mark.parametrize("part", ["train", "query"])
def test_batches_are_the_data_in_order(size, part) -> None:
    made = task()
    parts = list(made.batches(size, part))
    for k, whole in enumerate(made.part(part)):
        assert torch.equal(torch.cat([pair[k] for pair in parts]), whole)
    assert all(len(pair[0]) <= size for pair in parts)


class Items(Dataset):
    def __len__(self) -> int:
        return 7

    def __getitem__(self, k):
        return X[k].numpy(), int(Y[k])


class Stream(IterableDataset):
    def __iter__(self):
        return zip(X, Y, strict=True)


@pytest.mark.parametrize(
    "source",
    [
        TensorDataset(X, Y),
        Items(),
        Stream(),
        DataLoader(TensorDataset(X, Y), batch_size=3),
        DataLoader(Items(), batch_size=2),
        DataLoader(Stream(), batch_size=4),
        DataLoader(TensorDataset(X, Y), batch_size=7, drop_last=True),
    ],
    ids=["tensors", "items", "stream", "loader", "items loader", "stream loader", "full"],
)
def test_every_form_of_data_gives_the_same_task(source) -> None:
    made = task(train=source)
    assert torch.equal(made.train[0], X)
    assert torch.equal(made.train[1], Y)
    assert made.fingerprint() == task().fingerprint()


DATA = TensorDataset(X, Y)


@pytest.mark.parametrize(
    ("loader", "words"),
    [
        (lambda: DataLoader(DATA, shuffle=True), "RandomSampler"),
        (lambda: DataLoader(DATA, sampler=RandomSampler(DATA)), "shuffle=False"),
        (lambda: DataLoader(DATA, batch_size=3, drop_last=True), "drop_last=False"),
    ],
)
def test_loaders_without_a_fixed_order_are_refused(loader, words) -> None:
    assert_refused("E0409", lambda: task(train=loader()), "`train` loader", words)


NAN = X.clone()
NAN[2, 3], NAN[5, 0], NAN[6, 1] = float("nan"), float("inf"), float("nan")


@pytest.mark.parametrize(
    ("code", "changes", "words"),
    [
        ("E0406", {"train": (NAN, Y)}, "3 values are NaN or infinite (first: NaN at [2, 3])"),
        ("E0406", {"query": (NAN, Y)}, "inputs of `query`"),
        ("E0406", {"train": (X, NAN[:, :3]), "loss": "mse"}, "targets of `train`"),
        ("E0407", {"train": (X[:0], Y[:0])}, "`train` is empty"),
        ("E0407", {"query": (XQ[:0], YQ[:0])}, "`query` is empty"),
        ("E0407", {"train": DataLoader(TensorDataset(X[:0], Y[:0]))}, "is empty"),
        ("E0407", {"train": (X, Y[:5])}, "one target"),
        ("E0407", {"train": (X, Y.sum())}, "one target"),
        ("E0407", {"train": X}, "`(X, y)`"),
        ("E0407", {"train": None}, "no `train`"),
        ("E0557", {"train": [{"x": 1}]}, "one form"),
        ("E0407", {"train": (X.double(), Y)}, "`query` float32"),
        ("E0407", {"train": (X.double(), Y), "query": (XQ.double(), YQ)}, "model is float32"),
        ("E0408", {"train": (X[:, :3], Y)}, "raises `RuntimeError`"),
        ("E0408", {"query": (XQ[:, :3], YQ)}, "`query`"),
        ("E0405", {"train": (X, Y.float())}, "`y.long()`"),
        ("E0405", {"train": (X, Y + 1)}, "outside 0…2 (first: 3"),
        ("E0405", {"query": (XQ, YQ - 1)}, "first: -1 at example 2"),
        ("E0405", {"loss": "mse"}, "targets of shape [B, 3]"),
        ("E0715", {"loss": "hinge"}, "`mse`"),
        ("E0412", {"weight_decay": 0.1, "recipe": Recipe()}, "the recipe trains with 0"),
    ],
)
def test_what_does_not_fit_is_refused_when_the_task_is_made(code, changes, words) -> None:
    assert_refused(code, lambda: task(**changes), words)


def test_items_of_another_form_are_refused() -> None:
    class Dictionaries(Items):
        def __getitem__(self, k):
            return {"x": X[k], "y": Y[k]}

    class Ragged(Items):
        def __getitem__(self, k):
            return X[k, : 3 + k % 2], Y[k]

    assert_refused("E0557", lambda: task(train=Dictionaries()), "one form")
    assert_refused("E0407", lambda: task(train=Ragged()), "[3] and [4]")


def test_models_that_have_no_loss_per_example_are_refused() -> None:
    def broken(*layers):
        return lambda: task(model=nn.Sequential(*layers))

    assert_refused("E0403", broken(nn.Linear(4, 3), nn.Dropout()), "Dropout")

    class Noise(nn.Linear):
        def forward(self, x):
            return functional.dropout(super().forward(x), 0.5)

    class Mean(nn.Linear):
        def forward(self, x):
            return super().forward(x - x.mean(0))

    assert_refused("E0403", broken(Noise(4, 3)), "called again")
    assert_refused("E0410", broken(Mean(4, 3)), "batch")
    assert_refused("E0413", lambda: task(model=model().requires_grad_(False)), "trainable")
    mixed = model()
    mixed[2].double()
    assert_refused("E0413", lambda: task(model=mixed), "float32 on cpu, float64 on cpu")
    lost = model()
    lost[0].bias.data[1] = float("nan")
    assert_refused("E0406", lambda: task(model=lost), "`0.bias`", "[1]")


def test_moving_makes_a_copy() -> None:
    made = task(build=lambda seed: model(), recipe=Recipe(weight_decay=0.2), name="mine")
    moved = made.to(dtype=torch.float64)
    assert made.dtype == torch.float32
    assert (moved.dtype, moved.train[0].dtype, moved.train[1].dtype) == (
        torch.float64,
        torch.float64,
        torch.int64,
    )
    assert moved.build is not None
    assert next(moved.build(0).parameters()).dtype == torch.float64
    assert (moved.recipe, moved.weight_decay, moved.name) == (made.recipe, 0.2, "mine")
    with torch.no_grad():
        moved.model[0].weight.zero_()
    assert bool((made.model[0].weight != 0).any())


def test_blocks_are_found_once_and_follow_what_is_trainable() -> None:
    made = task()
    assert made.blocks() is made.blocks()
    assert [x.name for x in made.blocks()] == ["0", "2"]
    made.model[0].requires_grad_(False)
    assert [x.name for x in made.blocks()] == ["2"]
    assert [x.name for x in made.blocks("parameter")] == ["2.weight"]
    made.model[0].requires_grad_(True)
    assert [x.name for x in made.blocks()] == ["0", "2"]
    made.learn({"2": "its rows are not positions"})
    assert [x.name for x in made.blocks() if x.factored] == ["0"]


def test_targets_move_with_the_model() -> None:
    y = torch.rand(7, 3, generator=torch.Generator().manual_seed(0))
    moved = task(train=(X, y), query=(XQ, y[:3]), loss="mse").to(dtype=torch.float64)
    assert moved.train[1].dtype == torch.float64


def test_fingerprints_follow_the_content() -> None:
    first = task()
    assert task().fingerprint() == first.fingerprint()
    assert task().data_fingerprint() == first.data_fingerprint()
    changed = model()
    with torch.no_grad():
        changed[2].weight[0, 0] += 1e-6
    assert task(model=changed).data_fingerprint() == first.data_fingerprint()
    assert task(model=changed).fingerprint() != first.fingerprint()
    assert task(name="other").fingerprint() == first.fingerprint()
    other = nn.Sequential(nn.Linear(4, 5), nn.Sigmoid(), nn.Linear(5, 3, bias=False))
    other.load_state_dict(model().state_dict())
    for change in (
        {"train": (X.flip(0), Y)},
        {"train": (X, Y.flip(0).roll(1))},
        {"query": (XQ[:2], YQ[:2])},
        {"weight_decay": 0.1},
        {"recipe": Recipe()},
        {"loss": CrossEntropy("mean")},
        {"model": other},
        {"model": model()[:], "train": (X + 1e-6, Y)},
    ):
        assert task(**change).data_fingerprint() != first.data_fingerprint(), change
    frozen = model()
    frozen[0].bias.requires_grad_(False)
    assert task(model=frozen).data_fingerprint() != first.data_fingerprint()


def test_a_user_loss_is_a_loss() -> None:
    y = torch.rand(7, 3, generator=torch.Generator().manual_seed(0))
    made = task(train=(X, y), query=(XQ, y[:3]), loss=lambda f, y: (f - y).abs().pow(3).sum())
    assert made.loss.per_example(made.model(X), y).shape == (7,)
    assert_refused("E0580", lambda: task(loss=lambda f, y: f), "one finite number")
    assert_refused(
        "E0405", lambda: task(loss=lambda f, y: f @ f.T @ y), "fails on example 0, outputs"
    )


def test_wrong_requests_are_refused() -> None:
    assert_refused("E0412", lambda: task().part("test"), "`query`")
    assert_refused("E0412", lambda: next(task().batches(0)), "0 examples")


def test_integer_inputs_reach_the_model_as_they_are() -> None:
    tokens = torch.tensor([[0, 1], [2, 3], [4, 0]])
    language = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5))
    made = Task(language, train=(tokens, tokens), query=(tokens, tokens)).to(dtype=torch.float64)
    assert made.train[0].dtype == torch.int64
    assert made.model(made.train[0]).shape == (3, 2, 5)


def test_numpy_is_not_needed_by_fingerprints_to_be_contiguous() -> None:
    assert task(train=(X.T.contiguous().T, Y)).fingerprint() == task().fingerprint()
    assert np.isfinite(X.numpy()).all()
    assert pickle.loads(pickle.dumps(Recipe())) == Recipe()


def test_copies_keep_what_they_do_not_change() -> None:
    mask = torch.tensor([[True, False], [True, True], [False, True]])
    tokens = torch.tensor([[0, 1], [2, 3], [4, 0]])
    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5))
    given = Task(model, train=(tokens, tokens), query=(tokens, tokens), mask=mask, name="mine")
    assert given.mask is not None
    for copy in (given.to(dtype=torch.float64), given.with_model(model), given.replaced(name="x")):
        assert torch.equal(copy.mask, mask)
    picked = given.examples(torch.tensor([2, 0]))
    assert torch.equal(picked.mask, mask[[2, 0]])
    assert torch.equal(picked.train[0], tokens[[2, 0]])
    assert (picked.name, picked.Q) == ("mine", 3)


def test_a_model_is_tried_once_for_all_tasks_of_its_examples() -> None:
    net = model()
    made, seen = task(model=net), []
    hook = net.register_forward_hook(lambda module, given, out: seen.append(len(out)))
    blocks = made.blocks()
    assert sum(seen) <= 15, "examples that are tried, and those of a trace"
    seen.clear()
    some = made.examples(torch.tensor([5, 1])).queries(slice(1, 2))
    assert (some.N, some.Q, some.blocks()) == (2, 1, blocks)
    assert made.blocks("layer") is made.blocks(Partition.LAYER)
    assert torch.equal(some.train[0], X[[5, 1]])
    assert torch.equal(some.query[1], YQ[1:2])
    seen.clear()
    half = made.restricted(["2.weight"])
    assert (half.parameters, seen) == (("2.weight",), [])
    # What a hook holds is content of the model.
    hook.remove()
    assert (
        some.fingerprint()
        == task(model=net, train=(X[[5, 1]], Y[[5, 1]]), query=(XQ[1:2], YQ[1:2])).fingerprint()
    )
    assert_refused("E0413", lambda: made.restricted([]), "no trainable parameter")
    assert_refused("E0407", lambda: made.examples(slice(0, 0)), "`train` is empty")


def test_no_compiler_is_loaded_to_try_a_model() -> None:
    code = (
        "import sys, torch, curvlang as cv\n"
        "X, y = torch.randn(8, 4), torch.arange(8) % 3\n"
        "made = cv.Task(torch.nn.Linear(4, 3), 'cross_entropy', (X, y), (X[:2], y[:2]))\n"
        "cv.influence(cv.fit('ekfac', made), made, damping=0.1)\n"
        "assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
