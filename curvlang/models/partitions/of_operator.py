"""The model's blocks that an operator's blocks are: layers, parameters, pieces of layers, or named groups."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from curvlang.language.partition import Partition
from curvlang.models.partitions.cutting import cut
from curvlang.models.task import Task
from curvlang.models.tracing.blocks import LayerBlock, offsets, trainable
from curvlang.models.tracing.layer_block import Cut
from curvlang.operators import BlockDiagonal, Operator, Scaled, Sum

_PIECE = re.compile(r"\[\d+\]$")


def candidates(operator: Operator, task: Task) -> Iterator[Sequence[LayerBlock]]:
    """Blocks of the model that may be those of an operator, the usual ones first.

    Args:
        operator: A direct sum.
        task: Whose model.
    """
    yield task.blocks()
    yield task.blocks("parameter")
    found = _direct_sum(operator)
    if found is not None:
        yield _pieces(found, task)
        yield _groups(found, task)


def _direct_sum(operator: Operator) -> BlockDiagonal | None:
    match operator:
        case BlockDiagonal():
            return operator
        case Scaled(operator=inner):
            return _direct_sum(inner)
        case Sum(terms=terms):
            return next((x for term in terms if (x := _direct_sum(term)) is not None), None)
        case _:
            return None


def _pieces(operator: BlockDiagonal, task: Task) -> list[LayerBlock]:
    """Layers, weights and biases, each cut into as many pieces as the operator has blocks of its name."""
    places: dict[str, list[torch.Tensor]] = {}
    for names, _, where in operator.named_parts():
        places.setdefault(_PIECE.sub("", names[0]), []).extend(where.index.reshape(len(names), -1))
    known = {_base(b): b for b in (*task.blocks("parameter"), *task.blocks())}
    found = []
    for base, own in places.items():
        block = known.get(base)
        if block is None or len(own) % block.count:
            return []
        whole, into = torch.cat(own), len(own) // block.count
        sides = {"outputs": block.d_out, "inputs": block.d_in}
        tried = [cut(block, Cut(s, into)) for s, size in sides.items() if size % into == 0]
        found += [x for x in tried if torch.equal(x.index, whole)][:1]
    return found


def _base(block: LayerBlock) -> str:
    return block.name if block.count == 1 else _PIECE.sub("", block.names[0])


def _groups(operator: BlockDiagonal, task: Task) -> list[LayerBlock]:
    """A block for the parameters of each of the operator's blocks, under its name."""
    starts, sizes = offsets(task.model), {k: p.numel() for k, p in trainable(task.model).items()}
    groups, names = [], []
    for own, _, where in operator.named_parts():
        index = where.index
        inside = torch.zeros(task.P, dtype=torch.bool)
        inside[index.cpu()] = True
        held = [k for k, n in sizes.items() if bool(inside[starts[k] : starts[k] + n].all())]
        if len(own) > 1 or sum(sizes[k] for k in held) != len(index):
            return []
        groups.append(tuple(held))
        names.append(own[0])
    made = task.blocks(Partition("group", groups=tuple(groups)))
    named = {tuple(x): name for x, name in zip(groups, names, strict=True)}
    return [replace(b, name=named.get(_in_order(b, sizes), b.name)) for b in made]


def _in_order(block: LayerBlock, sizes: dict[str, int]) -> tuple[str, ...]:
    """A block's parameters as the model has them."""
    return tuple(name for name in sizes if name in block.parameters)
