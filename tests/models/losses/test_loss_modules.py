"""Losses of batches: for every example what the module gives for it alone, or a refusal."""

from __future__ import annotations

import warnings
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional

import curvlang as cv
from curvlang.models.losses.draws import Draws
from curvlang.models.losses.losses import loss_named
from curvlang.models.losses.resolve import ClassAxis, Probabilities
from tests.models.support import EXACT, assert_equal, assert_refused

N, D, C = 6, 4, 3


def drawn(*shape, seed=0, low=0.0):
    g = torch.Generator().manual_seed(seed)
    return low + torch.rand(shape, generator=g, dtype=torch.float64)


def classes(*shape, seed=1):
    return torch.randint(0, C, shape, generator=torch.Generator().manual_seed(seed))


def network(kind="linear", last=None):
    torch.manual_seed(3)
    first = {"linear": nn.Linear, "1d": nn.Conv1d, "2d": nn.Conv2d}[kind]
    layer = first(D, C) if kind == "linear" else first(D, C, 1)
    return nn.Sequential(layer, *([] if last is None else [last])).double().eval()


class Focal(nn.CrossEntropyLoss):
    """A subclass of a module of torch that computes something else."""

    def forward(self, f, y):
        ce = functional.cross_entropy(f, y, reduction="none")
        return ((1 - torch.exp(-ce)) ** 2 * ce).mean()


class Squares(nn.Module):
    def forward(self, f, y):
        return (f - y).square().sum()


X, Y, SOFT = drawn(N, D), classes(N), drawn(N, C)
SIGNS = torch.where(SOFT > 0.5, 1.0, -1.0).double()
W = drawn(C, seed=5)
MAPS = {"1d": (drawn(N, D, C), classes(N, C)), "2d": (drawn(N, D, 5, 2), classes(N, 5, 2))}
LOGS, PROBABILITIES = nn.LogSoftmax(1), nn.Sigmoid()

RIGHT = {
    "l1": (nn.L1Loss(), network(), X, SOFT),
    "l1 sum": (nn.L1Loss(reduction="sum"), network(), X, SOFT),
    "huber": (nn.HuberLoss(delta=0.1), network(), X, SOFT),
    "smooth l1": (nn.SmoothL1Loss(beta=0.1), network(), X, SOFT),
    "nll": (nn.NLLLoss(), network(last=LOGS), X, Y),
    "nll weight sum": (nn.NLLLoss(W, reduction="sum"), network(last=LOGS), X, Y),
    "nll of images": (nn.NLLLoss(), network("2d", LOGS), *MAPS["2d"]),
    "kl mean": (nn.KLDivLoss(), network(last=LOGS), X, SOFT),
    "kl batchmean": (nn.KLDivLoss(reduction="batchmean"), network(last=LOGS), X, SOFT),
    "poisson": (nn.PoissonNLLLoss(), network(), X, SOFT),
    "bce": (nn.BCELoss(), network(last=PROBABILITIES), X, SOFT),
    "bce weight": (nn.BCELoss(weight=W), network(last=PROBABILITIES), X, SOFT),
    "bce logits": (nn.BCEWithLogitsLoss(pos_weight=W), network(), X, SOFT),
    "bce logits weight": (nn.BCEWithLogitsLoss(weight=W), network(), X, SOFT),
    "bce logits sum": (nn.BCEWithLogitsLoss(reduction="sum"), network(), X, SOFT),
    "bce logits by channel": (
        nn.BCEWithLogitsLoss(pos_weight=W[:, None]), network("1d"), MAPS["1d"][0], drawn(N, C, C)
    ),
    "multi margin": (nn.MultiMarginLoss(weight=W), network(), X, Y),
    "multi label": (nn.MultiLabelSoftMarginLoss(), network(), X, SOFT),
    "soft margin": (nn.SoftMarginLoss(), network(), X, SIGNS),
    "hinge embedding": (nn.HingeEmbeddingLoss(), network(), X, SIGNS),
    "cross entropy": (nn.CrossEntropyLoss(label_smoothing=0.1), network(), X, Y),
    "cross entropy none": (nn.CrossEntropyLoss(reduction="none"), network(), X, Y),
    "cross entropy weight sum": (nn.CrossEntropyLoss(W, reduction="sum"), network(), X, Y),
    "probabilities": (nn.CrossEntropyLoss(), network(), X, SOFT),
    "probabilities weight": (nn.CrossEntropyLoss(W), network(), X, SOFT),
    "channels first, C = T": (nn.CrossEntropyLoss(), network("1d"), *MAPS["1d"]),
    "channels first, sum": (
        nn.CrossEntropyLoss(W, label_smoothing=0.2, reduction="sum"), network("1d"), *MAPS["1d"]
    ),
    "images": (nn.CrossEntropyLoss(), network("2d"), *MAPS["2d"]),
    "a subclass": (Focal(), network(), X, Y),
    "of one's own": (Squares(), network(), X, SOFT),
    "functional": (functional.cross_entropy, network("1d"), *MAPS["1d"]),
    "a partial": (partial(functional.huber_loss, delta=0.1), network(), X, SOFT),
    "a partial of cross entropy": (
        partial(functional.cross_entropy, label_smoothing=0.2), network("2d"), *MAPS["2d"]
    ),
}  # fmt: skip


