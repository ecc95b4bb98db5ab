from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from curvlang.models.losses.losses import LOSSES
from curvlang.models.tracing.blocks import blocks
from tests.models.support import (
    CASES,
    Tied,
    assert_equal,
    assert_refused,
    cases,
    per_example_gradients,
)
from tests.oracles import dense


@cases
@pytest.mark.parametrize("by", ["layer", "parameter"])
def test_blocks_part_the_parameter_vector(case, by) -> None:
    model, X = case.make(2)
    found = blocks(model, X, by)
    places = torch.cat([block.index for block in found])
    assert torch.equal(places.sort().values, torch.arange(sum(b.size for b in found)))
    theta = dense.flat(model)
    own = dict(model.named_parameters())
    for block in found:
        matrices = [own[name].detach().reshape(block.d_out, -1) for name in block.parameters]
        assert torch.equal(
            theta[block.index].reshape(block.d_out, block.d_in), torch.cat(matrices, 1)
        )


def test_the_bias_is_the_last_input() -> None:
    model = nn.Sequential(nn.Linear(2, 3))
    (joint,) = blocks(model, torch.randn(2, 2))
    assert (joint.name, joint.d_in, joint.d_out, joint.bias) == ("0", 3, 3, "joint")
    assert joint.index.tolist() == [0, 1, 6, 2, 3, 7, 4, 5, 8]
    weight, bias = blocks(model, torch.randn(2, 2), "parameter")
    assert (weight.name, weight.bias, weight.index.tolist()) == ("0.weight", "none", [*range(6)])
    assert (bias.name, bias.bias, bias.index.tolist()) == ("0.bias", "only", [6, 7, 8])


def test_uses_of_one_layer_lie_along_the_positions() -> None:
    model, X = CASES[5].make(2)
    assert isinstance(model, Tied)
    found = {block.name: block for block in blocks(model, X)}
    assert {name: block.positions for name, block in found.items()} == {
        "first": 9,
        "middle": 3,
        "last": 3,
    }
    assert found["first"].watched.modules == ("first", "again")


def test_a_model_that_is_a_layer_has_a_name() -> None:
    (block,) = blocks(nn.Linear(2, 3), torch.randn(2, 2))
    assert (block.name, block.watched.modules) == ("model", ("",))


class Wrapped(nn.Module):
    """A model whose forward is the function given."""

    def __init__(self, forward, **modules) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)
        self.function = forward

    def forward(self, x):
        return self.function(self, x)


X = torch.randn(4, 3)


def test_parameters_that_are_no_matrix_have_blocks_of_their_own() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.PReLU(4), nn.Linear(4, 2))
    found = {block.name: block for block in blocks(model, X)}
    assert list(found) == ["0", "1", "2.weight", "3"]
    assert [block.factored for block in found.values()] == [True, False, False, True]
    assert (found["1"].d_out, found["1"].d_in, found["1"].positions) == (4, 2, 2)
    assert (found["2.weight"].d_out, found["2.weight"].d_in) == (4, 1)
    assert "LayerNorm" in found["1"].reason
    assert "PReLU" in found["2.weight"].reason


def test_frozen_uncovered_layers_do_not_matter() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)).double()
    model[1].requires_grad_(False)
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([0.5, 2.0, -1.0, 1.0]))
    y = torch.tensor([0, 1, 1, 0])
    found = blocks(model, X.double())
    assert_equal(
        per_example_gradients(model, LOSSES["cross_entropy"], X.double(), y, found),
        dense.per_example_gradients(model, "cross_entropy", X.double(), y),
    )


def test_a_subclass_of_linear_may_compute_something_else() -> None:
    class Squared(nn.Linear):
        def forward(self, x):
            return super().forward(x) ** 2

    found = blocks(Squared(3, 2), X)
    assert [(block.name, block.factored) for block in found] == [("weight", False), ("bias", False)]


def test_reparametrised_weights_are_bare() -> None:
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)))
    names = {block.name for block in blocks(model, X) if not block.factored}
    assert "0.parametrizations.weight.original0" in names


def test_weights_shared_in_part_are_bare() -> None:
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    model = nn.Sequential(first, nn.Tanh(), second)
    found = blocks(model, X)
    assert [block.name for block in found] == ["0.weight", "0.bias", "2.bias"]
    assert "shared with `2` (Linear)" in found[0].reason
    second.bias = first.bias
    assert [block.watched.modules for block in blocks(model, X)] == [("0", "2")]


def test_a_weight_tied_to_an_embedding_is_bare() -> None:
    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5, bias=False))
    model[1].weight = model[0].weight
    tokens = torch.tensor([[0, 1], [2, 3]])
    (block,) = blocks(model, tokens)
    assert (block.name, block.size) == ("0.weight", 15)
    assert "`1` (Linear)" in block.reason


@pytest.mark.parametrize("module", [nn.Dropout(0.5), nn.BatchNorm1d(3, affine=False)])
def test_training_mode_is_refused_where_it_matters(module) -> None:
    model = nn.Sequential(nn.Linear(3, 3), module, nn.Linear(3, 2))
    assert_refused("E0403", lambda: blocks(model, X), type(module).__name__, "model.eval()")
    assert len(blocks(model.eval(), X)) == 2


