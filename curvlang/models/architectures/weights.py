"""Parameters from a file, read without running code, and fitted to a model name by name."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.free_memory import free_memory, gibibytes
from curvlang.diagnostics.refusal import refusal
from curvlang.models.files.files import check_file, is_folder

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
WRAPPERS = ("module.", "_orig_mod.", "model.", "net.")
"""What `DataParallel`, `torch.compile` and training loops put in front of every name."""
SHOWN = 5
"""Names that a message lists."""


def read_weights(path: Path) -> Mapping[str, Tensor]:
    """A state dict: safetensors, or what `torch.save(model.state_dict(), …)` writes.

    Raises:
        SpecError: E0555 for a file that is missing, unreadable, would run code, or holds something
            else than tensors by name.
    """
    held = _of_folder(path) if is_folder(path) else _of_file(path)
    if not isinstance(held, Mapping):
        raise _refused(path, f"it holds a `{type(held).__name__}`, not tensors by name", _SAVE)
    for name, value in held.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise _refused(
                path, f"`{name}` is a `{type(value).__name__}`, no tensor", f"{_SAVE} alone"
            )
        if value.layout is not torch.strided or value.is_quantized or value.is_meta:
            raise _refused(path, f"`{name}` is sparse, quantized or without numbers", _DENSE)
    return held


def _of_file(path: Path) -> Any:
    if path.suffix.lower() not in SUFFIXES:
        raise _refused(path, f"files called `*{path.suffix}` are not read", _SAVE)
    check_file(path, Code.E0555, _SAVE)
    _check_size(path)
    return _safetensors(path) if path.suffix.lower() == ".safetensors" else _pickled(path)


def _of_folder(path: Path) -> Mapping[str, Tensor]:
    """The parts of a model that `save_pretrained` has written."""
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise _refused(path, "it is a folder without safetensors files", _FOLDER)
    held: dict[str, Tensor] = {}
    for file in files:
        _check_size(file)
        part = _safetensors(file)
        twice = next((name for name in part if name in held), None)
        if twice is not None:
            raise _refused(path, f"two of its files hold `{twice}`", "name one file")
        held |= part
    return held


_FOLDER = "give a file of weights, or a folder that `save_pretrained` has written"
_SAVE = "write `torch.save(model.state_dict(), path)`, or safetensors"
_DENSE = "write every parameter as a dense tensor"


def _check_size(path: Path) -> None:
    """Refuse what will not fit before it is allocated: a file's length, or what its archive declares."""
    try:
        needed = path.stat().st_size
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                needed = max(needed, sum(info.file_size for info in archive.infolist()))
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
        raise _refused(path, str(error), _SAVE) from error
    free = free_memory()
    if needed > free:
        raise _refused(
            path,
            f"it takes {gibibytes(needed)}, and {gibibytes(free)} are free",
            "use a machine with more memory",
        )


def _safetensors(path: Path) -> Mapping[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, RuntimeError, MemoryError) as error:
        raise _refused(path, str(error).split("\n")[0], _SAVE) from error


