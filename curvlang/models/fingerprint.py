"""Content hashes: what decides a result, reduced to one name for a cache."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator

import torch
from torch import Tensor, nn


def digest(*parts: Tensor | str) -> str:
    """SHA-256 over tensors (type, shape, bytes) and texts, in order, as hexadecimal digits."""
    state = hashlib.sha256()
    for part in parts:
        head, content = _bytes(part)
        # Lengths first: no two different sequences of parts give the same stream.
        state.update(f"{head}:{len(content)};".encode())
        state.update(content)
    return state.hexdigest()


def model_parts(model: nn.Module) -> Iterator[str]:
    """The architecture as text: the module tree, the types' full names, what is trainable."""
    # A user's `__repr__` may show functions with their addresses, which differ in every process.
    yield re.sub(r" at 0x[0-9a-fA-F]+", "", repr(model))
    for name, module in model.named_modules():
        yield f"{name} {_kind(type(module))}"
    for name, p in model.named_parameters():
        yield f"{name} {tuple(p.shape)} {p.dtype} {p.requires_grad}"


def _kind(kind: type[nn.Module]) -> str:
    """The full name of a type; own models state one, so that it does not change with their file."""
    return str(vars(kind).get("stable_name", f"{kind.__module__}.{kind.__qualname__}"))


def parameter_parts(model: nn.Module) -> Iterator[Tensor | str]:
    """Parameters and buffers by name."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        yield name
        yield tensor


def _bytes(part: Tensor | str) -> tuple[str, bytes]:
    if isinstance(part, str):
        return "text", part.encode()
    plain = part.detach().cpu().contiguous()
    raw = plain.reshape(-1).view(torch.uint8).numpy()
    return f"{part.dtype}{tuple(part.shape)}", raw.tobytes()