def by_autograd(loss, model, x, y):
    """∇ℓ_n [N, P] of the loss called on every example alone."""
    own = list(model.parameters())
    rows = []
    for n in range(len(x)):
        value = loss(model(x[n : n + 1]), y[n : n + 1]).sum()
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(value, own)]))
    return torch.stack(rows)


def chosen(p, y):
    return -p.log().gather(-1, y[..., None]).sum()


TWICE = {
    "softmax": (nn.Softmax(-1), "cross_entropy", X, Y, chosen),
    "softmax of positions": (
        nn.Softmax(-1),
        cv.CrossEntropy(),
        drawn(N, 5, D),
        classes(N, 5),
        None,
    ),
    "softmax on axis 1": (nn.Softmax(1), nn.CrossEntropyLoss(), *MAPS["2d"], None),
    "sigmoid": (nn.Sigmoid(), "bce_with_logits", X, SOFT, nn.BCELoss()),
}


@pytest.mark.parametrize("case", TWICE)
def test_probabilities_where_logits_are_read_are_said(case):
    last, loss, x, y, repair = TWICE[case]
    kind = "2d" if case == "softmax on axis 1" else "linear"
    with pytest.warns(Probabilities, match=r"return logits, without the last (softmax|sigmoid)"):
        cv.Task(network(kind, last), loss, (x, y), (x, y))
    with warnings.catch_warnings():
        warnings.simplefilter("error", Probabilities)
        logits = cv.Task(network(kind), loss, (x, y), (x, y))
        if repair is None:
            return
        own = cv.Task(network(kind, last), repair, (x, y), (x, y))
    a, b = (cv.influence(cv.fit("hessian", t), t, damping=1.0) for t in (logits, own))
    assert_equal(a, b)


class Gated(nn.Module):
    """Logits between 0 and 1 by chance, and a sigmoid that is not the last operation."""

    def __init__(self):
        super().__init__()
        self.inner, self.gate = nn.Linear(D, C), nn.Sigmoid()

    def forward(self, x):
        return self.gate(self.inner(x)) * 3 - 1


@pytest.mark.parametrize(
    ("model", "loss", "y"),
    [
        (network(last=nn.LogSoftmax(1)), "cross_entropy", Y),
        (Gated().double(), "bce_with_logits", SOFT),
        (network(last=nn.Softmax(1)), "mse", SOFT),
        (nn.Sequential(nn.Linear(D, 1), nn.Softmax(1)).double(), "bce_with_logits", SOFT[:, :1]),
    ],
    ids=["log-softmax", "a gate", "squares", "another function"],
)
def test_other_outputs_are_not_said(model, loss, y):
    with warnings.catch_warnings():
        warnings.simplefilter("error", Probabilities)
        cv.Task(model.eval(), loss, (X, y), (X, y))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", RIGHT)
