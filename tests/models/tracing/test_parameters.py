"""Parameters and buffers of every kind that modules hold: taken as they are, or refused by name."""

import math

import pytest
import torch
from torch import nn

import curvlang as cv

N = 8
SPECS = ("identity", "ggn", "hessian")


class Beside(nn.Module):
    """A layer, and one more tensor that takes part."""

    def __init__(self, use, tensor, *, trained=False, buffer=False):
        super().__init__()
        self.layer, self.use = nn.Linear(3, 3), use
        if buffer:
            self.register_buffer("more", tensor)
        else:
            self.more = nn.Parameter(tensor, requires_grad=trained)

    def forward(self, x):
        return self.use(self.layer(x), self.more, x)


def data():
    torch.manual_seed(0)
    X, y = torch.randn(N, 3), torch.randint(0, 3, (N,))
    return {"train": (X, y), "query": (X[:2], y[:2])}


MASK = torch.full((3, 3), -math.inf).triu(1)


def masked(f, mask, x):
    return (f[:, None] + mask).softmax(-1).sum(1)


TAKEN = {
    "no entries": lambda: Beside(lambda f, e, x: f + e.sum(), torch.zeros(0), trained=True),
    "no columns": lambda: Beside(
        lambda f, e, x: f + x[:, :0] @ e.T, torch.zeros(3, 0), trained=True
    ),
    "no axes": lambda: Beside(lambda f, e, x: f * e, torch.tensor(0.5), trained=True),
    "frozen float64": lambda: Beside(lambda f, e, x: f + e.float(), torch.ones(3).double()),
    "frozen complex": lambda: Beside(lambda f, e, x: f + e.real, torch.ones(3, dtype=torch.cfloat)),
    "frozen int8": lambda: Beside(lambda f, e, x: f + e.float(), torch.ones(3, dtype=torch.int8)),
    "frozen float8": lambda: Beside(
        lambda f, e, x: f + e.float(), torch.ones(3).to(torch.float8_e4m3fn)
    ),
    "mask in a buffer": lambda: Beside(masked, MASK, buffer=True),
    "mask in a frozen parameter": lambda: Beside(masked, MASK),
}


@pytest.mark.parametrize("name", TAKEN)
def test_what_is_taken(name):
    torch.manual_seed(1)
    model = TAKEN[name]().eval()
    t = cv.Task(model, **data())
    own = [p for p in model.parameters() if p.requires_grad]
    assert sum(p.numel() for p in own) == t.P
    wanted = []
    for k in range(N):
        X, y = t.train
        loss = nn.functional.cross_entropy(model(X[k : k + 1]), y[k : k + 1])
        grads = torch.autograd.grad(loss, own, allow_unused=True)
        wanted.append(sum(float(g.square().sum()) for g in grads if g is not None))
    found = cv.self_influence(cv.fit("identity", t), t, damping=0.0)
    assert torch.allclose(found.double(), torch.tensor(wanted).double(), rtol=1e-4)
    for spec in SPECS[1:]:
        assert bool(torch.isfinite(cv.fit(spec, t).dense()).all())


REFUSED = {
    "lazy": (lambda: nn.Sequential(nn.LazyLinear(3)), "E0413", "`0.weight` has no shape yet"),
    "lazy buffer": (
        lambda: nn.Sequential(nn.Linear(3, 3), nn.LazyBatchNorm1d(affine=False)),
        "E0413",
        "`1.running_mean` has no shape yet",
    ),
    "meta": (lambda: nn.Linear(3, 3, device="meta"), "E0413", "`weight` is on the meta device"),
    "partly meta": (
        lambda: nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3, device="meta")),
        "E0413",
        "`1.weight` is on the meta device",
    ),
    "trained complex": (
        lambda: Beside(lambda f, e, x: f + e.real, torch.ones(3, dtype=torch.cfloat), trained=True),
        "E0413",
        "`more` is `complex64`",
    ),
    "two precisions": (
        lambda: Beside(lambda f, e, x: f + e.float(), torch.ones(3).double(), trained=True),
        "E0413",
        "differ in precision or device",
    ),
    "NaN in a frozen parameter": (
        lambda: Beside(lambda f, e, x: f + e, torch.full((3,), math.nan)),
        "E0406",
        "parameter `more`: 3 values are NaN",
    ),
    "infinite parameter": (
        lambda: Beside(lambda f, e, x: f, torch.full((3,), math.inf), trained=True),
        "E0406",
        "parameter `more`: 3 values",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name):
    make, code, words = REFUSED[name]
    with pytest.raises(cv.SpecError) as caught:
        cv.Task(make().eval(), **data())
    (found,) = caught.value.diagnostics
    assert found.code == code
    assert words in found.headline
