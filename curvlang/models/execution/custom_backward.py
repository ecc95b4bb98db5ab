"""Where a model calls functions that bring a `backward` of their own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

TORCH_OWN = ("BackwardHookFunction", "CheckpointFunction", "_NoopSaveInputs")
"""Functions of torch itself, which compute nothing."""


def own_functions(model: nn.Module, X: Tensor) -> list[str]:
    """Names of `autograd.Function`s in the model's graph, with the module that calls each."""
    found: dict[str, str] = {}
    handles = []

    def look(path: str) -> Any:
        def hook(module: nn.Module, given: Any, output: Any) -> None:
            for t in output if isinstance(output, tuple | list) else [output]:
                if isinstance(t, Tensor) and t.grad_fn is not None:
                    for name in _names(t.grad_fn):
                        found.setdefault(name, path or type(module).__name__)

        return hook

    for path, module in model.named_modules():
        if not isinstance(module, torch.jit.ScriptModule):
            handles.append(module.register_forward_hook(look(path)))
    try:
        with torch.enable_grad():
            model(X)
    finally:
        for handle in handles:
            handle.remove()
    return [f"`{name}` in `{path}`" for name, path in found.items()]


def _names(node: Any) -> list[str]:
    """Functions written in Python among a node and all before it."""
    seen, todo, found = set(), [node], []
    while todo:
        here = todo.pop()
        if here is None or here in seen:
            continue
        seen.add(here)
        name = type(here).__name__.removesuffix("Backward")
        if isinstance(here, torch.autograd.function.BackwardCFunction) and name not in TORCH_OWN:
            found.append(name)
        todo += [before for before, _ in here.next_functions]
    return found