def test_scores_are_those_of_the_loss_called_on_one_example(name):
    loss, model, x, y = RIGHT[name]
    task = cv.Task(model, loss, train=(x, y), query=(x[:2], y[:2]))
    found = cv.influence(cv.fit("identity", task), task, damping=0.0)
    rows = by_autograd(loss, model, x, y)
    assert_equal(found, rows[:2] @ rows.T)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(set(RIGHT) - {"multi margin"}))
def test_second_derivatives_are_autograds(name):
    loss, model, x, y = RIGHT[name]
    task = cv.Task(model, loss, train=(x, y), query=(x[:2], y[:2]))
    f = model(x).detach()
    found = task.loss.hessian(f, y)
    u = (f + 1).flatten(1).cos()
    assert_equal(task.loss.hessian_product(f, y, u), torch.einsum("bcd,bd->bc", found, u))
    S = task.loss.factor(f, y)
    assert_equal(S @ S.mT, found, 1e-9)
    for n in (0, N - 1):
        one = lambda z, n=n: loss(z.reshape(1, *f.shape[1:]), y[n : n + 1]).sum()  # noqa: E731
        wanted = torch.autograd.functional.hessian(one, f[n].flatten())
        assert_equal(found[n], wanted, EXACT)


def test_sampled_columns_of_channels_first_have_the_hessian_as_second_moment():
    loss, model, x, y = RIGHT["channels first, C = T"]
    found = loss_named(loss, model(x), y)
    f = model(x).detach()
    columns = found.sample(f, y, Draws(0), 40_000)
    wanted = found.hessian(f, y)
    assert float((columns @ columns.mT - wanted).norm()) < 0.05 * float(wanted.norm())
    last = loss_named("cross_entropy").hessian(f, y)
    assert float((columns @ columns.mT - last).norm()) > 0.5 * float(wanted.norm())


def test_positions_flattened_by_hand_are_read_on_the_last_axis():
    """Outputs [B, T, C], which torch's module takes only as [B·T, C]."""
    x, y = drawn(N, 5, D), classes(N, 5)
    model, loss = network(), nn.CrossEntropyLoss()
    task = cv.Task(model, loss, train=(x, y), query=(x, y))
    found = cv.influence(cv.fit("identity", task), task, damping=0.0)
    rows = by_autograd(lambda f, t: loss(f.flatten(0, 1), t.flatten()), model, x, y)
    assert_equal(found, rows @ rows.T)


class Together(nn.Module):
    """Centres the outputs of a batch: no example has a loss by itself."""

    def forward(self, f, y):
        return (f - f.mean(0) - y).square().mean()


class Weighted(nn.Module):
    """A weighted mean that is not torch's."""

    def forward(self, f, y):
        return functional.cross_entropy(f, y, weight=W)


class Trained(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, f, y):
        return (self.scale * f - y).square().mean()


class OneClass(nn.Module):
    """Divides a batch by weights in which one class alone, a rare one, differs."""

    def forward(self, f, y):
        weights = torch.where(y == 1, 3.0, 1.0)
        return (weights * functional.cross_entropy(f, y, reduction="none")).sum() / weights.sum()


UNEQUAL = classes(N, 5)
UNEQUAL[0, 2:] = -100

