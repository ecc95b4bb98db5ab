"""Gradients per example of parameters that no layer shows: one backward pass for each example."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def bare_columns(
    model: nn.Module, X: Tensor, names: Sequence[str], columns: Tensor
) -> dict[str, Tensor]:
    """Columns at the model's output pulled back to parameters, [B, R, size] for each.

    The examples go through the model one by one: nothing but the model itself says how a parameter
    that is tied, transformed or used by its own code acts on an example.

    Args:
        model: The model, in the mode that it is in.
        X: Inputs, [B, …].
        names: Of the parameters.
        columns: [B, F, R].
    """
    own = dict(model.named_parameters())
    wanted = [own[name] for name in names]
    rows: list[list[Tensor]] = [[] for _ in wanted]
    with torch.enable_grad():
        for n in range(X.shape[0]):
            output = model(X[n : n + 1])
            cotangents = columns[n].T.reshape(-1, *output.shape)
            found = torch.autograd.grad(
                output, wanted, cotangents, allow_unused=True, is_grads_batched=True
            )
            for k, (p, gradient) in enumerate(zip(wanted, found, strict=True)):
                R = cotangents.shape[0]
                plain = p.new_zeros(R, p.numel()) if gradient is None else gradient
                rows[k].append(plain.detach().reshape(R, -1))
    return {name: torch.stack(parts) for name, parts in zip(names, rows, strict=True)}
