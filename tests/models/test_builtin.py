from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.diagnostics.source import Source, Span
from curvlang.language.chain import Part, TaskSpec
from curvlang.models import builtin
from curvlang.models.architectures.mlp import ACTIVATIONS, mlp
from curvlang.models.builtin import recipe_from, task_from
from curvlang.models.recipe import Recipe
from tests.models.support import assert_refused, data_set

TEXT = Source("task.cv", "data digits()\nmodel mlp()\nloss cross_entropy\ntrain sgd()\n")
SPEC = TaskSpec(
    "digits",
    {},
    Part("digits", {}, Span(TEXT, 5, 13)),
    Part("mlp", {"hidden": (16,)}, Span(TEXT, 20, 25)),
    Part("cross_entropy", {}, Span(TEXT, 31, 44)),
    Part("sgd", {"lr": 0.1, "epochs": 3, "weight_decay": 0.01}, Span(TEXT, 51, 56)),
)


def changed(part: str, name: str, **arguments) -> TaskSpec:
    old = getattr(SPEC, part)
    return replace(SPEC, **{part: Part(name, arguments, old.span)})


def test_the_default_task() -> None:
    task = task_from(SPEC, dtype=torch.float64)
    assert (task.N, task.Q, task.P) == (1617, 180, 1184)
    assert task.dtype == task.train[0].dtype == torch.float64
    assert task.recipe == Recipe(lr=0.1, epochs=3, weight_decay=0.01)
    assert task.weight_decay == 0.01
    assert task.build is not None
    assert not task.model.training


def test_digits_are_split_evenly_and_scaled_by_the_training_set() -> None:
    data = data_set("digits")
    counts = torch.bincount(data.query[1], minlength=10)
    assert int(counts.min()) >= 17
    assert int(counts.max()) <= 19
    X = data.train[0].double()
    spread = X.std(0, unbiased=False)
    constant = spread == 0
    assert bool((X[:, constant] == 0).all())
    assert int(constant.sum()) >= 3
    assert torch.allclose(spread[~constant], torch.ones(1, dtype=torch.float64), atol=1e-5)
    assert float(X.mean(0).abs().max()) < 1e-6
    both = torch.cat(
        [data_set("digits", scale="none").train[0], data_set("digits", scale="none").query[0]]
    )
    assert both.shape == (1797, 64)
    assert float(both.max()) == 16
    assert float(data_set("digits", scale="unit").train[0].max()) == 1


def test_splits_follow_the_seed() -> None:
    assert torch.equal(data_set("digits", seed=3).train[0], data_set("digits", seed=3).train[0])
    assert not torch.equal(data_set("digits", seed=3).train[1], data_set("digits", seed=4).train[1])


def test_models_follow_the_seed_and_leave_the_global_one_alone() -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    task = task_from(SPEC, seed=5)
    assert task.build is not None
    same, other = task.build(5), task.build(6)
    assert torch.equal(torch.get_rng_state(), before)
    for p, q, r in zip(task.model.parameters(), same.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)
        assert not torch.equal(p, r)


def test_initialisation_is_uniform_with_linears_bound() -> None:
    model = mlp([100, 400, 50], "tanh", True, generator=torch.Generator().manual_seed(0))
    for layer in (model[0], model[2]):
        bound = 1 / math.sqrt(layer.in_features)
        for p in layer.parameters():
            assert float(p.abs().max()) <= bound
        deviation = float(layer.weight.std())
        # 20 000 draws or more: the standard deviation's own error is below 0.5 %.
        assert deviation == pytest.approx(bound / math.sqrt(3), rel=0.02)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("hidden", [[], [3], [3, 2]])
def test_models_have_the_widths_asked_for(activation, hidden) -> None:
    model = mlp([4, *hidden, 2], activation, bias=True)
    assert model(torch.zeros(5, 4)).shape == (5, 2)
    assert len(model) == 2 * len(hidden) + 1


@pytest.mark.parametrize("loss", ["mse", "bce_with_logits"])
def test_losses_that_compare_outputs_get_one_hot_targets(loss) -> None:
    task = task_from(changed("loss", loss), dtype=torch.float64)
    labels = task_from(SPEC).train[1]
    assert task.train[1].dtype == torch.float64
    assert torch.equal(task.train[1].argmax(1), labels)
    assert torch.equal(task.train[1].sum(1), torch.ones(task.N, dtype=torch.float64))