REFUSED = {
    "class weights": ("E0582", nn.CrossEntropyLoss(W), X, Y, "cv.CrossEntropy(weight=…)"),
    "class weights of nll": ("E0582", nn.NLLLoss(W), X, Y, 'reduction="sum"'),
    "its own class weights": ("E0582", Weighted(), X, Y, "examples together"),
    "a batch as a whole": ("E0582", Together(), X, SOFT, "examples together"),
    "weights by place": ("E0582", nn.BCELoss(weight=drawn(N, 1)), X, SOFT, "of a batch"),
    "unequal lengths": ("E0582", nn.CrossEntropyLoss(), drawn(N, 5, D), UNEQUAL, "from 2 to 5"),
    "ignored examples": ("E0582", nn.NLLLoss(ignore_index=1), X, Y, "from 0 to 1"),
    "weights of every number": (
        "E0405", partial(functional.mse_loss, weight=drawn(N, C)), X, SOFT, "same size"
    ),
    "parameters": ("E0587", Trained(), X, SOFT, "`scale`"),
    "a class": ("E0411", nn.MSELoss, X, SOFT, "`MSELoss()`"),
    "a number": ("E0411", 3, X, SOFT, "a `int` is not a loss"),
    "three arguments": ("E0405", nn.GaussianNLLLoss(), X, SOFT, "'var'", "two arguments"),
    "ctc": ("E0405", nn.CTCLoss(), X, SOFT, "'input_lengths'"),
    "triplets": ("E0405", nn.TripletMarginLoss(), X, SOFT, "'negative'"),
    "no reduction": ("E0580", nn.MSELoss(reduction="none"), X, SOFT, "[1, 3]"),
    "a label that is none": ("E0405", nn.NLLLoss(), X, Y + (torch.arange(N) == 4), "example 4"),
    "channels first by name": ("E0405", "cross_entropy", MAPS["2d"][0], MAPS["2d"][1], "nn.CrossEntropyLoss()"),
    "probabilities by name": ("E0405", "cross_entropy", X, SOFT, "probabilities"),
}  # fmt: skip


def test_a_class_that_is_rare_is_tried():
    x, y = drawn(60, D), torch.tensor([0, 2]).repeat(30)
    y[[18, 37]] = 1
    made = lambda: cv.Task(network(), OneClass(), train=(x, y), query=(x, y))  # noqa: E731
    assert_refused("E0582", made, "examples together")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("kind", [nn.MSELoss, nn.L1Loss])
@pytest.mark.parametrize("axis", [0, 1])
def test_outputs_and_targets_are_not_combined_across_examples(kind, reduction, axis):
    """[B, 1] with [B] is broadcast to [B, B]: the loss of a batch is not one of its examples."""
    last = nn.Identity() if axis else nn.Flatten(0)
    model = nn.Sequential(nn.Linear(D, 1), last).double().eval()
    y = drawn(N) if axis else drawn(N, 1)
    made = lambda: cv.Task(model, kind(reduction=reduction), train=(X, y), query=(X, y))  # noqa: E731
    code = "E0405" if kind is nn.MSELoss and reduction == "mean" else "E0582"
    assert_refused(
        code, made, "give targets of shape [B, 1]" if axis else "give targets of shape [B]"
    )


@pytest.mark.parametrize(
    "loss",
    [
        partial(functional.mse_loss, size_average=False),
        partial(functional.nll_loss, reduction="sum"),
        partial(functional.l1_loss, reduction="sum"),
    ],
)
def test_settings_of_functions_that_their_modules_lack(loss):
    y = Y if loss.func is functional.nll_loss else SOFT
    model = network()
    task = cv.Task(model, loss, train=(X, y), query=(X, y))
    found = cv.influence(cv.fit("identity", task), task, damping=0.0)
    rows = by_autograd(lambda f, t: loss(f, t), model, X, y)
    assert_equal(found, rows @ rows.T)


def test_classes_that_labels_find_on_two_axes_are_read_on_the_last_and_said():
    """[B, C, C]: the name reads the last axis, torch's module axis 1; a loss that is given says it."""
    f, y = drawn(N, C, C), classes(N, C)
    model = nn.Linear(C, C).double()
    with pytest.warns(ClassAxis, match="last axis"):
        task = cv.Task(model, "cross_entropy", (f, y), (f, y))
    assert task.loss.axis == -1
    with warnings.catch_warnings():
        warnings.simplefilter("error", ClassAxis)
        assert cv.Task(model, cv.CrossEntropy(), (f, y), (f, y)).loss.axis == -1
        module = nn.CrossEntropyLoss(reduction="sum")
        assert cv.Task(model, module, (f, y), (f, y)).loss.axis == 1


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_mean_over_examples_is_refused(name):
    code, loss, x, y, *words = REFUSED[name]
    if name == "a label that is none":
        y = torch.where(torch.arange(N) == 4, C, y)
    model = network("2d" if x.ndim == 4 else "linear")
    assert_refused(code, lambda: cv.Task(model, loss, train=(x, y), query=(x, y)), *words)


