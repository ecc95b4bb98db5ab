"""Factors of kronfluence 1, a folder of safetensors, read as a curvature.

A module's block is (U ⊗ V) diag(Λ / n) (U ⊗ V)ᵀ over its weight and bias, as ours: U `[O, O]` are the
`gradient_eigenvectors`, V `[I, I]` the `activation_eigenvectors`, with the bias last, Λ `[O, I]` is the
`lambda_matrix`, a sum over the n = `num_lambda_processed` examples. Its loss is a sum over positions.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from curvlang.diagnostics.plain_arguments import validated
from curvlang.diagnostics.values import another_type
from curvlang.exchange.kronfluence_words import ARGUMENTS, BASES, FILES, LAMBDA, VALUES
from curvlang.exchange.layers import matrix_layers, places_among
from curvlang.exchange.refusals import not_held, unreadable
from curvlang.language import inverse_text
from curvlang.models.execution.torch_state import settled
from curvlang.models.task import Task, check_task
from curvlang.models.tracing.blocks import LayerBlock
from curvlang.operators import BlockDiagonal, Diagonal, EigenBasis, Operator
from curvlang.operators.places import Places
from curvlang.operators.validation import all_finite
from curvlang.runtime.fitted import FittedOperator
from curvlang.storage.tensors import UNREADABLE, tensors_in

_DAMPING = "tikhonov_per_block"
"""What kronfluence does without a damping factor: 0.1 × the mean of a module's eigenvalues."""

Factors = Mapping[str, Mapping[str, Tensor]]
"""Tensors by the name of their file and of the module."""


@settled
@validated
def read_kronfluence(
    folder: str | os.PathLike[str], task: Task, *, dtype: torch.dtype | None = None
) -> FittedOperator:
    """The curvature in a folder of factors of kronfluence, `…/factors_NAME`, on the modules it has.

    Its inverse without a damping is kronfluence's: 0.1 × the mean eigenvalue of each module. With
    `strategy = "kfac"` on T positions it is what kronfluence has, K-FAC-expand divided by T.

    Args:
        folder: The factors.
        task: The model that they were fitted on. Parameters of other modules are constants.
        dtype: Of the curvature, float32 or float64; the task's where not given.

    Raises:
        SpecError: E0926 where files are missing, damaged, or of another model; E0925 for a module
            that kronfluence's factors are wrong for.
    """
    check_task(task)
    if not isinstance(folder, str | os.PathLike):
        raise another_type("folder", folder, "a path", '`"influence/analysis/factors_mine"`')
    path = Path(folder)
    arguments = _arguments(path)
    strategy = str(arguments.get("strategy"))
    if strategy not in FILES:
        raise unreadable(
            f"`{path}` holds factors of the strategy `{strategy}`",
            f"fit them with a strategy that is read: {', '.join(FILES)}",
        )
    factors = {name: _tensors(path, name) for name in FILES[strategy]}
    names = list(factors[FILES[strategy][0]])
    held = _held(names, task, path, twice=arguments.get("has_shared_parameters") is True)
    covered = {name for block in held for name in block.parameters}
    parameters = tuple(name for name in task.parameters if name in covered)
    kind = task.precision if dtype is None else dtype
    whole = BlockDiagonal(
        tuple(block.name for block in held),
        tuple(_block(_of(factors, block.name, kind, path), block, path) for block in held),
        tuple(Places.of(places_among(block, task, parameters)) for block in held),
    )
    rule = inverse_text(_DAMPING, "<kronfluence>")
    return FittedOperator(whole, parameters, rule, f"kronfluence's {strategy}")


def _arguments(path: Path) -> dict[str, Any]:
    """How the factors were fitted."""
    file = path / ARGUMENTS
    if not file.is_file():
        raise unreadable(
            f"there is no `{ARGUMENTS}` in `{path}`",
            "name the folder of the factors, `OUTPUT_DIR/ANALYSIS/factors_NAME`",
        )
    try:
        found: dict[str, Any] = dict(json.loads(file.read_text("utf-8")))
    except (ValueError, TypeError, OSError) as error:
        raise unreadable(f"`{file}` cannot be read: {error}", "fit the factors again") from error
    return found


