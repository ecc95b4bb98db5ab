"""Parameters from a file, read without running code, and fitted to a model name by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from curvlang.models.refusal import refusal

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
SHOWN = 5
"""Names that a message lists."""


def read_weights(path: Path) -> Mapping[str, Tensor]:
    """A state dict: safetensors, or what `torch.save(model.state_dict(), …)` writes.

    Raises:
        SpecError: E0555 for a file that is missing, unreadable, would run code, or holds something
            else than tensors by name.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise _refused(path, f"files called `*{path.suffix}` are not read", _SAVE)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise refusal("E0555", f"`{path}` {what}", _SAVE)
    held = _safetensors(path) if path.suffix.lower() == ".safetensors" else _pickled(path)
    if not isinstance(held, Mapping):
        raise _refused(path, f"it holds a `{type(held).__name__}`, not tensors by name", _SAVE)
    for name, value in held.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise _refused(
                path, f"`{name}` is a `{type(value).__name__}`, no tensor", f"{_SAVE} alone"
            )
    return held


_SAVE = "write `torch.save(model.state_dict(), path)`, or safetensors"


def _safetensors(path: Path) -> Mapping[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise _refused(path, str(error).split("\n")[0], _SAVE) from error


def _pickled(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise _refused(
            path,
            "it holds objects other than tensors, or is no torch file",
            _SAVE,
            "it is read with `weights_only=True`, so that no code in it is run",
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise _refused(path, str(error).split("\n")[0], _SAVE) from error


def with_weights(model: nn.Module, path: Path) -> nn.Module:
    """The model with every parameter and buffer of the file, in the model's own precision.

    Raises:
        SpecError: E0555 as above; E0556 for names that are missing or unexpected, other shapes, and
            numbers that are not finite.
    """
    held = read_weights(path)
    own = model.state_dict(keep_vars=True)
    missing = [n for n in own if n not in held]
    unexpected = [n for n in held if n not in own]
    problems = []
    if missing:
        problems.append(f"missing: {_named(missing)}")
    if unexpected:
        problems.append(f"unexpected: {_named(unexpected)}")
    for name, value in held.items():
        if name in own and own[name].shape != value.shape:
            problems.append(
                f"`{name}` is {list(value.shape)} in the file and {list(own[name].shape)} in the model"
            )
    if problems:
        raise refusal(
            "E0556",
            f"the weights of `{path}` are not those of this model ({len(problems)} differences)",
            "describe the model that the weights were trained in: its sizes, its layers",
            notes=(*problems[:SHOWN], *_more(problems)),
        )
    for name, value in held.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise refusal(
                "E0556", f"`{name}` of `{path}` has NaN or infinite numbers", "train it again"
            )
    with torch.no_grad():
        for name, target in own.items():
            target.copy_(held[name])
    return model


def _named(names: list[str]) -> str:
    shown = ", ".join(f"`{n}`" for n in names[:SHOWN])
    return shown + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _more(problems: list[str]) -> tuple[str, ...]:
    return (f"and {len(problems) - SHOWN} more",) if len(problems) > SHOWN else ()


def _refused(path: Path, why: str, repair: str, *notes: str) -> Exception:
    return refusal("E0555", f"no weights in `{path}`: {why}", repair, notes=notes)
