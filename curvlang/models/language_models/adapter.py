"""Adapters of `peft`: low-rank matrices beside those of a checkpoint, which alone are studied."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.models.language_models.checkpoint import Checkpoint, check_code
from curvlang.models.language_models.heads import HEADS, TrainedHead
from curvlang.models.language_models.libraries import calling, first_line, library

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
_SAVE = "write it with `model.save_pretrained(DIR)` of `peft`"
_MISSING = "missing adapter keys"
"""What `peft` warns of where an adapter leaves matrices as they were initialised."""


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """A folder of an adapter for a checkpoint: what its files say has been checked.

    Args:
        folder: It.
        model: The checkpoint.
    """

    folder: Path
    model: Checkpoint

    def load(self) -> nn.Module:
        """The model with its adapter; only the adapter's parameters are trainable.

        Raises:
            SpecError: E0893 where the adapter is not of this model.
        """
        peft, model = library("peft", "adapters are read"), self.model.load()

        def call() -> Any:
            return peft.PeftModel.from_pretrained(model, str(self.folder), is_trainable=True)

        return self._made(call)

    def fresh(self, seed: int) -> nn.Module:
        """The checkpoint with an adapter as training starts from, drawn from a seed."""
        peft, model = library("peft", "adapters are read"), self.model.load()

        def call() -> Any:
            config = peft.PeftConfig.from_pretrained(str(self.folder))
            config.inference_mode = False
            torch.manual_seed(seed)
            return peft.get_peft_model(model, config)

        return self._made(call)

    def _made(self, call: Any) -> nn.Module:
        with (
            calling(lambda error: self._other(first_line(error))),
            torch.random.fork_rng(devices=[]),
            warnings.catch_warnings(record=True) as said,
        ):
            warnings.simplefilter("always")
            found = call()
        missing = next((str(x.message) for x in said if _MISSING in str(x.message)), None)
        if missing is not None:
            raise self._other("it leaves matrices out that this model would have")
        made: nn.Module = found.get_base_model().eval()
        return made

    def _other(self, why: str) -> SpecError:
        return refusal(
            Code.E0893,
            f"the adapter `{self.folder}` is not of `{self.model.path}`: {why}",
            "name the model that the adapter was trained on",
            notes=(
                f"its `{CONFIG}` names `{_described(self.folder).get('base_model_name_or_path')}`",
            ),
        )


def trained_head(path: str, folder: Path) -> TrainedHead | None:
    """The head that an adapter has been trained with and brings; None where it brings none.

    Args:
        path: A folder.
        folder: Where relative paths start.

    Raises:
        SpecError: E0893 for another folder.
    """
    described = _described(folder / path)
    kind = described.get("task_type")
    head = next((x for x in HEADS if kind and x.task_type == kind), None)
    modules = tuple(described.get("modules_to_save") or ())
    if head is None or not modules:
        return None
    return TrainedHead(head, modules, _classes(folder / path / TENSORS, modules))


def _classes(tensors: Path, modules: Sequence[str]) -> int | None:
    """Rows of the head's matrix in an adapter's file."""
    from safetensors import SafetensorError, safe_open

    if not tensors.is_file():
        return None
    try:
        with safe_open(str(tensors), "pt") as held:
            names = [k for k in held.keys() if k.endswith(".weight")]  # noqa: SIM118
            own = [k for k in names if any(part in modules for part in k.split("."))]
            return int(held.get_slice(own[-1]).get_shape()[0]) if own else None
    except SafetensorError:
        # A damaged file is refused where it is read.
        return None


def adapter(path: str, folder: Path, model: Checkpoint) -> Adapter:
    """An adapter as its files describe it; no tensor is read.

    Args:
        path: A folder.
        folder: Where relative paths start.
        model: The checkpoint that it is for.

    Raises:
        SpecError: E0892 for one that brings code, E0893 for another folder or another kind of adapter.
    """
    at = folder / path
    described = _described(at)
    check_code(str(at), described, CONFIG)
    if described.get("peft_type") != "LORA":
        raise refusal(
            Code.E0893,
            f"the adapter `{at}` is a `{described.get('peft_type')}`",
            "give one of low rank (LoRA): its matrices are layers, as curvatures need them",
        )
    if not (at / TENSORS).is_file():
        pickled = (at / "adapter_model.bin").is_file()
        raise refusal(
            Code.E0893,
            f"the adapter `{at}` has no `{TENSORS}`"
            + ("; its `adapter_model.bin` is a pickle, which can run code" if pickled else ""),
            _SAVE,
        )
    return Adapter(at, model)


def _described(at: Path) -> dict[str, Any]:
    """What an adapter's configuration says."""
    try:
        found = json.loads((at / CONFIG).read_text("utf-8"))
    except OSError as error:
        raise refusal(Code.E0893, f"no adapter in `{at}`: it has no `{CONFIG}`", _SAVE) from error
    except ValueError as error:
        raise refusal(
            Code.E0893, f"no adapter in `{at}`: its `{CONFIG}` is not JSON", _SAVE
        ) from error
    return found if isinstance(found, dict) else {}
