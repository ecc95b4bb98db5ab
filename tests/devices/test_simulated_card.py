"""The simulated card is one: values are right, what mixes devices raises, and every wait is counted, on torch's own operations."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.func import functional_call, grad, jvp, vmap

from tests.devices.simulated_card import CARD, MixedDevicesError, on_host, simulated_card

X = torch.arange(12.0, dtype=torch.float64).reshape(4, 3) / 7


def on_card(x=X):
    return x.pin_memory().to("cuda", non_blocking=True)


@pytest.mark.parametrize(
    "compute",
    [
        lambda x: x @ x.T,
        lambda x: torch.linalg.eigvalsh(x.T @ x),
        lambda x: torch.quantile(x, 0.3, dim=0),
        lambda x: x[[0, 2]] + x[x[:, 0] > 1].sum(),
        lambda x: torch.einsum("ni,nj->ij", x, x),
        lambda x: vmap(lambda row: row * row.new_tensor(2.0))(x),
        lambda x: vmap(grad(lambda row: row.square().sum()))(x),
        lambda x: jvp(torch.sin, (x,), (x,))[1],
        lambda x: torch.tensor([1.0, 2.0, 3.0], device=x.device, dtype=x.dtype) * x,
        lambda x: x.clone().unsqueeze_(0).mul_(3).squeeze_(0),
    ],
)
def test_values_are_those_of_the_host(compute):
    wanted = compute(X)
    with simulated_card():
        found = compute(on_card())
        assert found.device == CARD
        torch.testing.assert_close(on_host(found), wanted, rtol=1e-12, atol=1e-12)


def test_a_module_is_trained_there():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.Tanh()).double()
    model(X).square().sum().backward()
    wanted = model[0].weight.grad.clone()
    with simulated_card():
        moved = copy.deepcopy(model).to("cuda")
        moved.zero_grad()
        moved(on_card()).square().sum().backward()
        assert {p.device for p in moved.parameters()} == {CARD}
        called = functional_call(moved, dict(moved.named_parameters()), (on_card(),))
        torch.testing.assert_close(on_host(called), model(X))
        torch.testing.assert_close(on_host(moved[0].weight.grad), wanted)


@pytest.mark.parametrize(
    "mix",
    [
        lambda card, host: card + host,
        lambda card, host: host @ card.T,
        lambda card, host: torch.cat([card, host]),
        lambda card, host: host[card[:, 0].long()],
        lambda card, host: torch.where(card > 1, card, host),
        lambda card, host: host.add_(card),
        lambda card, host: card.index_select(0, torch.tensor([0])),
    ],
)
def test_devices_do_not_mix(mix):
    with simulated_card(), pytest.raises(MixedDevicesError, match="at least two devices"):
        mix(on_card(), X.clone())
    with FakeTensorMode(), pytest.raises((RuntimeError, IndexError)):
        # What torch's own fake tensors say of the same operation.
        mix(torch.empty(4, 3, device="cuda:0"), torch.empty(4, 3))


def test_a_number_of_the_host_meets_the_card():
    with simulated_card() as waits:
        assert (on_card() * torch.tensor(2.0)).device == CARD
        assert waits.total == 0


@pytest.mark.parametrize(
    ("wait", "what"),
    [
        (lambda x: x.sum().item(), "aten::_local_scalar_dense"),
        (lambda x: bool((x > 0).all()), "aten::_local_scalar_dense"),
        (lambda x: float(x.max()), "aten::_local_scalar_dense"),
        (lambda x: x.cpu(), "a copy to the host"),
        (lambda x: x.tolist(), "a copy to the host"),
        (lambda x: x.nonzero(), "aten::nonzero"),
        (lambda x: x[x > 1], "aten::index.Tensor by a mask"),
        (lambda x: x[torch.tensor([1])], "aten::index.Tensor by places on the host"),
        (lambda x: x[[1, 0]], "a copy to the card that waits"),
        (lambda x: torch.equal(x, x), "aten::equal"),
        (lambda x: torch.unique(x), "aten::_unique2"),
        (lambda x: torch.linalg.eigh(x.T @ x), "aten::_linalg_eigh"),
        (lambda x: torch.zeros(2, 3).copy_(x[:2]), "a copy to the host"),
        (lambda x: torch.tensor([1.0], device="cuda"), "a copy to the card that waits"),
        (lambda x: torch.ones(2).to(x.device), "a copy to the card that waits"),
        (lambda x: torch.ones(2).to(x.device, non_blocking=True), "a copy to the card that waits"),
        (lambda x: torch.cuda.synchronize(), "torch.cuda.synchronize"),
    ],
)
def test_what_waits_is_counted(wait, what):
    with simulated_card() as waits:
        x = on_card()
        assert waits.total == 0
        wait(x)
        assert what in {name for _, name in waits.counts}


@pytest.mark.parametrize(
    "work",
    [
        lambda x: (x @ x.T).exp().sum(0),
        lambda x: x[1:, :2].clone().fill_(0.5),
        lambda x: torch.zeros(3, device=x.device) + torch.eye(3, device="cuda"),
        lambda x: x.index_select(0, on_card(torch.tensor([1, 0]))),
        lambda x: x[on_card(torch.tensor([1, 0]))],
        lambda x: torch.linalg.cholesky_ex(x.T @ x),
        lambda x: x.to(torch.float32).to("cuda:0"),
    ],
)
def test_what_does_not_wait_is_not(work):
    with simulated_card() as waits:
        work(on_card())
        assert waits.counts == {}


def test_nothing_is_left_behind():
    before = torch.tensor, torch.Tensor.__getitem__, torch.cuda.is_available()
    with simulated_card():
        assert torch.cuda.is_available()
    assert before == (torch.tensor, torch.Tensor.__getitem__, torch.cuda.is_available())
    assert X[[0, 1]].device.type == "cpu"