def test_equal_lengths_and_sums_are_not_refused():
    x, same = drawn(N, 5, D), classes(N, 5)
    same[:, 3:] = -100
    for loss, y in ((nn.CrossEntropyLoss(), same), (nn.CrossEntropyLoss(reduction="sum"), UNEQUAL)):
        task = cv.Task(network(), loss, train=(x, y), query=(x, y))
        assert task.loss.positions == loss.reduction


@pytest.mark.filterwarnings("ignore")
def test_what_torch_cannot_differentiate_twice_says_so():
    """Torch's own product of this loss has a first derivative alone."""
    signs = torch.where(SOFT > 0.5, 0, -1)
    task = cv.Task(network(), nn.MultiLabelMarginLoss(), train=(X, signs), query=(X, signs))
    f = task.model(X).detach()
    assert_refused("E0581", lambda: task.loss.hessian(f, signs), "twice", "`identity`")
    assert_refused("E0581", lambda: task.loss.hessian_product(f, signs, f), "twice")


@pytest.mark.filterwarnings("ignore")
def test_a_squared_margin_has_the_second_derivative_of_differences():
    loss, f = nn.MultiMarginLoss(p=2), drawn(N, C)
    found = loss_named(loss, f, Y).hessian(f, Y)
    step = 1e-6 * torch.eye(C, dtype=torch.float64)
    for n in range(N):

        def slope(z, n=n):
            return torch.autograd.functional.jacobian(lambda x: loss(x[None], Y[n : n + 1]), z)

        wanted = torch.stack([(slope(f[n] + e) - slope(f[n] - e)) / 2e-6 for e in step])
        assert_equal(found[n], wanted, 1e-7)


def test_settings_tell_losses_apart():
    names = {
        repr(loss_named(loss))
        for loss in (
            nn.HuberLoss(), nn.HuberLoss(delta=0.5), partial(functional.huber_loss, delta=0.5),
            nn.BCELoss(), nn.BCELoss(weight=W), nn.BCELoss(weight=2 * W),
            nn.BCELoss(weight=drawn(20)), nn.BCELoss(weight=drawn(20, seed=1)),
        )
    }  # fmt: skip
    assert len(names) == 8


def test_margins_and_positions_follow_the_class_axis():
    loss, model, x, y = RIGHT["channels first, C = T"]
    task = cv.Task(model, loss, train=(x, y), query=(x, y))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = cv.influence(cv.fit("identity", task), task, damping=0.0, metric="logit")
    picked = lambda f, t: -f.gather(1, t.unsqueeze(1)).sum()  # noqa: E731
    wanted = by_autograd(picked, model, x, y) @ by_autograd(loss, model, x, y).T
    assert_equal(found, wanted)
    op = cv.fit("identity", task)
    assert_refused(
        "E0592", lambda: cv.influence(op, task, damping=0.0, per_position=True), "axis 1"
    )


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), functional.cross_entropy])
def test_a_module_as_a_metric_reads_the_axes_of_a_batch(loss):
    _, model, x, y = RIGHT["channels first, C = T"]
    task = cv.Task(model, nn.CrossEntropyLoss(), train=(x, y), query=(x, y))
    op = cv.fit("identity", task)
    found = cv.influence(op, task, damping=0.0, metric=cv.Metric(loss, better="lower"))
    assert_equal(found, cv.influence(op, task, damping=0.0))
    plain = cv.Metric(lambda f, t: functional.cross_entropy(f, t), better="lower")
    other = cv.influence(op, task, damping=0.0, metric=plain)
    assert float((found - other).norm()) > 0.1 * float(found.norm())
