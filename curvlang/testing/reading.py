"""What a curvature is, said slowly: its expressions read directly, its leaves by plain autodiff.

Two oracles in float64. `read` hands the tensor program of a chain, as derived and before anything
is simplified, to the interpreter, over the leaves of the whole task at once. `autodiff` knows
built-in chains only and touches nothing of `curvlang.models` but the loss of one example.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.functional import hessian, jacobian

from curvlang.compiler.derive.builder import leaves_of
from curvlang.compiler.derive.derive import derive
from curvlang.compiler.derive.program import Leaf, Partition, Program, Result
from curvlang.compiler.planning.passes import schedule
from curvlang.ir.expr import Define, Index, Statement, Target
from curvlang.ir.indices import rename_names
from curvlang.ir.interpreter import interpret
from curvlang.language.chain import Chain, Curvature
from curvlang.language.partition import partition_of_chain
from curvlang.language.sums import DECAY, states_decay, weighted_chains
from curvlang.models.execution.substitution import functional_call
from curvlang.models.losses.draws import Draws
from curvlang.models.task import Task
from curvlang.models.tracing.blocks import LayerBlock, apart, trainable
from curvlang.models.tracing.leaves import LeafRequest, columns, leaves, loss_hessian
from curvlang.models.tracing.leaves import jacobian as output_jacobian

Array = NDArray[np.float64]
Known = dict[str, tuple[Array, tuple[Index, ...]]]


def read(curvature: Curvature, task: Task, *, seed: int = 0, noise: float = 0.0) -> Tensor:
    """All entries [P, P] of a curvature as its expressions say them.

    Args:
        curvature: A curvature.
        task: A small task in float64.
        seed: Of sampled labels, as `fit` takes it.
        noise: Relative size of a change of every leaf: how far rounding moves the entries.
    """
    return _summed(curvature, task, lambda chain: _read_chain(chain, task, seed, noise))


def _summed(curvature: Curvature, task: Task, entries: Callable[[Chain], Tensor]) -> Tensor:
    """The weighted chains of the mean loss, and the task's L2 term once where no term states it."""
    values = {DECAY: task.weight_decay}
    terms = list(weighted_chains(curvature))
    whole = torch.stack([weight.value(values) * entries(chain) for weight, chain in terms]).sum(0)
    if states_decay(curvature):
        return whole
    return whole + task.weight_decay * torch.eye(len(whole)).to(whole)


def _read_chain(chain: Chain, task: Task, seed: int, noise: float) -> Tensor:
    programs, (results,) = derive([chain], last=True)
    result = results[-1]
    program = next(p for p in programs if p.key == result.key)
    by = Partition.LAYER if result.partition.layers else result.partition
    layers = tuple(own for block in task.blocks(by) for own in apart(block))
    whole = torch.zeros(task.P, task.P, dtype=torch.float64, device=task.device)
    rounding = np.random.default_rng(0)
    # The interpreter computes with numpy, wherever the leaves come from.
    for index, known, sizes in _places(program, layers, task, seed):
        if noise:
            known = {
                name: (x * (1 + noise * rounding.standard_normal(x.shape)), axes)
                for name, (x, axes) in known.items()
            }
        entries, _ = interpret(_statements(program, result), known, sizes)
        block = torch.from_numpy(entries.reshape(len(index), len(index)))
        whole[index[:, None], index] = block.to(whole.device)
    return whole


def _places(
    program: Program, layers: tuple[LayerBlock, ...], task: Task, seed: int
) -> Iterator[tuple[Tensor, Known, dict[str, int]]]:
    """For every block its place, its leaves in every pass, and the sizes of its spaces."""
    passes = range(1, _passes(program) + 1)
    draws = {k: _drawn(program, layers, task, Draws(seed, k)) for k in passes}
    if program.partition == Partition.MODEL:
        places = {"model": torch.arange(task.P, device=task.device)}
    else:
        places = {b.name: b.index for b in layers}
    for name, index in places.items():
        known: Known = {}
        layer = next((b for b in layers if b.name == name), None)
        for k, given in draws.items():
            for leaf_name, leaf in program.leaves.items():
                values = _leaf(leaf, given[name], task, index, layer)
                known[_at(leaf_name, leaf, k)] = (values, leaf.indices)
        yield index, known, _sizes(draws[1][name], layer, task) | _lengths(known)


def _drawn(
    program: Program, layers: tuple[LayerBlock, ...], task: Task, draws: Draws
) -> dict[str, dict[str, Tensor]]:
    """The leaves of all examples at once, by block; labels drawn as one pass draws them."""
    kinds = {leaf.kind for leaf in program.leaves.values()}
    X, y = task.train[0][:], task.train[1][:]
    if program.fisher is not None:
        wants = {"a", "g"} | (kinds & {"e"})
        request = LeafRequest(wants, program.fisher, draws)
    else:
        request = LeafRequest({"a"} | (kinds & {"e"}))
    found = leaves(task.model, task.loss, X, y, layers, request)
    if program.partition != Partition.MODEL:
        return found
    whole = {}
    if "j" in kinds:
        whole["j"] = columns(layers, found)
    if "J" in kinds:
        whole["J"] = output_jacobian(task.model, X, layers)
    if "L" in kinds:
        whole["L"] = loss_hessian(task.model, task.loss, X, y)
    return {"model": whole}