@pytest.mark.parametrize(
    ("code", "part", "name", "arguments", "headline"),
    [
        ("E0715", "data", "mnist", {}, "unknown data `mnist`"),
        ("E0715", "model", "vit", {}, "unknown model `vit`"),
        ("E0715", "loss", "hinge", {}, "unknown loss `hinge`"),
        ("E0715", "train", "lion", {}, "unknown optimiser `lion`"),
        ("E0703", "data", "digits", {"tests": 0.1}, "no parameter `tests`"),
        ("E0707", "data", "digits", {"test": 1.5}, "`test = 1.5`"),
        ("E0705", "data", "digits", {"test": "half"}, "`test = half` is not a number"),
        ("E0705", "data", "digits", {"seed": 0.5}, "`seed = 0.5` is not a whole number"),
        ("E0706", "data", "digits", {"scale": "log"}, "`scale = log` is not one of"),
        ("E0705", "model", "mlp", {"hidden": ((16,),)}, "is not a list of whole numbers"),
        ("E0705", "model", "mlp", {"hidden": (16, True)}, "`hidden = [16, true]`"),
        ("E0707", "model", "mlp", {"hidden": (16, 0)}, "`hidden = [16, 0]`"),
        ("E0706", "model", "mlp", {"activation": "swish"}, "`activation = swish`"),
        ("E0705", "model", "mlp", {"bias": 1}, "`bias = 1` is not `true` or `false`"),
        ("E0703", "loss", "mse", {"reduction": "sum"}, "no parameter `reduction`"),
        ("E0707", "train", "sgd", {"lr": 0}, "`lr = 0`"),
        ("E0707", "train", "sgd", {"momentum": 1.0}, "`momentum = 1`"),
        ("E0707", "train", "sgd", {"batch": 0}, "`batch = 0`"),
        ("E0706", "train", "sgd", {"schedule": "step"}, "`schedule = step`"),
        ("E0760", "train", "sgd", {"nesterov": True}, "`nesterov` needs `momentum`"),
    ],
)
def test_what_a_spec_gets_wrong_is_shown_at_its_line(code, part, name, arguments, headline) -> None:
    spec = changed(part, name, **arguments)
    with pytest.raises(SpecError) as caught:
        task_from(spec)
    (found,) = caught.value.diagnostics
    assert found.code == code
    assert headline in found.headline
    assert found.help
    assert [label.span for label in found.labels] == [getattr(SPEC, part).span]


def test_shares_that_leave_a_class_out_are_refused() -> None:
    assert_refused("E0412", lambda: data_set("digits", test=0.001), "0.1")
    assert recipe_from(Part("sgd", {})) == Recipe()


@pytest.mark.parametrize(
    ("code", "lines"),
    [("E0413", ["model"]), ("E0405", ["data", "model"]), ("E0407", ["data"]), ("E0580", ["loss"])],
)
def test_what_is_wrong_with_a_task_stands_at_the_lines_that_it_is_about(monkeypatch, code, lines):
    def refused(*_, **__):
        raise refusal(Code[code], "something is wrong", "change it")

    monkeypatch.setattr(builtin, "Task", refused)
    with pytest.raises(SpecError) as caught:
        task_from(SPEC)
    (found,) = caught.value.diagnostics
    assert [x.span for x in found.labels] == [getattr(SPEC, line).span for line in lines]


def test_parameters_are_drawn_as_he_or_as_torch_draws_them():
    """Standard deviations √(2/fan_in) and 1/√(3 fan_in), the same parameters for the same seed."""
    for start, spread, bound in (("he", 2.0, None), ("torch", 1 / 3, 1.0)):
        model = mlp(
            [400, 300, 2], "relu", True, torch.Generator().manual_seed(1), initialisation=start
        )
        first = model[0].weight.detach()
        assert float(first.std()) == pytest.approx((spread / 400) ** 0.5, rel=0.02)
        if bound is not None:
            assert float(first.abs().max()) <= bound / 400**0.5
        assert (float(model[0].bias.abs().max()) == 0) == (start == "he")
        again = mlp(
            [400, 300, 2], "relu", True, torch.Generator().manual_seed(1), initialisation=start
        )
        assert torch.equal(again[0].weight, first)