def test_training_mode_is_fine_where_it_changes_nothing() -> None:
    assert len(blocks(nn.Sequential(nn.Linear(3, 3), nn.ReLU()).train(), X)) == 1


def test_dropout_by_function_is_found_out() -> None:
    model = Wrapped(lambda m, x: m.a(functional.dropout(x, 0.5)), a=nn.Linear(3, 2)).eval()
    assert_refused("E0403", lambda: blocks(model, X), "called again")


def outside(model: nn.Module, X: torch.Tensor) -> dict[str, str]:
    """Parameters outside any layer, with the reason."""
    return {block.name: block.reason for block in blocks(model, X) if block.kind is None}


def test_a_layer_that_is_never_called_is_outside() -> None:
    model = Wrapped(lambda m, x: m.a(x), a=nn.Linear(3, 2), idle=nn.Linear(3, 2))
    found = outside(model, X)
    assert list(found) == ["idle.weight", "idle.bias"]
    assert "does not call it" in found["idle.weight"]
    model.idle.requires_grad_(False)
    assert [block.name for block in blocks(model, X)] == ["a"]


def test_a_weight_used_outside_its_layer_is_found_out() -> None:
    model = Wrapped(lambda m, x: m.a(x) @ m.a.weight, a=nn.Linear(3, 2))
    assert "outside its call" in outside(model, X)["a.weight"]


def test_a_model_without_a_backward_pass_is_refused_in_its_own_words() -> None:
    def forward(m, x):
        x = x * 1
        z = m.a(x.detach())
        x.mul_(2)
        return z

    model = Wrapped(forward, a=nn.Linear(3, 2))
    assert_refused("E0425", lambda: blocks(model, X), "modified by an inplace operation")


def test_examples_that_mix_are_found_out() -> None:
    model = Wrapped(lambda m, x: m.a(x - x.mean(0)), a=nn.Linear(3, 2))
    assert_refused("E0410", lambda: blocks(model, X), "batch")


def test_a_layer_without_the_batch_axis_is_refused() -> None:
    model = Wrapped(lambda m, x: m.a(x.mean(0)).expand(len(x), 2), a=nn.Linear(3, 2))
    assert_refused("E0410", lambda: blocks(model, X), "depends on the batch")
    model = Wrapped(lambda m, x: m.a(x.flatten()).expand(len(x), 2), a=nn.Linear(9, 2))
    assert_refused("E0410", lambda: blocks(model, X), "batch")


@pytest.mark.parametrize(
    "forward", [lambda m, x: (m.a(x), x), lambda m, x: m.a(x).sum(), lambda m, x: m.a(x)[:1]]
)
def test_outputs_that_are_not_one_tensor_are_refused(forward) -> None:
    assert_refused("E0408", lambda: blocks(Wrapped(forward, a=nn.Linear(3, 2)), X), "the model")


def test_other_words_are_refused() -> None:
    assert_refused("E0412", lambda: blocks(nn.Linear(3, 2), X, "tensor"), "`parameter`")
    frozen = nn.Linear(3, 2).requires_grad_(False)
    assert_refused("E0413", lambda: blocks(frozen, X), "trainable")


def without_gradients(m, x):
    with torch.no_grad():
        return m.a(x)


@pytest.mark.parametrize(
    ("forward", "named"),
    [
        (without_gradients, "output"),
        (lambda m, x: m.a(x).detach(), "output"),
        (lambda m, x: functional.one_hot(m.a(x).argmax(-1), 2).float(), "output"),
        (lambda m, x: m.b(m.a(x).detach()), "`a.weight`, `a.bias`"),
    ],
)
def test_a_path_without_gradient_is_refused(forward, named) -> None:
    model = Wrapped(forward, a=nn.Linear(3, 2))
    if named.startswith("`a.w"):
        model.add_module("b", nn.Linear(2, 2))
    assert_refused("E0417", lambda: blocks(model, X), named)


def test_a_layer_that_one_example_in_the_middle_needs_is_reached():
    """The first and the last example alone never call it; the batch does."""

    class Routed(nn.Module):
        def __init__(self):
            super().__init__()
            self.always, self.rarely = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, x):
            chosen = x[:, :1] > 0
            out = self.always(x)
            return out + chosen * self.rarely(x) if bool(chosen.any()) else out

    X = torch.tensor([[-1.0, 2, 3], [1, 2, 3], [-1, 4, 5]])
    assert [block.name for block in blocks(Routed(), X)] == ["always", "rarely"]
    assert list(outside(Routed(), X[[0, 2, 2]])) == ["rarely.weight", "rarely.bias"]


def test_examples_before_the_last_may_not_change_its_gradient():
    """A sum over the examples so far leaves the first one what it was."""

    class Cumulated(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 2)

        def forward(self, x):
            return self.linear(x.cumsum(0))

    assert_refused("E0410", lambda: blocks(Cumulated(), torch.randn(3, 3)), "depends on the batch")