def _pickled(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise _refused(
            path,
            "it holds objects other than tensors, or is not a torch file",
            _SAVE,
            "it is read with `weights_only=True`, so that no code in it is run",
        ) from error
    except Exception as error:
        # Bytes that anyone may have written: whatever torch raises is about the file.
        why = str(error).strip().split("\n")[0] or f"it is damaged (`{type(error).__name__}`)"
        raise _refused(path, why, _SAVE) from error


def with_weights(model: nn.Module, path: Path) -> nn.Module:
    """The model with every parameter and buffer of the file, in the model's own precision.

    Raises:
        SpecError: E0555 as above; E0556 for names that are missing or unexpected, other shapes, and
            numbers that are not finite.
    """
    held = read_weights(path)
    own = model.state_dict(keep_vars=True)
    problems = [*_names_wrong(own, held), *_values_wrong(own, held)]
    if problems:
        raise refusal(
            Code.E0556,
            f"the weights of `{path}` are not those of this model ({len(problems)} differences)",
            _repair(own, held),
            notes=(*problems[:SHOWN], *_more(problems), *_described(path)),
        )
    for name, value in held.items():
        if not bool(torch.isfinite(_computable(value)).all()):
            raise refusal(
                Code.E0556, f"`{name}` of `{path}` has NaN or infinite numbers", "train it again"
            )
    with torch.no_grad():
        for name, target in own.items():
            if name in held:
                target.copy_(held[name])
    return model


def _names_wrong(own: Mapping[str, Tensor], held: Mapping[str, Tensor]) -> list[str]:
    """Names that are missing or unexpected; a tensor under several names is there under any of them."""
    there = {id(tensor) for name, tensor in own.items() if name in held}
    missing = [n for n, tensor in own.items() if n not in held and id(tensor) not in there]
    unexpected = [n for n in held if n not in own]
    found = []
    if missing:
        found.append(f"missing: {_named(missing)}")
    if unexpected:
        found.append(f"unexpected: {_named(unexpected)}")
    return found


def _values_wrong(own: Mapping[str, Tensor], held: Mapping[str, Tensor]) -> list[str]:
    """Other shapes, other kinds of numbers, and two values for what the model has once."""
    found = []
    first: dict[int, str] = {}
    for name, value in held.items():
        if name not in own:
            continue
        target = own[name]
        if target.shape != value.shape:
            found.append(
                f"`{name}` is {list(value.shape)} in the file and {list(target.shape)} in the model"
            )
            continue
        if _rank(value) > _rank(target):
            found.append(
                f"`{name}` is `{value.dtype}` in the file and `{target.dtype}` in the model"
            )
            continue
        other = first.setdefault(id(target), name)
        if other != name and not torch.equal(_computable(held[other]), _computable(value)):
            found.append(
                f"`{other}` and `{name}` are one tensor in the model and differ in the file"
            )
    return found


def _rank(value: Tensor) -> int:
    """Integers are numbers, and numbers complex ones; the other way something is lost."""
    return 2 if value.is_complex() else int(value.is_floating_point())


def _computable(value: Tensor) -> Tensor:
    """Kinds of one byte have next to no functions in torch."""
    return value.float() if value.is_floating_point() and value.dtype.itemsize == 1 else value


def _described(path: Path) -> tuple[str, ...]:
    """What a folder says of its model: `save_pretrained` names the class."""
    file = (path if path.is_dir() else path.parent) / "config.json"
    try:
        found = json.loads(file.read_text("utf-8"))["architectures"][0]
    except (OSError, ValueError, LookupError, TypeError):
        return ()
    return (
        f"`{file}` says that they are those of a `{found}` of `transformers`: give a function that "
        f'makes one, `--model \'python("net:make", weights = "{path}")\' --allow-python`',
    )


def _repair(own: Mapping[str, Tensor], held: Mapping[str, Tensor]) -> str:
    """A wrapper's prefix is taken away by one line; anything else is another model."""
    for prefix in WRAPPERS:
        if all(n.startswith(prefix) for n in held) and {n.removeprefix(prefix) for n in held} <= {
            *own
        }:
            return f'write the wrapped model: drop `{prefix}` in front, `name.removeprefix("{prefix}")`'
    return "describe the model that the weights were trained in: its sizes, its layers"


def _named(names: list[str]) -> str:
    shown = ", ".join(f"`{n}`" for n in names[:SHOWN])
    return shown + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _more(problems: list[str]) -> tuple[str, ...]:
    return (f"and {len(problems) - SHOWN} more",) if len(problems) > SHOWN else ()


def _refused(path: Path, why: str, repair: str, *notes: str) -> Exception:
    return refusal(Code.E0555, f"no weights in `{path}`: {why}", repair, notes=notes)
