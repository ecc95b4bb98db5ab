"""Examples that are dicts, models that return objects: packed exactly, or refused by name."""

from __future__ import annotations

from copy import deepcopy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import curvlang as cv
from curvlang.models.execution.packed import layout_of, packed
from curvlang.training.retrain import retrain
from curvlang.training.training import Training
from tests.models.language_model import batches, gpt2
from tests.models.support import assert_refused
from tests.small import gradients
from tests.training.test_retrain import reference_loop

CLOSE = 1e-9  # float64


class Pairs(nn.Module):
    """Reads `left` [B, 3], `right` [B, 2] and `flag` [B]; returns an object with logits."""

    def __init__(self, seed=0, returns="object"):
        super().__init__()
        torch.manual_seed(seed)
        self.left = nn.Linear(3, 4)
        self.table = nn.Embedding(5, 4)
        self.head = nn.Linear(4, 3)
        self.scale = nn.Parameter(torch.ones(4))
        self.returns = returns
        self.double()

    def forward(self, left, right, flag=None):
        h = torch.tanh(self.left(left) + self.table(right).sum(1)) * self.scale
        h = h if flag is None else torch.where(flag[:, None], h, 2 * h)
        f = self.head(h)
        match self.returns:
            case "object":
                return SimpleNamespace(logits=f, loss=None)
            case "tuple":
                return (f, h)
            case "dict":
                return {"logits": f}
            case "nothing":
                return SimpleNamespace(hidden=f)
            case _:
                return f


def examples(n=10, seed=0):
    g = torch.Generator().manual_seed(seed)
    return {
        "left": torch.randn(n, 3, generator=g, dtype=torch.float64),
        "right": torch.randint(0, 5, (n, 2), generator=g),
        "flag": torch.rand(n, generator=g) < 0.5,
        "label": torch.randint(0, 3, (n,), generator=g),
    }


def rows(source):
    return [{k: v[i] for k, v in source.items()} for i in range(len(source["label"]))]


class Rows(Dataset):
    def __init__(self, source):
        self.rows = rows(source)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, k):
        return self.rows[k]


class Iterated(torch.utils.data.IterableDataset):
    def __init__(self, source):
        self.rows = rows(source)

    def __iter__(self):
        return iter(self.rows)


class Arrow(list):
    """As a table of the library `datasets`: rows by number, values as plain lists."""

    column_names = ("left", "right", "flag", "label")


def logits_of(model, source):
    inputs = {k: v for k, v in source.items() if k != "label"}
    with torch.no_grad():
        return model(**inputs).logits


@pytest.mark.parametrize(
    "form",
    [
        lambda s: s,
        lambda s: {k: v.numpy() for k, v in s.items()},
        rows,
        Rows,
        Iterated,
        lambda s: DataLoader(Rows(s), batch_size=4),
        lambda s: Arrow([{k: v[i].tolist() for k, v in s.items()} for i in range(10)]),
    ],
    ids=["dict", "arrays", "list", "dataset", "iterable", "loader", "table"],
)
def test_every_form_gives_the_models_own_outputs(form):
    model, source = Pairs(), examples()
    task = cv.Task(model, "cross_entropy", form(source), form(source))
    with torch.no_grad():
        assert torch.equal(task.model(task.train[0]), logits_of(model, source))
    assert torch.equal(task.train[1], source["label"])
    assert task.parameters == tuple(name for name, _ in model.named_parameters())


@pytest.mark.parametrize("returns", ["object", "tuple", "dict", "tensor"])
def test_what_models_return(returns):
    source = examples()
    task = cv.Task(Pairs(returns=returns), "cross_entropy", source, source)
    with torch.no_grad():
        assert torch.equal(task.model(task.train[0]), logits_of(Pairs(), source))


def test_gradients_and_curvatures_are_those_of_the_plain_model():
    """The packed model against one written for tensors: GGN and scores are the same."""

    class Plain(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, X):
            return self.inner(X[:, :3], X[:, 3:5].long(), X[:, 5] != 0).logits

    source = examples()
    task = cv.Task(Pairs(), "cross_entropy", source, source)
    plain = cv.Task(Plain(Pairs()), "cross_entropy", (task.train[0], source["label"]), task.query)
    ours, theirs = cv.fit("ggn", task), cv.fit("ggn", plain)
    assert float((ours.dense() - theirs.dense()).abs().max()) <= CLOSE
    scores = cv.influence(ours, task, damping=0.1)
    assert float((scores - cv.influence(theirs, plain, damping=0.1)).abs().max()) <= CLOSE


