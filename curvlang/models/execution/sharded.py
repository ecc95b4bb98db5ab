"""A model that `fully_shard` has cut over processes, made whole in each of them.

Processes share examples, blocks and scores, and each of them runs the whole model: a model in parts is
gathered once, parameter by parameter, into a copy without the hooks that fetch and free its parts.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import not_come, refusal
from curvlang.models.execution.copies import HOOKS, rebuilt

COMING = 300.0
"""Seconds within which all processes of a group have come to a model that they hold together."""
_FSDP, _TENSOR = "torch.distributed.fsdp", "torch.distributed.tensor"
_MARKS = ("__composable_api_state_key", "_is_fsdp_managed_module", "_fsdp_use_orig_params")
"""How attributes begin that `fully_shard` leaves on modules."""


def check_gatherable(model: nn.Module) -> None:
    """A model that is held in parts is one of `fully_shard`: its whole copy computes the same.

    Raises:
        SpecError: E0839.
    """
    kinds = _known(_FSDP, "FullyShardedDataParallel")
    for name, module in model.named_modules():
        hooks = [h for table in HOOKS for h in getattr(module, table, {}).values()]
        if isinstance(module, kinds) or any(_origin(h).startswith(_TENSOR) for h in hooks):
            raise _refused(name or "the whole of it")
    above = tuple(name for name, module in model.named_modules() if _is_sharded(module))
    for name, _ in _in_parts(model):
        if not any(not k or name.startswith(f"{k}.") for k in above):
            raise _refused(name)


def whole(model: nn.Module) -> nn.Module:
    """The model itself, or where `fully_shard` has cut it a copy that has all of every parameter.

    All processes that hold the parts call this, as they call the model.

    Raises:
        MachineError: E0830 where a process does not come.
    """
    if not any(map(_is_sharded, model.modules())):
        return model
    for module in model.modules():
        if _is_sharded(module):
            # What a forward pass has left gathered goes back into parts, of which it is gathered below.
            module.reshard()  # type: ignore[operator]
    _meet()
    with torch.no_grad():
        pairs: list[tuple[object, object]] = [(x, _gathered(x)) for _, x in _in_parts(model)]
    pairs += [(h, None) for table in _hooks(model) for h in table.values() if _fetches(h)]
    made = rebuilt(model, pairs, _plain)
    for module in made.modules():
        _forget_dropped(module)
    return made


def _known(module: str, name: str) -> Any:
    """A class of torch, or nothing where its module has not been imported: then there are no objects of it."""
    return getattr(sys.modules.get(module), name, ())


def _is_sharded(module: nn.Module) -> bool:
    return isinstance(module, _known(_FSDP, "FSDPModule"))


def _in_parts(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Parameters and buffers of which a process has a part."""
    kind = _known(_TENSOR, "DTensor")
    for name, x in (*model.named_parameters(), *model.named_buffers()):
        if isinstance(x, kind):
            yield name, x


def _gathered(x: Any) -> Tensor:
    full: Tensor = x.full_tensor()
    # Where there is nothing to gather, it is the part itself.
    own = full.detach().clone()
    return nn.Parameter(own, x.requires_grad) if isinstance(x, nn.Parameter) else own


def _plain(module: nn.Module) -> tuple[nn.Module, dict[str, Any]]:
    """An empty module of the class that it had, and its attributes but for those of `fully_shard`."""
    kind: Any = type(module)
    if _is_sharded(module):
        # The class that `fully_shard` makes is derived from a mark and from the module's own.
        kind = next(k for k in kind.__mro__[1:] if not issubclass(k, _known(_FSDP, "FSDPModule")))
    found = {k: v for k, v in vars(module).items() if not k.startswith(_MARKS)}
    return kind.__new__(kind), found


def _hooks(model: nn.Module) -> Iterator[dict[int, Any]]:
    """The tables of hooks of all modules."""
    for module in model.modules():
        tables = (v for k, v in vars(module).items() if k.endswith("_hooks"))
        yield from (table for table in tables if isinstance(table, dict))


def _forget_dropped(module: nn.Module) -> None:
    """Take hooks out that nothing stands for, with what is noted of them in other tables."""
    tables = {k: v for k, v in vars(module).items() if isinstance(v, dict)}
    for name, table in tables.items():
        if name.endswith("_hooks"):
            for key in [k for k, hook in table.items() if hook is None]:
                for other in (v for k, v in tables.items() if k.startswith(name)):
                    other.pop(key, None)


def _fetches(hook: Any) -> bool:
    """Whether a hook is of `fully_shard`."""
    return _origin(hook).startswith(_FSDP)


def _origin(hook: Any) -> str:
    """The module of the code that a hook runs."""
    inner = getattr(hook, "hook", hook)
    inner = getattr(inner, "func", inner)
    owner = getattr(inner, "__self__", None)
    return str(type(owner).__module__ if owner is not None else getattr(inner, "__module__", ""))


def _meet() -> None:
    """Wait for the other processes: what gathers would wait for one that is missing for half an hour."""
    if dist.get_world_size() == 1 or dist.get_backend() != "gloo":
        return
    try:
        dist.monitored_barrier(timeout=timedelta(seconds=COMING))
    except (dist.DistError, RuntimeError) as error:
        raise not_come(
            f"not all {dist.get_world_size()} processes have",
            COMING,
            ["each of them holds a part of the model", " ".join(str(error).split())[:200]],
            "make the task of a sharded model in every process, at the same place",
        ) from error


def _refused(part: str) -> SpecError:
    return refusal(
        Code.E0839,
        f"the model is sharded over processes, `{part}` among its parts, and not by `fully_shard`",
        "give the model as it was before, with the weights of "
        "`torch.distributed.checkpoint.state_dict.get_model_state_dict(model, "
        "options=StateDictOptions(full_state_dict=True))`",
        notes=("every process runs the whole model; examples and blocks are shared",),
    )
