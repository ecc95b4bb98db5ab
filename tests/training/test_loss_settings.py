"""Settings of a loss reach everything that a spec runs: training, retraining, curvature."""

from __future__ import annotations

import torch

import curvlang as cv
from curvlang.models.builtin import task_from
from curvlang.models.losses.losses import CrossEntropy
from curvlang.models.recipe import Recipe
from curvlang.training.retrain import retrain
from curvlang.training.training import Training
from tests.models.support import assert_different, assert_equal
from tests.oracles import dense
from tests.small import network

SPEC = """
task smooth {
  data random(examples = 6, outputs = 3)
  model mlp(hidden = [4])
  loss cross_entropy(label_smoothing = 0.1, weight = [1, 0.5, 2], ignore_index = -1)
  train sgd(epochs = 0)
}
curvature mine = block_ggn
evaluate mine on smooth
"""


def test_a_spec_gives_the_settings():
    spec = cv.loads(SPEC)
    made = task_from(spec.evaluations[0].task)
    assert made.loss == CrossEntropy("sum", 0.1, -1, (1, 0.5, 2))
    op = cv.fit(spec, made.to(dtype=torch.float64))
    without = cv.Task(made.model, "cross_entropy", made.train, made.query)
    assert without.fingerprint() != made.fingerprint()
    plain = cv.fit(spec, without)
    assert_different(op.trace().reshape(1), plain.trace().reshape(1).double())


def test_retraining_minimises_the_loss_with_its_settings():
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(12, 3, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 3, (12,), generator=generator)
    loss = CrossEntropy(label_smoothing=0.3, weight=(1.0, 0.5, 2.0))
    recipe = Recipe(lr=0.1, batch=12, epochs=4, schedule="constant")
    members = torch.ones(2, 12, dtype=torch.bool)

    def retrained(loss):
        return retrain(Training(lambda seed: network([3, 4, 3], seed=seed), loss, (X, y), (X, y), members, recipe, [0, 1], [0, 1]), keep_parameters=True).parameters["0.weight"]  # fmt: skip

    model = network([3, 4, 3], seed=0)
    step = torch.optim.SGD(model.parameters(), lr=0.1)
    weight = torch.tensor(loss.weight, dtype=torch.float64)
    for _ in range(4):
        step.zero_grad()
        rule = torch.nn.CrossEntropyLoss(weight, label_smoothing=0.3, reduction="sum")
        (rule(model(X), y) / 12).backward()
        step.step()
    assert_equal(retrained(loss)[0], model[0].weight.detach())
    assert_different(retrained("cross_entropy")[0], model[0].weight.detach())


def test_a_loss_module_of_torch_is_the_built_in_loss():
    X = torch.randn(5, 3, dtype=torch.float64)
    y = torch.tensor([0, 1, 2, 0, 1])
    task = cv.Task(network([3, 4, 3]), torch.nn.CrossEntropyLoss(), (X, y), (X, y))
    own = cv.Task(task.model, dense.LOSSES["cross_entropy"], (X, y), (X, y))
    for spec in ("ggn", "hessian"):
        assert_equal(cv.fit(spec, task).dense(), cv.fit(spec, own).dense())