def test_the_users_module_is_not_changed():
    model, source = Pairs(), examples()
    before, kind = dict(vars(model)), type(model)
    task = cv.Task(model, "cross_entropy", source, source)
    cv.fit("ggn", task)
    assert type(model) is kind
    assert vars(model).keys() == before.keys()
    assert not model._forward_hooks
    assert model(**{k: v for k, v in source.items() if k != "label"}).logits.shape == (10, 3)
    assert task.model.left.weight is model.left.weight
    assert task.model.scale is model.scale
    task.model.register_forward_hook(lambda *_: None)
    assert not model._forward_hooks
    other = deepcopy(task.model)
    with torch.no_grad():
        other.scale.mul_(2)
    assert float(model.scale[0].detach()) == 1
    assert task.to(dtype=torch.float64).with_model(Pairs(3)).P == task.P


def test_rows_come_back_exactly():
    values = {
        "a": torch.tensor([[2**24, 3]]),
        "b": torch.tensor([[0.1]]),
        "c": torch.tensor([True]),
    }
    layout = layout_in(values)
    for name, value in layout.unpack(layout.pack(values, torch.float32)).items():
        assert value.dtype == values[name].dtype
        assert torch.equal(value, values[name])
    bigger = {**values, "a": torch.tensor([[2**24 + 1, 3]])}
    assert_refused("E0557", lambda: layout_in(bigger).pack(bigger, torch.float32), "16777217")
    assert layout_in(bigger).pack(bigger, torch.float64).shape == (1, 4)
    whole = {"a": torch.tensor([[2**60]]), "c": torch.tensor([True])}
    assert layout_in(whole).pack(whole, torch.float32).dtype == torch.int64


def layout_in(values):
    return layout_of({name: (x,) for name, x in values.items()})


def test_layouts_and_models_are_told_apart_by_fingerprints():
    source = examples()
    whole = cv.Task(Pairs(), "cross_entropy", source, source)
    again = cv.Task(Pairs(), "cross_entropy", source, source)
    fewer = cv.Task(Pairs(), "cross_entropy", source, source, inputs=["left", "right"])
    assert whole.fingerprint() == again.fingerprint()
    assert whole.fingerprint() != fewer.fingerprint()
    assert repr(packed(Pairs(), layout_in({"a": torch.zeros(1, 2)}))) != repr(Pairs())


def test_retraining_equals_the_loop():
    source = examples(12)
    recipe = cv.Recipe(0.05, batch=4, epochs=2, optimiser="adam")
    task = cv.Task(Pairs(), "cross_entropy", source, source, build=Pairs, recipe=recipe)
    members = torch.ones(2, 12, dtype=torch.bool)
    members[1, 8:] = False
    X, y = task.train
    found = retrain(
        Training(task.build, task.loss, (X, y), (X, y), members, recipe, [3, 4], [5, 6])
    )
    for k in (0, 1):
        curve, _ = reference_loop(
            task.build, "cross_entropy", (X, y), members[k], recipe, 3 + k, 5 + k
        )
        assert float((found.curve[k] - curve).abs().max()) <= CLOSE


def test_tensors_with_a_model_that_returns_an_object():
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(3, 2)

        def forward(self, x):
            return SimpleNamespace(logits=self.inner(x))

    X, y = torch.randn(6, 3), torch.randint(0, 2, (6,))
    task = cv.Task(Wrapped(), "cross_entropy", (X, y), (X, y), build=lambda seed: Wrapped())
    assert task.model(X).shape == (6, 2)
    assert task.build(0)(X).shape == (6, 2)


def refused(code, *words, model=None, train=None, query=None, **options):
    source = examples()
    train = source if train is None else train
    query = source if query is None else query
    assert_refused(
        code,
        lambda: cv.Task(model or Pairs(), "cross_entropy", train, query, **options),
        *words,
    )


