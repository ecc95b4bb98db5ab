"""A curvature written as a folder of factors of kronfluence 1, which its scores then use."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.plain_arguments import validated
from curvlang.diagnostics.refusal import refusal
from curvlang.diagnostics.values import another_type
from curvlang.exchange.kronfluence_words import ARGUMENTS, BASES, LAMBDA, MOST_GENERAL, VALUES
from curvlang.exchange.layers import matrix_layers, places_among
from curvlang.exchange.refusals import not_held
from curvlang.models.execution.torch_state import settled
from curvlang.models.task import Task, check_task
from curvlang.models.tracing.blocks import LayerBlock
from curvlang.operators import BlockDiagonal, Diagonal, EigenBasis, Operator
from curvlang.runtime.fitted import FittedOperator
from curvlang.runtime.vectors import parameters_of
from curvlang.storage.atomic import Destination
from curvlang.storage.swap import Content, write_folder
from curvlang.storage.tensors import write_tensors

_LEAVE_OUT = 'write the others alone, `others="leave_out"`'


@settled
@validated
def write_kronfluence(
    op: FittedOperator,
    folder: str | os.PathLike[str],
    task: Task,
    *,
    others: str = "refuse",
) -> None:
    """Write a curvature as factors of kronfluence, under `OUTPUT_DIR/ANALYSIS/factors_NAME`.

    `analyzer.compute_pairwise_scores("scores", "NAME", …)` of that output folder and analysis uses them.
    Every block has to be an eigenbasis over outputs and inputs, a Kronecker product, or a diagonal.

    Args:
        op: A curvature with a block for each layer, as K-FAC and EK-FAC have.
        folder: Where; earlier factors there are replaced.
        task: The task that it was fitted on.
        others: What happens to blocks of layers that kronfluence does not hold: `refuse`, or `leave_out`:
            its own scores leave them out as well, where `get_influence_tracked_modules` does.

    Raises:
        SpecError: E0925 for a block or a layer that kronfluence does not hold, by name; E0923 for a
            task of another model, E0928 for a folder of something else, E0905 where it cannot be
            written.
        MachineError: E0802 where the disk is full.
    """
    check_task(task)
    if not isinstance(op, FittedOperator):
        raise another_type("op", op, "a fitted curvature", "`cv.fit(spec, task)`")
    if not isinstance(folder, str | os.PathLike):
        raise another_type("folder", folder, "a path", '`"influence/analysis/factors_mine"`')
    if others not in ("refuse", "leave_out"):
        raise another_type("others", others, "`refuse` or `leave_out`", '`others="leave_out"`')
    files: dict[str, dict[str, Tensor]] = {name: {} for name in (*BASES, *VALUES, *LAMBDA)}
    for name, basis in _bases(op, task, others).items():
        for file, tensor in _tensors(basis, task.N).items():
            files[file][name] = tensor
    path = Path(folder)
    _check_free(path)
    arguments = json.dumps({"strategy": MOST_GENERAL, "has_shared_parameters": False}, indent=4)
    contents: dict[str, Content] = {ARGUMENTS: arguments.encode()}
    for file, tensors in files.items():
        contents[f"{file}.safetensors"] = partial(_written, tensors)
    needed = sum(x.nbytes for tensors in files.values() for x in tensors.values())
    with Destination(path, "folder", "earlier factors are unchanged").refusals(needed):
        write_folder(path, contents)


def _written(tensors: Mapping[str, Tensor], file: IO[bytes]) -> None:
    write_tensors(file, tensors)


def _bases(op: FittedOperator, task: Task, others: str) -> dict[str, EigenBasis]:
    """Every block of the curvature by its layer, decomposed.

    Raises:
        SpecError: E0925.
    """
    parameters_of(task.model, op.parameters, op.shape[0])
    if not isinstance(op.operator, BlockDiagonal):
        raise _without_blocks(f"it is one {op.structure} over all layers")
    if op.parameters != tuple(name for name in task.parameters if name in op.parameters):
        raise _without_blocks("it is not on parameters of this task")
    layers, reasons = matrix_layers(task)
    found: dict[str, EigenBasis] = {}
    whole = op.operator
    for name, unit, index in zip(whole.names, whole.blocks, whole.index, strict=True):
        if name in reasons and others == "leave_out":
            continue
        if name in reasons:
            raise not_held(name, reasons[name], "do not exist, or are wrong", _LEAVE_OUT)
        if name not in layers or not _is_layer(layers[name], task, op, index):
            raise _without_blocks(f"its block `{name}` is not the weight and bias of a layer")
        basis = _eigenbasis(unit, layers[name].d_out)
        if basis is None:
            raise _without_blocks(f"its block `{name}` is {unit.structure}")
        found[name] = basis
    if not found:
        raise _without_blocks("none of its layers is one that kronfluence holds")
    return found


def _is_layer(layer: LayerBlock, task: Task, op: FittedOperator, index: Tensor) -> bool:
    """Whether a block's entries are those of the layer, in the layer's order."""
    if not set(layer.parameters) <= set(op.parameters):
        return False
    return torch.equal(places_among(layer, task, op.parameters).to(index.device), index)


def _without_blocks(why: str) -> Exception:
    return refusal(
        Code.E0925,
        f"kronfluence cannot hold this curvature: {why}",
        "write one whose chain has `block_diagonal(by = layer)` and Kronecker factors",
    )


def _eigenbasis(block: Operator, outputs: int) -> EigenBasis | None:
    """A block as (U ⊗ V) diag(S) (U ⊗ V)ᵀ; None where it is not one."""
    if not block.spectrum_known or block.structure in ("Dense", "Gram"):
        return None
    form = block.spectral_form()
    if isinstance(form, Diagonal):
        return EigenBasis(None, None, form.entries.reshape(outputs, -1))
    return form if isinstance(form, EigenBasis) else None


def _tensors(basis: EigenBasis, examples: int) -> dict[str, Tensor]:
    """What kronfluence keeps of a module.

    It reads no eigenvalues of the factors beside Λ: in their place stand those of the product nearest
    in its row and column sums, which are the factors' own where Λ is a product.
    """
    outputs, inputs = basis.spectrum.shape
    left = _unit(outputs, basis) if basis.left is None else basis.left
    right = _unit(inputs, basis) if basis.right is None else basis.right
    total = basis.spectrum.sum().abs().clamp(min=torch.finfo(basis.dtype).tiny)
    sums = (basis.spectrum.sum(1), basis.spectrum.sum(0) / total)
    tensors = (left, right, *sums, basis.spectrum * examples, torch.tensor([examples]))
    return dict(zip((*BASES, *VALUES, *LAMBDA), tensors, strict=True))


def _unit(size: int, like: EigenBasis) -> Tensor:
    return torch.eye(size, dtype=like.dtype, device=like.device)


def _check_free(path: Path) -> None:
    """Refuse to replace a folder of something else.

    Raises:
        SpecError: E0928.
    """
    if path.is_dir() and any(path.iterdir()) and not (path / ARGUMENTS).is_file():
        raise refusal(
            Code.E0928,
            f"`{path}` is a folder of something else",
            "name a new folder, `OUTPUT_DIR/ANALYSIS/factors_NAME`",
        )
