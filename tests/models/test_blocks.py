from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from curvlang.models.blocks import blocks
from curvlang.models.leaves import per_example_gradients
from curvlang.models.losses import LOSSES
from tests.models.support import CASES, Tied, assert_equal, assert_refused, cases
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
    assert found["first"].modules == ("first", "again")


def test_a_model_that_is_a_layer_has_a_name() -> None:
    (block,) = blocks(nn.Linear(2, 3), torch.randn(2, 2))
    assert (block.name, block.modules) == ("model", ("",))


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


def test_parameters_outside_covered_layers_are_listed_and_refused() -> None:
    model = nn.Sequential(
        nn.Linear(3, 4), nn.LayerNorm(4), nn.Unflatten(1, (2, 2)), nn.Conv1d(2, 1, 2), nn.Flatten()
    )
    model.extra = nn.Parameter(torch.zeros(2))
    assert_refused(
        "E0401",
        lambda: blocks(model, X),
        "`1` (LayerNorm)",
        "`3` (Conv1d)",
        "`model` (Sequential)",
        "`extra`",
        "`3.weight`, `3.bias`",
        "requires_grad_(False)",
    )
    found = blocks(
        Wrapped(
            lambda m, x: m.b(m.n(m.a(x))), a=nn.Linear(3, 4), n=nn.LayerNorm(4), b=nn.Linear(4, 2)
        ),
        X,
        partial=True,
    )
    assert [block.name for block in found] == ["a", "b"]
    assert torch.cat([b.index for b in found]).sort().values.tolist() == [*range(26)]


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

    assert_refused("E0401", lambda: blocks(Squared(3, 2), X), "`model` (Squared)")


def test_reparametrised_weights_are_refused() -> None:
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)))
    assert_refused("E0401", lambda: blocks(model, X), "parametrizations.weight.original0")


def test_weights_shared_in_part_are_refused() -> None:
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    model = nn.Sequential(first, nn.Tanh(), second)
    assert_refused("E0402", lambda: blocks(model, X), "`0` (Linear)", "`2` (Linear)")
    second.bias = first.bias
    assert [block.modules for block in blocks(model, X)] == [("0", "2")]


def test_a_weight_tied_to_an_embedding_is_refused() -> None:
    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5, bias=False))
    model[1].weight = model[0].weight
    tokens = torch.tensor([[0, 1], [2, 3]])
    with pytest.raises(Exception, match="E0401") as caught:
        blocks(model, tokens)
    assert {d.code for d in caught.value.diagnostics} == {"E0401", "E0402"}


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


def test_a_layer_that_is_never_called_is_refused() -> None:
    model = Wrapped(lambda m, x: m.a(x), a=nn.Linear(3, 2), idle=nn.Linear(3, 2))
    assert_refused("E0404", lambda: blocks(model, X), "`idle`")
    model.idle.requires_grad_(False)
    assert [block.name for block in blocks(model, X)] == ["a"]


def test_a_weight_used_outside_its_layer_is_found_out() -> None:
    model = Wrapped(lambda m, x: m.a(x) @ m.a.weight, a=nn.Linear(3, 2))
    assert_refused("E0414", lambda: blocks(model, X), "`a.weight`")


def test_an_input_changed_in_place_is_found_out() -> None:
    def forward(m, x):
        x = x * 1
        z = m.a(x.detach())
        x.mul_(2)
        return z

    model = Wrapped(forward, a=nn.Linear(3, 2))
    assert_refused("E0414", lambda: blocks(model, X), "in place")


def test_examples_that_mix_are_found_out() -> None:
    model = Wrapped(lambda m, x: m.a(x - x.mean(0)), a=nn.Linear(3, 2))
    assert_refused("E0410", lambda: blocks(model, X), "batch")


def test_a_layer_without_the_batch_axis_is_refused() -> None:
    model = Wrapped(lambda m, x: m.a(x.flatten()).expand(len(x), 2), a=nn.Linear(9, 2))
    assert_refused("E0410", lambda: blocks(model, X), "`a`", "[9]")


@pytest.mark.parametrize(
    "forward", [lambda m, x: (m.a(x), x), lambda m, x: m.a(x).sum(), lambda m, x: m.a(x)[:1]]
)
def test_outputs_that_are_not_one_tensor_are_refused(forward) -> None:
    assert_refused("E0408", lambda: blocks(Wrapped(forward, a=nn.Linear(3, 2)), X), "the model")


def test_other_words_are_refused() -> None:
    assert_refused("E0412", lambda: blocks(nn.Linear(3, 2), X, "tensor"), "`parameter`")
    frozen = nn.Linear(3, 2).requires_grad_(False)
    assert_refused("E0413", lambda: blocks(frozen, X), "trainable")