def test_what_does_not_fit_is_refused_by_the_name_of_the_field():
    source = examples()

    def without(name):
        return {k: v for k, v in source.items() if k != name}

    refused("E0558", "no field `labels` or `label`", train=without("label"))
    refused("E0558", "no field `target`", labels="target")
    refused("E0558", "both `labels` and `label`", train={**source, "labels": source["label"]})
    refused("E0557", "only one of `train` and `query`", "`flag`", query=without("flag"))
    refused("E0557", "`idx`", "inputs=[…]", *[], train={**source, "idx": source["label"]},
            query={**source, "idx": source["label"]})  # fmt: skip
    refused("E0557", "no field `middle`", inputs=["middle"])
    refused("E0557", "differ in length", "`left` 9", train={**source, "left": source["left"][:9]})
    refused("E0557", "has the shape [3] in `train` and [2]", "`left`",
            query={**source, "left": source["left"][:, :2]})  # fmt: skip
    refused(
        "E0557", "integers in one", query={**source, "left": source["right"].repeat(1, 2)[:, :3]}
    )
    texts = {**source, "text": np.array(["a"] * 10)}
    refused("E0557", "field `text` of `train` holds texts", train=texts)
    ragged = [{"left": [[1.0] * (3 + k % 2)] * 2, "right": [0, 1], "label": 0} for k in range(4)]
    refused("E0557", "field `left` of `train` has examples of different shapes: [2, 3] and [2, 4]",
            "in the first axis alone", train=ragged)  # fmt: skip
    lacking = [{"left": [1.0] * (3 + k % 2), "right": [0, 1], "label": 0} for k in range(4)]
    refused("E0557", "only one of `train` and `query`", "`flag`", train=lacking)
    odd = rows(source)
    del odd[4]["flag"]
    refused("E0557", "item 4 of `train`", "`flag`", train=odd)
    refused("E0557", "one number", train={"left": 3.0, "label": source["label"]})
    refused("E0557", "one form", train=(source["left"], source["label"]))
    refused("E0557", "without logits", model=Pairs(returns="nothing"))
    refused("E0558", "`shift_labels=True`", shift_labels=True)
    refused("E0557", "no field but the labels", train={"label": source["label"]})
    refused("E0405", "labels lie outside 0…2", "first: 7 at example 0",
            train={**source, "label": source["label"] * 0 + 7})  # fmt: skip
    refused("E0409", "RandomSampler", train=DataLoader(Rows(source), shuffle=True))
    refused("E0407", "is empty", train={k: v[:0] for k, v in source.items()})
    swapped = Pairs()
    swapped.forward = lambda **fields: None
    refused("E0557", "replaced on the object", model=swapped, inputs=["left", "right"])
    X, y = source["left"], source["label"]
    linear = nn.Linear(3, 3).double()
    assert_refused(
        "E0558", lambda: cv.Task(linear, "cross_entropy", (X, y), (X, y), labels="y"), "dicts"
    )


# A language model of `transformers` ---------------------------------------------------------------


def test_gpt2_losses_are_those_of_transformers():
    model, data = gpt2(0), batches()
    query = {k: v[:3] for k, v in data.items()}
    task = cv.Task(model, "cross_entropy", data, query, shift_labels=True)
    assert task.train[0].dtype == torch.int64
    assert torch.equal(task.mask, data["attention_mask"] == 1)
    with torch.no_grad():
        ours = task.loss.per_example(task.model(task.train[0]), task.train[1])
        for k in range(12):
            one = model(**{name: value[k : k + 1] for name, value in data.items()})
            counted = int((data["labels"][k, 1:] != -100).sum())
            assert float(ours[k]) == pytest.approx(float(one.loss) * counted, rel=1e-5)


