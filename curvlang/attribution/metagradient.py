"""The derivative of the queries' losses by the weight of each training example, through training.

Let step k of the training be v ← μ v + g_k(θ), θ ← θ − η_k v with g_k the gradient of (1/B) Σ w_n ℓ_n
over its minibatch, and the L2 term's. With a = ∂m/∂v after the step, the chain rule backwards is

    ∂m/∂w_n += aᵀ ∇ℓ_n(θ_k) / B,    ∂m/∂θ_k = ∂m/∂θ_{k+1} + (∇²_batch + λ) a,    ∂m/∂v_k = μ a.

Nothing is approximated: neither convergence nor a single step is assumed. Engstrom et al. 2025
(arXiv:2503.13751) compute it at scale. It is the best that a sum over the examples of a subset can
do to first order around training on all of them, for one seed of it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import grad, jvp, vmap

from curvlang.models.execution.copies import copied
from curvlang.models.execution.process_state import kept_streams
from curvlang.models.execution.substitution import functional_call
from curvlang.models.task import Task
from curvlang.runtime.limits.memory import require
from curvlang.training.replay import (
    State,
    Step,
    check_followed,
    followed,
    losses_at,
    step_count,
)


@kept_streams()
def metagradient_scores(task: Task, queries: Tensor, seed: int) -> Tensor:
    """−N ∂m_q/∂w_n, `[Q, N]`: positive where more weight on n lowers the query's loss.

    Args:
        task: With `build` and `recipe`, in the precision that the training is followed in, its data
            on the model's device.
        queries: Numbers of the queries, [Q].
        seed: Of the model's initialisation, as the evaluated model has it.

    Raises:
        SpecError: E0509 for a recipe that is not SGD with heavy-ball momentum.
        MachineError: Where the parameters of all steps do not fit into memory.
    """
    assert task.build is not None
    assert task.recipe is not None
    check_followed("metagradient", task.recipe)
    model = copied(task.build(seed), task.dtype, task.device)
    total = step_count(task)
    require(total * task.P * task.dtype.itemsize, task.device, f"the {total} steps of a training")
    steps = list(followed(task, model, seed))
    adjoint = _query_gradients(task, model, steps[-1].after, queries)
    speed = {name: torch.zeros_like(value) for name, value in adjoint.items()}
    found = torch.zeros(len(queries), task.N, dtype=task.dtype, device=task.device)
    backward = _Backward(task, model)
    for step in reversed(steps):
        a = {name: speed[name] - step.lr * adjoint[name] for name in adjoint}
        slopes, bent = backward(step, a)
        found[:, step.rows] -= slopes * (task.N / len(step.rows))
        adjoint = {name: adjoint[name] + bent[name] for name in adjoint}
        speed = {name: task.recipe.momentum * value for name, value in a.items()}
    return found


def _query_gradients(task: Task, model: nn.Module, theta: State, queries: Tensor) -> State:
    """∇m_q by parameter, [Q, *shape]."""
    x, y = (part[queries].to(task.device) for part in task.query)

    def one(point: State, x: Tensor, y: Tensor) -> Tensor:
        f = functional_call(model, point, (x.unsqueeze(0),))
        return task.loss.per_example(f, y.unsqueeze(0)).sum()

    found: State = vmap(grad(one), in_dims=(None, 0, 0))(theta, x, y)
    return found


class _Backward:
    """Products of a step's gradients and Hessian with the adjoints of all queries."""

    def __init__(self, task: Task, model: nn.Module) -> None:
        self.task = task
        self.model = model
        self.decay = 0.0 if task.recipe is None else task.recipe.l2

    def __call__(self, step: Step, a: State) -> tuple[Tensor, State]:
        """aᵀ∇ℓ_n of the minibatch [Q, B], and (∇²_batch + λ) a by parameter."""

        def losses(point: State) -> Tensor:
            return losses_at(self.task, self.model, point, step.rows)

        def one(direction: State) -> tuple[Tensor, State]:
            slopes = jvp(losses, (step.theta,), (direction,))[1]
            mean = grad(lambda point: losses(point).mean())
            bent: State = jvp(mean, (step.theta,), (direction,))[1]
            return slopes, bent

        slopes, bent = vmap(one)(a)
        return slopes, {name: bent[name] + self.decay * a[name] for name in a}