def _tensors(path: Path, name: str) -> dict[str, Tensor]:
    """The tensors of a file by module."""
    file = path / f"{name}.safetensors"
    if not file.is_file():
        parts = any(path.glob(f"{name}_data_partition*"))
        repair = (
            "let kronfluence join its partitions: fit them all in one call, or call `aggregate_…`"
            if parts
            else "fit all factors: `analyzer.fit_all_factors(…)`"
        )
        raise unreadable(f"there is no `{file.name}` in `{path}`", repair)
    try:
        return tensors_in(file)
    except UNREADABLE as error:
        reason = str(error).partition("\n")[0]
        raise unreadable(f"`{file}` cannot be read: {reason}", "fit the factors again") from error


def _held(names: list[str], task: Task, path: Path, *, twice: bool) -> list[LayerBlock]:
    """The task's layers of these names, in its order.

    Raises:
        SpecError: E0926 for a name that the model does not have, E0925 for a layer that kronfluence is
            wrong about.
    """
    layers, others = matrix_layers(task, twice=twice)
    modules = dict(task.model.named_modules())
    for name in names:
        if name in layers:
            continue
        if name not in modules and name not in others:
            raise unreadable(
                f"`{path}` has factors of `{name}`, a module that the model does not have",
                "give the task of the model that they were fitted on",
            )
        raise not_held(name, others.get(name) or _shared_reason(name, others), "are wrong there")
    return [layer for name, layer in layers.items() if name in names]


def _shared_reason(name: str, others: Mapping[str, str]) -> str:
    """The reason of a module whose parameters are known under another name."""
    of_it = [why for other, why in others.items() if other.startswith((f"{name}.", f"{name}["))]
    return of_it[0] if of_it else "its parameters are those of another module as well"


def _of(factors: Factors, name: str, kind: torch.dtype, path: Path) -> dict[str, Tensor]:
    """The tensors of a module, numbers in one precision."""
    missing = [file for file, tensors in factors.items() if name not in tensors]
    if missing:
        raise unreadable(
            f"`{path}/{missing[0]}.safetensors` has no module `{name}`", "fit the factors again"
        )
    return {file: tensors[name].to(kind) for file, tensors in factors.items()}


def _block(given: Mapping[str, Tensor], block: LayerBlock, path: Path) -> Operator:
    """A module's block out of its tensors.

    Raises:
        SpecError: E0926 for other shapes than the layer's.
    """
    sizes = {"gradient": (block.d_out,), "activation": (block.d_in,), "lambda": (*_sides(block),)}
    for file, tensor in given.items():
        side = sizes.get(file.split("_")[0], (1,))
        wanted = side * 2 if file in BASES else side
        if tuple(tensor.shape) != wanted:
            raise unreadable(
                f"`{file}` of `{block.name}` has the shape {list(tensor.shape)} where the model's "
                f"layer has {list(wanted)}",
                "give the task of the model that they were fitted on, with the same biases",
            )
        # An average over no example is not a number, and a float32 sum may overflow.
        if not all_finite(tensor) or (file == LAMBDA[1] and float(tensor) <= 0):
            raise unreadable(
                f"`{file}` of `{block.name}` is not finite, or counts no example",
                "fit the factors again; in float32 where they were in half precision",
            )
    place = block.index.device
    given = {file: tensor.to(place) for file, tensor in given.items()}
    spectrum = (
        given["lambda_matrix"] / given["num_lambda_processed"]
        if "lambda_matrix" in given
        else torch.outer(*(given[name] for name in VALUES))
    )
    if BASES[0] not in given:
        return Diagonal(spectrum.reshape(-1))
    left, right = (given[name] for name in BASES)
    return EigenBasis(left, right, spectrum)


def _sides(block: LayerBlock) -> tuple[int, int]:
    return block.d_out, block.d_in