def _leaf(
    leaf: Leaf, given: Mapping[str, Tensor], task: Task, index: Tensor, rows: LayerBlock | None
) -> Array:
    if leaf.kind != "H":
        return np.asarray(given[leaf.kind].detach().cpu().numpy(), float)
    block = _hessian(task)[index[:, None], index]
    if rows is None:
        return np.asarray(block.cpu().numpy(), float)
    shape = (rows.d_out, rows.d_in, rows.d_out, rows.d_in)
    return np.asarray(block.reshape(shape).cpu().numpy(), float)


def _sizes(given: Mapping[str, Tensor], layer: LayerBlock | None, task: Task) -> dict[str, int]:
    """Lengths of the spaces that the model gives, whether or not the program reads their leaves."""
    if layer is None:
        return {"n": task.N, "p": task.P}
    axes = leaves_of(Partition.LAYER)
    shapes = ((axes[kind], x.shape) for kind, x in given.items() if kind in axes)
    found = {x.space: size for own, shape in shapes for x, size in zip(own, shape, strict=True)}
    return found | {"o": layer.d_out, "i": layer.d_in}


def _lengths(known: Known) -> dict[str, int]:
    return {
        index.space: size
        for values, axes in known.values()
        for index, size in zip(axes, values.shape, strict=True)
    }


def _sampled(program: Program) -> bool:
    return program.fisher is not None and program.fisher.kind == "mc"


def _passes(program: Program) -> int:
    """Every pass draws labels of its own; without drawing one reading of the data serves all."""
    return max(1, schedule(program).passes) if _sampled(program) else 1


def _at(name: str, leaf: Leaf, number: int) -> str:
    return (
        f"{name} of pass {number}" if leaf.fisher is not None and leaf.fisher.kind == "mc" else name
    )


def _statements(program: Program, result: Result) -> list[Statement]:
    """The program as derived; with sampled labels, the scheduled one with each pass's own draws."""
    if not _sampled(program):
        return [*program.definitions, result.value]
    plan = schedule(program)
    found: list[Statement] = [d for level, d in plan.finished if level == 0]

    def read_in(number: int) -> dict[str, str]:
        return {name: _at(name, leaf, number) for name, leaf in program.leaves.items()}

    for number in range(1, plan.passes + 1):
        for sum_ in plan.accumulators:
            if sum_.number == number:
                value = rename_names(sum_.value, read_in(number))
                found.append(Define((Target(sum_.name, sum_.indices),), value))
        found += [d for level, d in plan.finished if level == number]
    level, last = plan.results[plan.originals.index(result.value)]
    whole = rename_names(last.value, read_in(max(1, level)))
    return [*found, replace(last, value=whole)]


# Plain automatic differentiation -------------------------------------------------------------


def autodiff(curvature: Curvature, task: Task) -> Tensor:
    """All entries [P, P] of a curvature made of built-in stages, one example at a time."""
    return _summed(curvature, task, lambda chain: _autodiff_chain(chain, task))


def _autodiff_chain(chain: Chain, task: Task) -> Tensor:
    named = {s.name: s.arguments for s in chain.stages}
    if "drop_residual" not in named:
        whole = _hessian(task)
    elif named["drop_residual"]["fisher"] == "empirical":
        rows = torch.stack(list(_gradients(task)))
        whole = rows.T @ rows / task.N
    else:
        whole = torch.stack(list(_gauss_newton(task))).mean(0)
    if "block_diagonal" in named:
        whole = cut(whole, task.blocks(partition_of_chain(chain)))
    return whole


def cut(matrix: Tensor, layers: tuple[LayerBlock, ...]) -> Tensor:
    """The blocks on the diagonal alone."""
    kept = torch.zeros_like(matrix)
    for block in layers:
        for own in block.places:
            kept[own[:, None], own] = matrix[own[:, None], own]
    return kept


def _outputs(task: Task, theta: Tensor, x: Tensor) -> Tensor:
    pieces, start = {}, 0
    for name, p in trainable(task.model).items():
        pieces[name] = theta[start : start + p.numel()].reshape(p.shape)
        start += p.numel()
    f: Tensor = functional_call(task.model, pieces, (x[None],))
    return f


def _theta(task: Task) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in trainable(task.model).values()])


def _hessian(task: Task) -> Tensor:
    """(1/N) Σ ∇²ℓ_n."""
    theta, (X, y) = _theta(task), task.train

    def loss(z: Tensor, n: int) -> Tensor:
        return task.loss.per_example(_outputs(task, z, X[n]), y[n][None])[0]

    each = [hessian(lambda z, n=n: loss(z, n), theta) for n in range(task.N)]
    return torch.stack(each).mean(0)


def _gradients(task: Task) -> Iterator[Tensor]:
    theta, X, y = _theta(task), task.train[0][:], task.train[1][:]
    for x, target in zip(X, y, strict=True):
        z = theta.clone().requires_grad_()
        loss = task.loss.per_example(_outputs(task, z, x), target[None])[0]
        yield torch.autograd.grad(loss, z)[0]


def _gauss_newton(task: Task) -> Iterator[Tensor]:
    """J_nᵀ Λ_n J_n of every example."""
    theta, X, y = _theta(task), task.train[0][:], task.train[1][:]
    for x, target in zip(X, y, strict=True):
        f = _outputs(task, theta, x).detach()
        J = jacobian(lambda z, x=x: _outputs(task, z, x).reshape(-1), theta)
        L = hessian(
            lambda u, f=f, t=target: task.loss.per_example(u.reshape(f.shape), t[None])[0],
            f.reshape(-1),
        )
        yield J.T @ L @ J