def test_gpt2_is_scored_and_retrained():
    data = batches()
    recipe = cv.Recipe(optimiser="adamw", lr=0.01, weight_decay=0.1, batch=4, epochs=2, clip=1.0)
    task = cv.Task(
        gpt2(0), "cross_entropy", data, {k: v[:2] for k, v in data.items()},
        shift_labels=True, build=gpt2, recipe=recipe,
    )  # fmt: skip
    assert task.weight_decay == 0
    wide = task.to(dtype=torch.float64)
    spec = cv.loads("curvature mine = block_ggn |> kronecker_factor(others = diagonal)")
    scores = cv.influence(cv.fit(spec, wide), wide, damping=0.1)
    assert scores.shape == (2, 12)
    assert bool(torch.isfinite(scores).all())
    # Every gradient is that of transformers' own loss.
    model, own = gpt2(0).double(), []
    for k in range(12):
        one = model(**{name: value[k : k + 1] for name, value in data.items()})
        counted = int((data["labels"][k, 1:] != -100).sum())
        grads = torch.autograd.grad(one.loss * counted, list(model.parameters()))
        own.append(torch.cat([g.flatten() for g in grads]))
    # transformers computes its loss in float32, whatever the model's precision.
    assert float((gradients(wide, "train") - torch.stack(own)).abs().max()) <= 1e-5
    found = retrain(Training(task.build, task.loss, task.train, task.query, torch.ones(2, 12).bool(), recipe, [1, 2], [1, 2]))  # fmt: skip
    curve, _ = reference_loop(
        task.build, "cross_entropy", task.train, torch.ones(12).bool(), recipe, 1, 1
    )
    assert float((found.curve[0] - curve).abs().max()) <= 1e-4


def test_a_causal_model_has_to_be_said_to_be_one():
    data = batches()
    options = {"train": data, "query": data}
    assert_refused(
        "E0558", lambda: cv.Task(gpt2(0), "cross_entropy", **options), "shift_labels=True",
        "shift_labels=False",
    )  # fmt: skip
    padded = {**data, "labels": data["input_ids"]}
    options = {"train": padded, "query": padded, "shift_labels": True}
    assert_refused(
        "E0558", lambda: cv.Task(gpt2(0), "cross_entropy", **options),
        "3 labels of `train`", "labels[attention_mask == 0] = -100",
    )  # fmt: skip


# A residual network ------------------------------------------------------------------------------


class Block(nn.Module):
    def __init__(self, channels, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 2 * channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(2 * channels)
        self.conv2 = nn.Conv2d(2 * channels, 2 * channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(2 * channels)
        self.down = nn.Sequential(
            nn.Conv2d(channels, 2 * channels, 1, stride, bias=False), nn.BatchNorm2d(2 * channels)
        )

    def forward(self, x):
        h = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(h)) + self.down(x))


class ResNet(nn.Module):
    """As torchvision's: a stem, residual blocks, global average pooling, a linear layer."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.stem = nn.Conv2d(1, 2, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(2)
        self.layer1 = Block(2, 2)
        self.fc = nn.Linear(4, 3)
        self.eval()

    def forward(self, x):
        h = self.layer1(torch.relu(self.bn(self.stem(x))))
        return self.fc(h.mean((2, 3)))


def test_a_residual_network_is_scored_and_retrained():
    g = torch.Generator().manual_seed(0)
    X, y = torch.randn(12, 1, 6, 6, generator=g), torch.randint(0, 3, (12,), generator=g)
    recipe = cv.Recipe(0.05, 0.9, 4, 2, nesterov=True)
    task = cv.Task(ResNet(), "cross_entropy", (X, y), (X[:2], y[:2]), build=ResNet, recipe=recipe)
    spec = cv.loads(
        "curvature mine = block_ggn |> kronecker_factor(others = diagonal) |> eigen_correct"
    )
    wide = task.to(dtype=torch.float64)
    scores = cv.influence(cv.fit(spec, wide), wide, damping=0.1)
    assert bool(torch.isfinite(scores).all())
    found = retrain(
        Training(
            task.build,
            task.loss,
            task.train,
            task.query,
            torch.ones(1, 12).bool(),
            recipe,
            [1],
            [1],
        )
    )
    curve, _ = reference_loop(
        task.build, "cross_entropy", task.train, torch.ones(12).bool(), recipe, 1, 1
    )
    assert float((found.curve[0] - curve).abs().max()) <= 1e-4
    assert_refused(
        "E0403", lambda: cv.Task(ResNet().train(), "cross_entropy", (X, y), (X, y)), "`bn`"
    )
